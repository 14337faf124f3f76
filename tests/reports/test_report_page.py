"""report.html: one file, the answer first, nothing from outside, every string escaped."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infersim.reports.files import asset
from infersim.reports.metrics import summarize
from infersim.reports.page import MAX_BYTES, render, write_report
from infersim.reports.terminal import render as render_terminal
from infersim.sim.state.records import CellRecords

Make = Callable[..., CellRecords]
ORIGIN = {"version": "0.1.0", "git_commit": "0123456789abcdef", "seed": 7, "files": {"a": "b"}}
EVIL = '"><img src=x onerror=alert(1)></script><script>alert(2)</script>'
LOADING = {"src", "href", "srcset", "data", "action", "poster"}


def page(cells: list[CellRecords], **given: Any) -> str:
    base = {"run_name": "agent_loop", "scenario_yaml": "name: agent_loop\n"}
    base |= {"provenance": ORIGIN, "command": "infersim run agent_loop.yaml --seed 7"}
    summaries = [summarize(cell) for cell in cells]
    return render(cells=cells, summaries=summaries, **(base | given))


class Reader(HTMLParser):
    """Tags, what they would load, texts of headings, and whether tags are balanced."""

    VOID = frozenset({"meta", "link", "img", "br", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.headings: list[str] = []
        self.ids: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self._open.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), f"{tag} {name}"
            if name in LOADING:
                self.loads.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in ("h1", "h2"):
            self.headings.append(data)


@pytest.fixture(scope="module")
def html(grid: list[CellRecords]) -> str:
    return page(grid)


def own_part(text: str) -> str:
    """The page without the vendored library."""
    library = asset("plotly-cartesian.min.js")
    assert text.count(library) == 1
    return text.replace(library, "")


def test_it_is_one_small_file_that_loads_nothing(html: str) -> None:
    assert len(html.encode()) <= MAX_BYTES
    read = Reader(own_part(html))
    assert [load for load in read.loads if not load.startswith("#")] == ["data:,"]
    assert not re.search(r"@import|url\(|https?://", own_part(html))
    assert len(read.ids) == len(set(read.ids))
    assert {load[1:] for load in read.loads if load.startswith("#")} <= set(read.ids)


def test_the_parts_come_in_their_order(html: str) -> None:
    assert Reader(own_part(html)).headings == [
        "agent_loop",
        "Hit rate",
        "Why prompts missed",
        "Latency",
        "Over time",
        "Preemptions and saturation",
        "Requests",
        "KV capacity",
        "Caveats",
        "Definitions",
        "Scenario",
    ]
    assert html.index("is best: mean end-to-end latency") < html.index("Hit rate</h2>")


def test_the_header_says_what_was_run(html: str) -> None:
    top = html[html.index("<header") : html.index("</header>")]
    for text in ("llama-3.1-8b", "2 × H100-SXM-80GB", "0.1.0 (0123456789ab)", "--seed 7"):
        assert text in top


def test_the_table_of_cells_is_static(html: str) -> None:
    answer = html[html.index('id="answer"') : html.index('id="hits"')]
    assert answer.count("<tr") == 13
    assert answer.count('class="best"') >= 6
    assert "session-sticky" in answer
    assert "−" in answer


def test_every_figure_has_its_place(html: str) -> None:
    [text] = re.findall(r'<script type="application/json" id="figures">(.*?)</script>', html)
    figures = json.loads(text)
    places = re.findall(r'class="plot" id="([^"]+)"', html)
    assert set(places) == set(figures)
    assert sum(name.startswith("plot-series-") for name in places) == 12
    shown = re.findall(r'<div data-cell="(\d+)">', html)
    assert shown == ["9", "9"], "the best cell is shown, the others can be picked"


def test_what_is_a_guess_is_said(html: str) -> None:
    caveats = html[html.index('id="caveats"') : html.index('id="definitions"')]
    assert "datasheet roofline" in caveats
    assert "nothing in them was measured on this GPU" in caveats
    assert "tool times are drawn" in caveats
    assert "One seed" in caveats


def test_text_of_others_is_escaped(make_cell: Make) -> None:
    cells = []
    for i, value in enumerate((EVIL, "plain")):
        cell = make_cell(f"{value}{i}", {"policies.eviction": value}, sessions=3)
        requests: dict[str, Any] = dict(cell.requests)
        n = len(requests["status"])
        for name in ("first_miss", "kind", "reason"):
            requests[name] = np.array([EVIL] * n, dtype=object)
        requests["status"] = np.array(["failed", *requests["status"][1:]], dtype=object)
        pool = cell.capacity[0] | {"model": EVIL, "name": EVIL, EVIL: EVIL}
        cells.append(
            replace(cell, requests=requests, notes=[EVIL], capacity=[pool], cost_source=EVIL)
        )
    text = own_part(
        page(
            cells,
            run_name=EVIL,
            scenario_yaml=EVIL,
            provenance={EVIL: EVIL, "version": EVIL, "seed": EVIL},
            command=EVIL,
        )
    )
    read = Reader(text)
    assert "img" not in read.tags
    assert read.tags.count("script") == 3
    assert "<script>alert" not in text


def test_one_cell_shows_cards_and_no_choice(make_cell: Make) -> None:
    text = own_part(page([make_cell()]))
    assert 'class="cards"' in text
    assert "<select" not in text
    assert "574 of 576 requests finished" in text


def nothing_finished(cell: CellRecords) -> CellRecords:
    requests: dict[str, Any] = dict(cell.requests)
    n = len(requests["status"])
    requests["status"] = np.array(["shed"] * n, dtype=object)
    requests["reason"] = np.array(["queue over 10"] * n, dtype=object)
    for name in ("scheduled_ps", "first_token_ps", "finish_ps"):
        requests[name] = np.full(n, -1)
    return replace(cell, requests=requests)


def test_nothing_finished_is_said(make_cell: Make) -> None:
    cell = nothing_finished(make_cell(sessions=4))
    text = own_part(page([cell]))
    Reader(text)
    assert "None of the 48 requests finished (queue over 10)." in text
    assert "No request finished." in text


def test_no_request_and_no_sample(make_cell: Make) -> None:
    cell = make_cell(sessions=1, turns=1)
    blank = replace(
        cell,
        requests={name: column[:0] for name, column in cell.requests.items()},
        series={name: column[:0] for name, column in cell.series.items()},
        capacity=[],
        notes=[],
    )
    text = own_part(page([blank], provenance={}, command=""))
    read = Reader(text)
    assert "No request arrived" in text
    assert "Over time" not in read.headings, "a part without content is left out"


def test_links_lead_to_parts_that_are_there(make_cell: Make) -> None:
    cell = make_cell(sessions=1, turns=1)
    blank = replace(cell, capacity=[], series={n: c[:0] for n, c in cell.series.items()})
    read = Reader(own_part(page([blank])))
    assert {load[1:] for load in read.loads if load.startswith("#")} <= set(read.ids)


def test_twenty_four_cells_keep_to_the_budget(make_cell: Make) -> None:
    cells = [
        make_cell(f"{i}", {"a": i % 6, "b": i // 6}, keep=0.3 + i / 50, seed=i, sessions=20)
        for i in range(24)
    ]
    text = page(cells)
    assert len(text.encode()) <= MAX_BYTES
    assert Reader(own_part(text)).tags.count("option") == 48


def test_kv_that_travelled_has_a_table(make_cell: Make) -> None:
    cell = make_cell(sessions=1, turns=2)
    assert "KV that travelled" not in own_part(page([cell]))
    moved = np.array([0, 3 << 20])
    travelled = replace(
        cell,
        requests=cell.requests | {"transfer_bytes": moved, "transfer_ps": moved},
        totals=cell.totals | {"failed_transfers": 3, "role_switches": 2},
    )
    text = own_part(page([travelled]))
    for word in ("KV that travelled", "role switches", "failed transfers"):
        assert word in text


def test_swapped_kv_stands_with_the_preemptions(make_cell: Make) -> None:
    cell = make_cell(sessions=20)
    cell = replace(cell, totals=cell.totals | {"preemptions": 9})
    assert summarize(cell)["swap"] is None
    assert "swapped out" not in own_part(page([cell]))
    counts = {"swapped_out": 7, "swapped_in": 6, "swap_refused": 2, "swap_ps": 1_500 * 10**9}
    counts |= {"swap_out_bytes": 3 * 2**30, "swap_in_bytes": 2 * 2**30}
    swaps = replace(cell, totals=cell.totals | counts)
    found = summarize(swaps)["swap"]
    assert (found["out"], found["in"], found["refused"], found["copying_s"]) == (7, 6, 2, 1.5)
    text = own_part(page([swaps, replace(cell, name="recompute")]))
    for word in ("swapped out", "KV copied, both ways", "no room", "5.00\u00a0GiB", "1,500\u00a0"):
        assert word in text
    terminal = render_terminal("t", [swaps], [summarize(swaps)])
    assert "swapped out 7" in " ".join(terminal.split())


def test_goals_are_marked(make_cell: Make) -> None:
    cells = [
        make_cell(f"k={keep}", {"k": keep}, keep=keep, sessions=20, slo={"ttft_s": limit})
        for keep, limit in ((0.9, 60.0), (0.2, 0.5))
    ]
    text = page(cells)
    assert "✓ 100.0\u00a0% ≤ 60.0\u00a0s" in text
    assert "✗ missed" in text


def test_the_same_run_gives_the_same_page(html: str, grid: list[CellRecords]) -> None:
    assert page(grid) == html


def test_it_is_written_whole(grid: list[CellRecords], html: str, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    summaries = [summarize(cell) for cell in grid]
    command = "infersim run agent_loop.yaml --seed 7"
    write_report(path, "agent_loop", grid, summaries, "name: agent_loop\n", ORIGIN, command)
    assert path.read_text(encoding="utf-8") == html
    assert list(tmp_path.iterdir()) == [path]
