"""Encode there, prefill here: images on replicas of their own, and the way of their embeddings.

The encoders are asked first. An embedding sets out when it is computed and the replica that
computes the prompt has room for all that its request still lacks; the prompt joins the line there
when every one has come (`policies.disaggregation.base.Placement.encode`).
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias

from ...policies.disaggregation.base import Placement
from ...policies.types import Picoseconds, ReplicaId, Request
from ..cost.grades import Ledger
from .config import LinkConfig
from .encoder import EncoderCache
from .split import Tellable, failing


class Image(NamedTuple):
    """An image of a request that goes to an encoder.

    Attributes:
        flow: its request's images.
        which: of its items it is.
    """

    flow: _Flow
    which: int

    @property
    def identifier(self) -> int:
        """Equal for equal content."""
        return self.flow.request.items[self.which].identifier

    @property
    def tokens(self) -> int:
        """Of the encoder's output."""
        return self.flow.request.items[self.which].tokens


class EncoderReplica:
    """One encoder between its steps; the host brings the clock.

    First come, first served: a step takes images from the front of the line while their tokens fit
    in the budget, one in any case. What the cache holds, or an equal image in the same step, is not
    computed again. Outputs stay until they were sent, then until their room is needed; while there
    is none for the first in line, nothing is taken.

    Args:
        budget_tokens: of a step.
        cache_tokens: of outputs that are kept.

    Attributes:
        computing: images of the step under way.
        fresh: those of them that are computed, each content once.
        encoded_tokens, hit_tokens: of images that were computed, and that were not, so far.
    """

    def __init__(self, budget_tokens: int, cache_tokens: int) -> None:
        self.budget_tokens, self.cache = budget_tokens, EncoderCache(cache_tokens)
        self.line: deque[Image] = deque()
        self.computing: list[Image] = []
        self.fresh: list[Image] = []
        self.encoded_tokens = self.hit_tokens = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Tokens of the images that the step under way computes."""
        return tuple([image.tokens for image in self.fresh])

    def submit(self, image: Image) -> None:
        """An image arrives."""
        self.line.append(image)

    def schedule(self) -> list[Image]:
        """Begin a step: `computing` and `fresh`; the images that the cache holds already."""
        found, budget, fresh = [], self.budget_tokens, dict[int, Image]()
        while self.line:
            image = self.line[0]
            if image.identifier in fresh:
                self.cache.use(image.flow, image.which)
                self.computing.append(image)
                self.hit_tokens += image.tokens
            elif self.cache.use(image.flow, image.which):
                found.append(image)
                self.hit_tokens += image.tokens
            else:
                item = image.flow.request.items[image.which]
                allowed = max(budget, item.tokens) if not fresh else budget
                if not self.cache.make_room(item, allowed, 0):
                    break
                self.cache.store(image.flow, image.which)
                self.computing.append(image)
                fresh[image.identifier] = image
                budget -= item.tokens
            self.line.popleft()
        self.fresh = list(fresh.values())
        self.encoded_tokens += sum(self.shape)
        return found

    def finish(self) -> list[Image]:
        """The step under way is computed: its images."""
        done, self.computing, self.fresh = self.computing, [], []
        return done


class Embeddings(NamedTuple):
    """The output for an image that is to be moved from an encoder to the prompt's replica."""

    image: Image
    encoder: ReplicaId
    size_bytes: int


class Encoder(Protocol):
    """An encoder in its host, and what it counts."""

    number: ReplicaId
    replica: EncoderReplica
    last_end: Picoseconds
    busy_ps: Picoseconds
    ledger: Ledger

    def submit(self, image: Image) -> None:
        """An image arrives."""

    def sent(self, image: Image) -> None:
        """Its output is needed here no more."""


#: moves embeddings and calls back when they have arrived; the answer says whether they are kept:
#: an attempt may have failed, or equal ones came first
CarryEmbeddings: TypeAlias = Callable[[Embeddings, Callable[[], bool]], None]


class _Flow:
    """The images of one request that go to encoders, until its prompt may be computed.

    Attributes:
        prefill: the replica that computes the prompt, with its cache.
        encoders: index of an item -> who encodes it.
        coming: items whose embeddings are to be sent, once there is room for them; None: there is
            none yet.
        ready: items that are encoded.
        failing: item -> attempts to send it that are going to fail.
        retries: item -> attempts that are left after one that fails.
    """

    coming: set[int] | None = None

    def __init__(
        self,
        request: Request,
        prefill: ReplicaId,
        encoders: dict[int, ReplicaId],
        cache: EncoderCache,
        token_bytes: int,
        record: Any,
        then: Callable[[], None],
    ) -> None:
        self.id, self.request, self.prefill = request.id, request, prefill
        self.encoders, self.cache = encoders, cache
        self.token_bytes, self.record, self.then = token_bytes, record, then
        self.ready: set[int] = set()
        self.failing, self.retries = dict.fromkeys(encoders, 0), dict.fromkeys(encoders, 0)


class Encodings:
    """Follows images from encoder to prompt.

    Args:
        encoders: by their number.
        server: a replica that computes prompts, by its number.
        now: the host's time, for the record.
        carry: how the host moves embeddings.
        soon: how it calls back at this instant, when what happens now is over.
        link: what of it fails, and how often it is tried again.
        rng: decides which transfers fail; needed where some do.

    Attributes:
        open: requests whose prompt waits for embeddings.
        failed_transfers: attempts, so far.
    """

    def __init__(
        self,
        encoders: Mapping[ReplicaId, Encoder],
        server: Callable[[ReplicaId], Tellable],
        now: Callable[[], Picoseconds],
        carry: CarryEmbeddings,
        soon: Callable[[Callable[[], None]], None],
        link: LinkConfig | None,
        rng: Any,
    ) -> None:
        self._encoders, self._server = encoders, server
        self._now, self._carry, self._soon = now, carry, soon
        self._link, self._rng = link, rng
        #: for room, by the replica that computes their prompts
        self._waiting: dict[ReplicaId, deque[_Flow]] = defaultdict(deque)
        self.open = self.failed_transfers = 0

    def begin(
        self,
        request: Request,
        placement: Placement,
        token_bytes: int,
        record: Any,
        then: Callable[[], None],
    ) -> None:
        """Send a request's images on their way, and do *then* when their embeddings are there.

        Args:
            placement: with an encoder for each of its items; None: it is encoded with the prompt.
            token_bytes: of an embedding.
        """
        cache = self._server(placement.prefill).replica.encoder
        encoders = {
            index: number
            for index, number in enumerate(placement.encode)
            if number is not None
            and request.items[index].tokens <= self._encoders[number].replica.cache.size_tokens
        }
        sizes = {request.items[index].identifier: request.items[index].tokens for index in encoders}
        if not encoders or sum(sizes.values()) > cache.size_tokens:
            then()  # what can never be there together is encoded with the prompt
            return
        flow = _Flow(request, placement.prefill, encoders, cache, token_bytes, record, then)
        if self._link is not None and self._link.failure:
            for index in encoders:
                flow.failing[index] = failing(self._link, self._rng.random())
                flow.retries[index] = self._link.retries
        self.open += 1
        waiting = self._waiting[placement.prefill]
        waiting.append(flow)
        if cache.on_room is None:
            cache.on_room = lambda: self._room(waiting)
        self._admit(waiting)
        for index, number in encoders.items():
            if flow.coming is None or index in flow.coming:
                self._encoders[number].submit(Image(flow, index))

    def encoded(self, image: Image) -> None:
        """An encoder has the output for *image*; it refers to it until told that it was sent."""
        flow, index = image
        flow.ready.add(index)
        if flow.coming is None:
            return
        if index in flow.coming:
            self._send(image)
        else:
            self._let_go(image)  # an equal one was at the prompt's replica when there was room

    # ---- room -----------------------------------------------------------------------------------

    def _room(self, waiting: deque[_Flow]) -> None:
        """There is room: perhaps in the middle of a step's planning, so it is given out after."""
        if waiting:
            self._soon(lambda: self._admit(waiting))

    def _admit(self, waiting: deque[_Flow]) -> None:
        """Reserve room for the requests in line, the first first."""
        while waiting:
            flow = waiting[0]
            coming = flow.cache.reserve(flow.request, flow.encoders)
            if coming is None:
                return
            waiting.popleft()
            flow.coming = set(coming)
            for index in sorted(flow.ready):
                self.encoded(Image(flow, index))
            if not flow.coming:
                self._over(flow)

    # ---- on the link ----------------------------------------------------------------------------

    def _send(self, image: Image) -> None:
        flow, index = image
        size = image.tokens * flow.token_bytes
        flow.record.embedding_bytes += size
        part = Embeddings(image, flow.encoders[index], size)
        self._carry(part, lambda: self._landed(image))

    def _landed(self, image: Image) -> bool:
        flow, index = image
        assert flow.coming is not None
        kept = False
        if flow.failing[index]:
            self.failed_transfers += 1
            flow.failing[index] -= 1
            flow.retries[index] -= 1
            if flow.retries[index] >= 0:
                self._send(image)
                return False
            flow.cache.unreserve(flow.request, index)  # it is encoded with the prompt
        else:
            kept = flow.cache.arrive(flow.request, index, flow.encoders)
        self._let_go(image)
        flow.coming.remove(index)
        if not flow.coming:
            self._over(flow)
        return kept

    def _let_go(self, image: Image) -> None:
        self._encoders[image.flow.encoders[image.which]].sent(image)

    def _over(self, flow: _Flow) -> None:
        self.open -= 1
        flow.record.encode_ps = self._now() - flow.request.arrival_ps
        flow.then()
        self._server(flow.prefill).tell(_nothing)  # whoever found no room there may look again


def _nothing() -> None:
    """A message without content."""
