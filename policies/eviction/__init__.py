"""Which cached unit leaves first."""

from . import belady, fifo, gdsf, length_aware, lfu, lru, random, session_ttl

__all__ = ["belady", "fifo", "gdsf", "length_aware", "lfu", "lru", "random", "session_ttl"]
