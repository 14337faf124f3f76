"""What a row's prompt says, as segments: the one reading that statistics and simulation share."""

from __future__ import annotations

from collections.abc import Iterable

from ...policies.types import MultiModalItem, Segment
from ...sim.state.content import Contents
from .rows import Row


class Prompts:
    """Turns rows of one trace into segments.

    Equal block ids of one scope are equal text, and since ids are chained they stand at equal
    positions: id b is tokens b*block_size … of one endless text a scope. A part that no id
    covers, and every answer, is a text of its own.

    Args:
        contents: where texts are numbered.
        block_size: tokens a block id stands for.
    """

    def __init__(self, contents: Contents, block_size: int) -> None:
        self._contents, self._block_size = contents, block_size

    def answer(self, row: Row) -> int:
        """The content id of the row's answer."""
        return self._contents.id("trace answer", row.number)

    def prompt(self, row: Row, said: Iterable[Segment] = ()) -> tuple[Segment, ...]:
        """The prompt; *said* is the session's last prompt and answer, used where it follows."""
        if row.follows:
            return (*said, *self._own(row, row.fresh_tokens))
        items = [
            Segment(self._contents.id("trace item", row.number, i), 0, tokens, "media")
            for i, tokens in enumerate(row.items)
        ]
        return (*items, *_label(self._own(row, row.input_tokens - sum(row.items)), row.head))

    def items(self, row: Row) -> tuple[MultiModalItem, ...]:
        """Images, clips and sounds, one after the other at the beginning of the prompt."""
        found, offset = [], 0
        for i, tokens in enumerate(row.items):
            identifier = self._contents.id("trace item", row.number, i)
            found.append(MultiModalItem(identifier, offset, tokens))
            offset += tokens
        return tuple(found)

    def _own(self, row: Row, tokens: int) -> list[Segment]:
        label = "conversation" if row.session >= 0 else "prompt"
        segments = []
        if row.runs:
            scope, size = self._contents.id("trace", row.scope), self._block_size
            for first, blocks in row.runs:
                length = min(blocks * size, tokens)
                segments.append(Segment(scope, first * size, length, label))
                tokens -= length
        if tokens:
            tail = self._contents.id("trace text", row.number)
            segments.append(Segment(tail, 0, tokens, label))
        return segments


def _label(segments: list[Segment], head: tuple[tuple[str, int], ...]) -> list[Segment]:
    """Cut where the labels of *head* end; what lies behind keeps its own."""
    rest, out = list(reversed(segments)), []
    for label, wanted in head:
        while wanted and rest:
            content, offset, tokens, own = rest.pop()
            taken = min(tokens, wanted)
            out.append(Segment(content, offset, taken, label))
            wanted -= taken
            if taken < tokens:
                rest.append(Segment(content, offset + taken, tokens - taken, own))
    return out + rest[::-1]
