"""What every trace loader hands over: rows, sessions of rows, and the trace that holds them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

Run: TypeAlias = tuple[int, int]  #: (first block id, how many consecutive ids)


@dataclass(frozen=True, slots=True)
class Row:
    """One request of a trace.

    Attributes:
        number: its order in the file, from 0; unique in the trace.
        line: where it stands in the file, from 1.
        input_tokens: length of the prompt (at least 1), placeholders of images included.
        output_tokens: length of the answer (at least 1).
        at_s: when it was sent: since the trace's zero, or since its session began (`Session`);
            None where the format has no times.
        runs: the prompt as runs of block ids; empty where the format has none. They cover the
            prompt, or all of it but a last part shorter than a block.
        scope: block ids name equal text only within one scope ("" = the whole file).
        follows: the prompt is the session's last prompt and answer, then `fresh_tokens` of its own.
        fresh_tokens: tokens that are not the session's history (only where `follows`).
        head: labels of the first tokens, e.g. (("tools", 900), ("system", 200)).
        items: tokens of each image, clip or sound; they stand before the text.
        model: the name of the model in the trace, "" if it says none.
        kind: what made it ("agent", "subagent", "chat"), "" if the trace does not say.
        session: number of its session in the trace, -1 for none.
        turn: how many requests of the session came before it.
        think_s: pause between the session's last answer and this request; None when not known.
        gap_s: pause between the *sending* of the session's last request and of this one.
    """

    number: int
    line: int
    input_tokens: int
    output_tokens: int
    at_s: float | None = None
    runs: tuple[Run, ...] = ()
    scope: str = ""
    follows: bool = False
    fresh_tokens: int = 0
    head: tuple[tuple[str, int], ...] = ()
    items: tuple[int, ...] = ()
    model: str = ""
    kind: str = ""
    session: int = -1
    turn: int = 0
    think_s: float | None = None
    gap_s: float | None = None


@dataclass(frozen=True, slots=True)
class Branch:
    """A sub-agent: its rows (``at_s`` counts from its own start), and how long it waits first."""

    delay_s: float
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Fork:
    """Sub-agents that run side by side while their parent waits for the last of them."""

    branches: tuple[Branch, ...]


@dataclass(frozen=True, slots=True)
class Session:
    """A conversation or agent of a closed-loop trace; its start time is not in the trace."""

    number: int
    name: str
    steps: tuple[Row | Fork, ...]

    def rows(self) -> Iterator[Row]:
        """Every request, sub-agents' included, in file order."""
        for step in self.steps:
            if isinstance(step, Row):
                yield step
            else:
                for branch in step.branches:
                    yield from branch.rows


@dataclass(frozen=True, slots=True)
class Trace:
    """A whole trace.

    Attributes:
        file: the path as the user gave it.
        format: name of the format it was read as.
        block_size: tokens a block id stands for; 0 where there are no ids.
        rows: requests in order of time, for formats with arrival times or plain lengths.
        sessions: sessions in file order, for closed-loop formats; then `rows` is empty.
        timed: whether rows know when they arrive on the trace's own clock.
        notes: what the loader had to say, for the reader of the report.
    """

    file: str
    format: str
    block_size: int
    rows: tuple[Row, ...]
    sessions: tuple[Session, ...]
    timed: bool
    notes: tuple[str, ...]

    def requests(self) -> Iterator[Row]:
        """Every request in file order."""
        yield from self.rows
        for session in self.sessions:
            yield from session.rows()
