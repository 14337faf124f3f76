"""Prefill here, decode there: the decode replica pulls the prompt's KV (vLLM's NIXL flow)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ...policies.disaggregation.base import Placement
from ...policies.errors import InputError
from ...policies.types import Picoseconds, Request
from ..net.link import FifoLink
from ..state.connector import Remote
from ..state.content import Chain
from ..state.sequence import Sequence
from ..state.transfer import KVTransfer, Stage
from .clock import ARRIVAL, Clock
from .config import LinkConfig, PoolConfig
from .server import Server


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
        link: between the pools; None where no placement splits.
        submit: hands the decode half to a replica, by number.
    """

    def __init__(
        self,
        link: LinkConfig | None,
        clock: Clock,
        servers: list[Server],
        submit: Callable[[Sequence, int], None],
    ) -> None:
        self.link = FifoLink(link.latency_ps, link.bytes_per_s) if link is not None else None
        self.source = _Source(self)
        self.flows: dict[int, _Flow] = {}
        self._clock, self._servers, self._submit = clock, servers, submit

    def split(
        self,
        request: Request,
        output_tokens: int,
        chain: Chain,
        placement: Placement,
        prefill: PoolConfig,
        decode: PoolConfig,
    ) -> Sequence:
        """The prefill half of a request: it answers one token, which nobody is shown."""
        if self.link is None:
            raise InputError("a split request needs a link for its KV", where="links.kv")
        half = request._replace(max_tokens=1)
        seq = Sequence(half, 1, chain, prefill.limits.max_model_len)
        self.flows[request.id] = _Flow(
            KVTransfer(seq), placement, request, output_tokens, chain, decode.limits.max_model_len
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
        flow.requested_ps = self._clock.now_ps
        self._submit(half, flow.placement.decode)
        return True

    def pull(self, seq: Sequence, tokens: int, size_bytes: int) -> None:
        """The decode replica has blocks for *tokens* of the prompt: move them."""
        assert self.link is not None
        flow = self.flows[seq.id]
        flow.transfer.advance(Stage.MOVING)
        flow.transfer.tokens, flow.transfer.size_bytes = tokens, size_bytes
        arrival = self.link.send(self._clock.now_ps, size_bytes)
        self._clock.at(arrival, ARRIVAL, lambda _: self._arrived(seq))

    def _arrived(self, seq: Sequence) -> None:
        flow = self.flows.pop(seq.id)
        flow.transfer.advance(Stage.ARRIVED)
        record = seq.record
        record.transfer_bytes = flow.transfer.size_bytes
        record.transfer_ps = self._clock.now_ps - flow.requested_ps
        prefill, decode = flow.placement
        assert decode is not None
        destination, source = self._servers[decode].replica, self._servers[prefill].replica
        self._servers[decode].tell(lambda: _ignore(destination.received(seq)))
        self._servers[prefill].tell(lambda: source.sent(flow.transfer.source))
        flow.transfer.advance(Stage.RELEASED)


def _ignore(failed: bool) -> None:
    assert not failed  # transfers do not fail here


class _Source:
    """Connector of a prefill replica: it fetches nothing and keeps blocks until they are read."""

    writes = False

    def __init__(self, splitter: Splitter) -> None:
        self._splitter = splitter

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
    """

    writes = True

    def __init__(self, splitter: Splitter, number: int, pool: PoolConfig) -> None:
        self._splitter, self._number = splitter, number
        self._block_size = pool.limits.block_size
        self._bytes_per_token = pool.kv_bytes_per_token

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
