"""A profile fitted to a run: the tables of another, scaled; its stamp names the run."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from ...sim.cost.ops import OPS
from ...sim.cost.profile import Capacity, Host, Profile, Table
from .families import HOST
from .observed import Run
from .solve import Identified, Term

if TYPE_CHECKING:
    from ...scenarios.schema.engine import Engine

FITTED = "fitted to"  #: how the source of such a stamp begins; the run's SHA-256 follows


def fitted_profile(
    base: Profile, run: Run, found: Identified, engine: Engine, version: str
) -> Profile:
    """*base* with its tables scaled and the host's terms of *found*; *version* of infersim."""
    values = {name: found.terms[name].value for name in HOST}
    stamp = base.stamp.model_copy(
        update={
            "origin": "fitted",
            "engine": run.engine or base.stamp.engine,
            "created": datetime.now(UTC).date().isoformat(),
            "infersim": version,
            "source": f"{FITTED} {run.name} sha256 {run.digest}",
        }
    )
    launch_s = base.host.launch_s if base.host else 0.0
    overlaps = base.host is None or base.host.overlaps
    output_s = 0.0  # a run's own clock holds it already
    return base.model_copy(
        update={
            "name": f"{base.name}, fitted to {run.name}",
            "stamp": stamp,
            "tables": tuple(_scaled(table, found) for table in base.tables),
            "host": Host(**values, launch_s=launch_s, output_s=output_s, overlaps=overlaps),
            "capacity": _capacity(base, run, engine),
            "samples_sha256": "",
            "notes": (*base.notes, *notes(run, found)),
        }
    )


def notes(run: Run, found: Identified) -> list[str]:
    """What was fitted, what could not be, and that the run must not be scored."""
    sizes = np.abs(found.errors)
    told = [
        f"fitted to {len(run.observations)} timings of {run.name} ({run.format}), "
        f"sha256 {run.digest}: no score may count that run",
        f"they are met within {np.median(sizes):.1%} (median) and "
        f"{np.percentile(sizes, 95):.1%} (p95)",
        "fitted: " + _listed([t for t in found.terms.values() if t.identified]),
    ]
    lost = [t.name for t in found.terms.values() if not t.identified]
    if lost:
        told.append(
            f"not identified by this run (condition number of all terms "
            f"{found.condition_of_all:.3g}): {', '.join(lost)}; families keep the scale 1, "
            "host terms are 0"
        )
    if run.kv_blocks is None:
        told.append("the run does not say its KV capacity: not fitted")
    return [*told, *run.notes]


def _listed(terms: Sequence[Term]) -> str:
    return ", ".join(map(str, terms))


def _scaled(table: Table, found: Identified) -> Table:
    term = found.terms.get(OPS[table.op].family)
    if term is None or not term.identified:
        return table
    assert term.low is not None
    assert term.high is not None
    points = tuple((*p[:-1], p[-1] * term.value) for p in table.points)
    spread = (term.high - term.low) / (2 * 1.96 * max(term.value, 1e-12))
    note = f"{table.note}; times {term.value:.4g}".removeprefix("; ")
    return table.model_copy(update={"points": points, "sigma": min(10.0, spread), "note": note})


def _capacity(base: Profile, run: Run, engine: Engine) -> Capacity | None:
    if run.kv_blocks is None or run.block_size is None:
        return base.capacity
    return Capacity(
        kv_blocks=run.kv_blocks,
        block_size=run.block_size,
        max_num_batched_tokens=engine.max_num_batched_tokens,
        max_num_seqs=engine.max_num_seqs,
        note=f"as {run.name} says",
    )
