"""What each family of operations of a profile adds to a step, and the host beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ...sim.cost.base import StepShape
from ...sim.cost.grids import Line, decode_slices, prefill_slices, rows_of
from ...sim.cost.mixed import Mixed
from ...sim.cost.ops import OPS
from ...sim.cost.profile import Profile, Table
from ..assemble.nnls import Array

#: columns of the host: once a step, a sequence, a token, and once a step with prefill
HOST = ("step_s", "sequence_s", "token_s", "mixed_step_s")
_PS = 1e12
Evaluate = Callable[[StepShape], float]


def family_names(profile: Profile) -> list[str]:
    """The families that a step of *profile* is made of."""
    found = dict.fromkeys(OPS[t.op].family for t in profile.tables)
    return [name for name in found if name not in ("beside", "image")]


def columns(profile: Profile, steps: Sequence[Sequence[StepShape]]) -> tuple[list[str], Array]:
    """Names, and [observations, names]: seconds of each family, then counts for the host's terms.

    Every observation is a sum over its steps.
    """
    names = family_names(profile)
    parts = {name: _evaluators(profile, name) for name in names}
    known: dict[StepShape, list[float]] = {}
    rows = []
    for group in steps:
        total = np.zeros(len(names) + len(HOST))
        for one in group:
            if one not in known:
                known[one] = [sum(f(one) for f in parts[name]) / _PS for name in names]
                known[one] += _host(one)
            total += known[one]
        rows.append(total)
    return [*names, *HOST], np.array(rows)


def _host(step: StepShape) -> list[float]:
    sequences = step.decodes + len(step.prefills)
    return [1.0, float(sequences), float(_tokens(step)), float(bool(step.prefills))]


def _tokens(step: StepShape) -> int:
    return step.decodes + sum(new for new, _ in step.prefills)


def _evaluators(profile: Profile, family: str) -> list[Evaluate]:
    tables = [t for t in profile.tables if OPS[t.op].family == family]
    return [_evaluator(table, profile) for table in tables]


def _evaluator(table: Table, profile: Profile) -> Evaluate:
    """Picoseconds of all launches of *table* in a step."""
    sizes = profile.graphs.sizes if profile.graphs else ()

    def padded(step: StepShape) -> int:
        extra = 0
        if not step.prefills:
            extra = next((n for n in sizes if n >= step.decodes), step.decodes) - step.decodes
        return extra

    if table.op == "decode_attention":
        decode = decode_slices(rows_of(table))
        return lambda s: decode.at(s.decodes, _mean(s))[0] if s.decodes else 0.0
    if table.op == "prefill_attention":
        prefill = prefill_slices(rows_of(table))
        return lambda s: sum(prefill.at(new, before)[0] for new, before in s.prefills)
    if table.op == "attention":
        mixed = Mixed(rows_of(table))
        return lambda s: _mixed(mixed, s)
    if table.by == ("tokens", "experts"):
        rows = {at: (ps, code) for at, ps, code in rows_of(table)}
        most = max(experts for _, experts in rows)
        full = Line([(at[0], ps, code) for at, (ps, code) in rows.items() if at[1] == most])
        return lambda s: full.at(_tokens(s) + padded(s))[0]
    line = Line([(at[0], ps, code) for at, ps, code in rows_of(table)])
    if table.by == ("sequences",):
        return lambda s: line.at(s.samples + padded(s))[0]
    if table.by == ("bytes",):
        from ...scenarios.catalog import load
        from ...sim.cost.dtypes import HALF_BYTES

        row_bytes = load.model(profile.model).hidden * HALF_BYTES
        return lambda s: line.at(row_bytes * (_tokens(s) + padded(s)))[0]
    return lambda s: line.at(_tokens(s) + padded(s))[0]


def _mean(step: StepShape) -> float:
    return step.decode_context_tokens / step.decodes if step.decodes else 0.0


def _mixed(table: Mixed, step: StepShape) -> float:
    """One chunk of all tokens, after the mean of what stands before them."""
    tokens = sum(new for new, _ in step.prefills)
    before = sum(old for _, old in step.prefills) / max(1, len(step.prefills))
    return table.at(tokens, before, step.decodes, _mean(step))[0]
