"""Which requests run in the next step."""

from . import adaptive as adaptive
from . import order as order
from . import orders as orders
from . import preemptive as preemptive
from . import sarathi as sarathi
from . import sglang as sglang
from . import vllm_v1 as vllm_v1
from . import vtc as vtc
