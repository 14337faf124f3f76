"""How much of what running requests may still answer is set aside for them."""

from __future__ import annotations

INITIAL, FLOOR, DECAY_STEPS, RETRACT_STEPS = 0.7, 0.14, 600, 20


class NewTokenRatio:
    """Falls in a straight line with decode steps, and jumps up when requests are retracted.

    Method: sglang 0.5.23 `managers/scheduler_components/new_token_ratio_tracker.py`. Steps are
    told as a running count, so that steps nobody looked at in between are accounted for.

    Args:
        conservativeness: SGLang's schedule_conservativeness.
    """

    def __init__(self, conservativeness: float) -> None:
        self._initial = min(INITIAL * conservativeness, 1.0)
        self._floor = min(self._initial * FLOOR, 1.0)
        self._decay = (self._initial - self._floor) / DECAY_STEPS
        self._current, self._steps = self._initial, 0

    def after(self, steps: int) -> float:
        """The ratio once *steps* decode steps, of all, were taken."""
        while self._steps < steps:
            lower = max(self._current - self._decay, self._floor)
            if lower == self._current:
                self._steps = steps
                break
            self._current = lower
            self._steps += 1
        return self._current

    def retracted(self, answered: int, allowed: int, requests: int, steps: int) -> None:
        """Requests lost their KV; the others have *answered* of the *allowed* tokens so far."""
        self._current = min(1.0, (answered + RETRACT_STEPS * requests) / (allowed + 1))
        self._steps = steps

    def idle(self, steps: int) -> None:
        """There is nothing to do: begin anew."""
        self._current, self._steps = self._initial, steps
