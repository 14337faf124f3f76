"""Which launch configuration a device gets: by architecture and shape, with no timing at run time.

A module's ``CONFIGS`` maps (architecture, shape bucket) to a `Launch`. Architectures are compute
capabilities as one number; a device takes the entry of the nearest known one that has no more
shared memory than itself.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch

#: what tables are keyed by: A100, A10/A40/RTX 3090, L4/L40S, H100/H200, B200. 86 and 89 have 99 KiB
#: of shared memory a program; 80 and 86 have no e4m3 type
ARCHITECTURES = (80, 86, 89, 90, 100)
#: of the rest, those with no more shared memory than 89
_SMALL_SHARED_MEMORY = (120, 121)
_INTERPRETED_MULTIPROCESSORS = 8


class Launch(NamedTuple):
    """How one kernel is launched.

    Attributes:
        rows: tile along rows: queries, tokens or table entries.
        columns: tile along columns or keys.
        num_warps: warps of a program.
        num_stages: depth of software pipelining.
    """

    rows: int
    columns: int
    num_warps: int
    num_stages: int


def nearest(capability: int) -> int:
    """The architecture of `ARCHITECTURES` whose tables a device of this *capability* takes.

    Raises:
        ValueError: below 80, where bf16 products are missing.
    """
    if capability in ARCHITECTURES:
        return capability
    if capability in _SMALL_SHARED_MEMORY:
        return 89
    known = [a for a in ARCHITECTURES if a <= capability and a not in (86, 89)]
    if not known:
        raise ValueError(f"compute capability {capability / 10} is below 8.0, the least supported")
    return max(known)


@functools.cache
def _of_cuda(index: int) -> int:
    major, minor = torch.cuda.get_device_capability(index)
    return nearest(10 * major + minor)


def architecture(device: torch.device) -> int:
    """The architecture of *device*; 90 on a CPU, where kernels are interpreted."""
    return 90 if device.type == "cpu" else _of_cuda(device.index or 0)


@functools.cache
def _multiprocessors_of_cuda(index: int) -> int:
    return int(torch.cuda.get_device_properties(index).multi_processor_count)


def multiprocessors(device: torch.device) -> int:
    """How many multiprocessors *device* has; a few on a CPU, so that tests split as well."""
    if device.type == "cpu":
        return _INTERPRETED_MULTIPROCESSORS
    return _multiprocessors_of_cuda(device.index or 0)


def same_everywhere(by_shape: dict[str, Launch]) -> dict[tuple[int, str], Launch]:
    """The table of a kernel, bound by memory, that is launched alike on every architecture."""
    return {(a, shape): launch for a in ARCHITECTURES for shape, launch in by_shape.items()}


def with_86(table: dict[tuple[int, str], Launch]) -> dict[tuple[int, str], Launch]:
    """*table* with what 89 has for 86 too: as much shared memory, and the same products."""
    return table | {(86, shape): launch for (a, shape), launch in table.items() if a == 89}


def power_of_two(n: int) -> int:
    """The least power of two that is at least *n*."""
    return 1 << max(n - 1, 0).bit_length()
