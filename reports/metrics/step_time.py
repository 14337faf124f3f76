"""How the simulated time was come by: shares of the step time by grade."""

from __future__ import annotations

from ...sim.state.records import CellRecords

#: best first, as in profiles: "interpolated" lies between measured points, "extrapolated" beyond
#: them, "transferred" is from another shape or device, "datasheet" from the roofline
GRADES = ("measured", "interpolated", "extrapolated", "transferred", "datasheet")
DOUBTFUL = GRADES[2:]


def step_time(cell: CellRecords) -> dict[str, float] | None:
    """Grade -> share of the time of all steps; None where the cost does not say.

    Steps of data-parallel ranks are in none of them.
    """
    found = {grade: cell.totals.get(f"{grade}_ps", 0) for grade in GRADES}
    total = sum(found.values())
    return {grade: ps / total for grade, ps in found.items()} if total else None


def doubtful(shares: dict[str, float] | None) -> float:
    """Share of the step time that lies on no measured point and between none, 0..1."""
    return sum(shares[grade] for grade in DOUBTFUL) if shares else 0.0
