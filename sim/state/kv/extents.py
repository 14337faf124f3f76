"""KV as runs of blocks: vLLM's pool and free queue under LRU, at a cost per run.

Why runs are exact (`reference/speed.md` §6). A request frees its blocks tail first and holds
every block before one it holds. So a cached block is always evicted after its successors, and if
runs are cut where a request's use ends, the blocks of a run were last freed together, one after
another. The free queue is then a queue of runs, and eviction trims the front one from its tail.

The runs form a tree of contents. Computing a block that is cached already (vLLM does not
de-duplicate) adds a *copy* to the same node: lookups find the earliest copy, and what follows
either copy follows the node.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush

from ....policies.errors import InfersimError
from ....policies.types import Picoseconds
from ..content import Chain
from ..sequence import Sequence
from .face import HashChain, Hit

_NO_HIT = Hit(0, 0, False, ())


class Copy:
    """One set of physical blocks with a node's content.

    Attributes:
        holders: sequences that hold it.
        maker: the sequence that computed it, while it holds it.
        release: the release that put it in the free queue, while it is there.
        push: number of its entry there; 0: held.
    """

    __slots__ = ("holders", "maker", "node", "push", "release")

    def __init__(self, node: Node, holders: int, maker: Sequence | None) -> None:
        self.node, self.holders, self.maker = node, holders, maker
        self.release = self.push = 0


class Node:
    """Blocks [first, end) of every prompt that agrees with `chain` up to there.

    Attributes:
        key: link at the end of its first block, under which its parent knows it.
        copies: earliest first; never empty while the node is in the tree.
        grower: group member that fills further blocks of this node; `end` then lags.
    """

    __slots__ = ("chain", "copies", "end", "first", "grower", "key", "kids", "parent")

    def __init__(
        self, parent: Node | None, chain: Chain | None, first: int, end: int, key: int
    ) -> None:
        self.parent, self.chain, self.first, self.end, self.key = parent, chain, first, end, key
        self.kids: dict[int, Node] = {}
        self.copies: list[Copy] = []
        self.grower: Sequence | None = None


class ExtentPool(HashChain):
    """`BlockPool` with LRU eviction, without block ids.

    Args:
        blocks: usable blocks.
        block_size: tokens in a block.
        caching: False turns the prefix index off.
    """

    lazy = True

    def __init__(self, blocks: int, block_size: int, *, caching: bool = True) -> None:
        self.total = self.free = blocks
        self._caching = caching
        self.block_size = block_size
        self.now: Picoseconds = 0
        self.frontier = 0
        self.displaced = False
        self.evicted = 0
        self._blank = blocks  # free blocks without reusable KV, reused first
        self._group_blocks = 0  # taken by the decode group and not yet by its members
        self._root = Node(None, None, 0, 0, 0)
        self._queue: list[tuple[int, int, int, Copy]] = []
        self._idle_blocks = 0
        self._idle_copies = 0
        self._pushes = self._releases = 0

    # ---- lookup ---------------------------------------------------------------------------------

    def match(self, seq: Sequence, limit_tokens: int) -> Hit:
        """The longest cached prefix of *seq* within its first *limit_tokens*. No side effects."""
        if not self._caching:
            return _NO_HIT
        chain, size, node, at, idle = seq.chain, self.block_size, self._root, 0, 0
        most = limit_tokens // size
        path: list[Node] = []
        may_grow = False
        while at < most:
            kid = node.kids.get(chain.link_at((at + 1) * size - 1))
            if kid is None:
                break
            if kid.grower is not None:
                self._catch_up(kid)
                may_grow = True
            end = min(self._agreement(kid, chain, most), kid.end)
            if end == at:
                break  # a group member is about to fill its first block here
            path.append(kid)
            if not kid.copies[0].holders:
                idle += end - at
            at = end
            node = kid
            if end < kid.end:
                may_grow = False
                break
        return Hit(at, idle, may_grow and at < most, path)

    def _agreement(self, kid: Node, chain: Chain, most: int) -> int:
        """How many blocks, at most *most*, the prompt shares with the kid's."""
        end = min(kid.end, most)
        theirs = kid.chain
        assert theirs is not None
        if theirs is chain or end <= kid.first:
            return end
        last = end * self.block_size - 1
        if theirs.link_at(last) == chain.link_at(last):
            return end
        return chain.agrees(theirs, last + 1) // self.block_size

    # ---- holding and letting go -----------------------------------------------------------------

    def acquire(self, seq: Sequence, hit: Hit | None, blocks: int) -> None:
        """Hold the hit and as many new blocks as make *blocks* in all; they must be free."""
        if hit is not None and hit.blocks:
            self._hold(seq, hit)
        new = blocks - seq.blocks
        if new > 0:
            self._take(new)
            seq.blocks = blocks

    def _hold(self, seq: Sequence, hit: Hit) -> None:
        path: list[Node] = hit.path
        last = path[-1]
        if hit.blocks < last.end:
            last = path[-1] = self._split(last, hit.blocks)
        elif last.grower is not None:
            self._grow_apart(last)
        for node in path:
            copy = node.copies[0]
            if not copy.holders:
                self._unqueue(copy)
            copy.holders += 1
        seq.node = last
        seq.blocks = seq.committed = hit.blocks

    def _take(self, blocks: int) -> None:
        """Remove *blocks* from the free ones, evicting where no blank ones are left."""
        free, blank = self.free - blocks, self._blank
        if free < 0:
            raise InfersimError(f"{blocks} KV blocks taken, {free + blocks} were free")
        self.free = free
        if blocks <= blank:
            self._blank = blank - blocks
            return
        blocks -= blank
        self._blank = 0
        self.evicted += blocks
        while blocks:
            _, _, push, copy = self._queue[0]
            if copy.push != push:
                heappop(self._queue)
                continue
            node = copy.node
            end = node.end
            have = end - node.first
            if have > blocks:
                if len(node.copies) == 1:
                    assert not node.kids
                    node.end = end - blocks
                    self._idle_blocks -= blocks
                    return
                self._split(node, node.end - blocks)
                continue
            self._unqueue(copy, free=False)
            node.copies.remove(copy)
            if not node.copies:
                assert node.parent is not None
                assert not node.kids
                del node.parent.kids[node.key]
            blocks -= have

    def release(self, seq: Sequence) -> None:
        """Let go of everything, tail first."""
        blank = seq.blocks - seq.committed
        self._blank += blank
        self.free += blank
        self._releases += 1
        node, seq.node = seq.node, None
        below: Node | None = None  # the node after, freed by this release as well
        while node is not None and node.parent is not None:
            up = node.parent
            copy = node.copies[0]
            if len(node.copies) > 1:
                copy = next((c for c in node.copies if c.maker is seq), copy)
            if copy.maker is seq:
                copy.maker = None
            copy.holders -= 1
            if copy.holders:
                below = None
            elif self._mergeable(node, below):
                assert below is not None
                self._merge(node, below)
            else:
                self._enqueue(copy, self._releases)
                below = node
            node = up
        seq.blocks = seq.committed = 0

    def _mergeable(self, node: Node, below: Node | None) -> bool:
        return (
            below is not None
            and len(node.copies) == len(below.copies) == len(node.kids) == 1
            and below.key in node.kids
        )

    def _merge(self, node: Node, below: Node) -> None:
        """Make *node* and its only kid one run: both were freed just now."""
        copy = below.copies[0]
        self.free += node.end - node.first
        self._idle_blocks += node.end - node.first
        below.first, below.parent, below.key = node.first, node.parent, node.key
        assert node.parent is not None
        node.parent.kids[node.key] = below
        self._push(copy, self._releases)

    # ---- the free queue -------------------------------------------------------------------------

    def _enqueue(self, copy: Copy, release: int) -> None:
        blocks = copy.node.end - copy.node.first
        self.free += blocks
        self._idle_blocks += blocks
        self._idle_copies += 1
        self._push(copy, release)

    def _push(self, copy: Copy, release: int) -> None:
        copy.release = release
        copy.push = self._pushes = push = self._pushes + 1
        queue = self._queue
        heappush(queue, (release, -copy.node.first, push, copy))
        if len(queue) > 2 * self._idle_copies + 64:
            self._queue = [entry for entry in queue if entry[3].push == entry[2]]
            heapify(self._queue)

    def _unqueue(self, copy: Copy, *, free: bool = True) -> None:
        blocks = copy.node.end - copy.node.first
        copy.push = 0
        self._idle_copies -= 1
        self._idle_blocks -= blocks
        if free:
            self.free -= blocks

    # ---- the prefix index -----------------------------------------------------------------------

    def commit(self, seq: Sequence, tokens: int) -> None:
        """Put the full blocks among the first *tokens* into the index."""
        size, chain = self.block_size, seq.chain
        last = min(tokens // size, seq.blocks) if self._caching else 0
        node = seq.node or self._root
        while seq.committed < last:
            at = seq.committed
            key = chain.link_at((at + 1) * size - 1)
            kid = node.kids.get(key)
            if kid is None:
                if self._is_own(node, seq):
                    node.chain, node.end = chain, last
                else:
                    node = self._child(node, chain, at, last, key, seq)
                seq.committed = last
                break
            if kid.grower is not None:
                self._catch_up(kid)
                if kid.end == at:
                    self._displace(node, kid)
                    continue
                self._grow_apart(kid)
            end = min(self._agreement(kid, chain, last), kid.end)
            if end < kid.end:
                kid = self._split(kid, end)
            kid.copies.append(Copy(kid, 1, seq))
            node, seq.committed = kid, end
        seq.node = node if node is not self._root else None

    def _is_own(self, node: Node, seq: Sequence) -> bool:
        """Whether *seq* alone holds the node and may lengthen it."""
        return (
            not node.kids
            and len(node.copies) == 1
            and node.copies[0].holders == 1
            and node.copies[0].maker is seq
        )

    def _child(
        self, parent: Node, chain: Chain, first: int, end: int, key: int, maker: Sequence
    ) -> Node:
        node = Node(parent, chain, first, end, key)
        node.copies.append(Copy(node, 1, maker))
        parent.kids[key] = node
        return node

    def _split(self, node: Node, at: int) -> Node:
        """Cut a node in two; the new upper part is returned, the lower one stays *node*."""
        upper = Node(node.parent, node.chain, node.first, at, node.key)
        assert node.parent is not None
        assert node.chain is not None
        node.parent.kids[node.key] = upper
        node.parent, node.first = upper, at
        node.key = node.chain.link_at((at + 1) * self.block_size - 1)
        upper.kids[node.key] = node
        for copy in node.copies:
            twin = Copy(upper, copy.holders, copy.maker)
            upper.copies.append(twin)
            if copy.push:
                self._idle_copies += 1
                self._push(copy, copy.release)
                self._push(twin, copy.release)
        return upper

    # ---- the decode group -----------------------------------------------------------------------

    def reserve(self, blocks: int) -> None:
        """The decode group has taken *blocks* in all since it was empty."""
        if blocks > self._group_blocks:
            self.grow(blocks - self._group_blocks)

    def grow(self, blocks: int) -> None:
        """The decode group takes *blocks* more."""
        self._group_blocks += blocks
        self._take(blocks)

    def join(self, seq: Sequence) -> bool:
        """*seq* enters the decode group: from here on it grows with the step index."""
        if not self._caching:
            return True
        node = seq.node or self._root
        if not self._is_own(node, seq):
            key = seq.chain.link_at((seq.committed + 1) * self.block_size - 1)
            if key in node.kids:
                return False
            at = seq.committed
            node = seq.node = self._child(node, seq.chain, at, at, key, seq)
        # a node that began as a copy of another prompt's goes on with this one's
        node.chain, node.grower = seq.chain, seq
        return True

    def leave(self, seq: Sequence, blocks: int, committed: int) -> None:
        """*seq* leaves the group having taken *blocks* in it, with *committed* blocks indexed."""
        self._group_blocks -= blocks
        seq.blocks += blocks
        if not self._caching:
            return
        node = seq.node
        if node is None or node.grower is not seq:  # it was displaced
            self.commit(seq, committed * self.block_size)
            return
        node.end = max(node.end, committed)
        seq.committed = node.end
        node.grower = None
        if node.end == node.first:
            self._withdraw(node, seq)

    def _withdraw(self, node: Node, seq: Sequence) -> None:
        """Take an empty node out of the tree."""
        assert node.parent is not None
        del node.parent.kids[node.key]
        seq.node = node.parent if node.parent is not self._root else None

    def _catch_up(self, node: Node) -> None:
        """Let a growing node have the blocks that its member has filled by now."""
        seq = node.grower
        assert seq is not None
        assert seq.base is not None
        node.end = max(node.end, (self.frontier - seq.base) // self.block_size)

    def _grow_apart(self, node: Node) -> None:
        """Another sequence holds the node up to its end: its member goes on in a node below."""
        seq = node.grower
        assert seq is not None
        node.grower = None
        at = node.end
        key = seq.chain.link_at((at + 1) * self.block_size - 1)
        below = seq.node = self._child(node, seq.chain, at, at, key, seq)
        below.grower = seq

    def _displace(self, parent: Node, kid: Node) -> None:
        """Take the place of a member that has filled nothing of the node yet."""
        member = kid.grower
        assert member is not None
        member.node = parent if parent is not self._root else None
        member.committed = kid.first
        del parent.kids[kid.key]
        self.displaced = True

    def check(self) -> int:
        """Verify the pool's books (slow); how many blocks are held."""
        idle = copies = 0
        stack = [self._root]
        while stack:
            node = stack.pop()
            stack += node.kids.values()
            for copy in node.copies:
                if not copy.holders:
                    idle += node.end - node.first
                    copies += 1
        if (idle, copies, idle + self._blank) != (
            self._idle_blocks,
            self._idle_copies,
            self.free,
        ) or self._blank < 0:
            raise InfersimError(
                f"{idle} idle cached and {self._blank} blank KV blocks do not make {self.free} free"
            )
        return self.total - self.free

    @property
    def cached_idle(self) -> int:
        """Free blocks that still hold reusable KV."""
        return self._idle_blocks
