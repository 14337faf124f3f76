"""Connectors of replicas that serve halves of split requests."""

from __future__ import annotations

from .config import PoolConfig
from .connector import Remote
from .sequence import Sequence
from .split import Splitter

NOTHING = Remote(0, False)


class SplitConnector:
    """Keeps the blocks of prefill halves until they are read; gets the KV of decode halves.

    What the replica does not hold itself of a decode half's prompt comes over the link, in whole
    blocks. One transfer a request: after a preemption the prompt is computed here (vLLM 0.33).

    Args:
        writes: whether KV may come to this replica at all.
    """

    def __init__(self, splitter: Splitter, *, writes: bool) -> None:
        self.writes = writes
        self._splitter = splitter

    def planning(self) -> None:
        """Nothing to do."""

    def matched(self, seq: Sequence, local_tokens: int) -> Remote | None:
        """The rest of a decode half's prompt, once; None while too many transfers are under way."""
        splitter, tokens = self._splitter, seq.prompt_tokens - local_tokens
        if not self.writes or not splitter.awaits(seq) or tokens <= 0:
            return NOTHING
        return None if splitter.full(seq) else Remote(tokens, True)

    def allocated(self, seq: Sequence, remote: Remote) -> None:
        """The blocks that it is written to stand ready."""
        if remote.tokens:
            self._splitter.taken(seq, remote.tokens)

    def finished(self, seq: Sequence) -> bool:
        """Whether the replica that decodes is still to read its blocks."""
        return self._splitter.reads(seq)


def split_connector(
    splitter: Splitter, pool: PoolConfig, *, roles_change: bool
) -> SplitConnector | None:
    """The connector of a replica of *pool*; None where requests are not split.

    Args:
        roles_change: a replica that prefills may decode later.
    """
    if pool.role == "both":
        return None
    return SplitConnector(splitter, writes=roles_change or pool.role == "decode")
