"""What an engine can never serve is refused when it arrives, with the limit; the run goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from infersim.policies.errors import InputError
from infersim.scenarios import build, grid, load

ENCODER = ", {name: see, role: encode, gpu: l40s, model: qwen2-vl-7b}"


def rows_of(tmp_path: Path, cluster: str, rest: str) -> dict[str, Any]:
    (tmp_path / "s.yaml").write_text(
        f"name: s\ncluster: {cluster}\n{rest}\n"
        "workload: {kind: open-loop, requests: 9, arrivals: 30, output_tokens: 3, "
        "prompt_tokens: {kind: choice, values: [10, 90]}, "
        "images: {count: 9, tokens: {kind: choice, values: [8, 50]}, "
        "per_request: {kind: choice, values: [0, 1]}}}\n"
    )
    source = load.read(str(tmp_path / "s.yaml"), ())
    (cell,) = grid.cells(source)[1]
    ran = build.simulate_cell(cell, source.folders, leap=True, progress=lambda *_: None)
    return {name: column.tolist() for name, column in ran.records.requests.items()}


@pytest.mark.parametrize("limit", ["encoder_budget", "encoder_cache_size"])
@pytest.mark.parametrize("encoder", ["", ENCODER], ids=["encodes itself", "gets embeddings"])
def test_an_image_that_no_step_can_encode(tmp_path: Path, limit: str, encoder: str) -> None:
    pool = f"{{name: serve, gpu: l40s, model: qwen2-vl-7b, engine: {{{limit}: 20}}}}"
    links = "links: {embeddings: nvlink4}" if encoder else ""
    rows = rows_of(tmp_path, f"{{pools: [{pool}{encoder}]}}", links)
    assert set(rows["reason"]) == {"", f"an image of 50 tokens over the {limit} of 20"}


def test_a_prompt_that_is_not_cut_and_longer_than_a_chunk(tmp_path: Path) -> None:
    rows = rows_of(
        tmp_path,
        "{gpu: l40s, model: qwen2-vl-7b}",
        "policies: {scheduling: {name: sarathi, chunked_prefill: false, chunk_tokens: 80}}",
    )
    pairs = zip(rows["prompt_tokens"], rows["reason"], strict=True)
    refused = [prompt for prompt, reason in pairs if reason]
    assert refused
    assert min(refused) > 80
    assert set(rows["reason"]) == {
        "",
        "prompt over the 80 tokens of a step, and prompts are not cut",
    }


@pytest.mark.parametrize(
    ("engine", "policies"),
    [
        ("{preset: sglang, page_size: 16, chunked_prefill_size: 4}", "{}"),
        ("vllm-v1", "{scheduling: {name: sglang, chunked_prefill_size: 4}}"),
    ],
)
def test_a_chunk_that_holds_no_page(tmp_path: Path, engine: str, policies: str) -> None:
    with pytest.raises(InputError, match="chunked_prefill_size 4 holds no block of 16 tokens"):
        rows_of(
            tmp_path,
            f"{{gpu: l40s, model: qwen2-vl-7b, engine: {engine}}}",
            f"policies: {policies}",
        )
