"""Our kernels behind the executor say what plain torch says; on a CPU they are interpreted."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton", reason="the kernels need triton")

from infersim.kernels import prefill_attention, sampling

if not (hasattr(prefill_attention, "prefill_attention") and hasattr(sampling, "greedy")):
    pytest.skip("prefill attention or sampling has no kernel here", allow_module_level=True)

TEXT = """\
name: s
seed: 4
cluster:
  gpu: h100-sxm
  model: one.yaml
  block_size: 16
  kv_blocks: 24
  engine: {max_num_batched_tokens: 24, max_num_seqs: 4, max_model_len: 64}
workload:
  kind: open-loop
  requests: 3
  arrivals: 1000
  system: {tokens: 18}
  prompt_tokens: 6
  output_tokens: {kind: uniform, low: 2, high: 3}
"""


@pytest.mark.parametrize("model", ["dense", "moe"])
def test_kernels_answer_as_torch_does(model: str, tmp_path: Path, tools: Any) -> None:
    (tmp_path / "one.yaml").write_text(tools.MODELS[model].replace("layers: 2", "layers: 1"))
    both = tools.Both(tmp_path, TEXT)
    plain, steps = both.executed(compute=True)
    kernels, same = both.executed(compute=True, triton=True)
    assert same["digest"].tolist() == steps["digest"].tolist()
    assert steps["hit_tokens"].any()
    assert (steps["decodes"] * steps["prefill_chunks"]).any(), "no step is mixed"
    assert kernels.answers == plain.answers
