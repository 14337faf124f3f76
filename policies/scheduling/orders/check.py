"""Numbers that a scenario gives to an order."""

from __future__ import annotations

from math import isfinite
from typing import Any

from ...errors import InputError


def at_least(least: float, policy: Any, *names: str, above: bool = False) -> None:
    """Refuse fields of *policy* that are not finite, or below *least* (or not *above* it).

    Raises:
        InputError: with the field, what was found and what is allowed.
    """
    for name in names:
        value = getattr(policy, name)
        if not isfinite(value) or value < least or (above and value == least):
            what = f"above {least}" if above else f"{least} or more"
            raise InputError(f"{name} must be a finite number, {what}, found {value!r}")
