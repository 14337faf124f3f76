"""Two step logs: planted differences are found, planted errors come out as planted."""

from typing import Any

import numpy as np
import pytest

from infersim.calibrate.compare import steps
from infersim.sim.cost.linear import LinearCost
from infersim.sim.state.steps import STEP_COLUMNS

COST = LinearCost(1000, per_prefill_token_ps=50, per_sequence_ps=10, per_context_token_ps=1)
Table = dict[str, np.ndarray[Any, Any]]

#: decodes, their context, chunks, their tokens, context before them
WORK = [(0, 0, 1, 200, 0), (1, 201, 1, 100, 0), (2, 303, 0, 0, 0), (2, 305, 0, 0, 0)] * 5


def log(factor: float = 1.0, replica: int = 0) -> Table:
    """Steps one after the other, each *factor* times as long as `COST` says."""
    rows, now = [], 0
    for i, (decodes, context, chunks, tokens, before) in enumerate(WORK):
        length = COST.base_ps + 10 * (decodes + chunks) + context + 51 * tokens + before
        took = round(length * factor)
        plan = (decodes, context, chunks, tokens, before, decodes + chunks, chunks, 0, 0, 0)
        rows.append((replica, i, now, now + took, *plan, 1000 + i))
        now += took
    columns = zip(*rows, strict=True)
    return {
        name: np.array(column, dtype=dtype)
        for (name, dtype), column in zip(STEP_COLUMNS.items(), columns, strict=True)
    }


def by_kind(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["kind"]: row for row in found["times"]}


def test_equal_logs_are_equal() -> None:
    found = steps.compare(log(), log(), [COST])
    assert found["first_difference"] is None
    assert found["same"] == found["measured"] == len(WORK)
    assert {row["kind"]: row["n"] for row in found["times"]} == {
        "all": 20,
        "decode": 10,
        "mixed": 5,
        "prefill": 5,
    }
    assert all(row["bias"] == row["p95"] == 0 for row in found["times"])


def test_every_step_slower_than_simulated_is_a_bias_of_that_size() -> None:
    found = steps.compare(log(1 / 0.97), log(), [COST])
    for row in found["times"]:
        assert row["bias"] == pytest.approx(-0.03, abs=2e-3)
        assert row["median"] == pytest.approx(0.03, abs=2e-3)
    assert found["simulated_busy_s"] / found["measured_busy_s"] == pytest.approx(0.97, abs=1e-3)


def test_equal_steps_of_a_repeat_say_how_noisy_they_are() -> None:
    again = log(1.05)
    again["digest"][10:] += 1000  # from here on it decided otherwise
    again["end_ps"][12] += 10**9  # so this does not count
    found = by_kind(steps.compare(log(), log(), [COST], [again]))
    assert found["decode"]["noise"] == pytest.approx(0.05, abs=2e-3)
    assert found["all"]["noise"] == pytest.approx(0.05, abs=2e-3)
    assert all(row["noise"] is None for row in steps.compare(log(), log(), [COST])["times"])


def test_the_first_decision_that_differs_is_found_with_both_plans() -> None:
    theirs, ours = log(), log()
    theirs["decodes"][7] = 9
    theirs["preempted"][9] = 1
    found = steps.compare(theirs, ours, [COST])
    first = found["first_difference"]
    assert found["same"] == 7
    assert (first["replica"], first["step"]) == (0, 7)
    assert (first["measured"]["decodes"], first["simulated"]["decodes"]) == (9, 2)


def test_the_digest_alone_can_differ() -> None:
    theirs = log()
    theirs["digest"][3] += 1
    first = steps.compare(theirs, log(), [COST])["first_difference"]
    assert first["step"] == 3
    assert first["measured"]["digest"] != first["simulated"]["digest"]


def test_a_run_that_ends_sooner_differs_where_it_ends() -> None:
    short = {name: column[:12] for name, column in log().items()}
    first = steps.compare(short, log(), [COST])["first_difference"]
    assert (first["step"], first["measured"]) == (12, None)
    assert first["simulated"]["decodes"] == 0


def test_the_earliest_of_several_replicas_counts() -> None:
    both = {n: np.concatenate([log()[n], log(replica=1)[n]]) for n in STEP_COLUMNS}
    theirs = {name: column.copy() for name, column in both.items()}
    theirs["samples"][15] = 99
    theirs["samples"][20 + 4] = 99
    first = steps.compare(theirs, both, [COST, COST])["first_difference"]
    assert (first["replica"], first["step"]) == (1, 4)


def test_steps_after_the_difference_are_priced() -> None:
    theirs, ours = log(1 / 0.97), log()
    theirs["digest"][0] += 1
    found = steps.compare(theirs, ours, [COST])
    assert found["same"] == 0
    assert by_kind(found)["all"]["n"] == len(WORK)
    assert by_kind(found)["all"]["bias"] == pytest.approx(-0.03, abs=2e-3)


def test_what_cannot_be_priced_exactly_is_left_out_and_counted() -> None:
    theirs = log()
    theirs["prefill_chunks"][1] = 2  # two prompts in a step: the log has only their sums
    found = steps.compare(theirs, log(), [COST])
    assert found["left_out"] == 1
    assert by_kind(found)["all"]["n"] == len(WORK) - 1
    assert steps.compare(theirs, log(), [None])["left_out"] == len(WORK) - 1


def test_overlapping_steps_are_not_counted_twice() -> None:
    theirs = log()
    theirs["start_ps"][1:] = theirs["start_ps"][:-1]  # planned while the one before runs
    found = steps.compare(theirs, log(), [COST])
    assert by_kind(found)["all"]["p95"] == 0
