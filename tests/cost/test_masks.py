"""Masks of structured output: the host fills them during the forward, sampling waits for them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infersim.policies.errors import InputError
from infersim.scenarios.catalog.load import gpu, model
from infersim.sim.cost.base import StepCost, StepShape
from infersim.sim.cost.grades import DATASHEET, LineDoubt
from infersim.sim.cost.overheads import Overheads
from infersim.sim.cost.profile import Graphs, Host, Profile, Stamp, Table
from infersim.sim.cost.roofline import Roofline
from infersim.sim.cost.scaled import scaled
from infersim.sim.cost.tables import TableCost

MODEL, CARD = model("llama-3.1-8b"), gpu("rtx-4090")
PS = 10**12
#: seconds of a mask of 128,256 tokens on its way to the GPU
COPY_S = MODEL.vocab / 8 / CARD.pcie_bytes_per_s


def profile(*more: Table, **given: Any) -> Profile:
    decode = tuple(
        (float(b), float(x), 1e-6 * b + 1e-9 * b * x) for b in (1, 8, 64) for x in (16, 256, 4096)
    )
    prefill = tuple((float(c), float(p), 1e-8 * c) for c in (16, 256) for p in (0, 512))
    attention = (
        Table(op="decode_attention", times=32, by=("decodes", "context_tokens"), points=decode),
        Table(op="prefill_attention", times=32, by=("chunk", "prefix"), points=prefill),
    )
    stamp = Stamp(gpu="rtx-4090", origin="measured")
    return Profile(
        name="p",
        stamp=stamp,
        model="llama-3.1-8b",
        dtype="bf16",
        kv_dtype="bf16",
        attention="separate",
        tables=(*attention, *more),
        **given,
    )


def table_cost(*more: Table, synchronous: bool = False, fill_s: float = 5e-5, **given: Any) -> Any:
    over = Overheads(bitmask_fill_s=fill_s)
    made = profile(*more, **given)
    return TableCost(made, MODEL, CARD, overheads=over, async_scheduling=not synchronous)


def masks_table(row_s: float = 1e-6) -> Table:
    points = tuple((float(rows), 2e-6 + row_s * rows) for rows in (1, 64, 256))
    return Table(op="bitmask", times=1, by=("sequences",), points=points)


SLOW = Overheads(bitmask_fill_s=3e-3, bitmask_threads=8)
COSTS: dict[str, StepCost] = {
    "roofline": Roofline(MODEL, CARD),
    "roofline, slow masks": Roofline(MODEL, CARD, overheads=SLOW),
    "windows, slow masks": Roofline(model("gpt-oss-20b"), gpu("h100"), overheads=SLOW),
    "tables": table_cost(masks_table()),
    "tables, slow masks": table_cost(masks_table(), fill_s=1e-3),
    "synchronous": table_cost(masks_table(), fill_s=1e-3, synchronous=True),
    "graphs": table_cost(
        fill_s=1e-3, graphs=Graphs(sizes=(1, 2, 4, 8, 16), gap=0.1, replay_s=1e-4)
    ),
    "a CPU": table_cost(masks_table(), host=Host(step_s=1e-4, overlaps=False)),
}
COSTS["scaled"] = scaled(COSTS["tables, slow masks"], 1.3)


def decode(n: int, context: int, structured: int) -> StepShape:
    return StepShape(n, context, (), n, structured=structured)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(COSTS)), st.integers(1, 200), st.integers(0, 10**6), st.data())
def test_decode_is_its_line(name: str, n: int, context: int, data: Any) -> None:
    cost, rows = COSTS[name], data.draw(st.integers(0, n))
    line = cost.decode_line(n, context, structured=rows)
    base, slope, until, doubt = line
    assert context < until
    assert slope >= 0
    assert cost.duration_ps(decode(n, context, rows)) == base + slope * context
    assert cost.decode_line(n, until - 1, structured=rows)[:2] == (base, slope)
    if isinstance(doubt, LineDoubt):
        assert sum(doubt.base) == doubt.base_ps == base
        assert cost.decode_line(n, context, structured=rows).doubt is doubt  # counted under it
    if until < 1 << 60:  # it goes on where it breaks
        after = cost.decode_line(n, until, structured=rows)
        assert after.base_ps + after.slope_ps * until >= base + slope * until - 1000 - slope


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(COSTS)), st.integers(1, 200), st.integers(0, 10**5), st.data())
def test_masks_only_add_and_more_of_them_more(name: str, n: int, context: int, data: Any) -> None:
    """Up to where several threads share them."""
    cost, rows = COSTS[name], data.draw(st.integers(1, min(n, 128)))
    prefills = data.draw(st.sampled_from([(), ((300, 20),)]))
    shape = StepShape(n, context, prefills, n)
    free, some, fewer = (
        cost.duration_ps(shape._replace(structured=count)) for count in (0, rows, rows - 1)
    )
    assert free <= fewer <= some
    assert free < some


def test_masks_are_hidden_by_a_forward_that_takes_longer() -> None:
    """Then the GPU's part is all that they add; else the step lasts as long as filling does."""
    host_s, vocab_bytes = 126e-6 + 4e-6 * 8, MODEL.vocab * (4 + 1 / 8)
    apply_s = 8 * vocab_bytes / (0.9 * CARD.memory_bytes_per_s)
    for prefills in ((), ((300, 20),)):
        shape = StepShape(8, 800, prefills, 8)
        host = host_s + 4e-6 * len(prefills)
        for fill_s in (0.0, 5e-5, 2e-2):
            cost = Roofline(MODEL, CARD, overheads=Overheads(bitmask_fill_s=fill_s))
            free = cost.duration_ps(shape) / PS
            expected = max(free, host + 8 * (fill_s + COPY_S)) + apply_s
            found = cost.duration_ps(shape._replace(structured=8)) / PS
            assert found == pytest.approx(expected, abs=1e-11)
        assert expected > 2 * free  # the last of them is not hidden


def test_several_threads_share_more_than_128_rows() -> None:
    serial, threads = Overheads(), Overheads(bitmask_threads=8)
    for rows, in_turn in ((1, 1), (128, 128), (129, 32), (256, 32), (257, 48), (1000, 128)):
        copy_s = rows * COPY_S
        assert serial.masks_s(rows, MODEL.vocab, CARD) == pytest.approx(rows * 5e-5 + copy_s)
        expected = in_turn * 5e-5 + copy_s
        assert threads.masks_s(rows, MODEL.vocab, CARD) == pytest.approx(expected)
    few = replace(threads, bitmask_threads=2)
    assert few.masks_s(129, MODEL.vocab, CARD) == pytest.approx(80 * 5e-5 + 129 * COPY_S)


def test_a_measured_bitmask_is_used_and_the_rooflines_otherwise() -> None:
    shape = StepShape(8, 800, ((100, 0),), 9, structured=4)
    measured, filled = table_cost(masks_table(), fill_s=0), table_cost(fill_s=0)
    assert measured.parts.unused == []
    bare = measured.duration_ps(shape._replace(structured=0))
    assert measured.duration_ps(shape) - bare == pytest.approx(6e-6 * PS, abs=2)
    part = measured.predict(shape).parts["bitmask"]
    assert (part.seconds, part.grade) == (pytest.approx(6e-6), "interpolated")
    assert filled.predict(shape).parts["bitmask"].grade == "datasheet"
    assert "bitmask" not in measured.predict(shape._replace(structured=0)).parts


@pytest.mark.parametrize("structured", [0, 8])
def test_how_the_host_of_each_engine_joins(structured: int) -> None:
    """Asynchronous: with all that the host does; synchronous: what follows the masks waits too."""
    shape = decode(8, 800, structured)
    host = Host(step_s=2e-3)
    masks_s = structured * (1e-3 + COPY_S)
    apply_s = 2e-6 + 1e-6 * structured if structured else 0.0
    free = table_cost(fill_s=0, host=Host(step_s=0)).duration_ps(decode(8, 800, 0)) / PS
    for synchronous in (False, True):
        cost = table_cost(masks_table(), fill_s=1e-3, host=host, synchronous=synchronous)
        expected = max(free + apply_s, masks_s + 2e-3)
        if synchronous:
            expected = 2e-3 + max(free + apply_s, masks_s + apply_s)
        assert cost.duration_ps(shape) / PS == pytest.approx(expected, rel=1e-6)
    cpu = table_cost(masks_table(), fill_s=1e-3, host=Host(step_s=2e-3, overlaps=False))
    expected = free + apply_s + 2e-3 + masks_s
    assert cpu.duration_ps(shape) / PS == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("prefills", [(), ((300, 20),)])
def test_the_time_of_filling_is_never_called_measured(prefills: tuple[Any, ...]) -> None:
    """Of a step that waits for masks, that wait is a datasheet's."""
    shape = StepShape(16, 1600, prefills, 16, structured=16)
    cost = table_cost(masks_table(), fill_s=1e-2, host=Host(step_s=1e-3))
    duration_ps, grades = cost.timed(shape)
    assert sum(grades) == pytest.approx(duration_ps, abs=3)
    assert grades[DATASHEET] / PS >= 16 * 1e-2
    hidden = table_cost(masks_table(), fill_s=1e-7, host=Host(step_s=1e-6))
    _, more = hidden.timed(shape)
    _, free = hidden.timed(shape._replace(structured=0))
    assert more[DATASHEET] == free[DATASHEET]


@pytest.mark.parametrize(("key", "value"), [("bitmask_fill_s", -1e-6), ("bitmask_threads", -1)])
def test_less_than_nothing_is_refused(key: str, value: float) -> None:
    with pytest.raises(InputError, match=key):
        Overheads(**{key: value})
