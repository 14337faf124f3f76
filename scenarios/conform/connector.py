"""The KV connector of the recorded cases: requests say what is to be had, and when it comes."""

from __future__ import annotations

from typing import Any, TypeAlias

from ...sim.state.connector import Remote
from ...sim.state.sequence import Sequence

#: loads (sequence, first bad block or None) and sends that complete
Transfers: TypeAlias = tuple[list[tuple[Sequence, int | None]], list[Sequence]]


class RecordedConnector:
    """Answers as the recording's connector did (`tests/golden/README.md`).

    Args:
        params: the ``kv`` field of every request; empty where it has none.
        block_size: tokens in a KV block.
    """

    writes = True

    def __init__(self, params: list[dict[str, Any]], block_size: int) -> None:
        self._params, self._block_size = params, block_size
        self._asked: dict[int, int] = {}
        self._loads: dict[int, int] = {}
        self.started: list[tuple[Sequence, int, bool]] = []
        self.t = 0  # set by the host: the step under way
        self._loading: list[tuple[int, Sequence, int | None]] = []  # due, sequence, bad block
        self._sending: list[tuple[int, Sequence]] = []
        self.handed_over: list[list[Any]] = []

    def planning(self) -> None:
        """Nothing to do."""

    def matched(self, seq: Sequence, local_tokens: int) -> Remote | None:
        """What the request says is to be had beyond *local_tokens*."""
        params = self._params[seq.id]
        if "ext" not in params or seq.preemptions:
            return Remote(0, False)
        asked = self._asked[seq.id] = self._asked.get(seq.id, 0) + 1
        if asked <= params.get("wait", 0):
            return None
        tokens = min(params["ext"], seq.prompt_tokens) - local_tokens
        asynchronous = bool(params.get("async"))
        if tokens > 0 and not asynchronous and local_tokens + tokens >= seq.known:
            tokens -= 1
        return Remote(tokens, asynchronous) if tokens > 0 else Remote(0, False)

    def allocated(self, seq: Sequence, remote: Remote) -> None:
        """A load starts; only a request's first one fails."""
        if not remote.tokens:
            return
        params = self._params[seq.id]
        loads = self._loads[seq.id] = self._loads.get(seq.id, 0) + 1
        self.started.append((seq, remote.tokens, remote.asynchronous))
        if remote.asynchronous:
            fails = bool(params.get("fail")) and loads == 1
            bad = params.get("fail_block", 0) if fails else None
            self._loading.append((self.t + params.get("latency", 3), seq, bad))

    def finished(self, seq: Sequence) -> bool:
        """Whether somebody will read the request's blocks for a while."""
        latency = self._params[seq.id].get("send_latency")
        if not latency:
            return False
        blocks = -(-seq.computed // self._block_size)
        self.handed_over.append([seq.id, {"blocks": blocks, "computed": seq.computed}])
        self._sending.append((self.t + latency, seq))
        return True

    def completed(self) -> Transfers:
        """Loads and sends that complete by now, in the order in which they began."""
        t = self.t
        loads = [(seq, bad) for due, seq, bad in self._loading if due <= t]
        sends = [seq for due, seq in self._sending if due <= t]
        self._loading = [entry for entry in self._loading if entry[0] > t]
        self._sending = [entry for entry in self._sending if entry[0] > t]
        return loads, sends
