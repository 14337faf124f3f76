"""Masks in the executor: drawn the same in every run, and really applied, to their rows alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the executor needs torch", exc_type=ImportError)

import torch

from infersim.calibrate.executor import batch, masks, ops, runner

TEXT = """\
name: s
seed: 4
cluster:
  gpu: h100-sxm
  model: mini.yaml
  block_size: 16
  kv_blocks: 60
  engine: {max_num_batched_tokens: 24, max_num_seqs: 6, max_model_len: 128}
workload:
  kind: open-loop
  requests: 8
  arrivals: 2000
  prompt_tokens: {kind: uniform, low: 4, high: 40}
  output_tokens: {kind: uniform, low: 2, high: 9}
  grammars: {share: 0.5, count: 3, compile_s: 0.001}
"""
SHARE = "workload.grammars.share="


def bits(words: Any) -> Any:
    """[masks, words] -> [masks, tokens] of what is allowed."""
    wide = np.asarray(words).view(np.uint32)[..., None] >> np.arange(32, dtype=np.uint32)
    return (wide & 1).reshape(len(words), -1).astype(bool)


def executed(tools: Any, folder: Path, *settings: str, **given: Any) -> tuple[Any, list[Any]]:
    """A run, and the masks of its steps: (sequence, position, allowed)."""
    folder.mkdir(exist_ok=True)
    seen: list[Any] = []
    real = batch.masks_of

    def noted(sampled: Any, texts: Any) -> Any:
        found = real(sampled, texts)
        if found is not None:
            for row, allowed in zip(found.rows, bits(found.words), strict=True):
                seq, position = sampled[row]
                text = texts.of(seq)
                said = int(text[position]) if position < len(text) else None
                seen.append((seq.id, position, allowed[: texts.vocab], said))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch, "masks_of", noted)
        played, _ = tools.Both(folder, TEXT, *settings).executed(compute=True, **given)
    return played, seen


def test_what_is_sampled_is_allowed_and_other_rows_are_as_without(
    tmp_path: Path, tools: Any
) -> None:
    played, seen = executed(tools, tmp_path / "some")
    free, none = executed(tools, tmp_path / "none", SHARE + "0")
    assert not none
    masked = {number for number, _, _, _ in seen}
    waits = played.requests["grammar_ps"]
    assert masked == set(np.flatnonzero(waits >= 0).tolist())
    assert 0 < len(masked) < 8
    (answers,), (without,) = played.answers, free.answers
    changed = 0
    for number, position, allowed, said in seen:
        assert 0.3 < allowed.mean() < 0.7
        assert said is None or allowed[said]
        token = answers[number].get(position)
        if token is not None:
            assert allowed[token]
            changed += not allowed[without[number][position]]
    assert changed > 5, "the masks forbid nothing that would be said"
    for number in set(answers) - masked:
        assert answers[number] == without[number]


def test_masks_are_the_same_whatever_else_runs(tmp_path: Path, tools: Any) -> None:
    _, alone = executed(tools, tmp_path / "a")
    _, other = executed(tools, tmp_path / "b", SHARE + "1", "cluster.engine.async_scheduling=false")
    of = {(number, position): allowed for number, position, allowed, _ in other}
    both = [one for one in alone if one[:2] in of]
    assert len(both) > 10
    assert all((of[number, position] == allowed).all() for number, position, allowed, _ in both)
    different = {allowed.tobytes() for _, _, allowed, _ in alone}
    assert len(different) > len(alone) // 2


def test_the_kernel_masks_as_torch_does(tmp_path: Path, tools: Any) -> None:
    pytest.importorskip("triton", reason="the kernels need triton")
    from infersim.calibrate.executor.triton_ops import TritonOps

    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(5, 257, generator=generator)
    words = torch.randint(-(2**31), 2**31, (2, 9), generator=generator).int()
    rows = torch.tensor([3, 0], dtype=torch.int32)
    plain, kernel = logits.clone(), logits.clone()
    ops.TorchOps().apply_bitmask(plain, words, rows)
    TritonOps().apply_bitmask(kernel, words, rows)
    assert plain.isneginf().any()
    assert torch.equal(plain, kernel)
    allowed = bits(words.numpy())[:, :257]
    assert (plain[rows.long()].isneginf().numpy() == ~allowed).all()


def test_no_row_with_a_grammar_is_no_mask() -> None:
    assert masks.masks_of([], None) is None  # type: ignore[arg-type]


def test_a_blank_mask_forbids_nothing() -> None:
    logits = torch.randn(2, 70)
    words, rows = map(torch.from_numpy, masks.blank(70))
    free = logits.clone()
    ops.TorchOps().apply_bitmask(free, words, rows)
    assert torch.equal(free, logits)


def test_a_warm_up_loads_the_mask_too(
    tmp_path: Path, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No measured step is the first to launch the kernel."""
    calls: list[int] = []
    build = runner.Runner.__init__

    def warmed(self: Any, *args: Any, **given: Any) -> None:
        build(self, *args, **given)
        self.warm_up(3)

    def noted(self: Any, logits: torch.Tensor, words: torch.Tensor, rows: torch.Tensor) -> None:
        calls.append(len(logits))

    monkeypatch.setattr(runner.Runner, "__init__", warmed)
    monkeypatch.setattr(ops.TorchOps, "apply_bitmask", noted)
    executed(tools, tmp_path / "run", SHARE + "0")
    assert calls
