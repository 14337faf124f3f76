"""Recorded operations on SGLang's radix trees, on the simulator's tree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...policies.registry import eviction
from ...policies.types import Segment
from ...sim.state.content import Chain, Chains, Contents
from ...sim.state.kv.radix import Kind, RadixIndex
from ...sim.state.kv.tree import Node


class Prompts:
    """Chains of a recording's keys.

    Args:
        keys: ``[[seed, start, tokens], …]`` each; token i of a piece is seed·100000 + start + i.
    """

    def __init__(self, keys: list[list[list[int]]]) -> None:
        self._keys = keys
        self._contents, self._chains = Contents(), Chains()
        self._made: dict[tuple[int, int, str], Chain] = {}

    def chain(self, key: int, tokens: int, namespace: str | None = None) -> Chain:
        """The first *tokens* of a key."""
        name = (key, tokens, namespace or "")
        if name not in self._made:
            left, prompt = tokens, []
            for seed, start, length in self._keys[key]:
                prompt.append(Segment(self._contents.id(seed), start, min(length, left)))
                left -= prompt[-1].tokens
            made = self._chains.chain([part for part in prompt if part.tokens], salt=name[2])
            self._made[name] = made
        return self._made[name]

    def token(self, chain: Chain, position: int) -> int:
        """The recording's token at *position* of a chain that was made here."""
        key = next(name[0] for name, made in self._made.items() if made is chain)
        for seed, start, length in self._keys[key]:
            if position < length:
                return seed * 100_000 + start + position
            position -= length
        raise IndexError(f"position {position} behind the end of key {key}")


class RadixCase:
    """One case: the operations of a recording, carried out by `play`.

    Args:
        case: a recording; only its ``config``, ``keys`` and ``ops`` are read.
        kind: which of SGLang's trees to be.
    """

    def __init__(self, case: dict[str, Any], kind: Kind) -> None:
        config = case["config"]
        policy = eviction.get(config["eviction"])(**config.get("eviction_config", {}))
        self.size: int = config["page_size"]
        self.index = RadixIndex(self.size, policy, kind=kind)
        self.prompts = Prompts(case["keys"])
        self._ops: list[list[Any]] = case["ops"]
        self._handles: dict[int, Node] = {}
        self._slots = 0
        self.t = 0

    @staticmethod
    def kinds(case: dict[str, Any]) -> tuple[Kind, ...]:
        """The trees that a recording is of: most are of all of them, which decided the same."""
        found: list[Kind] = []
        if case["config"].get("impl", "RadixCache") == "RadixCache":
            found.append("radix")
        if "unified" in f"{case['config'].get('impl')} {case.get('impl')}".lower():
            found.append("unified")
        return tuple(found)

    def play(self) -> list[list[Any]]:
        """The outcome of every operation, in the recording's format."""
        out = []
        index, size = self.index, self.size
        operations: dict[str, Callable[..., list[Any]]] = {
            "I": self._insert,
            "M": self._match,
            "L": self._lock,
            "U": self._unlock,
            "E": self._evict,
        }
        for what, *rest in self._ops:
            result = operations[what](*rest)
            self.t += 1
            index.check()
            out.append([*result, index.evictable * size, index.protected * size])
        return out

    def final(self) -> dict[str, Any]:
        """The tree as it is now, in the recording's format."""
        index, size = self.index, self.size
        return {
            "evictable": index.evictable * size,
            "protected": index.protected * size,
            "total": (index.evictable + index.protected) * size,
            "tree": self._kids(index.root),
        }

    def _insert(
        self, key: int, tokens: int, priority: int, inserted: int, namespace: str | None
    ) -> list[Any]:
        size, blocks = self.size, tokens // self.size
        slots = range(self._slots, self._slots + blocks * size, size)
        self._slots += tokens
        found = self.index.insert(
            self.prompts.chain(key, tokens, namespace),
            blocks,
            slots,
            importance=priority,
            inserted=inserted // size,
        )
        return [found.blocks * size]

    def _match(self, key: int, tokens: int, namespace: str | None) -> list[Any]:
        chain = self.prompts.chain(key, tokens, namespace)
        return [self.index.match(chain, tokens // self.size).end * self.size]

    def _lock(self, key: int, tokens: int, namespace: str | None, handle: int) -> list[Any]:
        chain = self.prompts.chain(key, tokens, namespace)
        node = self._handles[handle] = self.index.match(chain, tokens // self.size)
        self.index.lock(node)
        return [node.end * self.size]

    def _unlock(self, handle: int) -> list[Any]:
        self.index.unlock(self._handles.pop(handle))
        return []

    def _evict(self, tokens: int) -> list[Any]:
        gone = self.index.evict(-(-tokens // self.size))
        runs = [[node.slots[0], len(node.slots) * self.size] for node in gone]
        return [sum(run[1] for run in runs), runs]

    def _kids(self, node: Node) -> list[Any]:
        rows = []
        for kid in node.kids.values():
            assert kid.chain is not None
            first = self.prompts.token(kid.chain, kid.first * self.size)
            length = kid.blocks * self.size
            row = [first, length, kid.locks, kid.hits, kid.importance]
            rows.append([*row, self._kids(kid)])
        return rows
