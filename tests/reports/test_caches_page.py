"""The page of a replay of caches, from rows made by hand and from a small study."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from infersim.policies.errors import InputError
from infersim.reports.cachestudy import SHARED, parts, verdict
from infersim.reports.page.caches import answer, page, write_page
from infersim.scenarios.cache.grid import read_study
from infersim.scenarios.cache.parallel import run_study

RATES = {
    ("lru", "round-robin"): 0.40,
    ("lru", "session-sticky"): 0.80,
    ("lfu", "round-robin"): 0.10,
    ("lfu", "session-sticky"): 0.70,
    ("belady", "round-robin"): 0.50,
    ("belady", "session-sticky"): 0.85,
}
FACTS = {
    "replicas": 8,
    "in_flight": 64,
    "kv_tokens": [1000, 8000],
    "traces": {
        "talk<b>": {
            "requests": 1000,
            "sessions": 0,
            "prompt_tokens": 10_000,
            "block_tokens": 128,
            "own_block_tokens": 64,
        }
    },
}


def row(eviction: str, routing: str, size: int, block: int, rate: float) -> dict[str, Any]:
    return {
        "trace": "talk<b>",
        "eviction": eviction,
        "routing": routing,
        "kv_tokens": size,
        "block_tokens": block,
        "replicas": 8,
        "hit_rate": rate,
        "hit_tokens": round(10_000 * rate),
        "prompt_tokens": 10_000,
        "refused": 3 if size == 1000 else 0,
        "evicted_blocks": 7,
        "oracle": eviction == "belady",
        "seconds": 0.1,
    }


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    """Two sizes; the larger one hits five points more."""
    made = [
        row(eviction, routing, size, 128, rate + (0.05 if size == 8000 else 0))
        for (eviction, routing), rate in RATES.items()
        for size in (1000, 8000)
    ]
    made += [
        row("lru", at, size, block, 0.9 if at == SHARED else 0.6)
        for at, size, block in product((SHARED, "round-robin", "session-sticky"), (0,), (64, 128))
    ]
    made += [row("lru", SHARED, size, 128, 0.88) for size in (1000, 8000)]
    routers = (SHARED, "round-robin", "session-sticky")
    return made + [row("lru", at, size, 64, 0.81) for at in routers for size in (1000, 8000)]


def test_effects_are_best_minus_worst_without_those_who_read_the_future(
    rows: list[dict[str, Any]],
) -> None:
    (part,) = parts(rows, FACTS)
    assert part.sizes == [1000, 8000]
    assert part.routing_effect("lru", 1000) == pytest.approx(0.40)
    assert part.eviction_effect("session-sticky", 1000) == pytest.approx(0.10)
    assert part.eviction_effect("round-robin", 1000) == pytest.approx(0.30)
    assert part.typical(1000) == (pytest.approx(0.50), pytest.approx(0.20))
    assert part.best_routing(1000) == "session-sticky"
    assert part.ranked() == ["belady", "lru", "lfu"]
    assert part.ideal == 0.9
    assert verdict([part]) == "Routing moves the hit rate more than eviction in 2 of 2 cases."


def test_the_answer_says_what_the_largest_caches_hit(rows: list[dict[str, Any]]) -> None:
    said = answer(parts(rows, FACTS)).replace("\u00a0", " ")
    assert "8 replicas of 8 k tokens: lru hits 85.0 % behind session-sticky" in said
    assert "45.0 % behind round-robin (infinite cache 90.0 %)" in said
    assert said.endswith("no eviction does better than lru there.")


def test_a_better_eviction_is_named(rows: list[dict[str, Any]]) -> None:
    for one in rows:
        if one["eviction"] == "lfu":
            one["hit_rate"] += 0.12
    said = answer(parts(rows, FACTS)).replace("\u00a0", " ")
    assert said.endswith("the best eviction, lfu, adds 2.0 pt.")


def test_the_page_holds_every_figure_and_escapes_names(rows: list[dict[str, Any]]) -> None:
    text = page(rows, FACTS, "infersim cache a --routing b")
    assert "talk&lt;b&gt;" in text
    assert "talk<b>" not in text.split("<script")[0]
    plain = text.replace("\u00a0", " ")
    for shown in ("81.0 % (45.0 %)", "belady", "names no sessions", "up to 3 requests"):
        assert shown in plain, shown
    figures = json.loads(text.split('id="figures">')[1].split("</script>")[0])
    kinds = [trace["type"] for figure in figures.values() for trace in figure["data"]]
    assert kinds.count("heatmap") == 2
    (levels,) = [
        trace["y"]
        for figure in figures.values()
        for trace in figure["data"]
        if trace.get("name") == "infinite cache"
    ]
    assert levels == [90, 90]


# ---- a study ------------------------------------------------------------------------------------


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Six sessions take turns; each prompt is the last one and two blocks more."""
    path = tmp_path / "talk.jsonl"
    lines = []
    for n in range(48):
        session, turn = n % 6, n // 6
        ids = [0, *range(100 * session + 1, 100 * session + 3 + 2 * turn)]
        lines.append(
            {
                "timestamp": 1000 * n,
                "input_length": 512 * len(ids),
                "output_length": 1,
                "hash_ids": ids,
            }
        )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return path


def test_a_study_is_the_same_in_one_process_and_in_two(trace: Path) -> None:
    study = read_study(
        [trace],
        "lru,fifo,sieve,belady",
        "round-robin,prefix-aware,random",
        "16k",
        "1024",
        replicas=2,
        in_flight=2,
    )
    heard: list[Any] = []
    one, two = (
        [
            result._replace(seconds=0.0)
            for result in run_study(study, jobs=jobs, listen=heard.append)
        ]
        for jobs in (1, 2)
    )
    assert one == two
    assert len(heard) == 2 * len(one) == 2 * len(study.cells())
    rates = {(r.eviction, r.routing, r.kv_tokens, r.block_tokens): r.hit_rate for r in one}
    at = 16_000, 1024
    for router in ("round-robin", "prefix-aware", "random"):
        assert (
            rates["lru", router, *at]
            < rates["belady", router, *at]
            <= rates["lru", router, 0, 1024]
        )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"kv_tokens": "100"}, "100 tokens hold no block of 512 tokens"),
        ({"block_tokens": "700"}, "blocks of 700 tokens over a trace whose ids stand for 512"),
        ({"block_tokens": "512,512"}, "2 sizes of a block for 1 traces"),
        ({"kv_tokens": "8T"}, 'found "8T" where a number of tokens is expected'),
        ({"routings": "sticky"}, 'unknown routing policy "sticky"'),
        ({"session_every_s": 0.0}, "sessions every 0 s: it must be more than 0"),
    ],
)
def test_what_cannot_be_studied_is_refused(given: dict[str, Any], said: str, trace: Path) -> None:
    asked = {"evictions": "lru", "routings": "random", "kv_tokens": "8k"} | given
    with pytest.raises(InputError) as error:
        read_study([trace], **asked)
    assert said in str(error.value)


def test_it_draws_in_a_browser_at_both_widths(
    rows: list[dict[str, Any]],
    tmp_path: Path,
    in_browser: Callable[[Path, int], list[dict[str, Any]]],
) -> None:
    write_page(tmp_path / "report.html", rows, FACTS, "infersim cache a")
    for found in in_browser(tmp_path, 0):
        assert found["drawn"] == found["shown"] == 2
