"""What a profile covers and how far it can be trusted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from ..policies.errors import InputError
from ..sim.cost.profile import GRADES, SAMPLES, Profile, Table, load
from ..sim.cost.stamps import other_kernels
from .assemble.build import Assembled, assemble, of_samples
from .drawing import drawing

Data = dict[str, Any]


@dataclass(frozen=True)
class Checked:
    """A profile and what its samples say of it.

    Attributes:
        assembled: made again of the raw samples; None where there are none.
        warnings: what the profile and this installation disagree about.
    """

    profile: Profile
    assembled: Assembled | None
    warnings: tuple[str, ...]

    def facts(self) -> dict[str, str]:
        """What it is of, and with what it was made; nothing that is unknown."""
        p, s = self.profile, self.profile.stamp
        found = {
            "origin": f"{s.origin} {s.created}".strip(),
            "model": f"{p.model}, weights {p.dtype}, KV {p.kv_dtype}, tp {p.tp}",
            "device": f"{s.device} ({s.gpu})" if s.device else s.gpu,
            "engine": s.engine,
            "driver": s.driver,
            "CUDA": s.cuda,
            "torch": s.torch,
            "triton": s.triton,
            "kernels": s.kernels[:12],
            "source": f"{s.source} ({s.licence})" if s.licence else s.source,
            "KV blocks": f"{p.capacity.kv_blocks:,}" if p.capacity else "",
            "from the roofline": ", ".join(p.missing),
            "whole steps": self._steps(),
        }
        return {name: text for name, text in found.items() if text}

    def rows(self) -> list[Data]:
        """One row a table. Shares are from 0 to 1; None where there are no samples."""
        return [self._row(table) for table in self.profile.tables]

    def plain(self) -> Data:
        """All of it, as JSON holds it."""
        steps = self.assembled.steps if self.assembled else None
        return {
            "name": self.profile.name,
            "stamp": self.profile.stamp.model_dump(),
            "facts": self.facts(),
            "tables": self.rows(),
            "steps": {"fitted": steps.fitted, "errors": list(steps.errors)} if steps else None,
            "host": self.profile.host.model_dump() if self.profile.host else None,
            "missing": list(self.profile.missing),
            "notes": list(self.profile.notes),
            "warnings": list(self.warnings),
        }

    def page_data(self) -> Data:
        """What `reports.profile.page` takes."""
        return self.plain() | drawing(self.profile, self.assembled)

    def _steps(self) -> str:
        steps = self.assembled.steps if self.assembled else None
        if steps is None or not steps.errors:
            return ""
        sizes = [abs(e) for e in steps.errors]
        return (
            f"{len(sizes)} foretold within {median(sizes):.1%} (median; worst {max(sizes):.1%}), "
            f"{steps.fitted} others fitted"
        )

    def _row(self, table: Table) -> Data:
        quality = self.assembled.qualities.get(table.op) if self.assembled else None
        return {
            "op": table.op,
            "launches": table.times,
            "points": len(table.points),
            "grades": grades(table),
            "sigma": table.sigma,
            "measured": quality.points if quality else None,
            "noisy": quality.noisy if quality else None,
            "left_out_p50": quality.error(50) if quality else None,
            "left_out_p95": quality.error(95) if quality else None,
            "bias": quality.bias if quality and quality.signed else None,
            "uneven": quality.uneven if quality else None,
        }


def grades(table: Table) -> dict[str, float]:
    """Shares of a table's points by grade, the best first."""
    counts = Counter(table.grades or ("measured",) * len(table.points))
    return {g: counts[g] / counts.total() for g in GRADES if counts[g]}


def checked(folder: Path, version: str = "") -> Checked:
    """Read a profile, and its samples where it has them.

    Args:
        version: of this infersim; another that wrote the profile is warned about.

    Raises:
        InputError: either is missing, damaged, cut off, or not of the other.
    """
    profile = load(folder)
    warnings = _mismatches(profile, version)
    assembled = None
    if profile.samples_sha256 and (folder / SAMPLES).is_file():
        store, shapes = of_samples(folder)
        told = (store.identity["model"], store.identity["dtype"], store.identity["gpu"])
        if told != (profile.model, profile.dtype, profile.stamp.gpu):
            raise InputError(
                f"the samples are of {' '.join(told)}, the profile is of "
                f"{profile.model} {profile.dtype} {profile.stamp.gpu}",
                where=str(folder / SAMPLES),
            )
        assembled = assemble(store, shapes, drift=0.0, left_out=True)
    elif profile.samples_sha256:
        warnings.append(f"{SAMPLES} is not here: nothing tells how good the tables are")
    return Checked(profile, assembled, tuple(warnings))


def _mismatches(profile: Profile, version: str) -> list[str]:
    """What this installation knows or would measure otherwise."""
    stamp = profile.stamp
    found = other_kernels(stamp)
    if version and stamp.infersim and stamp.infersim != version:
        found.append(f"written by infersim {stamp.infersim}, this is {version}")
    return found
