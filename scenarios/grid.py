"""``compare:`` → cells: every combination of the listed values, or named cells."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

from ..policies.errors import InputError
from . import load, overrides
from .document import Document, KeyPath, dotted
from .explain import MAX_SHOWN, ScenarioError

if TYPE_CHECKING:
    from .schema.scenario import Scenario

MAX_CELLS = 1000
_NAMING = ("name", "policy", "preset", "kind")


@dataclass(frozen=True, slots=True)
class Cell:
    """One cluster to simulate.

    Attributes:
        name: unique in the run, e.g. "eviction=lru routing=session-sticky".
        params: the compared keys with this cell's values; empty where nothing is compared.
        scenario: the scenario with those values in place.
        sample: 0; or the number of a run with perturbed step times, see `sampling`.
        whose: the cell's name in such a run.
    """

    name: str
    params: dict[str, Any]
    scenario: Scenario
    sample: int = 0
    whose: str = ""


class _Setting(NamedTuple):
    key: str
    value: Any
    where: str
    key_where: str


class _Value(NamedTuple):
    label: str
    settings: tuple[_Setting, ...]


def cells(source: load.Source) -> tuple[Scenario, list[Cell]]:
    """The scenario as it stands, and its cells in order; one cell without ``compare:``.

    Raises:
        ScenarioError: the scenario, or one of its cells, is wrong.
    """
    base = load.check(source.document, source.folders)
    if base.compare is None:
        return base, [Cell(base.name, {}, base)]
    axes = _axes(source.document, base.compare)
    count = prod(map(len, axes))
    if count > MAX_CELLS:
        raise _error(source.document, (), f"{count:,} cells; at most {MAX_CELLS:,} are allowed")
    errors: dict[str, InputError] = {}
    out = [cell for choice in product(*axes) if (cell := _cell(source, choice, errors))]
    if errors:
        found = list(errors.values())
        raise ScenarioError(found[:MAX_SHOWN], max(0, len(found) - MAX_SHOWN))
    for name, times in Counter(cell.name for cell in out).items():
        if times > 1:
            message = f'{times} cells are called "{name}"'
            raise _error(source.document, (), message, "list each value once")
    return base, out


def _cell(
    source: load.Source, choice: tuple[_Value, ...], errors: dict[str, InputError]
) -> Cell | None:
    settings = [setting for value in choice for setting in value.settings]
    try:
        document = _without_compare(source.document)
        taken: dict[KeyPath, str] = {}
        for key, value, where, key_where in settings:
            path = overrides.split_key(key)
            document = overrides.changed(document, path, value, where, key_where)
            _only_here(overrides.place(document.data, path), taken, key, key_where)
        scenario = load.check(document, source.folders)
    except ScenarioError as error:
        errors.update({str(one): one for one in error.errors})
        return None
    except InputError as error:
        errors[str(error)] = error
        return None
    params = {setting.key: setting.value for setting in settings}
    return Cell(" ".join(value.label for value in choice), params, scenario)


def _only_here(path: KeyPath, taken: dict[KeyPath, str], key: str, where: str) -> None:
    """Refuse a cell whose name would say a value that a later key of it replaces."""
    for before, other in taken.items():
        if before[: len(path)] == path:
            message = f"{key} and {other} set the same thing in one cell"
            raise InputError(message, where=where, help="compare one of them, or name the cells")
    taken[path] = key


def _without_compare(document: Document) -> Document:
    data = {key: value for key, value in document.data.items() if key != "compare"}
    return Document(data, document.source, document.keys, document.values)


def _axes(document: Document, compare: dict[str, Any]) -> list[list[_Value]]:
    if not compare:
        raise _error(document, (), "compare: has no keys", "e.g. policies.eviction: [lru, lfu]")
    last = Counter(_last(key) for key in compare)
    return [
        _named(document, value)
        if key == "cells"
        else _axis(document, key, _last(key) if last[_last(key)] == 1 else key, value)
        for key, value in compare.items()
    ]


def _axis(document: Document, key: str, short: str, values: Any) -> list[_Value]:
    _comparable(document, (key,), key)
    if not isinstance(values, list) or not values:
        message = f"{key} takes a list of the values to compare"
        raise _error(document, (key,), message, f"e.g. {key}: [1, 2]")
    labels = _labels(values)
    return [
        _Value(f"{short}={labels[i]}", (_setting(document, key, value, (key,), (key, i)),))
        for i, value in enumerate(values)
    ]


def _named(document: Document, named: Any) -> list[_Value]:
    if not isinstance(named, dict) or not named:
        message = "cells takes a mapping of names to settings"
        raise _error(document, ("cells",), message, "e.g. cells: {small: {cluster.replicas: 1}}")
    out = []
    for name, settings in named.items():
        if not isinstance(settings, dict):
            message = f"cell {name} takes a mapping of dotted keys to values"
            raise _error(document, ("cells", name), message, "{} for no change")
        for key in settings:
            _comparable(document, ("cells", name, key), key)
        rows = [
            _setting(document, key, value, ("cells", name, key), ("cells", name, key))
            for key, value in settings.items()
        ]
        out.append(_Value(name, tuple(rows)))
    return out


def _setting(
    document: Document, key: str, value: Any, key_path: KeyPath, value_path: KeyPath
) -> _Setting:
    where = document.where(("compare", *value_path), value=True)
    return _Setting(key, value, where, document.where(("compare", *key_path)))


def _comparable(document: Document, path: KeyPath, key: str) -> None:
    try:
        first = overrides.split_key(key)[0]
    except InputError as error:
        raise _error(document, path, error.message, error.help) from None
    if first in ("compare", "name", "description"):
        raise _error(document, path, f"{key} cannot be compared")


def _last(key: str) -> str:
    return key.rsplit(".", 1)[-1]


def _labels(values: list[Any]) -> list[str]:
    """Each value in a word: a mapping by its name, with its other keys where names repeat."""
    names = [_name(value) for value in values]
    seen = Counter(names)
    return [
        f"{name}({rest})" if seen[name] > 1 and (rest := _rest(value)) else name
        for name, value in zip(names, values, strict=True)
    ]


def _name(value: Any) -> str:
    if isinstance(value, dict):
        for key in _NAMING:
            if key in value:
                return str(value[key])
    return value if isinstance(value, str) else json.dumps(value)


def _rest(value: Any) -> str:
    if not isinstance(value, dict):
        return ""
    return ",".join(f"{key}={_name(value[key])}" for key in value if key not in _NAMING)


def _error(document: Document, path: KeyPath, message: str, help: str = "") -> InputError:
    full = ("compare", *path)
    return InputError(message, where=f"{document.where(full)}  {dotted(full)}", help=help)
