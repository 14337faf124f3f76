"""Recorded SGLang decisions against ours, and faults that the recordings must catch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infersim.policies.errors import InputError
from infersim.policies.eviction.lru import Lru
from infersim.policies.scheduling.sglang import order
from infersim.policies.scheduling.sglang.adder import PrefillAdder
from infersim.policies.scheduling.sglang.order import LineOrder
from infersim.scenarios.conform.radix import RadixCase
from infersim.scenarios.conform.replay import conform
from infersim.sim.state.kv.radix import RadixIndex

FOLDER = Path(__file__).parent / "sglang"
CASES = sorted(FOLDER.glob("*.json"))


def test_all_recordings_are_here() -> None:
    assert len([case for case in CASES if case.stem.startswith("prefill")]) == 17
    assert len(CASES) == 32


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_every_recorded_field_of_every_step_agrees(case: Path) -> None:
    verdict = conform(case)
    assert verdict.difference == ""
    assert verdict.steps == len(json.loads(case.read_text())["steps"]) > 0


def test_most_trees_are_replayed_as_both_of_sglangs() -> None:
    kinds = [RadixCase.kinds(json.loads(case.read_text())) for case in CASES[17:]]
    assert kinds.count(("radix", "unified")) == 10
    assert kinds.count(("radix",)) == 2
    assert kinds.count(("unified",)) == 3


# ---- planted faults: each must be noticed by the recording named ----


def lookups_count_as_no_use(patch: pytest.MonkeyPatch) -> None:
    real = RadixIndex.match

    def match(self: RadixIndex, *args: Any) -> Any:
        before = {}
        stack = [self.root]
        while stack:
            node = stack.pop()
            before[node] = node.used
            stack += node.kids.values()
        found = real(self, *args)
        for node, used in before.items():
            node.used = used
            self._rank(node)
        return found

    patch.setattr(RadixIndex, "match", match)


def a_cut_makes_new_ages(patch: pytest.MonkeyPatch) -> None:
    real = RadixIndex._split

    def split(self: RadixIndex, *args: Any) -> Any:
        upper = real(self, *args)
        upper.created = self._tick()
        return upper

    patch.setattr(RadixIndex, "_split", split)


def evictions_stop_at_the_exact_number(patch: pytest.MonkeyPatch) -> None:
    real = RadixIndex.evict
    patch.setattr(RadixIndex, "evict", lambda self, blocks: real(self, blocks - 1))


def the_same_request_counts_twice(patch: pytest.MonkeyPatch) -> None:
    real = RadixIndex.insert
    patch.setattr(
        RadixIndex,
        "insert",
        lambda self, *args, **given: real(self, *args, **given | {"inserted": 0}),
    )


def newest_leaves_first(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Lru, "key", lambda self, block, request, now: (-block.used,))


def a_prefix_stays_evictable(patch: pytest.MonkeyPatch) -> None:
    real = PrefillAdder.add
    patch.setattr(
        PrefillAdder,
        "add",
        lambda self, one, hold, **given: real(self, one._replace(idle=0), hold, **given),
    )


def room_may_be_used_up(patch: pytest.MonkeyPatch) -> None:
    real = PrefillAdder.add
    patch.setattr(
        PrefillAdder,
        "add",
        lambda self, one, hold, **given: real(self, one._replace(idle=one.idle - 1), hold, **given),
    )


def duplicates_go_together(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(order, "CHECK_IN_BATCH", -1)


def parents_before_children(patch: pytest.MonkeyPatch) -> None:
    real = RadixIndex._walk

    def walk(self: RadixIndex, ordered: Any) -> Any:
        walked = real(self, ordered)
        return walked if ordered is None else [(node, not leaving) for node, leaving in walked]

    patch.setattr(RadixIndex, "_walk", walk)


def large_numbers_are_important(patch: pytest.MonkeyPatch) -> None:
    real = LineOrder.__init__

    def init(self: LineOrder, *args: Any, **given: Any) -> None:
        real(self, *args, **given | {"low_first": not given["low_first"]})

    patch.setattr(LineOrder, "__init__", init)


FAULTS: list[tuple[Callable[[pytest.MonkeyPatch], None], str]] = [
    (lookups_count_as_no_use, "radix_lru_p1"),
    (a_cut_makes_new_ages, "uradix_fifo_p1"),
    (evictions_stop_at_the_exact_number, "radix_lru_p16"),
    (the_same_request_counts_twice, "radix_lfu_p1"),
    (newest_leaves_first, "radix_lru_ns_p1"),
    (a_prefix_stays_evictable, "prefill_lpm_tight"),
    (room_may_be_used_up, "prefill_boundary_mem"),
    (duplicates_go_together, "prefill_lpm"),
    (parents_before_children, "prefill_dfs_weight"),
    (large_numbers_are_important, "prefill_fcfs_priority"),
]


@pytest.mark.parametrize(("plant", "case"), FAULTS, ids=lambda x: getattr(x, "__name__", x))
def test_a_planted_fault_is_noticed(
    plant: Callable[[pytest.MonkeyPatch], None], case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    assert "step " in conform(FOLDER / f"{case}.json").difference


def test_a_recording_without_its_parts_is_refused(tmp_path: Path) -> None:
    case = json.loads(CASES[-1].read_text())
    del case["final"]
    file = tmp_path / "case.json"
    file.write_text(json.dumps(case))
    with pytest.raises(InputError, match='it has no "final"'):
        conform(file)


def test_a_tree_that_ends_otherwise_is_told(tmp_path: Path) -> None:
    case = json.loads((FOLDER / "radix_lru_p16.json").read_text())
    case["final"]["total"] += 16
    file = tmp_path / "case.json"
    file.write_text(json.dumps(case))
    assert conform(file).difference.startswith("as the radix tree: at the end: total is ")
