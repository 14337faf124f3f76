"""SGLang's radix tree over prompts: what is cached, who holds it, and what leaves first.

Method: sglang 0.5.23 `mem_cache/radix_cache.py` (`RadixCache`) and
`mem_cache/unified_cache/unified_tree_core.py` (full attention, no host tier); it decides as
recorded from both (`infersim conform`). Here a tree holds whole blocks of `Chain`s instead of
tokens, and the leaves that may go are kept in a heap instead of being sorted anew.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

from ....policies.errors import InfersimError
from ....policies.eviction.base import Eviction, Key
from ....policies.types import Picoseconds, Promise, Request
from ..content import Chain
from .idle import IdleOrder
from .queued import QueuedOrder
from .tree import Node, Slots

_STAMP = 1 << 24  #: ticks are this far apart, so that a path is stamped leaf newest

Kind = Literal["radix", "unified"]


class Inserted(NamedTuple):
    """What became of an insertion.

    Attributes:
        blocks: how many of the blocks were cached before; their new slots are not needed.
        node: ends where the inserted prompt does.
    """

    blocks: int
    node: Node


class RadixIndex:
    """A tree of cached prompts. Namespaces (model, adapter, salt) are part of every chain.

    Nodes are handles: they stay valid while locked. Lookups split nodes and count as uses.

    Args:
        block_size: tokens of a page; what does not fill one is not cached.
        eviction: ranks leaves that nobody holds; equals leave least recently used first.
        kind: "unified" is the tree that SGLang serves with; "radix" the older one, which differs
            in the ages of the parts of a node that is cut.
    """

    def __init__(self, block_size: int, eviction: Eviction, *, kind: Kind = "unified") -> None:
        self.block_size, self._eviction, self._unified = block_size, eviction, kind == "unified"
        self.now: Picoseconds = 0
        self.evictable = 0  #: blocks that nobody holds
        self.protected = 0  #: blocks that somebody holds
        self.root = Node(None, None, 0, 0, slots=(), importance=-(1 << 62))
        self.root.locks = 1
        self._ticks = 0
        self._leaves: IdleOrder[Node] | QueuedOrder[Node] = (
            QueuedOrder(eviction, lambda node: node.cached(block_size))
            if eviction.promise.queues
            else IdleOrder(_Ranked(eviction))
        )
        self._listed: set[Node] = set()  # nodes in `_leaves`; only ever asked for membership

    # ---- lookup ---------------------------------------------------------------------------------

    def peek(self, chain: Chain, most: int) -> tuple[int, int]:
        """(blocks of *chain* cached, at most *most*; of these, nobody's). No side effects."""
        node, at, idle = self.root, 0, 0
        while at < most:
            kid = node.kids.get(chain.link_at((at + 1) * self.block_size - 1))
            if kid is None:
                break
            end = kid.agreement(chain, most, self.block_size)
            if not kid.locks:
                idle += end - at
            at, node = end, kid
            if end < kid.end:
                break
        return at, idle

    def end_of(self, chain: Chain, most: int) -> Node:
        """The node in which the longest cached prefix of at most *most* blocks ends."""
        node, at = self.root, 0
        while at < most:
            kid = node.kids.get(chain.link_at((at + 1) * self.block_size - 1))
            if kid is None:
                break
            node, at = kid, kid.agreement(chain, most, self.block_size)
            if at < node.end:
                break
        return node

    def match(self, chain: Chain, most: int) -> Node:
        """The node that ends where the longest cached prefix of at most *most* blocks does."""
        if most < 1:
            return self.root
        node, at, stamp = self.root, 0, self._tick()
        if not self._unified:
            node.used = stamp
        while at < most:
            kid = node.kids.get(chain.link_at((at + 1) * self.block_size - 1))
            if kid is None:
                break
            if not self._unified:
                kid.used = stamp
            end = kid.agreement(chain, most, self.block_size)
            if end < kid.end:
                node = self._split(kid, end)
                break
            node, at = kid, end
        self._stamp_path(node)
        return node

    def _stamp_path(self, node: Node) -> None:
        """The unified tree makes the end of the path its newest node; the others follow it."""
        if self._unified:
            stamp = self._tick()
            above: Node | None = node
            while above is not None:
                above.used = stamp
                stamp -= 1
                above = above.parent
        self._rank(node)

    def insert(
        self,
        chain: Chain,
        blocks: int,
        slots: Slots,
        *,
        importance: int = 0,
        inserted: int = 0,
        request: Request | None = None,
    ) -> Inserted:
        """Put the first *blocks* of *chain* in the tree.

        Args:
            slots: where their KV is.
            inserted: as many blocks were inserted by the same request before: no new hits.
        """
        node, at, size = self.root, 0, self.block_size
        node.used = stamp = self._tick()
        node.importance = max(node.importance, importance)
        while at < blocks:
            kid = node.kids.get(chain.link_at((at + 1) * size - 1))
            if kid is None:
                break
            kid.used = self._tick() if self._unified else stamp
            end = kid.agreement(chain, blocks, size)
            node = self._split(kid, end) if end < kid.end else kid
            node.importance = max(node.importance, importance)
            if end > inserted:
                node.hits += 1
                if self._eviction.observes:
                    self._eviction.on_hit(node.cached(size), request)
            self._rank(node)
            at = end
        matched = at
        if at < blocks:
            node = self._add(node, chain, blocks, slots[at:], importance, request)
            node.hits = int(blocks > inserted)
            if self._eviction.observes:
                self._eviction.on_insert(node.cached(size), request)
            self._rank(node)
        return Inserted(matched, node)

    def _add(
        self,
        parent: Node,
        chain: Chain,
        end: int,
        slots: Slots,
        importance: int,
        request: Request | None,
    ) -> Node:
        node = Node(parent, chain, parent.end, end, slots=slots, importance=importance)
        node.request = request
        parent.kids[node.key(self.block_size)] = node
        self.evictable += node.blocks
        self._unrank(parent)
        above: Node | None = parent
        while above is not None and above.reach < end:
            above.reach = end
            above = above.parent
        self._born(node)
        return node

    def _born(self, node: Node) -> None:
        node.used = self._tick()
        node.created = self._tick()

    def _tick(self) -> int:
        self._ticks += _STAMP
        return self._ticks

    def _split(self, node: Node, at: int) -> Node:
        """Cut a node at block *at*: the new upper part, while *node* stays the lower one."""
        size, parent = self.block_size, node.parent
        assert parent is not None
        cut = at - node.first
        upper = Node(
            parent, node.chain, node.first, at, slots=node.slots[:cut], importance=node.importance
        )
        upper.locks, upper.hits, upper.reach = node.locks, node.hits, node.reach
        upper.request = node.request
        parent.kids[node.key(size)] = upper
        node.parent, node.first, node.slots = upper, at, node.slots[cut:]
        upper.kids[node.key(size)] = node
        self._born(upper)
        if self._unified:
            upper.created = node.created
            node.used = self._tick()
        if self._eviction.observes:
            self._eviction.on_split(upper.cached(size), node.cached(size))
        self._rank(node)
        return upper

    # ---- holding --------------------------------------------------------------------------------

    def lock(self, node: Node) -> int:
        """Hold *node* and all before it; how many blocks were nobody's."""
        taken = 0
        while node.parent is not None:
            if not node.locks:
                taken += node.blocks
                self._unrank(node)
            node.locks += 1
            node = node.parent
        self.evictable -= taken
        self.protected += taken
        return taken

    def unlock(self, node: Node, request: Request | None = None) -> int:
        """Undo one `lock`; how many blocks are nobody's again."""
        freed = 0
        while node.parent is not None:
            node.locks -= 1
            if request is not None:
                node.request = request
            if not node.locks:
                freed += node.blocks
                self._rank(node)
            node = node.parent
        self.evictable += freed
        self.protected -= freed
        return freed

    # ---- eviction -------------------------------------------------------------------------------

    def evict(self, blocks: int) -> list[Node]:
        """Take whole leaves out until *blocks* or more are gone, or none is left that may go."""
        gone: list[Node] = []
        while blocks > 0 and self._listed:
            node = self._leaves.pop(self.now)
            self._listed.discard(node)
            parent = node.parent
            assert parent is not None
            if self._eviction.observes:
                self._eviction.on_evict(node.cached(self.block_size))
            del parent.kids[node.key(self.block_size)]
            self.evictable -= node.blocks
            blocks -= node.blocks
            gone.append(node)
            self._rank(parent)
        return gone

    def _rank(self, node: Node) -> None:
        """Give a leaf that nobody holds its place in the order of eviction, by its present key."""
        if node.locks or node.kids:
            self._unrank(node)
            return
        key = self._eviction.key(node.cached(self.block_size), node.request, self.now)
        self._unrank(node)
        self._listed.add(node)
        self._leaves.put(node, (*key, node.used))

    def _unrank(self, node: Node) -> None:
        if node in self._listed:
            self._listed.discard(node)
            self._leaves.remove(node)

    # ---- the tree as a whole --------------------------------------------------------------------

    def by_weight(self, ends: Iterable[Node]) -> list[int]:
        """Indices of *ends*: depth first, the branch with most of them first, children before
        their parent (SGLang's dfs-weight order)."""
        waiting: dict[Node, list[int]] = {}
        for i, node in enumerate(ends):
            waiting.setdefault(node, []).append(i)
        weight: dict[Node, int] = {node: len(some) for node, some in waiting.items()}
        for node, leaving in self._walk(ordered=None):
            if leaving:
                weight[node] = weight.get(node, 0) + sum(
                    weight.get(kid, 0) for kid in node.kids.values()
                )
        return [
            i
            for node, leaving in self._walk(ordered=weight)
            if leaving
            for i in waiting.get(node, ())
        ]

    def _walk(self, ordered: dict[Node, int] | None) -> Iterable[tuple[Node, bool]]:
        """Every node twice: on the way down and on the way up."""
        stack = [(self.root, False)]
        while stack:
            node, leaving = stack.pop()
            yield node, leaving
            if leaving:
                continue
            kids = list(node.kids.values())
            if ordered is not None:
                kids.sort(key=lambda kid: -ordered.get(kid, 0))
            stack.append((node, True))
            stack.extend((kid, False) for kid in reversed(kids))

    def check(self) -> None:
        """Verify the books (slow).

        Raises:
            InfersimError: they do not add up.
        """
        evictable = protected = leaves = 0
        for node, leaving in self._walk(ordered=None):
            if leaving or node is self.root:
                continue
            assert node.parent is not None
            if node.locks > node.parent.locks and node.parent is not self.root:
                raise InfersimError(f"blocks {node.first}-{node.end} are held, those before not")
            if len(node.slots) != node.blocks:
                raise InfersimError(f"{node.blocks} blocks have {len(node.slots)} slots")
            evictable += 0 if node.locks else node.blocks
            protected += node.blocks if node.locks else 0
            leaves += not node.locks and not node.kids
        if (evictable, protected, leaves) != (self.evictable, self.protected, len(self._listed)):
            raise InfersimError(
                f"{evictable} blocks in the tree are free and {protected} held, not "
                f"{self.evictable} and {self.protected}"
            )


class _Ranked(Eviction):
    """A policy whose keys end in the stamp of the last use, which turning keys keep."""

    def __init__(self, eviction: Eviction) -> None:
        self._eviction = eviction

    @property
    def promise(self) -> Promise:  # type: ignore[override]
        """The policy's."""
        return self._eviction.promise

    def next_key(self, key: Key) -> tuple[Picoseconds, Key] | None:
        turn = self._eviction.next_key(key[:-1])
        return None if turn is None else (turn[0], (*turn[1], key[-1]))
