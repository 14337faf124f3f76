"""Which requests run in the next step."""

from . import order as order
from . import vllm_v1 as vllm_v1
