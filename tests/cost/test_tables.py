"""Tables: what lies on, between and beyond their points; steps; grades; perturbation."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infersim.policies.errors import InputError
from infersim.scenarios.catalog.load import gpu, model
from infersim.sim.cost.base import StepShape
from infersim.sim.cost.grades import EXTRAPOLATED, INTERPOLATED, MEASURED, Ledger, LineDoubt
from infersim.sim.cost.grids import Line, Slices, isotonic, pairs, prefill_slices
from infersim.sim.cost.mixed import Mixed
from infersim.sim.cost.profile import Graphs, Host, Profile, Stamp, Table
from infersim.sim.cost.roofline import Roofline
from infersim.sim.cost.scaled import perturbed, scaled
from infersim.sim.cost.specs import Parallelism
from infersim.sim.cost.tables import TableCost

MODEL, CARD = model("llama-3.1-8b"), gpu("rtx-4090")
US = 1_000_000  # picoseconds


def tokens_table(op: str, times: int = 32, slope_s: float = 1e-6, fixed_s: float = 1e-5) -> Table:
    points = tuple((float(m), fixed_s + slope_s * m) for m in (1, 64, 512, 2048))
    return Table(op=op, times=times, by=("tokens",), points=points)


def decode_table() -> Table:
    points = tuple(
        (float(b), float(x), 1e-6 * b + 1e-9 * b * x) for b in (1, 8, 64) for x in (16, 256, 4096)
    )
    return Table(op="decode_attention", times=32, by=("decodes", "context_tokens"), points=points)


def prefill_table() -> Table:
    points = tuple(
        (float(c), float(p), 1e-6 + 1e-10 * pairs(c, p)) for c in (16, 256) for p in (0, 512)
    )
    return Table(op="prefill_attention", times=32, by=("chunk", "prefix"), points=points)


def mixed_table() -> Table:
    """chunk work and decode work add up, and a launch is shared."""
    points = [
        (c, p, b, x, 1e-5 + 1e-9 * (c * p + b * x))
        for c in (0, 16, 256)
        for p in ((0, 512) if c else (0,))
        for b in (0, 1, 32)
        for x in ((16, 1024) if b else (0,))
        if c or b
    ]
    by = ("chunk", "prefix", "decodes", "context_tokens")
    return Table(
        op="attention", times=32, by=by, points=tuple(tuple(map(float, q)) for q in points)
    )


DENSE = ("norm", "rope", "act", "qkv", "o", "gate_up", "down")


def profile(**changes: Any) -> Profile:
    heads = tuple(
        Table(op=op, times=1, by=("sequences",), points=((1.0, 1e-5), (256.0, 2e-4)))
        for op in ("lm_head", "sampler")
    )
    values: dict[str, Any] = {
        "name": "made up",
        "stamp": Stamp(origin="measured", gpu="rtx-4090"),
        "model": "llama-3.1-8b",
        "dtype": "bf16",
        "kv_dtype": "bf16",
        "attention": "separate",
        "tables": (*map(tokens_table, DENSE), *heads, decode_table(), prefill_table()),
        "host": Host(),
    }
    return Profile(**(values | changes))


def cost(async_scheduling: bool = True, **changes: Any) -> TableCost:
    return TableCost(profile(**changes), MODEL, CARD, async_scheduling=async_scheduling)


def decode(n: int, context: int) -> StepShape:
    return StepShape(n, context, (), n)


# ---- grids --------------------------------------------------------------------------------------


def test_a_line_on_between_and_beyond_its_points() -> None:
    line = Line([(10.0, 100.0, MEASURED), (20.0, 300.0, MEASURED)])
    assert line.at(10) == (100.0, MEASURED)
    assert line.at(15) == (200.0, INTERPOLATED)
    assert line.at(5) == (100.0, EXTRAPOLATED)
    assert line.at(40) == (600.0, EXTRAPOLATED)


def test_slices_interpolate_inside_before_between() -> None:
    rows = [
        ((1.0, 0.0), 0.0, 0),
        ((1.0, 10.0), 100.0, 0),
        ((3.0, 0.0), 0.0, 0),
        ((3.0, 4.0), 8.0, 0),
    ]
    slices = Slices(rows)
    assert slices.at(2, 2) == (pytest.approx((20 + 4) / 2), INTERPOLATED)
    # the second slice ends at 4: beyond it grows in proportion, and that is said
    assert slices.at(2, 8) == (pytest.approx((80 + 16) / 2), EXTRAPOLATED)


def test_prefill_beyond_its_grid_grows_with_pairs() -> None:
    slices = prefill_slices([((16.0, 0.0), 1.0, 0), ((256.0, 0.0), 10.0, 0)])
    value, grade = slices.at(1024, 0)
    assert value == pytest.approx(10 * pairs(1024, 0) / pairs(256, 0))
    assert grade == EXTRAPOLATED
    assert slices.at(256, 256)[0] == pytest.approx(10 * pairs(256, 256) / pairs(256, 0))


def test_merged_grids_use_the_slices_that_reach_down() -> None:
    """A chunk measured only with long contexts says nothing about short ones."""
    rows: list[tuple[tuple[float, ...], float, int]] = [((0.0, 0.0, 1.0, 16.0), 1.0, 0)]
    rows += [((c, 0.0, 0.0, 0.0), c, 0) for c in (16.0, 24.0, 32.0)]
    for chunk, contexts in ((16.0, (16, 1024)), (24.0, (512, 1024)), (32.0, (16, 1024))):
        rows += [((chunk, 0.0, 1.0, float(x)), chunk + x, 0) for x in contexts]
    mixed = Mixed(rows)
    assert mixed.at(24, 0, 1, 100) == (pytest.approx(24 + 100), INTERPOLATED)
    assert mixed.at(24, 0, 1, 512) == (pytest.approx(24 + 512), MEASURED)


def test_a_mixed_table_beyond_its_grid_grows_by_its_pure_parts() -> None:
    made = mixed_table()
    mixed = Mixed([(p[:-1], p[-1], 0) for p in made.points])
    inside, _ = mixed.at(256, 512, 32, 1024)
    more, grade = mixed.at(256, 512, 64, 1024)
    assert grade == EXTRAPOLATED
    assert more - inside == pytest.approx(
        mixed.decode.at(64, 1024)[0] - mixed.decode.at(32, 1024)[0]
    )


def test_a_mixed_table_needs_both_pure_parts() -> None:
    with pytest.raises(InputError, match="pure prefill"):
        Mixed([((0.0, 0.0, 1.0, 16.0), 1.0, 0)])


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=30))
def test_isotonic_rises_and_keeps_what_rises(values: list[float]) -> None:
    found = isotonic(values)
    assert all(a <= b + 1e-9 for a, b in pairwise(found))
    assert sum(found) == pytest.approx(sum(values))
    assert isotonic(sorted(values)) == pytest.approx(sorted(values))


# ---- steps --------------------------------------------------------------------------------------


def test_a_step_is_the_sum_of_its_tables() -> None:
    shape = StepShape(8, 8 * 256, ((256, 0), (16, 512)), 10)
    m = 8 + 256 + 16
    dense = len(DENSE) * 32 * (1e-5 + 1e-6 * m)
    heads = 2 * (1e-5 + (2e-4 - 1e-5) * 9 / 255)
    attention = 32 * (8e-6 + 1e-9 * 8 * 256)
    attention += 32 * (2e-6 + 1e-10 * (pairs(256, 0) + pairs(16, 512)))
    assert cost().duration_ps(shape) / 1e12 == pytest.approx(dense + heads + attention, rel=1e-9)


COSTS = {
    "separate": cost(),
    "mixed": cost(
        attention="mixed",
        tables=(*map(tokens_table, DENSE), mixed_table()),
    ),
    "graphs": cost(graphs=Graphs(sizes=(1, 2, 4, 8, 16), replay_s=2e-5, gap=0.05)),
    "sync": cost(async_scheduling=False, host=Host(step_s=1e-3, sequence_s=1e-5, output_s=1e-5)),
    "slow host": cost(host=Host(step_s=7e-3)),
    "roofline attention": cost(tables=tuple(map(tokens_table, DENSE))),
    "scaled": scaled(cost(), 1.01),
}


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(COSTS)), st.integers(1, 300), st.integers(0, 10**6))
def test_pure_decode_is_its_line(name: str, n: int, context: int) -> None:
    found = COSTS[name]
    base, slope, until, doubt = found.decode_line(n, context)
    assert context < until
    assert found.duration_ps(decode(n, context)) == base + slope * context >= 1
    again = found.decode_line(n, until - 1)
    assert (again.base_ps, again.slope_ps) == (base, slope)
    assert doubt is not None
    assert sum(doubt.base) == doubt.base_ps == base


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(COSTS)), st.integers(1, 64), st.integers(0, 200_000))
def test_lines_follow_the_table(name: str, n: int, context: int) -> None:
    """A line differs from what the parts add up to by less than a microsecond."""
    if name == "scaled":
        return
    found = COSTS[name]
    assert isinstance(found, TableCost)
    parts = found.predict(decode(n, context)).parts
    assert parts["host"].seconds > -1e-6
    assert sum(part.seconds for part in parts.values()) * 1e12 == pytest.approx(
        found.duration_ps(decode(n, context)), abs=US
    )


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(COSTS)), st.integers(1, 100), st.integers(0, 10**6))
def test_decode_never_gets_faster_with_context(name: str, n: int, context: int) -> None:
    found = COSTS[name]
    line = found.decode_line(n, context)
    assert line.slope_ps >= 0
    if line.until < 1 << 60:
        before = found.duration_ps(decode(n, line.until - 1))
        assert found.duration_ps(decode(n, line.until)) >= before - US


def test_a_batch_is_padded_to_its_graph() -> None:
    found = COSTS["graphs"]
    assert isinstance(found, TableCost)
    three, four = (found.predict(decode(n, 64)).parts["qkv"].seconds for n in (3, 4))
    assert three == four
    # beyond the largest graph nothing is padded, and nothing replayed
    base = COSTS["separate"]
    assert found.duration_ps(decode(17, 64)) == base.duration_ps(decode(17, 64))
    assert found.duration_ps(decode(16, 64)) > base.duration_ps(decode(16, 64))


def test_host_work_adds_to_a_synchronous_engine_and_hides_in_an_asynchronous_one() -> None:
    host = Host(step_s=1e-3, sequence_s=1e-5, token_s=1e-7)
    shape = StepShape(4, 400, ((100, 0),), 5)
    free = cost().duration_ps(shape)
    work = (1e-3 + 5e-5 + 1e-7 * 104) * 1e12
    assert cost(False, host=host).duration_ps(shape) == pytest.approx(free + work, abs=2)
    assert cost(True, host=host).duration_ps(shape) == free
    slow = Host(step_s=1.0)
    assert cost(True, host=slow).duration_ps(shape) == 10**12


@pytest.mark.parametrize("asynchronous", [True, False])
def test_one_processor_for_host_and_device_overlaps_nothing(asynchronous: bool) -> None:
    host = Host(step_s=1e-3, sequence_s=1e-5, token_s=1e-7)
    alone = host.model_copy(update={"overlaps": False})
    for shape in (decode(4, 400), StepShape(4, 400, ((100, 0),), 5)):
        added = cost(False, host=host).duration_ps(shape)
        assert cost(asynchronous, host=alone).duration_ps(shape) == added


def test_launches_bound_an_eager_step() -> None:
    found = cost(host=Host(launch_s=1e-3))
    launches = 7 * 32 + 2 + 32
    assert found.duration_ps(decode(1, 16)) == launches * 10**9


def test_launching_is_the_hosts_work_whatever_the_engine_hides() -> None:
    host = Host(launch_s=1e-3, step_s=0.01)
    launches = 7 * 32 + 2 + 32
    for asynchronous in (True, False):
        found = cost(asynchronous, host=host).duration_ps(decode(1, 16))
        assert found == launches * 10**9 + 10**10


def test_leaving_the_graph_costs() -> None:
    shape = StepShape(4, 400, ((100, 0),), 5)
    dear = cost(host=Host(mixed_step_s=4e-3))
    assert dear.duration_ps(shape) - cost().duration_ps(shape) == 4 * 10**9
    assert dear.duration_ps(decode(4, 400)) == cost().duration_ps(decode(4, 400))


def test_several_chunks_under_one_kernel_share_its_launch() -> None:
    found = COSTS["mixed"]
    one = found.duration_ps(StepShape(32, 32 * 16, ((256, 512),), 33))
    two = found.duration_ps(StepShape(32, 32 * 16, ((256, 512), (16, 0)), 34))
    # the smallest chunk costs a launch alone, so beside another it adds its rows only
    rows = 16 * len(DENSE) * 32 * US
    assert two - one == pytest.approx(rows + 1e-9, rel=0.01)


def test_what_is_missing_comes_from_the_roofline_and_is_said() -> None:
    tables = tuple(map(tokens_table, ("norm", "rope", "act", "qkv", "o", "down")))
    found = cost(tables=tables)
    roofline = Roofline(MODEL, CARD)
    assert found.parts.filled == ["gate_up", "lm_head", "decode_attention", "prefill_attention"]
    assert "sampler" in found.parts.uncounted
    part = found.predict(decode(16, 1600)).parts["gate_up"]
    assert part.grade == "datasheet"
    assert part.seconds == roofline.token_op_ps("gate_up", 16) / 1e12
    assert "gate_up" in found.source
    assert any("gate_up" in note for note in found.notes)


def test_tensor_parallel_tables_still_pay_for_their_all_reduce() -> None:
    split = Parallelism(2)
    without = TableCost(profile(tp=2), MODEL, CARD, split)
    assert without.parts.filled == ["all_reduce"]
    points = ((1e3, 1e-5), (1e8, 1e-2))
    table = Table(op="all_reduce", times=64, by=("bytes",), points=points)
    measured = TableCost(
        profile(tp=2, tables=(*profile().tables, table)), MODEL, CARD, split
    ).predict(StepShape(0, 0, ((1024, 0),), 1))
    size = 1024 * MODEL.hidden * 2
    expected = 64 * (1e-5 + (1e-2 - 1e-5) * (size - 1e3) / (1e8 - 1e3))
    assert measured.parts["all_reduce"].seconds == pytest.approx(expected)


def test_adapters_cost_what_their_table_says_for_the_tokens_that_have_one() -> None:
    points = tuple((float(t), 2e-6 + 1e-8 * t) for t in (1, 64, 1024))
    lora = Table(op="lora", times=32, by=("tokens",), points=points)
    with_it = cost(host=Host(launch_s=1e-9), tables=(*profile().tables, lora))
    assert with_it.parts.unused == []
    for shape in (decode(8, 800), StepShape(8, 800, ((100, 0),), 9)):
        bare = with_it.duration_ps(shape)
        assert bare == cost(host=Host(launch_s=1e-9)).duration_ps(shape)
        for tokens in (1, 8, 64):
            more = with_it.duration_ps(shape._replace(adapted=tokens)) - bare
            assert more == pytest.approx(32 * (2e-6 + 1e-8 * tokens) * 1e12, abs=2)
    part = with_it.predict(decode(8, 800)._replace(adapted=8)).parts["lora"]
    assert (part.seconds, part.grade) == (pytest.approx(32 * 2.08e-6), "interpolated")
    # a step of launches that the host is slow to make has more of them
    slow = cost(host=Host(launch_s=1e-3), tables=(*profile().tables, lora))
    more = slow.duration_ps(decode(1, 16)._replace(adapted=1)) - slow.duration_ps(decode(1, 16))
    assert more == 32 * 10**9
    # and without a table adapters cost nothing
    assert cost().duration_ps(decode(8, 800)._replace(adapted=8)) == cost().duration_ps(
        decode(8, 800)
    )


def test_experts_are_looked_up_by_how_many_are_hit() -> None:
    moe = model("qwen3-30b-a3b")
    points = tuple((float(t), float(e), 1e-6 * e) for t in (1, 16, 256) for e in (8, 128))
    table = Table(op="moe", times=48, by=("tokens", "experts"), points=points)
    made = profile(model="qwen3-30b-a3b", tables=(*profile().tables, table))
    found = TableCost(made, moe, gpu("rtx-pro-6000"))
    hit = 128 * (1 - (1 - 8 / 128) ** 16)
    assert found.predict(decode(16, 160)).parts["moe"].seconds == pytest.approx(48e-6 * hit)
    assert "router" not in found.parts.filled


# ---- grades, sigmas, perturbation ---------------------------------------------------------------


def test_a_prediction_says_how_each_part_was_come_by() -> None:
    found = cost().predict(decode(8, 8 * 256))
    assert found.parts["decode_attention"].grade == "measured"
    assert found.parts["qkv"].grade == "interpolated"
    assert cost().predict(decode(8, 8 * 9000)).parts["decode_attention"].grade == "extrapolated"
    assert 0 < found.sigma < max(part.sigma for part in found.parts.values())


def test_the_time_by_grade_is_the_time() -> None:
    found = cost()
    duration, split = found.timed(StepShape(8, 2048, ((5000, 0),), 9))
    assert sum(split) == pytest.approx(duration, abs=5)
    assert split[EXTRAPOLATED] > 0.9 * duration


def test_a_ledger_sums_a_line_exactly() -> None:
    line = cost().decode_line(8, 3000)
    assert line.doubt is not None
    context, step, whole = 3000, Ledger(), Ledger()
    times = [line.base_ps + line.slope_ps * (context + 8 * i) for i in range(50)]
    for ps in times:
        step.add(line.doubt, 1, ps)
    whole.add(line.doubt, 50, sum(times))
    assert step.totals() == whole.totals()
    assert sum(whole.totals().values()) == sum(times)
    assert isinstance(line.doubt, LineDoubt)


def test_a_roofline_is_all_datasheet() -> None:
    ledger, roofline = Ledger(), Roofline(MODEL, CARD)
    duration, split = roofline.timed(StepShape(3, 100, ((50, 0),), 4))
    ledger.add(split, 1, duration)
    assert ledger.totals() == {"datasheet": duration}


def test_scaling_and_perturbing() -> None:
    shape, base = StepShape(4, 400, ((100, 0),), 5), cost()
    assert scaled(base, 1.01).duration_ps(shape) == round(base.duration_ps(shape) * 1.01)
    families = ("dense", "elementwise", "attention", "moe", "head", "collective", "image", "beside")
    draws = dict.fromkeys((*families, "host", "roofline"), 0.0)
    assert perturbed(base, draws).duration_ps(shape) == base.duration_ps(shape)
    off = perturbed(base, draws | {"attention": 2.0})
    assert isinstance(off, TableCost)
    before, after = (c.predict(shape).parts for c in (base, off))
    factor = after["decode_attention"].seconds / before["decode_attention"].seconds
    assert factor == pytest.approx(math.exp(2 * 0.03))
    assert after["qkv"] == before["qkv"]
    datasheet = Roofline(MODEL, CARD)
    worse = perturbed(datasheet, draws | {"roofline": 1.0}).duration_ps(shape)
    assert worse == round(datasheet.duration_ps(shape) * math.exp(0.3))
