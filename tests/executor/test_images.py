"""Images on the executor: an embedding that is lost, misplaced or another's changes an answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the executor needs torch", exc_type=ImportError)

from infersim.calibrate.executor.embeddings import Embeddings, Seen  # noqa: E402
from infersim.calibrate.executor.pictures import Picture, Pictures, Place, Sight  # noqa: E402
from infersim.calibrate.executor.tower import Tower  # noqa: E402
from infersim.calibrate.executor.weights import Random  # noqa: E402
from infersim.policies.errors import InfersimError, InputError  # noqa: E402
from infersim.policies.types import MultiModalItem  # noqa: E402
from infersim.sim.cost.specs import ModelSpec, VisionSpec  # noqa: E402

CPU = torch.device("cpu")
ENGINE = "max_num_batched_tokens: 64, max_num_seqs: 8, max_model_len: 160"
WORKLOAD = """\
workload:
  kind: open-loop
  requests: 12
  arrivals: 4000
  max_tokens: 20
  images:
    count: 6
    zipf: 0.8
    tokens: {kind: uniform, low: 5, high: 22}
    per_request: {kind: choice, values: [0, 1, 2, 3], weights: [0.1, 0.3, 0.3, 0.3]}
  prompt_tokens: {kind: uniform, low: 3, high: 20}
  output_tokens: {kind: uniform, low: 2, high: 20}
"""
POOL = "gpu: h100-sxm, model: seeing.yaml, block_size: 4, kv_blocks: 140"
TEXT = f"name: s\nseed: 2\ncluster: {{{POOL}, engine: {{{ENGINE}}}}}\n{WORKLOAD}"
APART = f"""\
name: s
seed: 2
links: {{embeddings: nvlink4}}
cluster:
  pools:
    - {{name: e, role: encode, gpu: h100-sxm, model: seeing.yaml}}
    - {{name: s, {POOL}, engine: {{{ENGINE}}}}}
{WORKLOAD}"""
PLAIN = ("cluster.engine.enable_prefix_caching=false", "cluster.engine.async_scheduling=false")


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, tools: Any) -> dict[Any, list[int]]:
    """What the model says when every image is encoded with its prompt, and nothing is cached."""
    both = tools.Both(tmp_path_factory.mktemp("plain"), TEXT, *PLAIN)
    said: dict[Any, list[int]] = tools.answers(both.executed(compute=True)[0])
    return said


@pytest.mark.parametrize(
    ("settings", "column"),
    [
        ((), "hit_tokens"),
        (("cluster.engine.max_num_batched_tokens=9",), "prefill_context_tokens"),
        (("cluster.engine.encoder_budget=24", "cluster.engine.encoder_cache_size=44"), ""),
        (("cluster.kv_blocks=43",), "preempted"),
    ],
)
def test_answers_do_not_depend_on_chunks_budgets_caches_or_preemption(
    settings: tuple[str, ...],
    column: str,
    tmp_path: Path,
    tools: Any,
    expected: dict[Any, list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dropped = count_drops(monkeypatch)
    played, steps = tools.Both(tmp_path, TEXT, *settings).executed(compute=True)
    assert tools.answers(played) == expected
    assert steps[column].any() if column else dropped


def count_drops(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    found: list[int] = []
    see = Embeddings.see

    def counting(self: Embeddings, pictures: Pictures) -> Seen | None:
        found.extend(pictures.drop)
        return see(self, pictures)

    monkeypatch.setattr(Embeddings, "see", counting)
    return found


def test_embeddings_that_moved_say_the_same(
    tmp_path: Path, tools: Any, expected: dict[Any, list[int]]
) -> None:
    played, _ = tools.Both(tmp_path, APART).executed(compute=True)
    assert played.totals["embedding_link_bytes"] > 0
    assert tools.answers(played) == expected


def lost(seen: Seen) -> Seen:
    return seen._replace(values=torch.zeros_like(seen.values))


def misplaced(seen: Seen) -> Seen:
    return seen._replace(values=seen.values.roll(1, 1))


def flat(seen: Seen) -> Seen:
    return seen._replace(values=seen.values[:1])


def cut_short(seen: Seen) -> Seen:
    return Seen(seen.rows[:-1], seen.values[:, :-1])


@pytest.mark.parametrize("fault", [lost, misplaced, flat, cut_short])
def test_a_wrong_embedding_changes_an_answer(
    fault: Callable[[Seen], Seen],
    tmp_path: Path,
    tools: Any,
    expected: dict[Any, list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    see = Embeddings.see

    def wrong(self: Embeddings, pictures: Pictures) -> Seen | None:
        seen = see(self, pictures)
        return None if seen is None else fault(seen)

    monkeypatch.setattr(Embeddings, "see", wrong)
    said = tools.answers(tools.Both(tmp_path, TEXT).executed(compute=True)[0])
    assert said != expected


def test_another_image_changes_an_answer(
    tmp_path: Path, tools: Any, expected: dict[Any, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = Tower.encode
    monkeypatch.setattr(
        Tower, "encode", lambda self, picture: encode(self, picture._replace(name=picture.name + 1))
    )
    said = tools.answers(tools.Both(tmp_path, TEXT).executed(compute=True)[0])
    assert said != expected


PRIORITIES = """\
workload:
  kind: open-loop
  requests: 24
  arrivals: 9000
  max_tokens: 30
  priority: {kind: uniform, low: 0, high: 4}
  images:
    count: 40
    tokens: {kind: uniform, low: 5, high: 14}
    per_request: {kind: choice, values: [0, 3, 5], weights: [0.5, 0.25, 0.25]}
  prompt_tokens: {kind: uniform, low: 3, high: 9}
  output_tokens: {kind: uniform, low: 10, high: 30}
"""


def test_an_image_that_a_preemption_withdrew_is_there_when_it_is_needed(
    tmp_path: Path, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The victim gives way in the step in which one of its images was to be encoded."""
    engine = "max_num_seqs: 6, max_num_batched_tokens: 60, max_model_len: 130"
    tight = f"{engine}, encoder_budget: 14, encoder_cache_size: 70, async_scheduling: false"
    pool = "gpu: h100-sxm, model: seeing.yaml, block_size: 4"
    head = "name: s\nseed: 73\n"
    policies = "policies: {order: priority, victim: lowest-priority}\n"
    text = f"{head}cluster: {{{pool}, kv_blocks: 40, engine: {{{tight}}}}}\n{policies}{PRIORITIES}"
    plain = f"{head}cluster: {{{pool}, kv_blocks: 500, engine: {{{engine}}}}}\n{PRIORITIES}"
    expected = tools.answers(tools.Both(tmp_path, plain, *PLAIN).executed(compute=True)[0])
    both = tools.Both(tmp_path, text)
    assert tools.answers(both.executed(compute=True)[0]) == expected
    planned = Sight.planned

    def forgetful(self: Sight, done: Any) -> None:
        planned(self, plan(done.encoder, done.encoder_evicted))

    monkeypatch.setattr(Sight, "planned", forgetful)
    with pytest.raises(InfersimError, match="whose embedding is not there"):
        both.executed(compute=True)


# ---- the tower -----------------------------------------------------------------------------------


def tower(**change: Any) -> Tower:
    vision = VisionSpec(**{"layers": 3, "hidden": 16, "heads": 2, "ffn": 24, "patch": 2, **change})
    spec = ModelSpec("m", 8, 4, 2, 1, 4, 11, 64, ffn=6, vision=vision)
    return Tower(spec, Random(1, torch.float32, CPU), torch.float32, CPU)


def test_a_name_decides_an_image() -> None:
    found = tower(positions=7)
    one = found.encode(Picture(0, 2**64 - 1, 10))
    assert one.shape == (1, 10, 8)
    assert torch.equal(one, found.encode(Picture(5, 2**64 - 1, 10)))
    assert not torch.allclose(one, found.encode(Picture(0, 2**64 - 2, 10)), atol=0.1)
    assert not torch.allclose(one[:, 0], one[:, 1], atol=0.1)


def test_every_projection_gives_its_own() -> None:
    found = tower(mergers=4, gated=True).encode(Picture(0, 3, 6))
    assert found.shape == (4, 6, 8)
    pairs = [(i, j) for i in range(4) for j in range(i)]
    assert not any(torch.allclose(found[i], found[j], atol=0.1) for i, j in pairs)


@pytest.mark.parametrize("tokens", [3, 4, 8, 9])
def test_a_window_sees_no_further(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without full layers what stands in one window changes nothing in another."""
    found = tower(window=4)  # of 4 tokens, 16 patches
    draw = found._draw
    before = found.encode(Picture(0, 3, tokens))

    def changed(picture: Picture) -> Any:
        pixels = draw(picture).clone()
        pixels[0] += 1
        return pixels

    monkeypatch.setattr(found, "_draw", changed)
    after = found.encode(Picture(0, 3, tokens))
    same = [torch.equal(before[0, i], after[0, i]) for i in range(tokens)]
    assert same == [i >= 4 for i in range(tokens)]
    whole = tower(window=4, full_layers=1)
    before = whole.encode(Picture(0, 3, tokens))
    monkeypatch.setattr(whole, "_draw", changed)
    assert not torch.isclose(before[0], whole.encode(Picture(0, 3, tokens))[0]).all(1).any()


def test_windows_of_the_whole_image_are_none() -> None:
    image = Picture(0, 3, 4)
    assert torch.allclose(tower(window=4).encode(image), tower().encode(image), atol=1e-5)


def test_heads_that_cannot_be_rotated_by_rows_and_columns() -> None:
    with pytest.raises(InputError, match="no multiple of 4"):
        tower(heads=8)


# ---- what a device holds -------------------------------------------------------------------------


def sight(*there: int) -> tuple[Sight, set[int]]:
    """A `Sight` over a cache that holds *there*, as it is changed."""
    held = set(there)
    cache: Any = SimpleNamespace(has=held.__contains__)
    texts: Any = SimpleNamespace(name=lambda content: content)
    return Sight(cache, texts), held


def seq(*items: MultiModalItem) -> Any:
    return SimpleNamespace(request=SimpleNamespace(id=0, items=items))


def plan(encoder: Any = (), evicted: Any = (), preempted: Any = ()) -> Any:
    return SimpleNamespace(encoder=encoder, encoder_evicted=evicted, preempted=preempted)


A, B = MultiModalItem(1, 2, 5), MultiModalItem(2, 7, 3)


def test_places_are_where_chunks_and_images_meet() -> None:
    found, _ = sight()
    two = seq(A, B)
    found.planned(plan([(two, [0, 1])]))
    pictures = found.of([(seq(), 0, 3, True), (two, 4, 5, False)])  # type: ignore[list-item]
    assert pictures.encode == (Picture(1, 1, 5), Picture(2, 2, 3))
    assert pictures.places == (Place(3, 1, 2, 3), Place(6, 2, 0, 2))


def test_what_leaves_the_cache_is_dropped_once_and_may_come_back() -> None:
    found, _ = sight()
    found.planned(plan([(seq(A), [0])]))
    found.of([])
    found.planned(plan(evicted=[1, 1]))
    found.planned(plan())  # nothing was launched in between
    assert found.of([]) == Pictures(drop=(1,))
    found.planned(plan([(seq(A), [0])]))
    found.of([])
    found.planned(plan(evicted=[1]))
    found.arrived(1)
    assert found.of([(seq(A), 0, 3, True)]).drop == ()  # type: ignore[list-item]


def test_what_a_preemption_withdrew_is_encoded_all_the_same() -> None:
    """The cache has it from then on, as in vLLM, so that nobody would encode it again."""
    found, held = sight(1)
    found.planned(plan(preempted=[seq(A, B)]))
    assert found.of([]).encode == (Picture(1, 1, 5),)
    held.add(2)
    found.planned(plan(preempted=[seq(A, B)]))
    found.planned(plan(evicted=[2]))
    assert found.of([]).encode == ()


def test_tokens_of_an_image_that_is_not_there_are_an_error() -> None:
    found, _ = sight()
    with pytest.raises(InfersimError, match="did not ask for it"):
        found.of([(seq(A), 0, 3, True)])  # type: ignore[list-item]
