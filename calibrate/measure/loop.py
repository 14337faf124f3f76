"""Whole steps in the executor's own step loop: planned, prepared, computed and accounted for.

A step of a wanted shape is brought about, not staged. Requests of those lengths are submitted to a
replica of the executor; the steps that put their KV in place are planned and accounted for, but not
computed. What is timed is what a run's log says of a step: from the end of the one before it to its
own end, on a synchronous engine.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import torch

from ...policies.eviction.lru import Lru
from ...policies.scheduling.vllm_v1 import VllmV1
from ...policies.types import Picoseconds, Request, Segment
from ...sim.cost.base import StepCost
from ...sim.state.config import EngineLimits
from ...sim.state.content import Chains, Contents
from ...sim.state.kv.build import make_pool
from ...sim.state.queue import FifoQueue
from ...sim.state.replica import Replica
from ...sim.state.sequence import Sequence
from ...sim.state.steps import StepLog
from ..executor.batch import Batch
from ..executor.clock import Call, Stepping, WallClock
from ..executor.kv import KVCache
from ..executor.model import Model
from ..executor.pace import Paced, pace_between, pace_ps
from ..executor.runner import Done, Runner, Ticket
from ..executor.server import Server
from ..executor.texts import Texts
from .ops.lengths import Mix

_UNLIMITED = 1 << 40
_HOLD_CYCLES = 2_000_000  # a millisecond: launching a graph of hundreds of kernels takes less


class Timed(NamedTuple):
    """Of one step.

    Attributes:
        wall_s: on the host's clock, its share of the host's work included; `Paced` on a CPU.
        device_s: on the device's.
    """

    wall_s: float
    device_s: float


class Loop:
    """One replica over a device.

    Args:
        cost: what the steps are thought to take; it decides nothing.
        graphs: CUDA graphs of decode steps up to this many sequences; 0: none.
    """

    def __init__(
        self, model: Model, kv: KVCache, device: torch.device, cost: StepCost, *, graphs: int
    ) -> None:
        self._runner = _Switched(model, kv, device, graphs=graphs)
        self._vocab, self._positions = model.spec.vocab, len(model.cos_sin)
        self._block_size, self._blocks = kv.block_size, len(kv.keys[0]) - 1
        self._cost = cost
        self._pace_ps = pace_ps if device.type == "cpu" else None

    def steps(
        self, decodes: int, context: int, mix: Mix, samples: int, *, held: bool = False
    ) -> list[Timed]:
        """Time *samples* steps of one shape, after one that is not timed.

        Args:
            decodes: sequences that compute one token.
            context: KV tokens of each of them, in the middle one of the timed steps.
            mix: chunks, each the end of its prompt; what is before it is whole blocks.
            held: the device waits until a graph has been launched: its time is then the device's
                alone, and the host's is wrong.

        Raises:
            RuntimeError: the KV does not hold that step.
        """
        runner = self._runner
        runner.computes = False
        runner.hold(_HOLD_CYCLES if held else 0)
        played = _Played(self._replica(), runner, self._cost, self._vocab, self._pace_ps)
        for i, (_, before) in enumerate(mix):
            if before:
                played.submit([(f"before {i}", before)], 1)
        played.drain()
        prompt = min(context - (samples + 1) // 2, self._positions - samples) - 1
        for i in range(decodes):
            played.submit([(f"decode {i}", max(1, prompt))], samples + 3)
        if decodes:
            played.go_on()
        runner.computes = True
        for turn in range(samples + 1):
            played.wait()
            for i, (new, before) in enumerate(mix):
                shared = [(f"before {i}", before)] if before else []
                played.submit([*shared, (f"chunk {i} of turn {turn}", new)], 1)
            played.go_on()
        played.wait()
        runner.computes = False
        played.go_on()
        return played.timed(decodes, mix, samples)

    def _replica(self) -> Replica:
        limits = EngineLimits(
            kv_blocks=self._blocks,
            block_size=self._block_size,
            max_model_len=_UNLIMITED,
            max_num_batched_tokens=_UNLIMITED,
            max_num_seqs=_UNLIMITED,
            async_scheduling=False,
        )
        return Replica(limits, make_pool(limits, Lru(), runs=False), VllmV1(), FifoQueue)


class _Switched(Runner):
    """A runner that computes a step, or says that it had.

    Attributes:
        computes: the former.
    """

    computes = False

    def launch(self, batch: Batch) -> Ticket:
        """Have a step computed, or not."""
        return super().launch(batch) if self.computes else _Skipped(len(batch.rows))


class _Skipped(NamedTuple):
    """A step that nobody computes."""

    samples: int

    def wait(self) -> Done:
        """Tokens of nothing."""
        return Done([0] * self.samples, "eager", 0, 0, 0, 0, 0)


class _Stepwise(WallClock):
    """Real time; what is to happen next is called by hand.

    Attributes:
        token: of the last callback asked for.
    """

    token: object = None

    def at(self, time_ps: Picoseconds, priority: int, call: Call) -> object:
        """Nothing is waited for."""
        self.token = object()
        return self.token

    def end_of(self, server: Stepping, planned_ps: Picoseconds) -> object:
        """The step ends when `Server.wait` returns."""
        self.token = object()
        return self.token


class _Played:
    """A replica whose steps are taken one by one."""

    def __init__(
        self,
        replica: Replica,
        runner: Runner,
        cost: StepCost,
        vocab: int,
        pace_ps: Callable[[], int] | None,
    ) -> None:
        self._replica, self._clock = replica, _Stepwise()
        self._log = StepLog(measured=True, pace_ps=pace_ps)
        replica.trace(self._log.replica(0))
        self._contents, self._chains, self._ids = Contents(), Chains(), count()
        self._server = Server(
            self._clock,
            0,
            replica,
            cost,
            runner,
            Texts(vocab, self._contents),
            on_end=lambda seq: None,
            on_admit=lambda plan: None,
        )
        self._clock.begin()

    def submit(self, texts: Seq[tuple[str, int]], answer: int) -> None:
        """A request whose prompt is these texts, each with its tokens."""
        prompt = tuple(Segment(self._contents.id(name), 0, n) for name, n in texts)
        number, tokens = next(self._ids), sum(n for _, n in texts)
        own = self._contents.id("answer", number)
        request = Request(number, self._clock.now_ps, prompt, tokens, _UNLIMITED, own)
        chain = self._chains.chain(prompt)
        chain.append(own, 0, 0)
        self._server.submit(Sequence(request, answer, chain, _UNLIMITED))

    def wait(self) -> None:
        """The step under way ends, if there is one."""
        if self._replica.in_flight:
            self._server.wait()

    def go_on(self) -> None:
        """Account for the step that has ended and plan the next."""
        self._server.boundary(self._clock.token)

    def drain(self) -> None:
        """Until every request is answered."""
        while self._replica.waiting_count or self._replica.running:
            self.wait()
            self.go_on()

    def timed(self, decodes: int, mix: Mix, samples: int) -> list[Timed]:
        """The last *samples* steps.

        Raises:
            RuntimeError: they are not what was wanted.
        """
        rows = {name: column[-samples:].tolist() for name, column in self._log.arrays().items()}
        wanted = (decodes, len(mix), sum(new for new, _ in mix), sum(before for _, before in mix))
        shape = ("decodes", "prefill_chunks", "prefill_tokens", "prefill_context_tokens")
        for found in zip(*(rows[name] for name in shape), strict=True):
            if found != wanted:
                raise RuntimeError(f"the cache is too small: a step is {found} instead of {wanted}")
        return _timed(self._log.arrays(), samples)


def _timed(log: dict[str, np.ndarray[Any, Any]], samples: int) -> list[Timed]:
    """The last *samples* rows of *log*, the one before them being their predecessor."""
    names = ("start_ps", "end_ps", "device_ps", "pace_ps")
    start, end, device, pace = (log[name][-samples:].tolist() for name in names)
    before = log["pace_ps"][-samples - 1 : -1].tolist()
    walls: list[float] = [(b - a) / 1e12 for a, b in zip(start, end, strict=True)]
    if pace[-1] > 0:
        between = [pace_between(a / 1e12, b / 1e12) for a, b in zip(before, pace, strict=True)]
        walls = [Paced.of(*one) for one in zip(walls, between, strict=True)]
    return [Timed(wall, one / 1e12) for wall, one in zip(walls, device, strict=True)]
