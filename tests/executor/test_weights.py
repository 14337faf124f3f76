"""Checkpoints: what is read is what was written, under either family's names."""

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the executor needs torch", exc_type=ImportError)

from infersim.calibrate.executor import weights  # noqa: E402
from infersim.policies.errors import InputError  # noqa: E402
from infersim.sim.cost.specs import ModelSpec  # noqa: E402

MIXTRAL = {
    "mlp.": "block_sparse_moe.",
    "gate_proj": "w1",
    "down_proj": "w2",
    "up_proj": "w3",
}
CPU = torch.device("cpu")
DENSE = ModelSpec("d", 8, 2, 2, 1, 4, 11, 64, ffn=6, qk_norm=True, attn_bias=True)
MOE = ModelSpec("m", 8, 1, 2, 1, 4, 11, 64, experts=3, top_k=2, moe_ffn=6, tie_embed=True)


class Recorder:
    """Draws weights and keeps them by name."""

    eps = weights.EPS

    def __init__(self) -> None:
        self._draw = weights.Random(1, torch.float32, CPU)
        self.drawn: dict[str, Any] = {}

    def __call__(self, name: str, shape: tuple[int, ...]) -> Any:
        self.drawn[name] = self._draw(name, shape)
        return self.drawn[name]


def write(folder: Path, tensors: dict[str, Any], **config: Any) -> None:
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, tensor in tensors.items():
        raw = tensor.numpy().tobytes()
        header[name] = {
            "dtype": "F32",
            "shape": list(tensor.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }  # type: ignore[assignment]
        data += raw
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    (folder / "config.json").write_text(json.dumps({"rms_norm_eps": 1e-5, **config}))


def flat(found: weights.Weights) -> list[Any]:
    parts = [found.embedding, found.norm, found.head]
    for layer in found.layers:
        parts += [getattr(layer, name) for name in weights.Layer.__slots__]
    return [part for part in parts if part is not None]


@pytest.mark.parametrize("spec", [DENSE, MOE], ids=["dense", "moe"])
@pytest.mark.parametrize("mixtral", [False, True])
def test_a_checkpoint_is_read(spec: ModelSpec, mixtral: bool, tmp_path: Path) -> None:
    recorder = Recorder()
    expected = weights.build(spec, recorder)
    named = {}
    for name, tensor in recorder.drawn.items():
        if mixtral and ("experts" in name or "mlp.gate." in name):
            for ours, theirs in MIXTRAL.items():
                name = name.replace(ours, theirs)
        named[f"model.{name}" if name != "lm_head.weight" else name] = tensor
    write(tmp_path, named)
    source = weights.Checkpoint(tmp_path, torch.float32, CPU)
    assert source.eps == 1e-5
    for mine, theirs in zip(flat(weights.build(spec, source)), flat(expected), strict=True):
        assert torch.equal(mine, theirs)


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    recorder = Recorder()
    weights.build(DENSE, recorder)
    write(tmp_path, {f"model.{name}": tensor for name, tensor in recorder.drawn.items()})
    wide = ModelSpec("w", 16, 2, 2, 1, 4, 11, 64, ffn=6)
    with pytest.raises(InputError, match="needs \\[11, 16\\]"):
        weights.build(wide, weights.Checkpoint(tmp_path, torch.float32, CPU))
    with pytest.raises(InputError, match=r"no tensor layers\.0\.mlp\.gate"):
        weights.build(MOE, weights.Checkpoint(tmp_path, torch.float32, CPU))


def test_scaled_positions_are_refused(tmp_path: Path) -> None:
    write(tmp_path, {}, rope_scaling={"rope_type": "llama3", "factor": 8})
    with pytest.raises(InputError, match="llama3"):
        weights.Checkpoint(tmp_path, torch.float32, CPU)
