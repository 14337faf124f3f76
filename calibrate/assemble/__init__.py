"""From samples to a profile: fits of every operation, what steps cost beside them, and a stamp."""
