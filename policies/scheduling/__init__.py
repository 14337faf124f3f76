"""Which requests run in the next step."""

from . import adaptive as adaptive
from . import in_flight as in_flight
from . import order as order
from . import orders as orders
from . import preemptive as preemptive
from . import prefill_first as prefill_first
from . import sarathi as sarathi
from . import sglang as sglang
from . import static_batch as static_batch
from . import vllm_v1 as vllm_v1
from . import vtc as vtc
