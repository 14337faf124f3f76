"""What a roofline is made of: terms in seconds, what modifies them, and coordinates for residuals.

seconds = start + (sum of term_i ** p) ** (1 / p), where term_i is what the datasheet says times a
fitted inefficiency times exp(fitted weights . modifiers). p is fitted: 1 adds, large takes the max.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...sim.cost.specs import GpuSpec

Array = NDArray[np.float64]
Columns = dict[str, Array]

#: streaming multiprocessors, where a GPU's row does not say
USUAL_SMS = 100


class Device(NamedTuple):
    """What of a GPU the physics needs: its datasheet.

    Attributes:
        flops: operations per second in the arithmetic of the operation.
        link_bytes_per_s: per direction, to the other GPUs of its node.
    """

    flops: float
    bytes_per_s: float
    sms: int
    l2_bytes: float
    link_bytes_per_s: float

    @classmethod
    def of(cls, gpu: GpuSpec, compute: str = "bf16") -> Device:
        """The device of a catalogue GPU doing arithmetic in *compute* ("bf16", "fp8", ...)."""
        return cls(
            gpu.flops(compute),
            gpu.memory_bytes_per_s,
            gpu.sms or USUAL_SMS,
            float(gpu.l2_bytes),
            gpu.scaleup_bytes_per_s,
        )


class Physics(NamedTuple):
    """The physics of every point.

    Attributes:
        terms: [points, terms], log of seconds at datasheet rates.
        modifiers: for each term [points, modifiers], what bends it.
        coordinates: [points, coordinates], logarithmic; points near in them have like residuals.
        floor_s: [points], seconds that no kernel can beat.
    """

    terms: Array
    modifiers: tuple[Array, ...]
    coordinates: Array
    floor_s: Array


Terms = Callable[[Columns, Device], Physics]


def log(values: Array) -> Array:
    """Natural logarithm; 0 counts as a trillionth, so that an absent term weighs nothing."""
    return np.log(np.maximum(values, 1e-12))


def log2(values: Array) -> Array:
    """Logarithm to base 2 of values that may be 0, which counts as one half."""
    return np.log2(np.maximum(values, 0.5))


def padded(values: Array, multiple: float) -> Array:
    """Rounded up to a multiple."""
    return np.ceil(values / multiple) * multiple


def side_by_side(*columns: Array) -> Array:
    """[points, len(columns)]; no column at all is no modifier."""
    return np.stack(columns, axis=1)


def nothing(points: int) -> Array:
    """A term without modifiers."""
    return np.zeros((points, 0))
