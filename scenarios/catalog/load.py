"""GPUs, models and links by name, or from a file of the user's."""

from __future__ import annotations

from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from ...policies.errors import InputError, UnknownNameError
from ...sim.cost.specs import GpuSpec, LinkSpec, ModelSpec
from .rows import Where, gpu_spec, link_spec, model_spec

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_FILES = {"gpu": "gpus.yaml", "model": "models.yaml", "link": "links.yaml"}


def gpu(name: str, base: Path | None = None) -> GpuSpec:
    """The GPU called *name*, e.g. "h100-sxm" or "h100", or the one in a file ``my-gpu.yaml``.

    Args:
        base: folder that a file is relative to; the current one if None.

    Raises:
        UnknownNameError: no GPU bears the name; says the nearest that one does.
        InputError: the file is missing or wrong, with its line and key.
    """
    return gpu_spec(*_row("gpu", name, base))


def model(name: str, base: Path | None = None) -> ModelSpec:
    """The model called *name*, e.g. "llama-3.1-8b" or "Qwen/Qwen3-8B", or a file; see `gpu`."""
    return model_spec(*_row("model", name, base))


def link(name: str, base: Path | None = None) -> LinkSpec:
    """The link called *name*, e.g. "nvlink4" or "infiniband-ndr-400g", or a file; see `gpu`."""
    return link_spec(*_row("link", name, base))


def names(kind: str) -> list[str]:
    """The names of a catalogue without their aliases, in order.

    Args:
        kind: "gpu", "model" or "link".

    Raises:
        UnknownNameError: another kind.
    """
    return sorted(_catalogue(kind))


def _row(kind: str, name: str, base: Path | None) -> tuple[str, dict[str, Any], Where]:
    if name.endswith((".yaml", ".yml")):
        return _user_row(kind, name, base or Path())
    rows = _catalogue(kind)
    # capitals and an organisation before a slash are how Hugging Face writes the same names
    wanted = name.lower().rpartition("/")[2]
    canonical = wanted if wanted in rows else _aliases(kind).get(wanted)
    if canonical is None:
        raise UnknownNameError(kind, name, [*rows, *_aliases(kind)])
    return canonical, rows[canonical], lambda key: f"{_FILES[kind]}  {canonical}.{key}"


@cache
def _catalogue(kind: str) -> dict[str, dict[str, Any]]:
    if kind not in _FILES:
        raise UnknownNameError("catalogue", kind, _FILES)
    text = resources.files(__package__).joinpath(_FILES[kind]).read_text(encoding="utf-8")
    rows: dict[str, dict[str, Any]] = yaml.load(text, _Loader)
    return rows


@cache
def _aliases(kind: str) -> dict[str, str]:
    rows = _catalogue(kind)
    return {alias: name for name in sorted(rows) for alias in rows[name].get("aliases", [])}


def _user_row(kind: str, name: str, base: Path) -> tuple[str, dict[str, Any], Where]:
    path = base / name
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {kind} file {name}: {error}", where=str(path)) from None
    try:
        row = yaml.load(text, _Loader)
        lines = _lines(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error)
        raise InputError(f"not YAML: {problem}", where=f"{path}{line}") from None
    if not isinstance(row, dict):
        raise InputError(f"a {kind} file is a mapping of keys to values", where=str(path))

    def where(key: str) -> str:
        return f"{path}:{lines.get(key, 1)}  {key}".rstrip()

    for key, number in lines.items():
        if number < 0:
            raise InputError(f"key {key} is given twice", where=f"{path}:{-number}")
    title = row.get("name", path.stem)
    if not isinstance(title, str) or not title:
        raise InputError(f"name must be text, found {title!r}", where=where("name"))
    return title, row, where


def _lines(text: str) -> dict[str, int]:
    """Dotted key -> line from 1; the line is negative where the key was there before."""
    found: dict[str, int] = {}

    def visit(node: yaml.Node | None, prefix: str) -> None:
        if not isinstance(node, yaml.MappingNode):
            return
        for key, value in node.value:
            name = f"{prefix}{key.value}"
            line = key.start_mark.line + 1
            found[name] = -line if name in found else line
            visit(value, f"{name}.")

    visit(yaml.compose(text, _Loader), "")
    return found
