"""`preemptive` without an order: who came first takes the place of who came later."""

from __future__ import annotations

from pathlib import Path

from infersim.scenarios import build, grid, load

#: two requests in three wait for an image that others have not; then they outrank the batch
TEXT = """
name: s
cluster:
  pools:
    - {name: serve, gpu: l40s, model: qwen2-vl-7b, kv_blocks: 400, engine: {max_num_seqs: 2}}
    - {name: see, role: encode, gpu: l40s, model: qwen2-vl-7b}
links: {embeddings: {latency_us: 3000, gbytes_per_s: 0.01}}
policies: {scheduling: preemptive}
workload:
  kind: open-loop
  requests: 24
  arrivals: 400
  images: {count: 9, tokens: 40, per_request: {kind: choice, values: [0, 1, 1]}}
  prompt_tokens: 20
  output_tokens: 12
"""


def _silent(*_: object) -> None:
    """No progress."""


def test_a_request_that_comes_late_into_the_line_takes_a_place(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(TEXT)
    source = load.read(str(tmp_path / "s.yaml"), ())
    (cell,) = grid.cells(source)[1]
    records = build.simulate_cell(cell, source.folders, leap=True, progress=_silent).records
    assert set(records.requests["status"].tolist()) == {"finished"}
    assert records.totals["preemptions"] > 0
