"""What is wrong with a scenario, in words: file, line, key, what was found, what is allowed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from itertools import groupby
from typing import TYPE_CHECKING, Any

from ..policies.errors import InputError
from .document import Document, KeyPath, dotted
from .schema import outline

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

MAX_SHOWN = 10
_NEAR = 0.6
_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")

#: pydantic's words for what YAML calls otherwise
_WORDS = (
    ("a valid ", "a "),
    ("a integer", "an integer"),
    ("an object", "a mapping"),
    ("a dictionary", "a mapping"),
    ("an array", "a list"),
    ("a array", "a list"),
    ("a object", "a mapping"),
    ("a tuple", "a list"),
    ("a string", "text"),
    (" after validation", ""),
)


class ScenarioError(InputError):
    """Everything that is wrong with one file, at most `MAX_SHOWN` entries of it.

    Attributes:
        errors: one entry each.
        left_out: how many more there are.
    """

    def __init__(self, errors: Sequence[InputError], left_out: int = 0) -> None:
        first = errors[0]
        super().__init__(first.message, where=first.where, help=first.help)
        self.errors, self.left_out = tuple(errors), left_out

    def __str__(self) -> str:
        more = [f"and {self.left_out} more"] if self.left_out else []
        return "\n".join([*map(str, self.errors), *more])


class PartError(ValueError):
    """Raised by a validator about a part of the value that it was given.

    Args:
        error: what is wrong.
        path: where, relative to the value.
        on_key: the key is wrong rather than its value.
    """

    def __init__(self, error: InputError, *path: str | int, on_key: bool = False) -> None:
        super().__init__(error.message)
        self.error, self.path, self.on_key = error, path, on_key


def explained(error: ValidationError, document: Document) -> ScenarioError:
    """*error*, said with the places of *document*."""
    found = error.errors(include_url=False)
    details = [detail for detail in found if not _consequence(detail, found)]
    placed = [(_in_document(detail, document.data), detail) for detail in details]
    placed.sort(key=lambda pair: _order(document, pair[0]))
    out: list[InputError] = []
    for path, group in groupby(placed, key=lambda pair: pair[0]):
        out.extend(_merged(path, [detail for _, detail in group], document))
    return ScenarioError(out[:MAX_SHOWN], max(0, len(out) - MAX_SHOWN))


def placed(error: PartError, document: Document) -> InputError:
    """What *error* says, with the place that its path has in *document*."""
    where = f"{document.where(error.path, value=True)}  {dotted(error.path)}".rstrip()
    return InputError(error.error.message, where=where, help=error.error.help)


def unknown_key(key: str, known: Iterable[str], where: str) -> InputError:
    """Nothing bears the key; the help names the nearest that something does."""
    names = sorted(known)
    near = get_close_matches(key, names, 1, _NEAR)
    hint = f'did you mean "{near[0]}"? ' if near else ""
    return InputError(
        f'unknown key "{key}"', where=where, help=f"{hint}allowed here: {', '.join(names)}"
    )


def _consequence(detail: ErrorDetails, found: Sequence[ErrorDetails]) -> bool:
    """Whether another error explains this one.

    A list is too short when its wrong elements do not count, and a key is missing when it is
    misspelt.
    """
    if detail["type"] == "too_short":
        return len(detail["input"]) >= int(detail["ctx"]["min_length"])
    if detail["type"] != "missing":
        return False
    *owner, key = detail["loc"]
    beside = [e["loc"][-1] for e in found if e["type"] in _UNKNOWN and [*e["loc"][:-1]] == owner]
    return bool(get_close_matches(str(key), map(str, beside), 1, _NEAR))


def _in_document(detail: ErrorDetails, data: Any) -> KeyPath:
    """pydantic's location without the parts that name alternatives of a union."""
    path: list[str | int] = []
    loc = detail["loc"]
    for i, element in enumerate(loc):
        if _holds(data, element):
            data = data[element]
        elif not (i == len(loc) - 1 and detail["type"] == "missing"):
            continue
        path.append(element)
    cause = _cause(detail)
    return (*path, *cause.path) if isinstance(cause, PartError) else tuple(path)


def _holds(data: Any, element: str | int) -> bool:
    if isinstance(data, list):
        return isinstance(element, int) and element < len(data)
    return isinstance(data, dict) and element in data


def _order(document: Document, path: KeyPath) -> tuple[list[int], str]:
    place = document.where(path).rsplit(":", 2)[1:]
    return [int(part) for part in place if part.isdigit()], dotted(path)


def _cause(detail: ErrorDetails) -> BaseException | None:
    cause = detail.get("ctx", {}).get("error")
    return cause if isinstance(cause, BaseException) else None


def _merged(path: KeyPath, details: list[ErrorDetails], document: Document) -> list[InputError]:
    """One error a place; alternatives of a union are joined with "or"."""
    if len({detail["loc"][:-1] for detail in details}) == 1 == len(details):
        return [_explain(path, details[0], document)]
    wanted = list(dict.fromkeys(_wanted(detail) for detail in details))
    if len(wanted) == 1:
        return [_explain(path, details[0], document)]
    where = f"{document.where(path, value=True)}  {dotted(path)}"
    found = _shown(details[0]["input"])
    either = " or ".join([wanted[0], *(text.removeprefix("must be ") for text in wanted[1:])])
    return [InputError(f"found {found}, {either}", where=where, help=_purpose(path))]


def _explain(path: KeyPath, detail: ErrorDetails, document: Document) -> InputError:
    kind, cause = detail["type"], _cause(detail)
    key = str(path[-1]) if path else ""
    where = f"{document.where(path)}  {dotted(path)}".rstrip()
    at_value = f"{document.where(path, value=True)}  {dotted(path)}".rstrip()
    if kind in _UNKNOWN:
        return unknown_key(key, outline.known_keys(detail["loc"][:-1]), where)
    if kind in ("missing", "union_tag_not_found"):
        name = key if kind == "missing" else str(detail["ctx"]["discriminator"]).strip("'")
        owner = path[:-1] if kind == "missing" else path
        place = f"{document.where(owner)}  {dotted(owner)}".rstrip()
        return InputError(
            f'the key "{name}" is missing', where=place, help=_purpose((*owner, name))
        )
    if isinstance(cause, PartError):
        place = where if cause.on_key else at_value
        return InputError(cause.error.message, where=place, help=cause.error.help)
    if isinstance(cause, InputError):
        return InputError(cause.message, where=at_value, help=cause.help)
    if isinstance(cause, ValueError):
        return InputError(str(cause), where=at_value, help=_purpose(path))
    return _wrong_value(path, detail, document)


def _wrong_value(path: KeyPath, detail: ErrorDetails, document: Document) -> InputError:
    if detail["type"] == "union_tag_invalid":
        key = str(detail["ctx"]["discriminator"]).strip("'").removesuffix("()").lstrip("_")
        path = (*path, key)
    where = f"{document.where(path, value=True)}  {dotted(path)}"
    return wrong_value(detail, where=where, help=_purpose(path))


def wrong_value(detail: ErrorDetails, *, where: str = "", help: str = "") -> InputError:
    """What was found and what is allowed; *help* where no list of names says it better."""
    found, ctx = detail["input"], detail.get("ctx", {})
    if detail["type"] == "union_tag_invalid":
        found, allowed = ctx["tag"], ctx["expected_tags"]
    elif detail["type"] == "literal_error":
        allowed = ctx["expected"]
    else:
        return InputError(f"found {_shown(found)}, {_wanted(detail)}", where=where, help=help)
    names = str(allowed).replace(" or ", ", ").replace("'", "").split(", ")
    near = get_close_matches(str(found), names, 1, 0.5)
    hint = f'did you mean "{near[0]}"? ' if near else ""
    message = f"found {_shown(found)}, which is not allowed here"
    return InputError(message, where=where, help=f"{hint}allowed: {', '.join(names)}")


def _wanted(detail: ErrorDetails) -> str:
    message = detail["msg"].removeprefix("Input ").replace("should", "must", 1)
    for said, meant in _WORDS:
        message = message.replace(said, meant)
    return message[:1].lower() + message[1:]


def _purpose(path: KeyPath) -> str:
    text = outline.description(path)
    return f"{path[-1]}: {text}" if text else ""


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return f'"{value[:60]}{"…" if len(value) > 60 else ""}"'
    return str(value).lower() if isinstance(value, bool) else str(value)
