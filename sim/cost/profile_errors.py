"""What is wrong with a profile, in words: the first thing, with its key."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from ...policies.errors import InputError

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError
    from pydantic_core import ErrorDetails


def explained(error: ValidationError, model: type[BaseModel], where: str) -> InputError:
    """The first of *error*'s problems; *model* is what was read, *where* its file."""
    detail = error.errors(include_url=False)[0]
    place = f"{where}  {_dotted(detail['loc'])}".rstrip()
    cause = detail.get("ctx", {}).get("error")
    if isinstance(cause, InputError):
        return InputError(cause.message, where=place, help=cause.help)
    if detail["type"] == "extra_forbidden":
        return _unknown_key(detail, model, place)
    if detail["type"] == "missing":
        return InputError(f'the key "{detail["loc"][-1]}" is missing', where=place)
    message = detail["msg"].removeprefix("Input ").replace("should", "must", 1)
    return InputError(f"found {str(detail['input'])[:60]}: {message}", where=place)


def _unknown_key(detail: ErrorDetails, model: type[BaseModel], place: str) -> InputError:
    key = str(detail["loc"][-1])
    names = sorted(_fields(model, detail["loc"][:-1]))
    near = get_close_matches(key, names, 1, 0.6)
    hint = f'did you mean "{near[0]}"? ' if near else ""
    return InputError(
        f'unknown key "{key}"', where=place, help=f"{hint}allowed here: {', '.join(names)}"
    )


def _fields(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Keys of the part of *model* at *loc*."""
    part: Any = model
    for element in loc:
        if isinstance(element, str):
            part = _inner(part.model_fields[element].annotation)
    return list(part.model_fields)


def _inner(annotation: Any) -> Any:
    """The model inside ``tuple[M, ...]`` or ``M | None``."""
    if hasattr(annotation, "model_fields"):
        return annotation
    inside = (_inner(a) for a in getattr(annotation, "__args__", ()))
    return next((found for found in inside if found is not None), None)


def _dotted(loc: tuple[int | str, ...]) -> str:
    text = ""
    for element in loc:
        text += f"[{element}]" if isinstance(element, int) else f".{element}"
    return text.removeprefix(".")
