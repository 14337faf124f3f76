"""Policies that keep several queues and look at a unit again before it leaves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

from ..types import CachedBlock, Promise
from .base import Eviction, Key


class Queues(Protocol):
    """The idle units of a cache by queue, each in the order of its keys."""

    @property
    def lengths(self) -> Mapping[int, int]:
        """How many units each queue holds; 0 for one that never was."""

    def head(self, queue: int) -> CachedBlock:
        """The unit of a queue that is not empty with the smallest key."""

    def place(self, queue: int) -> tuple[Any, ...]:
        """Where the head of a queue that is not empty would stand if all queues were one."""


class QueuedEviction(Eviction):
    """An eviction whose keys begin with the number of a queue, and which chooses between queues.

    Shares are of the idle units: what requests hold cannot leave, and is in no queue. On a radix
    tree the units are leaves of many blocks; a class that works with them too, and spares none,
    sets `on_leaves`.
    """

    promise = Promise(queues=True)
    observes = True
    on_leaves: ClassVar[bool] = False

    def pick(self, queues: Queues) -> int:
        """The queue whose head is to leave, or to be looked at again; it is not empty."""
        raise NotImplementedError

    def spare(self, block: CachedBlock, key: Key) -> Key | None:
        """The new key of the head of the picked queue, *key* until now; None: it leaves."""
        return None
