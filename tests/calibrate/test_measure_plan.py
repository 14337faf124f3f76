"""Plans: what is measured, in which order, for which models."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from infersim.calibrate.measure.ops.lengths import chunk_mixes, mix_of, parse_mix, skewed
from infersim.calibrate.measure.plan import builders, plan
from infersim.calibrate.measure.point import Block
from infersim.calibrate.measure.shapes import Shapes, check
from infersim.policies.errors import InputError
from infersim.scenarios.catalog import load


def shapes_for(model: str, dtype: str = "bf16", tp: int = 1, tokens: int = 400_000) -> Shapes:
    return Shapes(load.model(model), dtype, "bf16", tp, False, 16, 8192, 256, tokens)


def points_of(blocks: Sequence[Block]) -> dict[str, list[tuple[int, ...]]]:
    found: dict[str, list[tuple[int, ...]]] = {}
    for block in blocks:
        for point in block.points:
            if not point.variant:
                found.setdefault(point.op, []).append(point.at)
    return found


def test_what_every_step_needs_comes_first() -> None:
    blocks = plan(shapes_for("llama-3.1-8b"), "cuda")
    priorities = [block.priority for block in blocks]
    assert priorities == sorted(priorities)
    first = {p.op for b in blocks if b.priority == 0 for p in b.points}
    assert {"qkv", "o", "gate_up", "down", "lm_head", "norm", "rope", "act", "sampler"} <= first
    assert {"decode_attention", "prefill_attention", "step", "launch"} <= first
    assert not any(op.startswith(("lora", "copy", "bitmask")) for op in first)


def test_the_grid_has_graph_sizes_the_budget_and_edges_of_waves() -> None:
    blocks = plan(shapes_for("llama-3.1-8b"), "cuda")
    found = points_of(blocks)
    tokens = {m for (m,) in found["qkv"]}
    assert {1, 2, 4, 24, 248, 256, 257, 4097, 8192} <= tokens
    assert max(m for (m,) in found["lm_head"]) == 256
    assert (256, 128) in found["decode_attention"]
    assert all(b * n <= 400_000 for b, n in found["decode_attention"])
    assert all(c + p <= 131_072 for c, p in found["prefill_attention"])
    count = sum(len(block.points) for block in blocks)
    assert 700 < count < 1500


def test_no_point_is_planned_twice_and_all_can_be_built() -> None:
    shapes = shapes_for("qwen3-30b-a3b")
    blocks = plan(shapes, "cuda")
    keys = [point.key for block in blocks for point in block.points]
    assert len(set(keys)) == len(keys)
    families = builders(shapes, "cuda")
    assert all(point.op in families for block in blocks for point in block.points)


def test_ops_follow_the_model() -> None:
    mixture = points_of(plan(shapes_for("qwen3-30b-a3b"), "cuda"))
    assert {"moe", "router", "qk_norm"} <= set(mixture)
    assert not {"act", "gate_up", "down"} & set(mixture)
    dense = points_of(plan(shapes_for("llama-3.1-8b"), "cuda"))
    assert not {"moe", "router", "qk_norm"} & set(dense)


def test_a_share_of_a_replica_has_its_shapes_and_the_all_reduce_of_enough_devices() -> None:
    shapes = shapes_for("llama-3.1-8b", tp=4)
    assert shapes.gemm("qkv") == (4096, (8 + 2 * 2) * 128)
    assert shapes.gemm("down") == (14336 // 4, 4096)
    assert "all_reduce" not in points_of(plan(shapes, "cuda", devices=1))
    found = points_of(plan(shapes, "cuda", devices=4))
    assert (1 << 28,) in found["all_reduce"]
    assert "step" not in found  # the executor has whole models only


def test_quantised_weights_are_fewer_bytes() -> None:
    dense = {
        p.at: p
        for b in plan(shapes_for("llama-3.1-8b"), "cuda")
        for p in b.points
        if p.op == "down"
    }
    small = {
        p.at: p
        for b in plan(shapes_for("llama-3.1-8b", "int4"), "cuda")
        for p in b.points
        if p.op == "down"
    }
    assert small[(1,)].bytes < 0.3 * dense[(1,)].bytes
    assert small[(1,)].flops == dense[(1,)].flops


def test_the_cpu_plan_is_small() -> None:
    shapes = Shapes(load.model("tiny"), "bf16", "bf16", 1, True, 16, 256, 32, 65_536)
    blocks = plan(shapes, "cpu")
    assert sum(len(block.points) for block in blocks) < 260
    ops = {p.op for b in blocks for p in b.points}
    assert not {"graph_replay", "event_sync", "copy_h2d_pinned", "step_device"} & ops


@pytest.mark.parametrize(
    ("model", "dtype", "wide", "says"),
    [
        ("deepseek-v3", "bf16", False, "latent attention"),
        ("llama-3.1-8b", "nvfp4", False, "no kernels for weights"),
        ("llama-3.1-8b", "fp8", True, "the CPU back end has no kernels"),
    ],
)
def test_what_cannot_be_measured_is_refused(model: str, dtype: str, wide: bool, says: str) -> None:
    with pytest.raises(InputError, match=says):
        check(load.model(model), dtype, 1, wide=wide)


@pytest.mark.parametrize("variant", ["lognormal", "bimodal"])
def test_uneven_lengths_keep_their_mean(variant: str) -> None:
    lengths = skewed(64, 1000, variant, 100_000)
    assert len(lengths) == 64
    assert sum(lengths) / 64 == pytest.approx(1000, rel=0.02)
    assert max(lengths) > 2 * min(lengths)
    assert lengths == skewed(64, 1000, variant, 100_000)


def test_mixes_fit_the_step_and_can_be_read_back() -> None:
    for mix in chunk_mixes(50, 512, 2048):
        assert 2 <= len(mix) <= 8
        assert sum(new for new, _ in mix) <= 512
        assert all(new >= 2 and new + before <= 2048 for new, before in mix)
        assert parse_mix(mix_of(mix)) == list(mix)
