"""What may stand where in a scenario: questions to its JSON Schema.

Used for the nearest valid key, the description of a key in an error, and ``--set``. Works on the
schema rather than on the models, so parts of the scenario may be declared anywhere.
"""

from __future__ import annotations

from functools import cache
from typing import Any, TypeAlias

from ..document import KeyPath

Schema: TypeAlias = dict[str, Any]


@cache
def scenario_schema() -> Schema:
    """The JSON Schema of a scenario file."""
    from .scenario import Scenario

    return Scenario.model_json_schema(by_alias=True)


def described(path: KeyPath) -> list[Schema]:
    """Every schema that the value at *path* may follow; empty where the path is not known.

    Elements of *path* may be tags of a union (as in pydantic's locations) beside keys.
    """
    nodes = _alternatives(scenario_schema())
    for element in path:
        nodes = [part for node in nodes for part in _step(node, element)]
    return nodes


def known_keys(path: KeyPath) -> list[str]:
    """The keys that a mapping at *path* may have, sorted."""
    return sorted({key for node in described(path) for key in node.get("properties", {})})


def description(path: KeyPath) -> str:
    """What the value at *path* is for, in the words of its field; "" where nothing says it."""
    if not path:
        return ""
    for node in described(path[:-1]):
        found = node.get("properties", {}).get(path[-1])
        if found and "description" in found:
            return str(found["description"])
    return ""


def short_key(path: KeyPath) -> str | None:
    """The key that plain text at *path* stands for, e.g. "name" for ``eviction: lru``."""
    for node in described(path):
        if "x-short" in node:
            return str(node["x-short"])
    return None


def _alternatives(node: Schema) -> list[Schema]:
    """*node* without references and unions."""
    if "$ref" in node:
        target = scenario_schema()["$defs"][node["$ref"].rsplit("/", 1)[-1]]
        return _alternatives(target)
    for union in ("anyOf", "oneOf", "allOf"):
        if union in node:
            return [part for choice in node[union] for part in _alternatives(choice)]
    return [node]


def _step(node: Schema, element: str | int) -> list[Schema]:
    if isinstance(element, int):
        return _alternatives(node["items"]) if "items" in node else []
    if element.startswith("<"):
        return [node]  # the tag of a union that has no key for it
    properties = node.get("properties", {})
    if element in properties:
        return _alternatives(properties[element])
    if any(element in (p.get("const"), *p.get("enum", ())) for p in properties.values()):
        return [node]  # the tag of a union
    extra = node.get("additionalProperties")
    return _alternatives(extra) if isinstance(extra, dict) else []
