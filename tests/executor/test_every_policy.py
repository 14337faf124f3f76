"""Every preset and every registered policy, from YAML: the executor decides as the simulator.

The model computes each case, so what it says must not depend on the policies either: KV that a
pool, a hit, an eviction or a transfer mixed up would change an answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from infersim.policies.errors import InputError, NoProgressError
from infersim.policies.registry import FAMILIES
from infersim.policies.scheduling.sglang.order import NAMES
from infersim.scenarios.choice import parameters
from infersim.scenarios.schema.presets import PRESETS

CLUSTER = """\
name: s
seed: 5
cluster: {gpu: h100-sxm, model: mini.yaml, block_size: 4, kv_blocks: 40, engine: {}}
"""
OPEN = (
    CLUSTER
    + """\
workload:
  kind: open-loop
  requests: 14
  arrivals: 4000
  max_tokens: 24
  system: {count: 3, zipf: 1.0, tokens: 21}
  priority: {kind: uniform, low: 0, high: 4}
  prompt_tokens: {kind: uniform, low: 3, high: 40}
  output_tokens: {kind: uniform, low: 1, high: 24}
"""
)
CHAT = (
    CLUSTER
    + """\
workload:
  kind: chat
  sessions: 6
  concurrency: 4
  turns: 3
  think_s: {kind: uniform, low: 0.0001, high: 0.004}
  max_tokens: 20
  system: {count: 2, tokens: 17}
  prompt_tokens: {kind: uniform, low: 3, high: 14}
  output_tokens: {kind: uniform, low: 2, high: 14}
"""
)
POOL = "gpu: h100-sxm, model: mini.yaml, block_size: 4, kv_blocks: 40"
SPLIT = CHAT.replace(
    f"cluster: {{{POOL}, engine: {{}}}}",
    f"""links: {{kv: {{latency_us: 50, gbytes_per_s: 0.05}}}}
cluster:
  pools:
    - {{name: p, role: prefill, {POOL}, replicas: 2}}
    - {{name: d, role: decode, {POOL}, replicas: 2}}""",
)
IMAGES = OPEN.replace("mini.yaml", "seeing.yaml").replace("requests: 14", "requests: 9")
IMAGES = IMAGES.replace(
    "  system:",
    """\
  images:
    count: 9
    zipf: 0.8
    tokens: {kind: uniform, low: 5, high: 22}
    per_request: {kind: choice, values: [0, 1, 2], weights: [0.2, 0.4, 0.4]}
  system:""",
)
SEEING_POOL = f"{POOL.replace('mini.yaml', 'seeing.yaml')}, replicas: 2"
ENCODE = "gpu: h100-sxm, model: seeing.yaml, replicas: 2"


def _with_encoders(*roles: str) -> str:
    pools = "".join(f"\n    - {{name: {r}, role: {r}, {SEEING_POOL}}}" for r in roles)
    return IMAGES.replace(
        f"cluster: {{{SEEING_POOL.removesuffix(', replicas: 2')}, engine: {{}}}}",
        f"""\
links:
  kv: {{latency_us: 50, gbytes_per_s: 0.05}}
  embeddings: {{latency_us: 50, gbytes_per_s: 0.05}}
cluster:
  pools:
    - {{name: e, role: encode, {ENCODE}, engine: {{encoder_budget: 24, encoder_cache_size: 70}}}}\
{pools}""",
    )


ENCODERS = _with_encoders("both")
ENCODERS_SPLIT = _with_encoders("prefill", "decode")
SMALL_STEPS = "cluster.engine={max_num_seqs: 5, max_num_batched_tokens: 64, max_model_len: 100}"
PLAIN = ("cluster.engine={enable_prefix_caching: false, async_scheduling: false}",)

#: engines beside the presets as they are, and where they need it tokens in a block
ENGINES = {
    "{preset: vllm-v1, prefix_index: radix, max_num_batched_tokens: 32}": 4,
    "{preset: vllm-v0, enable_prefix_caching: true}": 4,
    "{preset: tensorrt-llm, capacity_scheduler_policy: MAX_UTILIZATION}": 4,
    "{preset: tensorrt-llm, capacity_scheduler_policy: STATIC_BATCH}": 4,
    "{preset: lmdeploy-turbomind, enable_prefix_caching: true, max_prefill_token_num: 48}": 4,
    "{preset: orca, reserve: context, max_model_len: 100}": 4,
    "{preset: generate, max_queue_delay_microseconds: 3000}": 4,
    "{preset: sglang, schedule_conservativeness: 0.05}": 1,
    "{preset: sglang}": 16,
    "{preset: sglang, enable_mixed_chunk: true, chunked_prefill_size: 16}": 4,
    "{preset: sglang, chunked_prefill_size: 16, disable_overlap_schedule: true}": 4,
    "{preset: sglang, disable_radix_cache: true}": 4,
    "{preset: sglang, prefix_index: hash-chain}": 4,
    **{f"{{preset: sglang, schedule_policy: {name}}}": 4 for name in NAMES if name != "fcfs"},
}
#: parameters with which a policy has something to decide in so small a run
PARAMETERS = {
    ("scheduling", "adaptive-batch"): "tpot_s: 0.0001, least: 2",
    ("scheduling", "sarathi"): "chunk_tokens: 16",
    ("order", "edf"): "ttft_s: 0.001, per_prompt_token_s: 0.0001",
    ("order", "round-robin"): "quantum_tokens: 4",
    ("order", "mlfq"): "quantum_steps: 2",
    ("disaggregation", "conditional"): "max_local_tokens: 12",
    ("disaggregation", "role-switching"): "prefill_queue: 0.5, decode_queue: 0.5, pause_s: 0",
}
#: policies that nobody should want, as a user would plug them in
ODD = """\
from dataclasses import dataclass
from typing import ClassVar

from infersim.policies.eviction.base import Eviction
from infersim.policies.routing.base import Router
from infersim.policies.types import Promise


@dataclass
class NewestFirst:
    promise: ClassVar[Promise] = Promise(repeats=True)

    def key(self, seq, now):
        return (-seq.request.id,)


@dataclass
class OldestGivesWay:
    promise: ClassVar[Promise] = Promise()

    def score(self, seq, position):
        return (-position,)


@dataclass
class EvictHottest(Eviction):
    def key(self, block, request, now):
        return (-block.hits, block.position)


@dataclass
class AlwaysFirst(Router):
    def route(self, request, cluster):
        return cluster.replicas[0].id


@dataclass
class OneAtATime:
    promise: ClassVar[Promise] = Promise()

    def schedule(self, view, step):
        for seq in list(view.running):
            step.take(seq, min(step.wanted(seq), step.budget))
        if not view.running and (seq := step.next_waiting()) is not None:
            found = step.prefix(seq)
            tokens = min(seq.known_tokens - found.tokens, step.budget)
            step.admit(seq, tokens, whole=True, watermark=0.0)

    def repeats(self, view):
        return False


@dataclass
class Idler:
    promise: ClassVar[Promise] = Promise()

    def schedule(self, view, step):
        pass

    def repeats(self, view):
        return False
"""


class Case(NamedTuple):
    """A scenario, and what must happen in it.

    Attributes:
        happens: columns of the step log, or totals, that must not be zero.
        other_than: settings that must lead to other decisions.
    """

    text: str
    settings: tuple[str, ...]
    happens: tuple[str, ...] = ()
    other_than: tuple[str, ...] | None = None


def _set(family: str, name: str) -> str:
    return f"policies.{family}={{name: {name}, {PARAMETERS.get((family, name), '')}}}"


def _on_a_tree(eviction: Any) -> bool:
    """Whether it ranks leaves of a radix tree, not only single blocks."""
    return not eviction.promise.queues or getattr(eviction, "on_leaves", False)


def _cases() -> Iterator[tuple[str, Case]]:
    for name in PRESETS:
        yield f"preset {name}", Case(OPEN, (f"cluster.engine={{preset: {name}}}",))
    for engine, size in ENGINES.items():
        kv = (f"cluster.block_size={size}", f"cluster.kv_blocks={160 // size}")
        yield f"{engine} by {size}", Case(OPEN, (f"cluster.engine={engine}", *kv))
    for name, _ in FAMILIES["scheduling"]:
        line = ("policies.order=shortest-job-first",) if name == "preemptive" else ()
        plain = (SMALL_STEPS, *line)
        settings = (*plain, _set("scheduling", name))
        yield f"scheduling {name}", Case(OPEN, settings, (), None if name == "vllm-v1" else plain)
    for name, cls in FAMILIES["scheduling"]:
        if "preemption" in parameters(cls):
            line = ("policies.order=shortest-job-first",) if name == "preemptive" else ()
            tight = (SMALL_STEPS, "cluster.kv_blocks=27", *line)
            takes = "reserve: nothing, " if name == "in-flight" else ""
            choice = f"policies.scheduling={{name: {name}, {takes}preemption: swap}}"
            settings = (*tight, "cluster.swap={space_gib: 0.00005}", choice)
            yield f"scheduling {name}, swap", Case(OPEN, settings, ("swapped_out", "swapped_in"))
    for name, _ in FAMILIES["order"]:
        plain = (SMALL_STEPS, "policies.scheduling=preemptive")
        settings = (*plain, _set("order", name))
        yield f"order {name}", Case(OPEN, settings, (), None if name == "fcfs" else plain)
    for name, _ in FAMILIES["victim"]:
        settings = (SMALL_STEPS, "cluster.kv_blocks=27", _set("victim", name))
        yield f"victim {name}", Case(OPEN, settings, ("preempted",))
    for name, cls in FAMILIES["eviction"]:
        text = OPEN if cls.promise.oracle else CHAT
        happens, choice = ("hit_tokens", "evicted_blocks"), _set("eviction", name)
        yield f"eviction {name}", Case(text, (choice, "cluster.kv_blocks=35"), happens)
        if _on_a_tree(cls):
            sglang = ("cluster.engine=sglang", "cluster.kv_blocks=35")
            yield f"eviction {name}, radix", Case(text, (*sglang, choice), happens)
    for name, _ in FAMILIES["routing"]:
        for engine in ("vllm-v1", "sglang"):
            settings = (f"cluster.engine={engine}", "cluster.replicas=3", _set("routing", name))
            yield f"routing {name}, {engine}", Case(CHAT, settings, ("hit_tokens",))
    yield from _with_images()
    family = "disaggregation"
    for name, cls in FAMILIES[family]:
        if getattr(cls, "encodes", False):
            happens = ("hit_tokens", "encoded_tokens", "embedding_link_bytes")
            choice = _set("disaggregation", name)
            yield f"disaggregation {name}", Case(ENCODERS, (choice,), happens)
            for other, _ in FAMILIES["disaggregation"]:
                if other != name:
                    text = ENCODERS if other == "colocated" else ENCODERS_SPLIT
                    within = f"{{name: {other}, {PARAMETERS.get((family, other), '')}}}"
                    settings = (f"policies.{family}={{name: {name}, prompts: {within}}}",)
                    yield f"{name} with {other}", Case(text, settings, happens)
            happens = (*happens, "remote_tokens")
            yield f"disaggregation {name}, split", Case(ENCODERS_SPLIT, (choice,), happens)
            continue
        text = CHAT if name == "colocated" else SPLIT
        happens = ("hit_tokens",) if name == "colocated" else ("hit_tokens", "remote_tokens")
        yield f"disaggregation {name}", Case(text, (_set("disaggregation", name),), happens)
    for overlap in ("blocks", "layers"):
        travel = f"{{name: static-split, transfer: push, overlap: {overlap}}}"
        chunks = "cluster.pools.0.engine={max_num_batched_tokens: 16}"
        settings = (f"policies.disaggregation={travel}", chunks, "links.kv.failure=0.2")
        happens = ("remote_tokens", "prefill_context_tokens", "failed_transfers")
        yield f"disaggregation, {overlap}", Case(SPLIT, settings, happens)
    pools = tuple(f"cluster.pools.{i}.engine=sglang" for i in range(2))
    yield "disaggregation, radix", Case(SPLIT, pools, ("hit_tokens", "remote_tokens"))
    tight = (SMALL_STEPS, "cluster.kv_blocks=27")
    for family, name in (
        ("order", "NewestFirst"),
        ("victim", "OldestGivesWay"),
        ("eviction", "EvictHottest"),
        ("scheduling", "OneAtATime"),
    ):
        settings = (*tight, f"policies.{family}=odd.py:{name}")
        yield f"{family} {name}", Case(OPEN, settings, ("evicted_blocks",), tight)
    for engine in ("vllm-v1", "sglang"):
        few = (f"cluster.engine={engine}", "cluster.kv_blocks=30", "cluster.replicas=2")
        settings = (
            *few,
            "policies.routing=odd.py:AlwaysFirst",
            "policies.eviction=odd.py:EvictHottest",
        )
        yield f"{engine}, all odd", Case(CHAT, settings, ("evicted_blocks",), few)


def _with_images() -> Iterator[tuple[str, Case]]:
    """Images encoded with their prompts, and what may go wrong on the way from encoders."""
    for name in PRESETS:
        yield f"images, preset {name}", Case(IMAGES, (f"cluster.engine={{preset: {name}}}",))
    for name, _ in FAMILIES["scheduling"]:
        order = ("policies.order=shortest-job-first",) if name == "preemptive" else ()
        settings = (SMALL_STEPS, *order, _set("scheduling", name))
        yield f"images, scheduling {name}", Case(IMAGES, settings)
    failing = ("links.embeddings.failure=0.5", "links.embeddings.retries=1")
    small = "cluster.pools.1.engine={max_num_batched_tokens: 16, encoder_cache_size: 44}"
    happens = ("failed_embeddings", "embedding_link_bytes", "prefill_context_tokens")
    yield "disaggregation, failing embeddings", Case(ENCODERS, (small, *failing), happens)


CASES = dict(_cases())


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory, tools: Any) -> dict[str, Any]:
    """What the model says with no cache and enough of everything."""
    found = {}
    for text in (OPEN, CHAT, IMAGES):
        settings = (*PLAIN, "cluster.kv_blocks=500")
        both = tools.Both(tmp_path_factory.mktemp("plain"), text, *settings)
        played, steps = both.executed(compute=True)
        assert not steps["hit_tokens"].any()
        assert not steps["preempted"].any()
        found[text] = tools.answers(played)
    found[SPLIT] = found[CHAT]
    found[ENCODERS] = found[ENCODERS_SPLIT] = found[IMAGES]
    assert len({token for answer in found[OPEN].values() for token in answer}) > 20
    return found


def test_no_progress_is_an_error_by_name(tmp_path: Path, tools: Any) -> None:
    (tmp_path / "odd.py").write_text(ODD)
    both = tools.Both(tmp_path, OPEN, "policies.scheduling=odd.py:Idler")
    for play in (both.simulated, both.executed):
        with pytest.raises(NoProgressError, match="has 1 requests waiting and 0 running"):
            play()


@pytest.mark.parametrize("name", [n for n, cls in FAMILIES["eviction"] if not _on_a_tree(cls)])
def test_queues_of_blocks_go_with_no_tree(name: str, tmp_path: Path, tools: Any) -> None:
    settings = ("cluster.engine=sglang", f"policies.eviction={name}")
    both = tools.Both(tmp_path, CHAT, *settings)
    for play in (both.simulated, both.executed):
        with pytest.raises(InputError, match="keeps queues of single blocks, and a radix tree"):
            play()


@pytest.mark.parametrize("name", CASES)
def test_it_decides_and_says_the_same(
    name: str, tmp_path: Path, tools: Any, said: dict[str, Any]
) -> None:
    case = CASES[name]
    (tmp_path / "odd.py").write_text(ODD)
    both = tools.Both(tmp_path, case.text, *case.settings)
    outcome, steps = both.simulated()
    played, executed = both.executed(compute=True)
    for column, values in steps.items():
        assert executed[column].tolist() == values.tolist(), column
    assert tools.differing(outcome, played) == []
    assert (outcome.requests["status"] == "finished").all()
    assert tools.answers(played) == said[case.text]
    for what in case.happens:
        seen = steps[what].any() if what in steps else outcome.totals[what]
        assert seen, f"the case has no {what}"
    if name.startswith("routing"):
        assert len(set(outcome.requests["replica"])) > 1
    if case.other_than is not None:
        _, plain = tools.Both(tmp_path, case.text, *case.other_than).simulated()
        assert plain["digest"].tolist() != steps["digest"].tolist(), "it makes no difference"
