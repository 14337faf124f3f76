"""Short jobs first, by a prediction of the answer's length."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import exp
from statistics import NormalDist
from typing import ClassVar, TypeAlias

from ...registry import order
from ...types import Picoseconds, Promise, SequenceView
from .check import at_least
from .feedback import answered

#: the length of the answer to come, which only the host knows
Lengths: TypeAlias = Callable[[SequenceView], int]

NORMAL = NormalDist()


def noise(seed: int, request: int) -> float:
    """A standard normal number that belongs to a request: splitmix64, then the quantile."""
    mask = (1 << 64) - 1
    x = (request * 0x9E3779B97F4A7C15 + seed * 0xD1B54A32D192ED03 + 0x632BE59BD9B4E019) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return NORMAL.inv_cdf(((x ^ (x >> 31)) + 0.5) / (mask + 1))


@dataclass(slots=True)
class _ByLength:
    """What the orders here share: a predictor that is right up to a lognormal factor.

    The prediction is the true length times exp(error × a normal number of the request's own), at
    most `max_tokens`. Learned predictors: Qiu et al., arXiv:2404.08509; that only their ranking
    matters: Fu et al., arXiv:2408.15792. The default error is assumed, not measured.
    """

    error: float = 0.5
    seed: int = 0
    prefill_tokens_per_step: int = 256

    _lengths: Lengths = field(default=lambda seq: seq.request.max_tokens, init=False, repr=False)

    def __post_init__(self) -> None:
        at_least(0, self, "error")
        at_least(1, self, "prefill_tokens_per_step")

    def attach(self, lengths: Lengths) -> None:
        """Let the predictor know the truth that it is to miss; the host calls this."""
        self._lengths = lengths

    def predicted(self, seq: SequenceView) -> float:
        """Predicted tokens of the whole answer."""
        tokens: float = self._lengths(seq)
        if self.error:
            tokens *= exp(self.error * noise(self.seed, seq.request.id))
        return min(max(tokens, 1.0), seq.request.max_tokens)


@order("shortest-job-first")
@dataclass(slots=True)
class ShortestJobFirst(_ByLength):
    """The shortest request first, prompt and predicted answer together, in decode steps.

    Attributes:
        error: of the predicted length of the answer: sigma of its logarithm.
        seed: of the errors.
        prefill_tokens_per_step: prompt tokens that take as long as a decode step.
    """

    promise: ClassVar[Promise] = Promise(
        repeats=True, notes="a modelled predictor: the true length times an error"
    )

    def key(self, seq: SequenceView, now: Picoseconds) -> tuple[float, int]:
        """Predicted size, then arrival."""
        size = seq.request.prompt_tokens / self.prefill_tokens_per_step + self.predicted(seq)
        return (size, seq.request.arrival_ps)


@order("srpt")
@dataclass(slots=True)
class ShortestRemaining(_ByLength):
    """Whoever has least left to do, by the prediction: for the scheduler `preemptive`.

    What is left is what is not computed of the known tokens and what is predicted to follow.
    Method: Schrage 1968; for LLMs Shahout et al., TRAIL, arXiv:2410.01035.

    Attributes:
        error, seed, prefill_tokens_per_step: as of `shortest-job-first`.
    """

    promise: ClassVar[Promise] = Promise(
        repeats=True, notes="a modelled predictor: the true length times an error"
    )

    def key(self, seq: SequenceView, now: Picoseconds) -> tuple[float, int]:
        """Predicted steps that are left, then arrival."""
        behind = max(seq.known_tokens - seq.computed_tokens, 0) / self.prefill_tokens_per_step
        left = max(self.predicted(seq) - answered(seq), 1.0)
        return (behind + left, seq.request.arrival_ps)


@order("oracle-shortest-job-first")
@dataclass(slots=True)
class OracleShortestJobFirst(ShortestJobFirst):
    """`shortest-job-first` that knows the length of the answer: a bound."""

    promise: ClassVar[Promise] = Promise(repeats=True, oracle=True)

    error: float = field(default=0.0, init=False)


@order("oracle-srpt")
@dataclass(slots=True)
class OracleShortestRemaining(ShortestRemaining):
    """`srpt` that knows the length of the answer: a bound."""

    promise: ClassVar[Promise] = Promise(repeats=True, oracle=True)

    error: float = field(default=0.0, init=False)
