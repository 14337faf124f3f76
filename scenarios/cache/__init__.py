"""A trace through one cache and one eviction policy, alone: hit rates, no timing."""
