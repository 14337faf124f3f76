"""A replica's device in a process of its own; its KV lies in memory that the host shares."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch
import torch.multiprocessing as processes

from ...policies.errors import InfersimError
from .batch import Batch
from .kv import KVCache
from .model import Model
from .runner import Done, Runner
from .tower import Tower

STOP_S = 5.0


class WorkerRunner:
    """Steps of one replica, computed by another process; the host goes on meanwhile.

    The host reads KV itself: no step in flight writes the blocks that move. The process writes it,
    since a step in flight may still read what was in its blocks. What an encoder computed comes
    back with its step.

    Args:
        warm_up: tokens of the longest chunk before the first step.
        tower: for images; None: they are an error.
    """

    def __init__(
        self,
        model: Model,
        kv: KVCache,
        device: torch.device,
        *,
        warm_up: int,
        tower: Tower | None = None,
    ) -> None:
        self._kv = kv
        self._outputs: dict[int, torch.Tensor] = {}
        context = processes.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(
            target=_work, args=(other, model, kv, device, warm_up, tower), daemon=True
        )
        self._process.start()
        other.close()
        self._awaited: deque[_Awaited] = deque()

    @property
    def waitable(self) -> Connection | None:
        """Readable when the oldest step is done."""
        found: Connection = self._connection
        return found

    def ready(self) -> None:
        """Block until the process has warmed up.

        Raises:
            InfersimError: it died.
        """
        self._receive()

    def launch(self, batch: Batch) -> _Awaited:
        """Send a step; it is computed after all that were sent before."""
        for identifier in batch.pictures.drop:
            self._outputs.pop(identifier, None)
        self._connection.send(batch)
        ticket = _Awaited(self)
        self._awaited.append(ticket)
        return ticket

    def take(self, ticket: _Awaited) -> Done:
        """The outcome of *ticket*, which must be the oldest."""
        assert self._awaited.popleft() is ticket
        done, outputs = self._receive()
        assert isinstance(done, Done)
        self._outputs.update(outputs)
        return done

    def read_blocks(self, blocks: list[int]) -> torch.Tensor:
        """The KV of these blocks; see `KVCache.read`."""
        return self._kv.read(torch.tensor(blocks))

    def write_blocks(self, blocks: list[int], content: torch.Tensor) -> None:
        """Put KV into these blocks."""
        self._connection.send(_Moved(torch.tensor(blocks), content))

    def keep_blocks(self, moves: list[tuple[int, int]]) -> None:
        """A tier needs its device in the host's own process."""
        raise InfersimError("replicas in processes of their own keep no KV in host memory")

    def fetch_blocks(self, moves: list[tuple[int, int]]) -> Callable[[], bool]:
        """A tier needs its device in the host's own process."""
        raise InfersimError("replicas in processes of their own keep no KV in host memory")

    def swap_blocks(self, *, out: bool, moves: list[tuple[int, int]]) -> None:
        """Processes of their own run on a real clock, and swapping on a virtual one."""
        raise InfersimError("replicas in processes of their own swap nothing to host memory")

    def read_embedding(self, identifier: int) -> torch.Tensor:
        """What a finished step of an encoder computed."""
        return self._outputs[identifier]

    def write_embedding(self, identifier: int, content: torch.Tensor) -> None:
        """Send an embedding."""
        self._connection.send(_Came(identifier, content))

    def close(self) -> None:
        """End the process."""
        if self._process.is_alive():
            with suppress(OSError):  # it is ending by itself
                self._connection.send(None)
            self._process.join(STOP_S)
            if self._process.is_alive():
                self._process.terminate()
                self._process.join()
        self._connection.close()

    def _receive(self) -> Any:
        try:
            return self._connection.recv()
        except EOFError:
            raise InfersimError("the process of a replica's device died") from None


class _Moved(NamedTuple):
    """KV from elsewhere for these blocks."""

    blocks: torch.Tensor
    content: torch.Tensor


class _Came(NamedTuple):
    """An embedding from an encoder."""

    identifier: int
    content: torch.Tensor


class _Awaited:
    """A step that was sent."""

    def __init__(self, runner: WorkerRunner) -> None:
        self._runner = runner

    def wait(self) -> Done:
        """Block until the process has computed it."""
        return self._runner.take(self)


def _work(
    connection: Connection,
    model: Model,
    kv: KVCache,
    device: torch.device,
    warm_up: int,
    tower: Tower | None,
) -> None:
    """In the process: compute steps in order, until told to end."""
    runner = Runner(model, kv, device, graphs=0, tower=tower)
    runner.warm_up(warm_up)
    connection.send("ready")
    while (work := connection.recv()) is not None:
        if isinstance(work, _Moved):
            kv.write(*work)
        elif isinstance(work, _Came):
            runner.write_embedding(*work)
        else:
            done = runner.launch(work).wait()
            encoded = () if len(work.tokens) else work.pictures.encode
            outputs = {one.identifier: runner.read_embedding(one.identifier) for one in encoded}
            connection.send((done, outputs))
