"""Recorded prefill passes of SGLang: the order of the line, and who is admitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ...policies.eviction.lru import Lru
from ...policies.scheduling.sglang.adder import Demand, PrefillAdder, Verdict
from ...policies.scheduling.sglang.order import LineOrder, Waiting
from ...sim.state.content import Chain
from ...sim.state.kv.radix import RadixIndex
from ...sim.state.kv.scratch import ScratchTree
from ...sim.state.kv.tree import Node
from .radix import Prompts


class PrefillCase:
    """One case: every pass of a recording, carried out by `play`.

    Args:
        case: a recording; only its ``config`` and ``ops`` are read.
    """

    def __init__(self, case: dict[str, Any]) -> None:
        self._config, self._ops = case["config"], case["ops"]
        self.t = 0

    def play(self) -> list[dict[str, Any]]:
        """The outcome of every pass, in the recording's format."""
        out = []
        for op in self._ops:
            out.append(_Pass(self._config, op).play())
            self.t += 1
        return out


class _Pass:
    """One pass: a tree with what is cached and held, then the line."""

    def __init__(self, config: dict[str, Any], op: dict[str, Any]) -> None:
        self._config, self._op = config, op
        self._size: int = config["page_size"]
        self._cached = not config.get("disable_radix", False)
        self._eos: bool = config.get("ignore_eos", False)
        self._prompts = Prompts(op["keys"])
        self._index = RadixIndex(self._size, Lru(), kind="unified")
        self._nodes: dict[int, Node] = {}
        self._free: int = config["pool"]
        for key, tokens in op["cached"]:
            self._cache(key, tokens)
        #: requests of the recording by their number; those that found no room are left out
        self._running: dict[int, Demand] = {}
        for number, one in enumerate(op["running"]):
            self._run(number, one["key"], one["len"], one["max_new"], one["out"])

    def _cache(self, key: int, tokens: int) -> None:
        """Compute a prompt and let go of it; without a tree its KV is lost, as recorded."""
        need = -(-tokens // self._size) * self._size
        if need > self._free:
            return
        blocks = tokens // self._size
        if self._cached:
            found = self._index.insert(self._prompts.chain(key, tokens), blocks, range(blocks))
            need = (blocks - found.blocks) * self._size
        self._free -= need

    def _run(self, number: int, key: int, tokens: int, max_new: int, answered: int) -> None:
        """Hold the cached prefix of a running request; the rest of it is its own."""
        node = self._index.root
        if self._cached:
            node = self._index.match(self._prompts.chain(key, tokens), tokens // self._size)
        prefix = node.end * self._size
        need = -(-(tokens + answered - prefix) // self._size) * self._size
        if need > self._free:
            return
        self._index.lock(node)
        self._free -= need
        self._running[number] = Demand(tokens + answered, prefix, max_new, answered, self._eos)

    # ---- lookups ---------------------------------------------------------------------------------

    def lookup(self, handle: int) -> int:
        """Tokens of a waiting request that are cached."""
        return self._match(handle, spare=0)

    def _match(self, handle: int, spare: int) -> int:
        if not self._cached:
            return 0
        tokens = self._op["waiting"][handle]["len"] - spare
        node = self._index.match(self._chain(handle), tokens // self._size)
        self._nodes[handle] = node
        return node.end * self._size

    def _chain(self, handle: int) -> Chain:
        one = self._op["waiting"][handle]
        return self._prompts.chain(one["key"], one["len"])

    def text(self, handle: int) -> _Text:
        """A waiting request as the scratch tree sees it."""
        chain = self._chain(handle)
        return _Text(chain, chain.tokens)

    def scratch(self) -> _Scratch:
        """An empty set of prompts."""
        return _Scratch(self)

    def by_weight(self, handles: Sequence[int]) -> list[int]:
        """Indices of requests in dfs-weight order."""
        return self._index.by_weight([self._nodes[handle] for handle in handles])

    # ---- the pass --------------------------------------------------------------------------------

    def play(self) -> dict[str, Any]:
        """The outcome, in the recording's format."""
        config, index, size = self._config, self._index, self._size
        step: dict[str, Any] = {
            "avail": self._free,
            "evictable": index.evictable * size,
            "protected": index.protected * size,
            "running": [f"run{number}" for number in self._running],
        }
        line = self._line()
        step["order"] = [one.handle for one in line]
        step["matched"] = [[one.handle, one.matched] for one in line]
        adder = PrefillAdder(
            size,
            lambda: self._free + index.evictable * size,
            self._running.values(),
            ratio=config["new_token_ratio"],
            input_tokens=config["max_prefill_tokens"],
            chunk_tokens=config["chunked_prefill_size"],
            decodes=len(self._running) if config.get("mixed_chunk") else 0,
            one_chunked=config["policy"] == "shortest-prefill-first",
        )
        step["dec"] = self._admit(line, adder)
        return step

    def _line(self) -> list[Waiting]:
        config = self._config
        line = [
            Waiting(i, f"w{i}", w["len"], w["len"], w["max_new"], w.get("prio", 0), w["t"])
            for i, w in enumerate(self._op["waiting"])
        ]
        order = LineOrder(
            config["policy"],
            cached=self._cached,
            priorities=config.get("priority_scheduling", False),
            low_first=config.get("low_first", False),
        )
        order.sort(line, self)
        return line

    def _admit(self, line: list[Waiting], adder: PrefillAdder) -> list[list[Any]]:
        decisions: list[list[Any]] = []
        chunked = False
        for one in line:
            if len(self._running) + adder.added >= self._config["max_running"]:
                decisions.append([one.handle, "FULL"])
                break
            prefix = self._match(one.handle, spare=1)
            node = self._nodes.get(one.handle, self._index.root)
            idle = _idle(node) * self._size
            need = Demand(one.known_tokens, prefix, one.max_new_tokens, 0, self._eos, idle)
            added = adder.add(
                need,
                partial(self._index.lock, node),
                has_chunked=chunked,
                cached=self._cached,
            )
            taken = [prefix, added.tokens] if added.tokens else [None, None]
            chunked |= added.chunked
            decisions.append(
                [
                    one.handle,
                    added.verdict.value,
                    *taken,
                    int(added.chunked),
                    round(adder.total_left, 4),
                    round(adder.current_left, 4),
                    adder.input_left,
                    adder.chunk_left,
                ]
            )
            if added.verdict is not Verdict.CONTINUE:
                break
        return decisions


@dataclass
class _Text:
    chain: Chain
    known: int


class _Scratch:
    """Prompts of the pass by their place in the line."""

    def __init__(self, owner: _Pass) -> None:
        self._owner, self._tree = owner, ScratchTree()

    def agree(self, handle: int) -> int:
        """Tokens that a prompt shares with one that was added."""
        return self._tree.agree(self._owner.text(handle))

    def add(self, handle: int) -> None:
        """Remember a prompt."""
        self._tree.add(self._owner.text(handle))


def _idle(node: Node) -> int:
    """Blocks up to the end of *node* that nobody holds."""
    idle, above = 0, node
    while above.parent is not None:
        idle += 0 if above.locks else above.blocks
        above = above.parent
    return idle
