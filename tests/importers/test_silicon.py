"""Profiles from aiconfigurator-core: with a stand-in for it, and with the real one if installed."""

import pytest

from infersim.calibrate.importers import silicon
from infersim.policies.errors import InputError, UnknownNameError


class Handle:
    """Answers as the package does: (name, milliseconds of all layers, joules, source)."""

    LAYERS = 28

    def run_static_per_op(self, *, batch_size, isl, osl):
        return self._context(isl, 0), self._generation(batch_size, isl)

    def evaluate_context_ops(self, indices, *, batch_size, s, prefix):
        assert list(indices) == list(range(7))
        return self._context(batch_size * s, prefix)

    def evaluate_generation_ops(self, indices, *, batch_size, s):
        assert list(indices) == list(range(7))
        return self._generation(batch_size, s)

    def _context(self, tokens, prefix):
        return self._ops("context", tokens, tokens * (prefix + tokens) / 1e6)

    def _generation(self, batch, context):
        return self._ops("generation", batch, batch * context / 1e6)

    def _ops(self, phase, tokens, attention):
        times = {
            "add_norm_1": (0.001 * tokens, "empirical"),
            "add_norm_2": (0.003 * tokens, "empirical"),
            "qkv_gemm": (0.01 * tokens, "silicon"),
            "attention": (attention, "mixed" if phase == "context" else "silicon"),
            "ar_1": (0.0, "silicon"),
            "logits_gemm": (0.02 * tokens, "silicon"),
            "mystery": (0.5, "silicon"),
        }
        return [
            (f"{phase}_{name}", ms * (1 if name == "logits_gemm" else self.LAYERS), 0.0, source)
            for name, (ms, source) in times.items()
        ]


@pytest.fixture
def profile(monkeypatch):
    monkeypatch.setattr(silicon, "_compile", lambda *given: Handle())
    return silicon.read("Qwen/Qwen3-0.6B", model="qwen3-0.6b", gpu="h100")


def test_times_of_all_layers_become_times_of_a_launch(profile):
    qkv, norm = profile.table("qkv"), profile.table("norm")
    assert (qkv.times, norm.times) == (28, 56)
    assert dict(qkv.points)[64] == pytest.approx(0.64e-3)
    assert dict(norm.points)[64] == pytest.approx(64 * 0.004e-3 / 2)
    head = profile.table("lm_head")
    assert (head.times, head.by) == (1, ("sequences",))
    assert dict(head.points)[8] == pytest.approx(0.16e-3)


def test_attention_is_asked_on_both_grids(profile):
    decode = {p[:2]: p[2] for p in profile.table("decode_attention").points}
    prefill = {p[:2]: p[2] for p in profile.table("prefill_attention").points}
    assert decode[64.0, 4096.0] == pytest.approx(64 * 4096 / 1e9)
    assert prefill[2048.0, 4096.0] == pytest.approx(2048 * 6144 / 1e9)


def test_grades_follow_the_sources_and_what_is_left_out_is_said(profile):
    assert set(profile.table("qkv").grades) == {"interpolated"}
    assert set(profile.table("norm").grades) == {"datasheet"}
    assert set(profile.table("prefill_attention").grades) == {"transferred"}
    assert profile.table("all_reduce") is None
    assert profile.notes == ("left out, no operation of ours: mystery",)
    assert "rope" in profile.missing


def test_without_the_package_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(silicon, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="not installed") as caught:
        silicon.read("Qwen/Qwen3-0.6B", model="qwen3-0.6b", gpu="h100")
    assert "pip install aiconfigurator-core" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"engine": "tgi"}, "unknown engine"),
        ({"dtype": "int4"}, "unknown dtype"),
        ({"model": "deepseek-v3"}, "not imported"),
    ],
)
def test_what_it_cannot_describe_is_refused(changes, says):
    with pytest.raises(InputError, match=says):
        silicon.read("a/b", **{"model": "qwen3-0.6b", "gpu": "h100", **changes})


def test_a_gpu_that_it_has_no_tables_of_is_refused(monkeypatch, tmp_path):
    (tmp_path / "systems/data/a100_sxm").mkdir(parents=True)
    (tmp_path / "model_configs").mkdir()
    (tmp_path / "model_configs/Qwen--Qwen3-0.6B_config.json").touch()
    monkeypatch.setattr(silicon, "is_installed", lambda: True)
    monkeypatch.setattr(silicon.resources, "files", lambda package: tmp_path)
    with pytest.raises(InputError, match="no tables for h100-sxm") as caught:
        silicon.read("Qwen/Qwen3-0.6B", model="qwen3-0.6b", gpu="h100")
    assert "a100_sxm" in str(caught.value)


@pytest.mark.skipif(not silicon.is_installed(), reason="aiconfigurator-core is not installed")
def test_the_real_package():
    found = silicon.read("Qwen/Qwen3-0.6B", model="qwen3-0.6b", gpu="h100", version="0.24.0")
    assert 5e-6 < dict(found.table("qkv").points)[1] < 5e-5
    with pytest.raises(UnknownNameError):
        silicon.read("Qwen/Qwen3-0.7B", model="qwen3-0.6b", gpu="h100")
