"""Where images are encoded, prefill and decode run, and how KV travels between them."""

from . import conditional as conditional
from . import encoder as encoder
from . import static as static
from . import switching as switching
