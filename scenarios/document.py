"""YAML with the place of every key and value kept, and nothing in it that could surprise.

YAML 1.2 scalars (``on``, ``no`` and ``10:30`` are text, ``1e4`` is a number), no duplicate keys,
no tags, no numbers that are not finite; the size, the depth and the expansion of aliases are
bounded, so that no file can hang the reader.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, TypeAlias

import yaml

from ..policies.errors import InputError

#: a place in a document: keys of mappings and indices of lists, from the root
KeyPath: TypeAlias = tuple[str | int, ...]

MAX_BYTES = 256 * 1024
MAX_DEPTH = 40
MAX_NODES = 50_000

_PLAIN = "!plain"
_CORE = "tag:yaml.org,2002:"
_NULL = re.compile(r"(~|null|Null|NULL)?\Z")
_BOOL = re.compile(r"(true|True|TRUE|false|False|FALSE)\Z")
_INT = re.compile(r"[-+]?(0x[0-9a-fA-F]+|0o[0-7]+|[0-9]+(_[0-9]+)*)\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(_[0-9]+)*(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_NOT_FINITE = re.compile(r"([-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))\Z")


@dataclass(slots=True)
class Document:
    """Plain data, and where each part of it stands.

    Attributes:
        data: mappings, lists, text, numbers, booleans and None.
        source: the file, as the user named it.
        keys: where the key (or list item) at a path stands, e.g. ``chat.yaml:12:3``.
        values: where the value at a path stands.
    """

    data: Any
    source: str
    keys: dict[KeyPath, str] = field(default_factory=dict)
    values: dict[KeyPath, str] = field(default_factory=dict)

    def where(self, path: KeyPath, *, value: bool = False) -> str:
        """The place of *path*, or of the nearest part of the document that holds it."""
        first, second = (self.values, self.keys) if value else (self.keys, self.values)
        for end in range(len(path), -1, -1):
            place = first.get(path[:end]) or second.get(path[:end])
            if place:
                return place
        return self.source


def dotted(path: KeyPath) -> str:
    """A path as the user types it, e.g. ``cluster.pools.0.gpu``."""
    return ".".join(map(str, path))


def parse(text: bytes | str, source: str) -> Document:
    """Read one YAML document.

    Raises:
        InputError: it is no YAML, or uses a part of YAML that scenarios do not have.
    """
    if len(text) > MAX_BYTES:
        raise InputError(
            f"{len(text):,} bytes are too long for a scenario; {MAX_BYTES:,} are allowed",
            where=source,
        )
    try:
        node = _Loader(_decode(text, source)).get_single_node()
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error, source) from None
    except yaml.reader.ReaderError as error:
        raise InputError(
            f"the character U+{error.character:04X} is not allowed in YAML", where=source
        ) from None
    document = Document(None, source)
    if node is not None:
        document.data = _Reader(document).read(node, ())
    return document


def _decode(text: bytes | str, source: str) -> str:
    if isinstance(text, str):
        return text
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = text[: error.start].count(b"\n") + 1
        raise InputError(
            f"byte 0x{text[error.start]:02x} is not UTF-8 text", where=f"{source}:{line}"
        ) from None


def _syntax_error(error: yaml.MarkedYAMLError, source: str) -> InputError:
    mark = error.problem_mark or error.context_mark
    where = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
    parts = [part for part in (error.context, error.problem) if part]
    return InputError(f"not valid YAML: {', '.join(parts)}", where=where)


class _Loader(yaml.SafeLoader):
    """PyYAML up to the node tree, with a bound on the depth and no meaning given to scalars."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012 (PyYAML's own protocol)
    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            problem = f"nested more than {MAX_DEPTH} levels deep"
            raise yaml.composer.ComposerError(None, None, problem, mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


_Loader.add_implicit_resolver(_PLAIN, re.compile(""), None)


class _Reader:
    """Turns nodes into data and notes where they stand."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._nodes = 0
        self._open: list[yaml.Node] = []

    def read(self, node: yaml.Node, path: KeyPath) -> Any:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise self._error(node, f"more than {MAX_NODES:,} values once aliases are expanded")
        if any(node is outer for outer in self._open):
            raise self._error(node, "an alias refers to the value that holds it")
        self._document.values[path] = self._place(node)
        self._open.append(node)
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            if isinstance(node, yaml.SequenceNode):
                return self._sequence(node, path)
            assert isinstance(node, yaml.ScalarNode)
            return self._scalar(node)
        finally:
            self._open.pop()

    def _place(self, node: yaml.Node) -> str:
        mark = node.start_mark
        return f"{self._document.source}:{mark.line + 1}:{mark.column + 1}"

    def _error(self, node: yaml.Node, message: str, help: str = "") -> InputError:
        return InputError(message, where=self._place(node), help=help)

    def _sequence(self, node: yaml.SequenceNode, path: KeyPath) -> list[Any]:
        self._expect_tag(node, "seq")
        return [self.read(item, (*path, i)) for i, item in enumerate(node.value)]

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        self._expect_tag(node, "map")
        out: dict[str, Any] = {}
        merged: list[yaml.Node] = []
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self._error(key_node, "a key must be text, not a list or a mapping")
            key = key_node.value
            if key == "<<" and key_node.tag == _PLAIN:
                merged.append(value_node)
                continue
            if key in out:
                first = self._document.keys[(*path, key)]
                raise self._error(key_node, f'the key "{key}" appears twice', f"first: {first}")
            self._document.keys[(*path, key)] = self._place(key_node)
            out[key] = self.read(value_node, (*path, key))
        for source in merged:
            self._merge(source, path, out)
        return out

    def _merge(self, node: yaml.Node, path: KeyPath, out: dict[str, Any]) -> None:
        """``<<: *base`` or ``<<: [*a, *b]``: the keys that *out* has stay as they are."""
        parts = node.value if isinstance(node, yaml.SequenceNode) else [node]
        for part in parts:
            if not isinstance(part, yaml.MappingNode):
                raise self._error(part, "<<: takes a mapping or a list of mappings")
            scratch = _Reader(Document(None, self._document.source))
            scratch._nodes, scratch._open = self._nodes, self._open
            base = scratch.read(part, path)
            self._nodes = scratch._nodes
            for key, value in base.items():
                if key in out:
                    continue
                out[key] = value
                for mine, theirs in (
                    (self._document.keys, scratch._document.keys),
                    (self._document.values, scratch._document.values),
                ):
                    head = (*path, key)
                    mine.update({p: w for p, w in theirs.items() if p[: len(head)] == head})

    def _expect_tag(self, node: yaml.Node, name: str) -> None:
        if node.tag != _CORE + name:
            raise self._error(node, f"the YAML tag {_shown_tag(node)} is not allowed")

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        text = node.value
        if node.tag == _CORE + "str":
            return text
        if node.tag != _PLAIN:
            raise self._error(node, f"the YAML tag {_shown_tag(node)} is not allowed")
        if _NULL.match(text):
            return None
        if _BOOL.match(text):
            return text[0] in "tT"
        if _NOT_FINITE.match(text):
            raise self._error(node, f"{text} is not a finite number")
        if _INT.match(text):
            return self._integer(node)
        if _FLOAT.match(text):
            return self._float(node)
        return text

    def _integer(self, node: yaml.ScalarNode) -> int:
        text = node.value
        base = {"0x": 16, "0o": 8}.get(text.lstrip("+-")[:2], 10)
        # bounded before int() sees it, which would take quadratic time over a long text
        value = int(text, base) if len(text) <= 64 else 1 << 64
        if not -(1 << 63) <= value < 1 << 63:
            raise self._error(node, f"{text[:24]} is too large a number")
        return value

    def _float(self, node: yaml.ScalarNode) -> float | int:
        value = float(node.value)
        if not isfinite(value):
            raise self._error(node, f"{node.value[:24]} is too large a number")
        # 1e4 is how people write ten thousand requests
        if "e" in node.value.lower() and value.is_integer() and abs(value) < 1 << 53:
            return int(value)
        return value


def _shown_tag(node: yaml.Node) -> str:
    return str(node.tag).replace(_CORE, "!!")
