"""The documents say what the program does: links, scenarios, commands, names, keys, defaults."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
import yaml

from infersim.cli.app import app
from infersim.cli.main import UsageError
from infersim.policies.registry import FAMILIES
from infersim.scenarios import grid, load
from infersim.scenarios.catalog import load as catalog
from infersim.scenarios.choice import defaults
from infersim.scenarios.schema.outline import scenario_schema
from infersim.scenarios.schema.presets import PRESETS
from infersim.scenarios.traces.formats import FORMATS
from infersim.sim.state.records import GRAMMAR_COLUMNS, REQUEST_COLUMNS, SERIES_COLUMNS

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in DOCUMENTS}
EVERYTHING = "\n".join(TEXTS.values())

FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
INLINE_COMMAND = re.compile(r"`(infersim [^`]+)`")
KEY_TABLE = re.compile(r"<!-- keys: (\w+) -->\n\n((?:\|[^\n]*\n)+)")

#: what a fragment of YAML is put into
BASE: dict[str, Any] = {
    "name": "fragment",
    "cluster": {"gpu": "h100-sxm", "model": "llama-3.1-8b"},
    "workload": {"kind": "open-loop", "requests": 10, "arrivals": 1},
}


class Block(NamedTuple):
    """A fenced block: where it stands, the words behind its fence, what it holds."""

    place: str
    info: list[str]
    text: str


def fenced() -> Iterator[Block]:
    for name, text in TEXTS.items():
        for found in FENCE.finditer(text):
            line = text.count("\n", 0, found.start()) + 1
            yield Block(f"{name}:{line}", found[1].split(), found[2])


BLOCKS = list(fenced())
YAML = [block for block in BLOCKS if block.info[:1] == ["yaml"]]


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every ``infersim …`` that a document shows, in words, with its place."""
    for block in BLOCKS:
        if block.info[:1] in (["sh"], ["console"]):
            for line in block.text.replace("\\\n", " ").splitlines():
                yield from ((block.place, words) for words in of_line(line.removeprefix("$ ")))
    for name, text in TEXTS.items():
        for found in INLINE_COMMAND.finditer(FENCE.sub("", text)):
            yield from ((name, words) for words in of_line(found[1]))


def of_line(line: str) -> Iterator[list[str]]:
    """The commands of infersim in a line of a shell, without their redirections."""
    for part in re.split(r"&&|[|;]", line):
        words = shlex.split(part.partition(" > ")[0], comments=True)
        if words[:1] == ["infersim"]:
            yield words[1:]


def slugs(text: str) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_somewhere(name: str) -> None:
    for target in LINK.findall(FENCE.sub("", TEXTS[name])):
        if re.match(r"https?:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (ROOT / name).parent / file if file else ROOT / name
        assert path.exists(), f"{name}: {target}"
        if anchor:
            assert anchor in slugs(path.read_text("utf-8")), f"{name}: {target}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with every file that a document shows, and those that examples read."""
    for block in BLOCKS:
        if len(block.info) == 2 and "." in block.info[1]:
            (tmp_path / block.info[1]).write_text(block.text, "utf-8")
    row = {"timestamp": 0, "input_length": 700, "output_length": 20, "hash_ids": [0, 1]}
    (tmp_path / "trace.jsonl").write_text(json.dumps(row) + "\n", "utf-8")
    return tmp_path


def whole(data: dict[str, Any]) -> dict[str, Any]:
    """A scenario, where *data* is a part of one."""
    out = {**BASE, **data}
    for key, naming in (("cluster", ("gpu", "pools")), ("workload", ("kind",))):
        if key in data and not any(name in data[key] for name in naming):
            out[key] = {**BASE[key], **data[key]}
    return out


@pytest.mark.parametrize("block", YAML, ids=lambda block: block.place)
def test_yaml_is_valid(block: Block, folder: Path) -> None:
    kind = block.info[1] if len(block.info) == 2 else ""
    file = folder / "fragment.yaml"
    if kind in ("gpu", "model", "link"):
        file.write_text(block.text, "utf-8")
        assert getattr(catalog, kind)(str(file)).name
        return
    data = yaml.safe_load(block.text)
    complete = {"cluster", "workload", "name"} <= data.keys()
    assert complete or "." not in kind, "a scenario that is shown as a file is a whole one"
    file.write_text(block.text if complete else yaml.safe_dump(whole(data)), "utf-8")
    assert grid.cells(load.read(str(file)))[1]


def harmless(command: Any) -> Any:
    """*command* with every verb doing nothing."""
    for verb in getattr(command, "commands", {}).values():
        harmless(verb)
    command.callback = lambda **_: None
    return command


@pytest.mark.parametrize(("place", "words"), list(commands()), ids=str)
def test_commands_parse(place: str, words: list[str]) -> None:
    command = harmless(typer.main.get_command(app))
    verb, rest = command, list(words)
    while rest and rest[0] in getattr(verb, "commands", {}):
        verb = verb.commands[rest.pop(0)]
    assert verb is not command or rest in (["--help"], ["--version"]), f"{place}: no such verb"
    if not rest and verb is not command:
        return  # only its name
    try:
        command(words, prog_name="infersim", standalone_mode=False)
    except UsageError as error:
        pytest.fail(f"{place}: infersim {' '.join(words)}: {error}")


def kinds() -> set[str]:
    """Every value of ``kind:`` in a scenario."""
    parts = scenario_schema()["$defs"].values()
    return {part["properties"]["kind"]["const"] for part in parts if "kind" in part["properties"]}


def names() -> Iterator[tuple[str, str]]:
    """Everything that can be named in a scenario or on the command line, and what it is."""
    yield from ((name, f"{family} policy") for family in FAMILIES for name, _ in FAMILIES[family])
    yield from ((name, "preset") for name in PRESETS)
    yield from ((name, "kind") for name in kinds())
    yield from ((name, "trace format") for name in FORMATS)
    yield from ((name, "scenario") for name in load.shipped())
    columns = (*REQUEST_COLUMNS, *GRAMMAR_COLUMNS, *SERIES_COLUMNS)
    yield from ((name, "column") for name in columns)


@pytest.mark.parametrize(("name", "what"), sorted(set(names())))
def test_what_there_is_is_mentioned(name: str, what: str) -> None:
    assert f"`{name}`" in EVERYTHING, f"no document mentions the {what} {name}"


def test_verbs_are_mentioned() -> None:
    command: Any = typer.main.get_command(app)
    for name, verb in command.commands.items():
        for path in [f"{name} {sub}" for sub in getattr(verb, "commands", {})] or [name]:
            assert re.search(rf"infersim {path}\b", EVERYTHING), path


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_of_policies_are_mentioned(family: str) -> None:
    for name, policy in FAMILIES[family]:
        for parameter in defaults(policy):
            assert f"`{parameter}`" in EVERYTHING, f"{name}: {parameter}"


def shown(field: dict[str, Any], *, required: bool) -> str:
    """The default of a field of the schema, as the tables of keys write it."""
    if required:
        return "required"
    value = field["default"]
    if isinstance(value, dict) and value.get("kind") == "fixed":
        value = value["value"]
    if isinstance(value, dict) and "kind" in value:
        limits = {"min": 0.0, "max": 1e9}
        parts = [
            f"{key} {item:g}"
            for key, item in value.items()
            if key != "kind" and item is not None and limits.get(key) != item
        ]
        return f"{value['kind']}, {', '.join(parts)}"
    if value is None:
        return "–"
    if isinstance(value, bool | str):
        return json.dumps(value) if isinstance(value, bool) or not value else value
    if isinstance(value, int | float):
        return f"{value:g}" if isinstance(value, float) else str(value)
    return "see below"


def schema_of(name: str) -> dict[str, Any]:
    schema = scenario_schema()
    found: dict[str, Any] = schema if name == "Scenario" else schema["$defs"][name]
    return found


def rows_of(name: str) -> list[tuple[str, str]]:
    """(key, default) of one part of the schema; the tag ``kind`` is left to the text."""
    schema = schema_of(name)
    return [
        (f"`{key}`", shown(field, required=key in schema.get("required", ())))
        for key, field in schema["properties"].items()
        if key != "kind"
    ]


def documented() -> dict[str, list[tuple[str, str]]]:
    """The same as the documents say it, by part."""
    out = {}
    for name, table in KEY_TABLE.findall(EVERYTHING):
        rows = [
            tuple(cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:3])
            for line in table.splitlines()[2:]
        ]
        out[name] = [(row[0], row[1]) for row in rows]
    return out


def is_small(name: str) -> bool:
    """A distribution or an arrival process: a row of a table, not a table."""
    return "kind" in schema_of(name)["properties"] and not name.endswith("Spec")


PARTS = ["Scenario", *scenario_schema()["$defs"]]


def test_every_part_of_a_scenario_has_a_table_of_keys() -> None:
    # a state of a Markov-modulated process is described in that process's row
    assert documented().keys() == {part for part in PARTS if not is_small(part)} - {"State"}


@pytest.mark.parametrize("name", [part for part in PARTS if is_small(part)])
def test_small_parts_have_a_row(name: str) -> None:
    kind = schema_of(name)["properties"]["kind"]["const"]
    rows = re.findall(rf"^\| `{kind}` \|.*$", TEXTS["docs/workloads.md"], re.MULTILINE)
    wanted = [key for key, _ in rows_of(name)]
    assert any(all(key in row for key in wanted) for row in rows), (wanted, rows)


@pytest.mark.parametrize("name", documented())
def test_keys_and_defaults_are_those_of_the_schema(name: str) -> None:
    assert documented()[name] == rows_of(name)
