"""ServeGen: requests drawn from real client distributions, text or multimodal.

Images, sounds and clips stand before the text, as chat templates place them; each is new, since
the trace does not say which are equal. Source: alibaba/ServeGen.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ....policies.errors import InputError
from ..rows import Row, Trace
from ..source import Source
from ..values import InOrder, answer, seconds, tokens
from .base import Format, open_trace

_ITEMS = ("image_tokens", "audio_tokens", "video_tokens")


def read_text(source: Source) -> Trace:
    """Read a trace of text requests."""
    return open_trace(source, TEXT.name, _rows(source, TEXT))


def read_multimodal(source: Source) -> Trace:
    """Read a trace whose rows list the tokens of each image, sound and clip."""
    return open_trace(source, MULTIMODAL.name, _rows(source, MULTIMODAL))


def _rows(source: Source, what: Format) -> Iterator[Row]:
    in_order = InOrder(source)
    number = 0
    for line, row in source.json_rows(what.required, what.optional):
        where = source.where(line)
        at_s = in_order.check(seconds(row["timestamp"], "timestamp", where), line)
        items: tuple[int, ...] = ()
        if what is TEXT:
            prompt = tokens(row["input_tokens"], "input_tokens", where, least=1)
        else:
            items = tuple(n for key in _ITEMS for n in _items(row.get(key, []), key, where))
            prompt = tokens(row["text_tokens"], "text_tokens", where) + sum(items)
            if prompt == 0:
                raise InputError("a prompt without any token", where=where)
        out = answer(source, row["output_tokens"], "output_tokens", line)
        if out is not None:
            yield Row(number, line, prompt, out, at_s, items=items)
            number += 1


def _items(value: Any, key: str, where: str) -> list[int]:
    if not isinstance(value, list):
        raise InputError(f"{key} must be a list of token counts", where=where)
    return [tokens(one, key, where, least=1) for one in value]


TEXT = Format(
    "servegen",
    "timestamp (s), input_tokens, output_tokens",
    frozenset({"timestamp", "input_tokens", "output_tokens"}),
    frozenset(),
    read_text,
)
MULTIMODAL = Format(
    "servegen-multimodal",
    "timestamp (s), text_tokens, image_tokens: […], audio_tokens, video_tokens, output_tokens",
    frozenset({"timestamp", "text_tokens", "image_tokens", "output_tokens"}),
    frozenset({"audio_tokens", "video_tokens"}),
    read_multimodal,
)
