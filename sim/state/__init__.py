"""Bookkeeping that the simulator and the executor share. No clock of its own, no SimPy."""
