"""The kinds of operation that can be fitted, their columns, and how to name them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ...policies.errors import InputError, UnknownNameError
from . import attention, collective, gemm, moe, rows
from .physics import Array, Columns, Device, Physics, Terms

__all__ = ["Columns", "Device", "Kind", "kind_named", "kind_names"]


@dataclass(frozen=True)
class Kind:
    """A kind of operation.

    Attributes:
        axes: columns that vary within one shape; interpolation runs along them.
        shape: columns that make a shape; points that agree in all of them are one shape.
        defaults: columns that may be left out, with the value they then have.
        terms: columns and device to the physics of every point.
        start: first guess of the roofline's parameters, and what it is without any point.
    """

    name: str
    axes: tuple[str, ...]
    shape: tuple[str, ...]
    defaults: Mapping[str, float]
    terms: Terms
    start: tuple[float, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column, axes first."""
        return self.axes + self.shape

    def read(self, given: Mapping[str, ArrayLike]) -> Columns:
        """The columns as equally long arrays of floats, defaults filled in.

        Raises:
            UnknownNameError: a column the kind does not have.
            InputError: one is missing, not finite, negative, or of another length.
        """
        where = f"columns of a {self.name} fit"
        for name in given:
            if name not in self.columns:
                raise UnknownNameError("column", name, self.columns, where=where)
        missing = [n for n in self.columns if n not in given and n not in self.defaults]
        if missing:
            raise InputError(f"missing column {missing[0]}", where=where)
        arrays = [np.asarray(given.get(n, self.defaults.get(n)), float) for n in self.columns]
        try:
            wide = np.broadcast_arrays(*(np.atleast_1d(a) for a in arrays))
        except ValueError:
            sizes = {n: a.size for n, a in zip(self.columns, arrays, strict=True)}
            raise InputError(f"columns of different lengths: {sizes}", where=where) from None
        found = dict(zip(self.columns, wide, strict=True))
        for name, values in found.items():
            if not (np.isfinite(values) & (values >= 0)).all():
                raise InputError(f"{name} must be finite and not negative", where=where)
        return found

    def physics(self, columns: Columns, device: Device) -> Physics:
        """The physics of every point of checked *columns*."""
        return self.terms(columns, device)

    def matrix(self, columns: Columns, names: tuple[str, ...] | None = None) -> Array:
        """Columns side by side: [points, columns]."""
        return np.stack([columns[name] for name in names or self.columns], axis=1)


_KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "gemm",
            ("m",),
            ("n", "k", "weight_bytes"),
            {"weight_bytes": 2.0},
            gemm.terms,
            gemm.START,
        ),
        Kind(
            "decode_attention",
            ("batch", "context"),
            ("heads", "kv_heads", "head_dim", "kv_bytes"),
            {"kv_bytes": 2.0},
            attention.decode_terms,
            attention.DECODE_START,
        ),
        Kind(
            "prefill_attention",
            ("batch", "chunk", "prefix"),
            ("heads", "kv_heads", "head_dim", "kv_bytes"),
            {"batch": 1.0, "prefix": 0.0, "kv_bytes": 2.0},
            attention.prefill_terms,
            attention.PREFILL_START,
        ),
        Kind(
            "moe",
            ("tokens",),
            ("hidden", "inter", "experts", "top_k", "tp", "ep", "skew", "weight_bytes"),
            {"tp": 1.0, "ep": 1.0, "skew": 0.0, "weight_bytes": 2.0},
            moe.terms,
            moe.START,
        ),
        Kind("all_reduce", ("bytes",), ("gpus",), {}, collective.terms, collective.START),
        Kind(
            "rows",
            ("rows",),
            ("row_bytes", "row_flops", "fixed_bytes"),
            {"row_flops": 0.0, "fixed_bytes": 0.0},
            rows.terms,
            rows.START,
        ),
    )
}


def kind_named(name: str) -> Kind:
    """The kind called *name*.

    Raises:
        UnknownNameError: no kind bears the name.
    """
    if name not in _KINDS:
        raise UnknownNameError("kind of operation", name, _KINDS)
    return _KINDS[name]


def kind_names() -> list[str]:
    """The names of all kinds, in order."""
    return sorted(_KINDS)
