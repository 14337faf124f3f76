"""A pool for the KV of images and one for the KV of text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from ..errors import InputError
from ..registry import eviction
from ..types import CachedBlock, Picoseconds, Promise, Request
from .base import Key
from .queues import QueuedEviction, Queues

TEXT, MEDIA = 0, 1


@eviction("modality-aware")
@dataclass(slots=True)
class ModalityAware(QueuedEviction):
    """Two pools: images, clips and sounds have a share of the cache, text has the rest.

    The pool that is over its share gives first, its least recently used block; where that pool
    has nothing that may go, the other gives. Shares are of what is cached when room is made: what
    is taken and not yet indexed is nobody's. A unit belongs to what most of its tokens stand for,
    half and half to the media. Partitioning by quota as in any partitioned cache; no serving
    engine is its model.

    Attributes:
        media_share: share of the cached KV that is the media's, above 0 and below 1.
    """

    promise: ClassVar[Promise] = Promise(queues=True)
    on_leaves: ClassVar[bool] = True
    reads: ClassVar[frozenset[str]] = frozenset({"blocks", "block_size", "media_tokens"})

    media_share: float = 0.5

    _blocks: list[int] = field(
        default_factory=lambda: [0, 0], init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        share = self.media_share
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
            raise InputError(
                f"media_share of modality-aware must be between 0 and 1, found {share!r}"
            )

    def cuts(self, request: Request) -> tuple[int, ...]:
        return tuple(
            at for item in request.items for at in (item.offset, item.offset + item.tokens)
        )

    def key(self, block: CachedBlock, request: Request | None, now: Picoseconds) -> Key:
        return (_pool(block),)

    def on_insert(self, block: CachedBlock, request: Request | None) -> None:
        self._blocks[_pool(block)] += block.blocks

    def on_evict(self, block: CachedBlock) -> None:
        self._blocks[_pool(block)] -= block.blocks

    def on_split(self, head: CachedBlock, tail: CachedBlock) -> None:
        self.on_evict(
            tail._replace(
                blocks=head.blocks + tail.blocks,
                media_tokens=head.media_tokens + tail.media_tokens,
            )
        )
        self.on_insert(head, None)
        self.on_insert(tail, None)

    def pick(self, queues: Queues) -> int:
        for pool, other in ((TEXT, MEDIA), (MEDIA, TEXT)):
            if not queues.lengths[pool]:
                return other
        over = self._blocks[MEDIA] - self.media_share * sum(self._blocks)
        if over:
            return MEDIA if over > 0 else TEXT
        return TEXT if queues.place(TEXT) < queues.place(MEDIA) else MEDIA


def _pool(block: CachedBlock) -> int:
    """Whose a unit is."""
    media = 2 * block.media_tokens >= block.blocks * block.block_size
    return MEDIA if media and block.media_tokens else TEXT
