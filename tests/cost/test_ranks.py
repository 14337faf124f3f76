"""Data-parallel ranks and shared experts: memory, arithmetic, messages, refusals."""

from __future__ import annotations

import pytest

from infersim.policies.errors import InputError
from infersim.scenarios.catalog.load import gpu, model
from infersim.sim.cost.base import StepShape
from infersim.sim.cost.grades import DATASHEET
from infersim.sim.cost.memory import kv_capacity
from infersim.sim.cost.overheads import Overheads
from infersim.sim.cost.profile import Profile, Stamp, Table
from infersim.sim.cost.roofline import Roofline
from infersim.sim.cost.specs import Parallelism
from infersim.sim.cost.tables import TableCost

MOE, CARD = model("qwen3-30b-a3b"), gpu("h100")
#: no fixed times, and experts so slow at arithmetic that reading them never binds
FREE = Overheads(
    moe_flops=0.01,
    all_reduce_launch_s=0,
    hop_s=0,
    layer_launch_s=0,
    host_step_s=0,
    host_sequence_s=0,
)
DP2, EP2 = Parallelism(dp=2), Parallelism(dp=2, expert_parallel=True)


def test_ranks_hold_half_the_experts_and_all_of_the_rest() -> None:
    one = kv_capacity(MOE, CARD, Parallelism()).weights_bytes
    experts = MOE.experts * MOE.moe_layers * 3 * MOE.hidden * MOE.moe_ffn * 2
    for split in (DP2, EP2):
        assert one - kv_capacity(MOE, CARD, split).weights_bytes == experts // 2


def test_own_and_joint_part_of_equal_ranks_are_one_gpu_with_twice_the_expert_work() -> None:
    """Two ranks of 4,096 tokens: own parts as ever, experts of 8,192 tokens on half the weights."""
    whole, shared = Roofline(MOE, CARD, overheads=FREE), Roofline(MOE, CARD, EP2, overheads=FREE)
    shape = StepShape(0, 0, ((4096, 0),), 0)
    experts = whole.duration_ps(shape) - shared.duration_ps(shape)
    exchanged = 2 * MOE.moe_layers * 8192 * MOE.hidden * 2 / 2
    exchange_ps = exchanged / (FREE.link_bytes * CARD.scaleup_bytes_per_s) * 1e12
    assert shared.joint_ps(8192) - exchange_ps == pytest.approx(experts, rel=1e-6)


def test_few_tokens_read_as_many_expert_bytes_sliced_or_whole() -> None:
    """One token: top_k experts' slices on each GPU, or top_k / 2 whole ones expected on each."""
    sliced, whole = Roofline(MOE, CARD, DP2), Roofline(MOE, CARD, EP2)
    assert sliced.joint_ps(1) == pytest.approx(whole.joint_ps(1), rel=1e-3)
    assert sliced.joint_ps(16) == pytest.approx(whole.joint_ps(16), rel=0.01)


def test_one_rank_has_no_joint_part_beside_what_it_pays_itself() -> None:
    alone, ranked = Roofline(MOE, CARD), Roofline(MOE, CARD, DP2)
    shape = StepShape(16, 16_000, (), 16)
    assert alone.duration_ps(shape) > ranked.duration_ps(shape)
    experts = alone.duration_ps(shape) - ranked.duration_ps(shape)
    assert ranked.joint_ps(16) > experts / 2  # half the weights, and the exchange


def tables(ep: int) -> Profile:
    """Experts of one GPU of *ep*: 10 us and 0.1 us a token of all ranks."""
    points = tuple((float(t), 1e-5 + 1e-7 * t) for t in (1, 64, 4096))
    moe = Table(op="moe", times=MOE.moe_layers, by=("tokens",), points=points)
    return Profile(
        name="test",
        stamp=Stamp(origin="imported", gpu="h100"),
        model=MOE.name,
        dtype="bf16",
        kv_dtype="bf16",
        ep=ep,
        attention="separate",
        tables=(moe,),
    )


def test_ranks_that_share_whole_experts_take_their_table() -> None:
    found, roofline = TableCost(tables(2), MOE, CARD, EP2), Roofline(MOE, CARD, EP2)
    for tokens in (1, 100, 4096):
        experts_ps = MOE.moe_layers * (1e-5 + 1e-7 * tokens) * 1e12
        expected = experts_ps + roofline.exchange_ps(tokens)
        assert found.joint_ps(tokens) == pytest.approx(expected, abs=1)
    assert "moe" not in found.parts.filled
    assert found.parts.unused == []
    # it is the ranks' together, and in no rank's own part
    own = TableCost(tables(4), MOE, CARD, EP2)
    shape = StepShape(16, 16_000, ((512, 0),), 17)
    assert "router" not in [part.op for part in found.parts.tokens]
    less = own.duration_ps(shape) - found.duration_ps(shape)
    assert less == pytest.approx(router_ps(own, 528), abs=1)


def router_ps(cost: TableCost, tokens: int) -> int:
    """A table of experts is of the block with its router; without one the roofline has it."""
    (part,) = [part for part in cost.parts.tokens if part.op == "router"]
    ps, grade = part.at(tokens)
    assert grade == DATASHEET
    return round(ps)


@pytest.mark.parametrize(("ep", "split"), [(1, EP2), (4, EP2), (2, DP2), (1, DP2)])
def test_a_table_of_experts_shared_otherwise_is_not_taken(ep: int, split: Parallelism) -> None:
    """Ranks that slice every expert are in no profile: ep says how whole experts are shared."""
    found, roofline = TableCost(tables(ep), MOE, CARD, split), Roofline(MOE, CARD, split)
    assert found.joint_ps(512) == roofline.joint_ps(512)
    assert f"moe (its table is of ep {ep})" in found.parts.filled
    assert any(f"ep {ep}" in note for note in found.notes)


def test_what_ranks_compute_together_is_as_uncertain_as_its_parts() -> None:
    draws = dict.fromkeys(
        ("dense", "elementwise", "attention", "head", "collective", "image", "beside", "host"), 0.0
    )
    base = TableCost(tables(2), MOE, CARD, EP2)
    off = base.perturbed(draws | {"moe": 1.0})
    exchange_ps = Roofline(MOE, CARD, EP2).exchange_ps(512)
    factor = (off.joint_ps(512) - exchange_ps) / (base.joint_ps(512) - exchange_ps)
    assert factor == pytest.approx(1.0304545)  # e to its 3 %
    assert base.perturbed(draws | {"moe": 0.0}).joint_ps(512) == base.joint_ps(512)


@pytest.mark.parametrize(
    ("name", "split", "says"),
    [
        ("llama-3.1-8b", DP2, "no experts"),
        ("llama-3.1-8b", Parallelism(expert_parallel=True), "no experts"),
        ("qwen3-30b-a3b", Parallelism(dp=3, expert_parallel=True), "128 experts"),
        ("qwen3-30b-a3b", Parallelism(dp=5), "768 columns"),
    ],
)
def test_refuses_what_ranks_cannot_share(name: str, split: Parallelism, says: str) -> None:
    with pytest.raises(InputError, match=says):
        Roofline(model(name), CARD, split)
