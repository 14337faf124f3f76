"""Arrays of the host on their way to a device."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray


def staged(array: NDArray[Any], device: torch.device) -> torch.Tensor:
    """*array* where *device* copies from without holding up the host.

    From memory that is not pinned, a copy of more than some kilobytes waits for the steps that the
    device has in its queue. Torch keeps what is pinned until the copies of it are done.
    """
    tensor = torch.from_numpy(array)
    return tensor.pin_memory() if device.type == "cuda" and len(array) else tensor
