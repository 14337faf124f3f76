"""Pictures in the documents: each is there, drawn by the command, and shows what is said of it.

And what the page of a technique holds: what it is, its YAML, a picture, when it hurts, its source.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from infersim.policies.registry import FAMILIES
from infersim.scenarios import grid, load
from infersim.scenarios.schema.presets import PRESETS

ROOT = Path(__file__).parents[2]
DOCS, BENCHMARKS = ROOT / "docs", ROOT / "benchmarks"
PICTURES = {path.stem: path for path in (DOCS / "figures").iterdir()}
SPECS = {path.stem: path for path in (BENCHMARKS / "figures").iterdir()}
TEXTS = {path.name: path.read_text("utf-8") for path in DOCS.glob("*.md")}
PAGES = {
    "scheduling": "scheduling.md",
    "order": "scheduling.md",
    "victim": "scheduling.md",
    "eviction": "evictions.md",
    "routing": "routing.md",
    "disaggregation": "disaggregation.md",
}
TECHNIQUES = [(family, name) for family in PAGES for name, _ in FAMILIES[family]]


@pytest.fixture(scope="module")
def plots() -> Iterator[Any]:
    """`benchmarks/plots.py`, which is a script's module and no part of the package."""
    sys.path.insert(0, str(BENCHMARKS))
    import plots

    yield plots
    sys.path.remove(str(BENCHMARKS))


# ---- pictures ---------------------------------------------------------------------------------


def test_every_picture_is_made_by_the_command_and_shown() -> None:
    shown = [name for text in TEXTS.values() for name in re.findall(r"\(figures/(.*?)\)", text)]
    assert sorted(set(shown)) == sorted(path.name for path in PICTURES.values())
    assert PICTURES.keys() == SPECS.keys()


@pytest.mark.parametrize("name", SPECS)
def test_a_picture_shows_what_its_file_says(name: str, plots: Any) -> None:
    plot, svg = plots.named(name), PICTURES[name].read_text("utf-8")
    text = " ".join(re.findall(r"<text[^>]*>(.*?)</text>", svg)).replace("&lt;", "<")
    said = [plot.title, *plot.rows, *(panel.heading for panel in plot.panels)]
    for words in " ".join([*said, *(panel.axis for panel in plot.panels)]).split():
        assert words in text, f"{name}: draw it again, it does not say {words}"
    assert f"python benchmarks/figures.py {name}" in svg
    assert PICTURES[name].stat().st_size < 100_000


@pytest.mark.parametrize("name", SPECS)
def test_what_is_drawn_can_be_simulated(name: str, plots: Any) -> None:
    plot = plots.named(name)
    assert plot.holds, "nothing checks the title"
    for number, one, sign, other in plot.holds:
        assert {one, other} <= plot.rows.keys() - set(plot.panels[number].without)
        assert sign in "<>"
    widest = min(plot.panels, key=lambda panel: len(panel.without))
    runs = {panel.run(plot, plot.first(panel), 1) for panel in plot.panels}
    for run in runs | {widest.run(plot, row, 1) for row in plot.rows if row not in widest.without}:
        source = load.read(run.scenario, ["compare=null", *run.settings], run.seed)
        assert len(grid.cells(source)[1]) == 1


# ---- techniques -------------------------------------------------------------------------------


def rows_of_tables(page: str) -> dict[str, list[str]]:
    """The cells of each row of a table, by every name in backquotes in its first one."""
    found = {}
    for line in TEXTS[page].splitlines():
        if line.startswith("| "):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            for name in re.findall(r"`([^`]+)`", cells[0]):
                found.setdefault(name, cells)
    return found


def heads(page: str, name: str) -> list[str]:
    """The head of the table that has *name* in its first column."""
    head: list[str] = []
    before = ""
    for line in TEXTS[page].splitlines():
        if line.startswith("|---"):
            head = [cell.strip() for cell in before.split("|")[1:-1]]
        if line.startswith("| ") and f"`{name}`" in line.split("|")[1]:
            return head
        before = line
    return []


def compared(page: str, family: str) -> set[str]:
    """The policies of a family that the page's YAML names."""
    names = set()
    for block in re.findall(r"^```yaml\n(.*?)^```$", TEXTS[page], re.MULTILINE | re.DOTALL):
        data = yaml.safe_load(block)
        values = list((data.get("compare") or {}).get(f"policies.{family}", []))
        values.append(data.get("policies", {}).get(family))
        names |= {value["name"] if isinstance(value, dict) else value for value in values}
    return names


def drawn(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """(family, policy) and ("engine", preset) of all settings in *value*."""
    if isinstance(value, dict):
        for name, item in value.items():
            last = name.rsplit(".", 1)[-1]
            chosen = item.get("name", item.get("preset")) if isinstance(item, dict) else item
            if isinstance(chosen, str):
                yield last, chosen
            yield from drawn(item, last)
    elif isinstance(value, list):
        for item in value:
            yield from drawn(item, key)


DRAWN = {
    found for path in SPECS.values() for found in drawn(yaml.safe_load(path.read_text("utf-8")))
}


@pytest.mark.parametrize(("family", "name"), TECHNIQUES)
def test_a_technique_has_its_yaml_its_picture_its_harm_and_its_source(
    family: str, name: str
) -> None:
    page = PAGES[family]
    assert name in compared(page, family), f"no line of YAML in {page}"
    # the scheduler sglang is drawn as the preset of that name, with SGLang's index
    assert DRAWN & {(family, name), ("engine", name)}, "in no picture"
    row = dict(zip(heads(page, name), rows_of_tables(page)[name], strict=True))
    assert len(row["hurts when"]) > 3
    assert len(row["source"]) > 3


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_its_picture_its_harm_and_its_source(name: str) -> None:
    row = dict(zip(heads("engines.md", name), rows_of_tables("engines.md")[name], strict=True))
    assert ("engine", name) in DRAWN, "in no picture"
    assert len(row["hurts when"]) > 3
    assert len(row["source"]) > 3


# ---- the command --------------------------------------------------------------------------------


@pytest.fixture
def plot(plots: Any) -> Any:
    want = plots.Want("e2e_s.mean")
    panel = plots.Panel("here", "E2E, s", want, "tenants", (), better="lower")
    rows = {"old": ("a=1",), "new": ("a=2",), "even": ("a=3",), "mixed": ("a=4",)}
    return plots.Plot("some", "new < old", rows, (panel,), range(1, 3), ((0, "new", "<", "old"),))


def values(plot: Any, **by_row: tuple[float, float]) -> dict[Any, float]:
    """The values of each row with the seeds 1 and 2."""
    (panel,) = plot.panels
    return {
        (panel.run(plot, row, seed), panel.want): value
        for row, pair in by_row.items()
        for seed, value in enumerate(pair, 1)
    }


def test_better_and_worse_are_said_only_where_every_seed_agrees(plot: Any) -> None:
    found = values(plot, old=(10, 20), new=(9, 15), even=(10.01, 20.02), mixed=(5, 21))
    (panel,) = plot.panels
    verdicts = {row: panel.verdict(plot, row, found) for row in plot.rows}
    assert verdicts == {"old": "first", "new": "better", "even": "same", "mixed": "same"}
    assert not list(plot.broken(found))


def test_a_title_that_fails_with_one_seed_is_told(plot: Any) -> None:
    (told,) = plot.broken(values(plot, old=(10, 20), new=(9, 21)))
    assert "new < old" in told


def test_the_same_numbers_are_the_same_bytes(plot: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    import drawing

    found = values(plot, old=(10, 20), new=(9, 15), even=(10, 20), mixed=(5, 21))
    for name in ("one.svg", "two.svg"):
        drawing.draw(plot, found, tmp_path / name)
    one = (tmp_path / "one.svg").read_bytes()
    assert one == (tmp_path / "two.svg").read_bytes()
    assert b"new &lt; old" in one
