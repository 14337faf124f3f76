"""The second host: the same policies and the same replica state, over a real model's forward."""
