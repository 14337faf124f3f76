"""Random inputs on the device, rotating buffers, and the kernels of its back end."""

from __future__ import annotations

import gc
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from ..device import Device
from ..shapes import Shapes

if TYPE_CHECKING:
    import torch

    from ...executor.ops import Ops

T = TypeVar("T")

_MOST_BUFFERS = 128
_CACHES = 3  # buffers cover this many times the last-level cache, so that none is warm


class Bench:
    """Where inputs are made. What `kept` makes lives until `forget`: a block of points shares it.

    Args:
        seed: of the random data; zeros would draw less power and time faster.

    Attributes:
        facts: what was seen beside times, as the KV blocks that fit.
    """

    def __init__(self, shapes: Shapes, device: Device, seed: int = 0) -> None:
        import torch

        self.shapes, self.device = shapes, device
        self.where = torch.device(device.kind)
        self.activation = torch.float32 if shapes.wide else torch.bfloat16
        self._random = torch.Generator(device=self.where).manual_seed(seed)
        self.facts: dict[str, float] = {}
        self._kept: dict[object, Any] = {}

    @property
    def on_gpu(self) -> bool:
        """Whether Triton kernels and CUDA graphs are what is measured."""
        return self.device.kind == "cuda"

    @property
    def kv(self) -> torch.dtype:
        """Type of the KV cache."""
        import torch

        if self.shapes.kv_bytes == 1:
            return torch.float8_e4m3fn
        return self.activation

    @property
    def ops(self) -> Ops:
        """The executor's own operations: what is measured is what it launches."""
        from ...executor.ops import TorchOps

        if not self.on_gpu:
            return TorchOps()
        from ...executor.triton_ops import TritonOps

        return TritonOps()

    def kernel(self, module: str, name: str, plain: str = "reference") -> Callable[..., Any]:
        """*name* of ``kernels/<module>.py``, which no `Ops` has; on a CPU *plain*, in torch."""
        found: Any = importlib.import_module(f"....kernels.{module}", __package__)
        made: Callable[..., Any] = getattr(found, name if self.on_gpu else plain)
        return made

    def randn(self, *shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Normal numbers, in the type of activations unless *dtype* says another."""
        import torch

        made = torch.randn(shape, generator=self._random, device=self.where)
        return made.to(dtype or self.activation)

    def integers(self, high: int, *shape: int) -> torch.Tensor:
        """int64 from 0 to *high* - 1."""
        import torch

        return torch.randint(high, shape, generator=self._random, device=self.where)

    def permutation(self, n: int) -> torch.Tensor:
        """0 … *n* - 1 in random order, int64."""
        import torch

        return torch.randperm(n, generator=self._random, device=self.where)

    def uniform(self, *shape: int) -> torch.Tensor:
        """fp32 from 0 to 1."""
        import torch

        return torch.rand(shape, generator=self._random, device=self.where)

    def buffers(self, size_bytes: float) -> int:
        """How many buffers of that size it takes to cover the cache three times."""
        wanted = -(-_CACHES * self.device.l2_bytes // max(1, int(size_bytes)))
        return max(1, min(_MOST_BUFFERS, wanted))

    def rotating(self, size_bytes: float, make: Callable[[], T]) -> list[T]:
        """As many of what *make* makes as `buffers` says."""
        return [make() for _ in range(self.buffers(size_bytes))]

    def kept(self, key: object, make: Callable[[], T]) -> T:
        """What *make* made for *key* before, or makes now."""
        if key not in self._kept:
            self._kept[key] = make()
        found: T = self._kept[key]
        return found

    def wait(self) -> None:
        """Wait until the device is idle."""
        if self.on_gpu:
            import torch

            torch.cuda.synchronize()

    def forget(self) -> None:
        """Free what was kept."""
        self._kept.clear()
        if self.on_gpu:
            import torch

            gc.collect()  # a model that was stepped through hangs in cycles of its replicas
            torch.cuda.empty_cache()
