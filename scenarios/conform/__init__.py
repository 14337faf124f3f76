"""Replays decisions recorded from real engines through the objects that the simulator uses."""
