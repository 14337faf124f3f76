"""Changes to a scenario by dotted key: ``--set key=value``, and the cells of ``compare:``."""

from __future__ import annotations

import re
from copy import deepcopy
from typing import Any

from ..policies.errors import InputError, UnknownNameError
from .document import Document, KeyPath, dotted, parse
from .schema import outline

_INDEX = re.compile(r"\[(\d+)\]")


def split_key(text: str) -> KeyPath:
    """``cluster.pools[1].gpu`` or ``cluster.pools.1.gpu`` as a path.

    Raises:
        InputError: a part is empty.
    """
    parts = _INDEX.sub(r".\1", text).split(".")
    if not all(parts):
        raise InputError(f'"{text}" is not a key', help="keys look like cluster.pools.0.replicas")
    if parts[0] == "compare" and len(parts) > 2 and parts[1] != "cells":
        return ("compare", ".".join(parts[1:]))  # the keys of compare: are dotted keys themselves
    return tuple(int(part) if part.isdigit() else part for part in parts)


def parse_setting(setting: str) -> tuple[KeyPath, Any]:
    """``key=value`` of the command line; the value is YAML.

    Raises:
        InputError: no ``=``, no key, or a value that is not YAML.
    """
    key, equals, text = setting.partition("=")
    where = f"--set {setting}"
    if not equals:
        raise InputError("--set takes key=value", where=where, help="e.g. --set cluster.replicas=8")
    try:
        return split_key(key.strip()), parse(text, where).data
    except InputError as error:
        error.where = where
        raise


def changed(
    document: Document, path: KeyPath, value: Any, where: str, key_where: str = ""
) -> Document:
    """A copy of *document* with *value* at *path*; it stands at *where*, its key at *key_where*.

    Short forms grow as needed (``eviction: lru`` becomes a mapping when a parameter is set), an
    element of a list may be named by its ``name``, and ``cluster.x`` and ``cluster.pools.0.x``
    are the same where there is one pool.

    Raises:
        InputError: the path leads through something that holds no keys.
    """
    data = deepcopy(document.data)
    try:
        path = _assign(data, canonical(data, path), value)
    except InputError as error:
        error.where = key_where or where
        raise
    keys, values = (
        {p: w for p, w in places.items() if p[: len(path)] != path}
        for places in (document.keys, document.values)
    )
    for end in range(1, len(path)):  # what had to be made on the way stands there too
        values.setdefault(path[:end], where)
    keys[path], values[path] = key_where or where, where
    return Document(data, document.source, keys, values)


def canonical(data: dict[str, Any], path: KeyPath) -> KeyPath:
    """*path* as *data* has it: a bridge between a flat ``cluster:`` and one with ``pools:``.

    Raises:
        InputError: it means one pool, and there are several.
    """
    cluster = data.get("cluster")
    if len(path) < 2 or path[0] != "cluster" or not isinstance(cluster, dict):
        return path
    pools = cluster.get("pools")
    if path[1] == "pools" and pools is None and cluster and len(path) > 3:
        name = cluster.get("name", "serve")
        if path[2] not in (0, name):
            raise UnknownNameError("pool", path[2], [str(name)])
        return ("cluster", *path[3:])
    if path[1] != "pools" and isinstance(pools, list):
        if len(pools) != 1:
            names = [p.get("name", i) if isinstance(p, dict) else i for i, p in enumerate(pools)]
            example = f"cluster.pools.{names[0] if names else 0}.{dotted(path[1:])}"
            raise InputError(
                f"the cluster has {len(pools)} pools", help=f"name one, e.g. {example}"
            )
        return ("cluster", "pools", 0, *path[1:])
    return path


def place(data: dict[str, Any], path: KeyPath) -> KeyPath:
    """*path* as `changed` would take it in *data*: one way to say it, elements by their number.

    Raises:
        InputError: it leads nowhere.
    """
    node: Any = data
    done: list[str | int] = []
    for key in canonical(data, path):
        step = _element(node, key, tuple(done)) if isinstance(node, dict | list) else key
        done.append(step)
        node = node.get(step) if isinstance(node, dict) else _item(node, step)
    return tuple(done)


def _item(node: Any, step: str | int) -> Any:
    return node[step] if isinstance(node, list) and isinstance(step, int) else None


def _assign(data: dict[str, Any], path: KeyPath, value: Any) -> KeyPath:
    """Set the value and return the path with names of list elements as indices."""
    node: Any = data
    done: list[str | int] = []
    for i, key in enumerate(path):
        step = _element(node, key, tuple(done))
        done.append(step)
        if i == len(path) - 1:
            node[step] = value
            break
        below = node.get(step) if isinstance(node, dict) else node[step]
        if below is None:
            below = {}
        elif not isinstance(below, dict | list):
            short = outline.short_key(tuple(done))
            if short is None or not isinstance(below, str):
                message = f'{dotted(tuple(done))} is {below!r}, which has no key "{path[i + 1]}"'
                raise InputError(message)
            below = {short: below}
        node[step] = below
        node = below
    return tuple(done)


def _element(node: Any, key: str | int, path: KeyPath) -> str | int:
    """The key or index under which *node* keeps what *key* names."""
    if isinstance(node, dict):
        return str(key)
    if isinstance(key, int):
        if key >= len(node):
            raise InputError(f"{dotted(path)} has {len(node)} elements and no number {key}")
        return key
    names = [item.get("name") if isinstance(item, dict) else None for item in node]
    if key in names:
        return names.index(key)
    raise UnknownNameError(f"element of {dotted(path)}", key, [n for n in names if n])


def apply_setting(document: Document, setting: str) -> Document:
    """*document* with ``key=value`` of the command line in place.

    A key that ``compare:`` varies is fixed: its axis goes.

    Raises:
        InputError: the key leads nowhere, or into something that ``compare:`` replaces.
    """
    path, value = parse_setting(setting)
    return fixed(document, path, value, f"--set {setting}")


def fixed(document: Document, path: KeyPath, value: Any, where: str) -> Document:
    """*document* with *value* at *path* in every cell.

    Raises:
        InputError: the path leads nowhere, or into something that ``compare:`` replaces.
    """
    document = changed(document, path, value, where)
    compare = document.data.get("compare")
    if path[0] == "compare" or not isinstance(compare, dict):
        return document
    for axis in [key for key in compare if key != "cells"]:
        varied = _varied(document, axis)
        if varied == canonical(document.data, path):
            compare = {key: values for key, values in compare.items() if key != axis}
            document = changed(document, ("compare",), compare or None, where)
        elif varied == path[: len(varied)]:
            _refuse(axis, where)
    cells = compare.get("cells")
    for settings in cells.values() if isinstance(cells, dict) else ():
        for key in settings if isinstance(settings, dict) else ():
            varied = _varied(document, key)
            if varied == path[: len(varied)]:
                _refuse(key, where)
    return document


def _varied(document: Document, key: str) -> KeyPath:
    return canonical(document.data, split_key(key))


def _refuse(key: str, where: str) -> None:
    raise InputError(
        f"{key} is varied by compare:, which would undo this",
        where=where,
        help="add --set compare=null before it to run one cell",
    )
