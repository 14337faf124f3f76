"""Paged KV: the pool of blocks, the prefix index over it, and the order of eviction."""
