"""Prefill here, decode there: the decode replica pulls the prompt's KV (vLLM's NIXL flow)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

from ...policies.disaggregation.base import Placement
from ...policies.types import Picoseconds, ReplicaId, Request
from .config import EngineLimits
from .connector import Remote
from .content import Chain
from .replica import Replica
from .sequence import Sequence
from .transfer import KVTransfer, Stage


class Pull(NamedTuple):
    """KV that a decode replica asks for.

    Attributes:
        source: its blocks are read, those of the last `tokens` prompt tokens.
        target: its blocks are written.
        prefill, decode: their replicas.
        tokens: of the prompt, from a block boundary to its end.
        size_bytes: in whole blocks.
    """

    source: Sequence
    target: Sequence
    prefill: ReplicaId
    decode: ReplicaId
    tokens: int
    size_bytes: int


class Tellable(Protocol):
    """A replica in its host."""

    replica: Replica

    def submit(self, seq: Sequence) -> None:
        """A request arrives."""

    def tell(self, message: Callable[[], None]) -> None:
        """Do *message* to the replica at the next decision, as workers report with a step."""


#: moves KV and calls back when it has arrived
Carry: TypeAlias = Callable[[Pull, Callable[[], None]], None]


@dataclass(slots=True)
class _Flow:
    """One split request between the end of its prefill and the arrival of its KV."""

    transfer: KVTransfer
    placement: Placement
    request: Request
    output_tokens: int
    chain: Chain
    max_model_len: int
    requested_ps: Picoseconds = 0


class Splitter:
    """Follows split requests from replica to replica.

    Args:
        server: a replica by its number.
        now: the host's time, for the record.
        carry: how the host moves KV.
    """

    def __init__(
        self,
        server: Callable[[ReplicaId], Tellable],
        now: Callable[[], Picoseconds],
        carry: Carry,
    ) -> None:
        self.source = _Source(self)
        self.flows: dict[int, _Flow] = {}
        self._server, self._now, self._carry = server, now, carry

    def split(
        self,
        request: Request,
        output_tokens: int,
        chain: Chain,
        placement: Placement,
        prefill: EngineLimits,
        decode: EngineLimits,
    ) -> Sequence:
        """The prefill half of a request: it answers one token, which nobody is shown."""
        half = request._replace(max_tokens=1)
        seq = Sequence(half, 1, chain, prefill.max_model_len)
        self.flows[request.id] = _Flow(
            KVTransfer(seq), placement, request, output_tokens, chain, decode.max_model_len
        )
        return seq

    def prefilled(self, seq: Sequence) -> bool:
        """Whether *seq*, just ended, was a prefill half; its decode half then sets out."""
        flow = self.flows.get(seq.id)
        if flow is None or flow.transfer.source is not seq:
            return False
        assert flow.placement.decode is not None
        half = Sequence(flow.request, flow.output_tokens, flow.chain, flow.max_model_len)
        half.record = seq.record
        flow.requested_ps = self._now()
        self._server(flow.placement.decode).submit(half)
        return True

    def pull(self, seq: Sequence, tokens: int, size_bytes: int) -> None:
        """The decode replica has blocks for *tokens* of the prompt: move them."""
        flow = self.flows[seq.id]
        flow.transfer.advance(Stage.MOVING)
        flow.transfer.tokens, flow.transfer.size_bytes = tokens, size_bytes
        prefill, decode = flow.placement
        assert decode is not None
        pull = Pull(flow.transfer.source, seq, prefill, decode, tokens, size_bytes)
        self._carry(pull, lambda: self._arrived(pull))

    def _arrived(self, pull: Pull) -> None:
        flow = self.flows.pop(pull.target.id)
        flow.transfer.advance(Stage.ARRIVED)
        record = pull.target.record
        record.transfer_bytes = pull.size_bytes
        record.transfer_ps = self._now() - flow.requested_ps
        destination, source = self._server(pull.decode), self._server(pull.prefill)
        destination.tell(lambda: _ignore(destination.replica.received(pull.target)))
        source.tell(lambda: source.replica.sent(pull.source))
        flow.transfer.advance(Stage.RELEASED)


def _ignore(failed: bool) -> None:
    assert not failed  # transfers do not fail here


class _Source:
    """Connector of a prefill replica: it fetches nothing and keeps blocks until they are read."""

    writes = False

    def __init__(self, splitter: Splitter) -> None:
        self._splitter = splitter

    def planning(self) -> None:
        """Nothing to do."""

    def matched(self, seq: Sequence, local_tokens: int) -> Remote:
        """Nothing is to be had elsewhere."""
        return Remote(0, False)

    def allocated(self, seq: Sequence, remote: Remote) -> None:
        """Nothing to fetch."""

    def finished(self, seq: Sequence) -> bool:
        """Its blocks are read by the decode replica."""
        return seq.id in self._splitter.flows


class PullConnector:
    """Connector of a decode replica: it asks for what of the prompt it does not hold itself.

    One transfer a request: after a preemption the prompt is computed here (vLLM 0.33).

    Args:
        bytes_per_token: of KV, all GPUs of the replica together.
    """

    writes = True

    def __init__(self, splitter: Splitter, block_size: int, bytes_per_token: int) -> None:
        self._splitter, self._block_size = splitter, block_size
        self._bytes_per_token = bytes_per_token

    def planning(self) -> None:
        """Nothing to do."""

    def matched(self, seq: Sequence, local_tokens: int) -> Remote:
        """The rest of the prompt, once."""
        tokens = seq.prompt_tokens - local_tokens
        if seq.id not in self._splitter.flows or tokens <= 0:
            return Remote(0, False)
        return Remote(tokens, True)

    def allocated(self, seq: Sequence, remote: Remote) -> None:
        """Pull whole blocks."""
        if remote.tokens:
            size = self._block_size
            blocks = -(-remote.tokens // size)  # local hits end on a block boundary
            self._splitter.pull(seq, remote.tokens, blocks * size * self._bytes_per_token)

    def finished(self, seq: Sequence) -> bool:
        """Nobody reads its blocks."""
        return False
