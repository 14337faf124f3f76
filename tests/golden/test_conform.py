"""Recorded vLLM decisions against ours, file by file, and faults that the recordings must catch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infersim.policies.errors import InputError, UnknownNameError
from infersim.policies.eviction.lru import Lru
from infersim.policies.scheduling.vllm_v1 import VllmV1
from infersim.scenarios.conform import replay, vllm
from infersim.scenarios.conform.replay import conform
from infersim.sim.state.group import DecodeGroup
from infersim.sim.state.kv.blocks import BlockPool
from infersim.sim.state.kv.extents import ExtentPool
from infersim.sim.state.queue import FifoQueue
from infersim.sim.state.replica import Replica
from infersim.sim.state.step import StepBuilder

CASES = sorted((Path(__file__).parent / "vllm").glob("*.json"))


def test_all_recordings_are_here() -> None:
    assert len(CASES) == 39


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_every_recorded_field_of_every_step_agrees(case: Path) -> None:
    verdict = conform(case)
    assert verdict.difference == ""
    assert verdict.steps == len(json.loads(case.read_text())["steps"]) > 0
    assert verdict.name == case.stem


# ---- planted faults: each must be noticed by the recording named ----


def first_admitted_gives_way(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        "infersim.policies.scheduling.vllm_v1.choose_victim", lambda victim, running: running[0]
    )


def last_come_first_served(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(FifoQueue, "add", FifoQueue.appendleft)


def preempted_go_to_the_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(FifoQueue, "put_back", FifoQueue.append)


def hits_may_cover_the_whole_prompt(patch: pytest.MonkeyPatch) -> None:
    for pool in (BlockPool, ExtentPool):
        real = pool.match
        patch.setattr(pool, "match", lambda self, s, limit, real=real: real(self, s, limit + 1))


def watermark_is_ignored(patch: pytest.MonkeyPatch) -> None:
    real = StepBuilder.admit

    def admit(self: StepBuilder, *args: Any, **given: Any) -> bool:
        return real(self, *args, **given | {"watermark": 0.0})

    patch.setattr(StepBuilder, "admit", admit)


def first_chunk_need_not_fit_whole(patch: pytest.MonkeyPatch) -> None:
    real = StepBuilder.admit

    def admit(self: StepBuilder, *args: Any, **given: Any) -> bool:
        return real(self, *args, **given | {"whole": False})

    patch.setattr(StepBuilder, "admit", admit)


def newest_cached_block_leaves_first(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Lru, "key", lambda self, block, request, now: (-block.inserted,))
    patch.setattr(Lru, "reads", frozenset({"inserted"}))


def blocks_are_freed_head_first(patch: pytest.MonkeyPatch) -> None:
    real = BlockPool.release

    def release(self: BlockPool, seq: Any) -> None:
        seq.table[: seq.committed] = reversed(seq.table[: seq.committed])
        real(self, seq)

    patch.setattr(BlockPool, "release", release)


def admission_after_preemption(patch: pytest.MonkeyPatch) -> None:
    real = VllmV1._serve_running

    def serve(self: VllmV1, *args: Any) -> tuple[bool, bool]:
        return False, real(self, *args)[1]

    patch.setattr(VllmV1, "_serve_running", serve)


def no_token_is_awaited(patch: pytest.MonkeyPatch) -> None:
    """As if asynchronous scheduling did not foresee which step is a request's last."""
    real = StepBuilder.wanted

    def wanted(self: StepBuilder, seq: Any) -> int:
        return max(real(self, seq), min(1, seq.last_token - seq.computed))

    patch.setattr(StepBuilder, "wanted", wanted)


def a_decode_takes_its_block_late(patch: pytest.MonkeyPatch) -> None:
    real = DecodeGroup.growth
    patch.setattr(DecodeGroup, "growth", lambda self, step: real(self, step - 1))


def rejected_drafts_stay_computed(patch: pytest.MonkeyPatch) -> None:
    real = Replica._account

    def account(self: Replica, chunk: Any, now: int) -> bool:
        before = chunk.seq.computed
        ended = real(self, chunk, now)
        if chunk.drafts and chunk.seq.computed:
            chunk.seq.computed = max(before, chunk.seq.computed)
        return ended

    patch.setattr(Replica, "_account", account)


def budget_is_one_too_large(patch: pytest.MonkeyPatch) -> None:
    real = vllm._limits

    def limits(config: dict[str, Any]) -> Any:
        tokens = config["max_num_batched_tokens"]
        return real(config | {"max_num_batched_tokens": tokens + 1})

    patch.setattr(vllm, "_limits", limits)


FAULTS: list[tuple[Callable[[pytest.MonkeyPatch], None], str]] = [
    (first_admitted_gives_way, "preempt_fcfs"),
    (last_come_first_served, "max_num_seqs"),
    (preempted_go_to_the_back, "preempt_fcfs"),
    (hits_may_cover_the_whole_prompt, "identical"),
    (watermark_is_ignored, "watermark"),
    (first_chunk_need_not_fit_whole, "preempt_fcfs"),
    (newest_cached_block_leaves_first, "lru_order"),
    (blocks_are_freed_head_first, "lru_order"),
    (admission_after_preemption, "async_pressure"),
    (no_token_is_awaited, "async_basic"),
    (a_decode_takes_its_block_late, "basic_cb"),
    (rejected_drafts_stay_computed, "spec_ngram"),
    (budget_is_one_too_large, "chunked_b33"),
]


@pytest.mark.parametrize(("plant", "case"), FAULTS, ids=lambda x: getattr(x, "__name__", x))
def test_a_planted_fault_is_noticed(
    plant: Callable[[pytest.MonkeyPatch], None], case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    verdict = conform(Path(__file__).parent / "vllm" / f"{case}.json")
    assert verdict.difference.startswith(("step ", "with runs of blocks: step "))


def test_a_fault_of_one_pool_alone_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of blocks are compared too, not only blocks."""
    real = ExtentPool._push
    monkeypatch.setattr(ExtentPool, "_push", lambda self, copy, release: real(self, copy, -release))
    found = [conform(case).difference for case in CASES if "tight" in case.stem]
    assert any(text.startswith("with runs of blocks: step ") for text in found), found


# ---- what is no recording ----


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "no JSON"),
        ("[]", "no recorded case"),
        ('{"format": "oracle/vllm/1"}', "no recorded case"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "case.json"
    file.write_text(text)
    with pytest.raises(InputError, match=says):
        conform(file)


def test_an_unknown_format_and_an_absent_file_are_named(tmp_path: Path) -> None:
    case = json.loads(CASES[0].read_text()) | {"format": "oracle/vllm/9"}
    file = tmp_path / "case.json"
    file.write_text(json.dumps(case))
    with pytest.raises(UnknownNameError, match="oracle/vllm/9"):
        conform(file)
    with pytest.raises(InputError, match="cannot be read"):
        conform(tmp_path / "absent.json")


def altered(tmp_path: Path, change: Callable[[list[dict[str, Any]]], object]) -> str:
    """What conform says of a recording whose steps were changed."""
    case = json.loads((Path(__file__).parent / "vllm" / "basic_cb.json").read_text())
    change(case["steps"])
    file = tmp_path / "case.json"
    file.write_text(json.dumps(case))
    return conform(file).difference


def test_the_first_difference_is_told(tmp_path: Path) -> None:
    def wrong_count(steps: list[dict[str, Any]]) -> None:
        steps[3]["free"] += 1
        steps[5]["free"] += 1

    told = altered(tmp_path, wrong_count)
    assert told.startswith("step 4: free is ")
    assert ", recorded " in told
    steps = len(json.loads((Path(__file__).parent / "vllm" / "basic_cb.json").read_text())["steps"])
    assert altered(tmp_path, lambda steps: steps.pop()) == f"{steps} steps, recorded {steps - 1}"


def test_a_policy_that_breaks_the_rules_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VllmV1, "schedule", lambda self, view, step: step.preempt("nobody"))
    told = conform(CASES[0]).difference
    assert told.startswith("step 1: nobody cannot be preempted")
    monkeypatch.setattr(VllmV1, "schedule", lambda self, view, step: None)
    monkeypatch.setattr(vllm, "MAX_STEPS", 50)
    assert "does not end within 50 steps" in conform(CASES[0]).difference


def test_long_values_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    assert replay._short(list(range(1000))).endswith("…")
    assert replay._short([1]) == "[1]"
