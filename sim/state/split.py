"""Prefill here, decode there: a request's halves and the way of its KV between them.

Pull (vLLM's NIXL flow): the prefill half runs, then the decode half arrives at its replica, takes
blocks and asks for the KV. Push (SGLang's): the decode half takes blocks first, then the prefill
half runs and sends, at its end or while it runs (`policies.disaggregation.base.Travel`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeAlias

from ...policies.disaggregation.base import Placement
from ...policies.errors import InputError
from ...policies.types import Picoseconds, ReplicaId, Request
from .config import LinkConfig, PoolConfig
from .content import Chain
from .plan import StepPlan
from .replica import Replica
from .sequence import Sequence
from .transfer import KVTransfer, Stage


class Pull(NamedTuple):
    """KV that is to be moved: all that a decode replica lacks of a prompt, or a part of that.

    Attributes:
        source: its blocks are read, those of the last `tokens` prompt tokens.
        target: its blocks are written.
        prefill, decode: their replicas.
        tokens: of the prompt, from a block boundary to its end.
        size_bytes: of the part.
        before_bytes: of the parts that were sent before.
    """

    source: Sequence
    target: Sequence
    prefill: ReplicaId
    decode: ReplicaId
    tokens: int
    size_bytes: int
    before_bytes: int = 0


class Tellable(Protocol):
    """A replica in its host."""

    replica: Replica

    def submit(self, seq: Sequence) -> None:
        """A request arrives."""

    def tell(self, message: Callable[[], None]) -> None:
        """Do *message* to the replica at the next decision, as workers report with a step."""


#: moves KV and calls back when it has arrived
Carry: TypeAlias = Callable[[Pull, Callable[[], None]], None]
#: calls back at an absolute time, before the step boundaries of that instant
Later: TypeAlias = Callable[[Picoseconds, Callable[[], None]], None]


class _Flow:
    """One split request until its KV has arrived.

    Attributes:
        target: the half that answers.
        block_bytes: KV of a block, all GPUs of a replica together.
        layers: of the model, for transfers layer by layer.
        first: block of the prompt with which the transfer begins; -1: the target has none yet.
        sent: the block up to which it is under way.
        moving: parts under way, or about to be.
        failing: attempts that are going to fail.
        retries: attempts that are left after one that fails.
    """

    first = sent = -1
    moving = sent_bytes = 0
    prefilled = False
    requested_ps: Picoseconds = 0

    def __init__(
        self, source: Sequence, target: Sequence, placement: Placement, pool: PoolConfig
    ) -> None:
        assert placement.decode is not None
        self.transfer, self.target = KVTransfer(source), target
        self.prefill, self.decode, self.travel = placement.prefill, placement.decode, placement[2]
        self.block_size, self.layers = pool.limits.block_size, pool.layers
        self.block_bytes = pool.block_bytes
        self.blocks = -(-target.prompt_tokens // self.block_size)
        self.failing = self.retries = 0


class Splitter:
    """Follows split requests from replica to replica.

    Args:
        server: a replica by its number.
        now: the host's time, for the record.
        carry: how the host moves KV.
        link: what of it fails, and how often it is tried again.
        rng: decides which transfers fail; needed where some do.
        later: how the host calls back during a step; None: it cannot, and nothing overlaps.
    """

    def __init__(
        self,
        server: Callable[[ReplicaId], Tellable],
        now: Callable[[], Picoseconds],
        carry: Carry,
        link: LinkConfig | None = None,
        rng: Any = None,
        later: Later | None = None,
    ) -> None:
        self.flows: dict[int, _Flow] = {}
        #: told of each replica whose half of a split request, the prefill, needs it no more
        self.released: Callable[[ReplicaId], None] = lambda replica: None
        #: how a half reaches its replica
        self.serve: Callable[[ReplicaId, Sequence], None] = lambda i, seq: server(i).submit(seq)
        self.failed_transfers = 0
        self._server, self._now, self._carry, self._later = server, now, carry, later
        self._link, self._rng = link, rng
        self._taken: Counter[ReplicaId] = Counter()  # transfers that hold blocks, by decode replica
        self._overlapping = 0

    def split(
        self,
        request: Request,
        output_tokens: int,
        chain: Chain,
        placement: Placement,
        prefill: PoolConfig,
        decode: PoolConfig,
        record: Any,
    ) -> None:
        """Send a request's first half on its way; the prefill half's token is shown to nobody."""
        half = request._replace(max_tokens=1)
        source = Sequence(half, 1, chain, prefill.limits.max_model_len)
        target = Sequence(request, output_tokens, chain, decode.limits.max_model_len)
        source.record = target.record = record
        flow = _Flow(source, target, placement, decode)
        if placement.travel.overlap != "none":
            if self._later is None:
                raise InputError(
                    "this host moves KV when the prefill is done, not during it",
                    where="policies.disaggregation.overlap",
                )
            self._overlapping += 1
        if self._link is not None and self._link.failure:
            flow.failing = failing(self._link, self._rng.random())
            flow.retries = self._link.retries
        self.flows[request.id] = flow
        if placement.travel.push:
            self.serve(flow.decode, target)
        else:
            self.serve(flow.prefill, source)

    # ---- what the replicas' connectors ask and say ----------------------------------------------

    def reads(self, seq: Sequence) -> bool:
        """Whether *seq*'s blocks are still to be read by the replica that decodes."""
        flow = self.flows.get(seq.id)
        return flow is not None and flow.transfer.source is seq

    def awaits(self, seq: Sequence) -> bool:
        """Whether *seq* is a decode half that no blocks were taken for yet."""
        flow = self.flows.get(seq.id)
        return flow is not None and flow.target is seq and flow.first < 0

    def full(self, seq: Sequence) -> bool:
        """Whether the decode half *seq* must wait, since its replica has transfers enough."""
        flow = self.flows[seq.id]
        return 0 < flow.travel.most <= self._taken[flow.decode]

    def taken(self, seq: Sequence, tokens: int) -> None:
        """The decode half *seq* has blocks for the last *tokens* of its prompt."""
        flow = self.flows[seq.id]
        flow.transfer.tokens = tokens
        flow.first = flow.sent = flow.blocks - -(-tokens // flow.block_size)
        flow.transfer.size_bytes = (flow.blocks - flow.first) * flow.block_bytes
        self._taken[flow.decode] += 1
        if flow.travel.push:
            self.serve(flow.prefill, flow.transfer.source)
        else:
            self._send_rest(flow)

    # ---- what the host says ---------------------------------------------------------------------

    def prefilled(self, seq: Sequence) -> bool:
        """Whether *seq*, just ended, was a prefill half; its KV then sets out, or is asked for."""
        flow = self.flows.get(seq.id)
        if flow is None or flow.transfer.source is not seq:
            return False
        flow.requested_ps, flow.prefilled = self._now(), True
        if not flow.travel.push:
            self.serve(flow.decode, flow.target)
        elif flow.sent < flow.blocks:
            self._send_rest(flow)
        elif not flow.moving:
            self._arrived(flow)
        return True

    def begun(self, plan: StepPlan, start_ps: Picoseconds, end_ps: Picoseconds) -> None:
        """A step has begun, and computes until *end_ps*: what of it travels meanwhile?"""
        if not self._overlapping:
            return
        for chunk in plan.chunks:
            flow = self.flows.get(chunk.seq.id)
            if flow is None or flow.transfer.source is not chunk.seq:
                continue
            if flow.travel.overlap != "none":
                done, prompt = chunk.start + chunk.tokens, chunk.seq.prompt_tokens
                end = flow.blocks if done >= prompt else done // flow.block_size
                if end > flow.sent:
                    self._stream(flow, end, start_ps, end_ps)

    # ---- on the link ----------------------------------------------------------------------------

    def _stream(self, flow: _Flow, end: int, start_ps: Picoseconds, end_ps: Picoseconds) -> None:
        """Send the blocks before *end*, which a step fills, as their layers are done.

        All layers of a step take the same time. Blocks go as a whole when they go with the step's
        end.
        """
        later, source = self._later, flow.transfer.source
        assert later is not None
        parts = flow.layers if flow.travel.overlap == "layers" else 1
        preemptions, size = source.preemptions, 0

        def done(part: int) -> None:
            nonlocal size
            if part == 0:
                if source.preemptions != preemptions:
                    return  # its blocks are gone; the prompt is computed anew
                size = (end - flow.sent) * flow.block_bytes
                flow.sent = end
                flow.moving += parts
            if part + 1 < parts:
                at = start_ps + (end_ps - start_ps) * (part + 2) // parts
                later(at, lambda: done(part + 1))
            self._send(flow, size * (part + 1) // parts - size * part // parts)

        later(start_ps + (end_ps - start_ps) // parts, lambda: done(0))

    def _send_rest(self, flow: _Flow) -> None:
        size = (flow.blocks - flow.sent) * flow.block_bytes
        flow.sent = flow.blocks
        flow.moving += 1
        self._send(flow, size)

    def _send(self, flow: _Flow, size_bytes: int) -> None:
        """One of the parts counted in `moving` goes."""
        transfer = flow.transfer
        if transfer.stage is not Stage.MOVING:
            transfer.advance(Stage.MOVING)
        part = Pull(
            transfer.source,
            flow.target,
            flow.prefill,
            flow.decode,
            transfer.tokens,
            size_bytes,
            flow.sent_bytes,
        )
        flow.sent_bytes += size_bytes
        self._carry(part, lambda: self._landed(flow))

    def _landed(self, flow: _Flow) -> None:
        flow.moving -= 1
        if flow.prefilled and not flow.moving and flow.sent == flow.blocks:
            self._arrived(flow)

    def _arrived(self, flow: _Flow) -> None:
        """All parts are there."""
        transfer, target, record = flow.transfer, flow.target, flow.target.record
        record.transfer_bytes += transfer.size_bytes
        bad_block: int | None = None
        if flow.failing:
            self.failed_transfers += 1
            transfer.advance(Stage.FAILED)
            if flow.retries:
                flow.failing, flow.retries = flow.failing - 1, flow.retries - 1
                flow.sent, flow.sent_bytes = flow.first, 0
                self._send_rest(flow)
                return
            bad_block = flow.first
            record.remote_tokens = 0
            record.recomputed += transfer.tokens
        else:
            transfer.advance(Stage.ARRIVED)
        del self.flows[target.id]
        self._overlapping -= flow.travel.overlap != "none"
        record.transfer_ps = self._now() - flow.requested_ps
        transfer.advance(Stage.RELEASED)
        self._server(flow.decode).tell(lambda: self._received(flow, bad_block))
        self._server(flow.prefill).tell(lambda: self._sent(flow))

    def _received(self, flow: _Flow, bad_block: int | None) -> None:
        self._taken[flow.decode] -= 1
        ends = flow.target.replica.received(flow.target, bad_block)
        assert not ends  # what fails to come is computed

    def _sent(self, flow: _Flow) -> None:
        self._server(flow.prefill).replica.sent(flow.transfer.source)
        self.released(flow.prefill)


def failing(link: LinkConfig, draw: float) -> int:
    """How many attempts fail in a row; *draw* is one number from 0 to 1 for all of them."""
    attempts, chance = 0, link.failure
    while draw < chance and attempts <= link.retries:
        attempts, chance = attempts + 1, chance * link.failure
    return attempts
