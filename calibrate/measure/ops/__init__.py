"""The operations that are measured, one family a file: their points, their inputs, their launch."""

from .attention import DecodeAttention, PrefillAttention
from .base import Job, Op
from .collective import AllReduce
from .copies import BlockCopies, Copies
from .elementwise import Activation, Embedding, Norm, QkNorm, RopeWrite
from .gemm import Gemms
from .host import Launches
from .lora import Lora
from .moe import Experts
from .sampling import Bitmask, Sampling
from .steps import Steps

__all__ = ["Job", "Op", "operations"]


def operations(kind: str, devices: int = 1) -> tuple[Op, ...]:
    """All families, for *devices* of *kind* "cuda" or "cpu"."""
    on_gpu = kind == "cuda"
    return (
        Launches(graphs=on_gpu),
        Gemms(),
        DecodeAttention(),
        PrefillAttention(),
        RopeWrite(),
        Norm(),
        QkNorm(),
        Activation(),
        Embedding(),
        Sampling(),
        Experts(),
        AllReduce(devices),
        Steps((40, 30, 15) if on_gpu else (24, 16, 8), 5 if on_gpu else 3, on_gpu=on_gpu),
        Bitmask(),
        Copies(to_host=on_gpu),
        BlockCopies(),
        Lora(((16, 1), (16, 8), (64, 1), (64, 8)) if on_gpu else ((16, 2),)),
    )
