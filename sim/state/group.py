"""The decode group: sequences that gain one token a step, as functions of the step index.

Nothing is updated per step or per token (DESIGN §6, `reference/speed.md` rules 2 and 3): a member
has computed ``step - base`` tokens, so the group's context and the blocks it has taken are closed
forms, and a leap of k steps costs what one step costs.
"""

from __future__ import annotations

from .sequence import Sequence


class DecodeGroup:
    """Members by the residue of their base, so that block boundaries are known by step index.

    Args:
        block_size: tokens in a KV block.
    """

    __slots__ = (
        "_base_sum",
        "_block_size",
        "_counts",
        "_growing",
        "_offset",
        "adapted",
        "buckets",
        "size",
        "structured",
    )

    def __init__(self, block_size: int) -> None:
        self.size = 0
        self.adapted = 0  #: members with a LoRA adapter
        self.structured = 0  #: members with a grammar
        self._growing = 0  # members that take blocks: the others hold all they need
        self._block_size = block_size
        self._base_sum = 0
        self._counts = [0] * block_size
        self._offset = 0  # of `taken`, so that a new member starts from zero
        #: residue -> members whose computed tokens are a multiple of the block size at such steps
        self.buckets: list[dict[Sequence, None]] = [{} for _ in range(block_size)]

    def add(self, seq: Sequence, step: int) -> None:
        """*seq* decodes from step *step* on."""
        seq.base = base = step - seq.computed
        seq.entry_blocks = seq.blocks
        residue = base % self._block_size
        self.size += 1
        self.adapted += seq.lora != ""
        self.structured += seq.grammar is not None
        self._base_sum += base
        self.buckets[residue][seq] = None
        if not seq.held:
            self._growing += 1
            self._counts[residue] += 1
            self._offset += self._term(residue, step)

    def remove(self, seq: Sequence, step: int) -> int:
        """*seq* leaves before step *step*; how many blocks it took while it was a member."""
        base = seq.base
        assert base is not None
        residue = base % self._block_size
        seq.computed = step - base
        self.size -= 1
        self.adapted -= seq.lora != ""
        self.structured -= seq.grammar is not None
        self._base_sum -= base
        del self.buckets[residue][seq]
        seq.base = None
        if seq.held:
            return 0
        taken = -(-seq.computed // self._block_size) - seq.entry_blocks
        self._growing -= 1
        self._counts[residue] -= 1
        self._offset -= self._term(residue, step) - taken
        return taken

    def _term(self, residue: int, step: int) -> int:
        return step // self._block_size + (step % self._block_size > residue)

    def taken(self, step: int) -> int:
        """Blocks that present members have taken in steps before *step*, since each joined."""
        size = self._block_size
        return self._growing * (step // size) + sum(self._counts[: step % size]) - self._offset

    def growth(self, step: int) -> int:
        """Blocks that step *step* takes."""
        return self._counts[step % self._block_size]

    def needs_block(self, seq: Sequence, step: int) -> bool:
        """Whether step *step* takes a block for the member *seq*."""
        assert seq.base is not None
        return not seq.held and (step - seq.base) % self._block_size == 0

    def context_tokens(self, step: int) -> int:
        """KV tokens that the members read in step *step*, their new ones included."""
        return self.size * (step + 1) - self._base_sum

    def contexts(self, step: int) -> tuple[int, int]:
        """The shortest and the longest context that a member reads in step *step*; O(members)."""
        bases = [seq.base or 0 for bucket in self.buckets for seq in bucket]
        return step + 1 - max(bases), step + 1 - min(bases)

    def steps_within(self, step: int, free: int, most: int) -> int:
        """How many steps from *step* on find blocks, at most *most*, with *free* blocks now."""
        start = self.taken(step)
        if self.taken(step + most) - start <= free:
            return most
        low, high = 0, most
        while high - low > 1:
            middle = (low + high) // 2
            if self.taken(step + middle) - start <= free:
                low = middle
            else:
                high = middle
        return low
