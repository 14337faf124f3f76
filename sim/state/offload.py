"""KV blocks that are kept in host memory as well: one tier, written through, least recent out.

The rules are those of vLLM's OffloadingConnector (0.33): every block that enters the prefix index
is written to the tier; a request whose prompt goes on there after its local hit waits outside the
batch until those blocks are loaded. Unlike there, the last token of a prompt is never loaded, since
it is computed anyway. A write takes no time of the run: it follows the step that computes the block
on a stream of its own. A load takes the link to the host, one at a time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from collections.abc import Sequence as Seq
from typing import NamedTuple, TypeAlias

from .connector import Remote
from .kv.blocks import BlockPool
from .sequence import Sequence


class Load(NamedTuple):
    """Blocks that a sequence waits for.

    Attributes:
        target: its blocks are written.
        moves: (slot of the tier, block of the device), in the order of the prompt.
        size_bytes: of them all.
    """

    target: Sequence
    moves: list[tuple[int, int]]
    size_bytes: int


#: copies blocks of the device to slots of the tier, after the steps planned so far
Keep: TypeAlias = Callable[[list[tuple[int, int]]], None]
#: copies slots of the tier to blocks of the device, and calls back when they are there
Fetch: TypeAlias = Callable[[Load, Callable[[], None]], None]


class HostTier:
    """Which blocks lie in which slots, by content.

    Args:
        slots: how many blocks it holds.
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._held: OrderedDict[int, int] = OrderedDict()  # key -> slot, least recent first

    def __len__(self) -> int:
        return len(self._held)

    def find(self, keys: list[int]) -> list[int]:
        """Slots of the longest run of *keys* from the first on that is here."""
        held, found = self._held, []
        for key in keys:
            slot = held.get(key)
            if slot is None:
                break
            found.append(slot)
        return found

    def touch(self, keys: list[int]) -> None:
        """These, which are here, were used."""
        for key in keys:
            self._held.move_to_end(key)

    def store(self, key: int) -> int | None:
        """The slot that takes *key*, in place of the least recent if need be; None: it is here."""
        if key in self._held:
            self._held.move_to_end(key)
            return None
        full = len(self._held) == self._slots
        slot = self._held.popitem(last=False)[1] if full else len(self._held)
        self._held[key] = slot
        return slot


class OffloadConnector:
    """Connector of a replica with a tier in host memory.

    Args:
        slots: blocks that the tier holds.
        block_bytes: of one block on all GPUs of the replica.
        keep, fetch: how the host copies; see `Keep` and `Fetch`.
    """

    writes = True

    def __init__(
        self, pool: BlockPool, slots: int, block_bytes: int, keep: Keep, fetch: Fetch
    ) -> None:
        self._pool, self._block_bytes = pool, block_bytes
        self._keep, self._fetch = keep, fetch
        self.tier = HostTier(slots)
        self.stored_blocks = self.loaded_blocks = 0
        self._found: dict[Sequence, tuple[int, list[int]]] = {}  # first block, keys in the tier
        pool.filled = []

    def planning(self) -> None:
        """Write through what entered the index since the last step was planned."""
        pool = self._pool
        filled, pool.filled = pool.filled, []
        moves: dict[int, int] = {}  # slot -> block; a slot may be reused within one step
        for key, block in filled or ():
            if pool.key_of(block) != key:
                continue  # gone within its own step
            slot = self.tier.store(key)
            if slot is not None:
                moves[slot] = block
                self.stored_blocks += 1
        if moves:
            self._keep([(block, slot) for slot, block in moves.items()])

    def matched(self, seq: Sequence, local_tokens: int) -> Remote:
        """Whole blocks that go on in the tier where the local hit ends."""
        size = self._pool.block_size
        first = local_tokens // size
        keys = seq.chain.block_keys(first, (seq.known - 1) // size, size)
        count = len(self.tier.find(keys))
        self._found[seq] = (first, keys[:count])
        return Remote(count * size, count > 0)

    def allocated(self, seq: Sequence, remote: Remote) -> None:
        """Load into the blocks that stand ready."""
        if not remote.tokens:
            self._found.pop(seq, None)
            return
        first, keys = self._found.pop(seq)
        slots = self.tier.find(keys)
        self.tier.touch(keys)
        self.loaded_blocks += len(keys)
        blocks = seq.table[first : first + len(keys)]
        load = Load(seq, list(zip(slots, blocks, strict=True)), len(keys) * self._block_bytes)
        self._fetch(load, lambda: _here(seq))

    def finished(self, seq: Sequence) -> bool:
        """Nobody reads its blocks."""
        return False


def _here(seq: Sequence) -> None:
    failed = seq.replica.received(seq)
    assert not failed  # loads do not fail here


def offloaded(connectors: Seq[OffloadConnector]) -> dict[str, int]:
    """Totals of a run with tiers in host memory; nothing without."""
    if not connectors:
        return {}
    return {
        "offload_stored_blocks": sum(one.stored_blocks for one in connectors),
        "offload_loaded_blocks": sum(one.loaded_blocks for one in connectors),
    }
