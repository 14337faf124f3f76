"""The face of an eviction policy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, TypeAlias

from ..types import CachedBlock, Picoseconds, Promise, Request
from .future import NextUse

Key: TypeAlias = tuple[Any, ...]


class Eviction:
    """Ranks cached units that no request holds; the one with the smallest key leaves first.

    Keys are fixed when the unit becomes free, unless the class promises `dynamic`; then
    `next_key` says what becomes of them. Equal keys leave in the order in which they became
    free, and a request frees its blocks tail first. Blocks without a hash never reach a policy:
    the pool reuses them before all others.

    Subclasses that count or remember set `observes` and override the hooks. What they remember
    across evictions they keep by `CachedBlock.key`, which names content: it is the same when
    the same tokens behind the same prefix are cached again.
    """

    promise: ClassVar[Promise] = Promise()
    observes: ClassVar[bool] = False
    #: fields of `CachedBlock` that `key` and the hooks look at, None for any. Others may be out of
    #: date; blocks that one request frees and that agree in these may get one key, asked once.
    reads: ClassVar[frozenset[str] | None] = None

    def key(self, block: CachedBlock, request: Request | None, now: Picoseconds) -> Key:
        """Rank of *block*, which *request* has just let go (None: never held)."""
        raise NotImplementedError

    def next_key(self, key: Key) -> tuple[Picoseconds, Key] | None:
        """When *key* of a unit that stays free turns into another, and into which.

        None: never. Asked only of classes that promise `dynamic`, once for each key they gave.
        From that time on (inclusive) the new key holds; the unit keeps its place in the order
        of becoming free.
        """
        return None

    def cuts(self, request: Request) -> tuple[int, ...]:
        """Positions in the prompt, in tokens, where a radix tree is to end a node.

        What lies before and behind such a position can then leave apart. None by default: a tree
        cuts where prompts part. A hash chain has no need of it.
        """
        return ()

    def attach(self, future: NextUse) -> None:
        """Hear the future, before the run. Called only if the class promises `oracle`.

        Indices are `Request.id`; a host that records another order lets *future* keep its own
        position and ignore the index it is given.
        """

    def on_insert(self, block: CachedBlock, request: Request | None) -> None:
        """A block entered the index."""

    def on_hit(self, block: CachedBlock, request: Request | None) -> None:
        """A request was admitted with this block as part of its cached prefix."""

    def on_split(self, head: CachedBlock, tail: CachedBlock) -> None:
        """A unit was cut in two; *tail* has the key of the whole (radix trees)."""

    def on_evict(self, block: CachedBlock) -> None:
        """The block left the index; state kept for it can go."""


def hook(policy: Eviction, name: str) -> Callable[..., None] | None:
    """What *policy* wants to be told, e.g. its ``on_hit``; None if it does not listen."""
    method = getattr(policy, name)
    own = getattr(method, "__func__", None) is not getattr(Eviction, name)
    return method if policy.observes and own else None
