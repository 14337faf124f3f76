"""Where prefill and decode run, and how KV travels between them."""

from . import static as static
