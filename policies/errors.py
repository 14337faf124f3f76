"""Every error that infersim raises on purpose.

InfersimError
├── InputError            the user's file, flag or name is wrong (exit code 2)
│   └── UnknownNameError  a name that nothing bears, with the nearest that something does
├── IllegalPlanError      a policy asked for what the engine cannot do
└── NoProgressError       the run can never finish
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class InfersimError(Exception):
    """Base of every error that infersim raises on purpose."""


class InputError(InfersimError, ValueError):
    """Input from outside is wrong: a scenario, a trace, a profile, a plug-in, a flag.

    Args:
        message: what was found and what is allowed.
        where: file, with line or key, e.g. ``chat.yaml:12  workload.rate``.
        help: what to do about it.
    """

    def __init__(self, message: str, *, where: str = "", help: str = "") -> None:
        super().__init__(message)
        self.message, self.where, self.help = message, where, help

    def __str__(self) -> str:
        lines = [self.message]
        if self.where:
            lines.append(f"  --> {self.where}")
        if self.help:
            lines.append(f"  help: {self.help}")
        return "\n".join(lines)


class UnknownNameError(InputError):
    """Nothing of this kind bears the name."""

    def __init__(self, kind: str, name: object, known: Iterable[str], *, where: str = "") -> None:
        names = sorted(known)
        near = get_close_matches(str(name), names, 1, 0.5)
        hint = f'did you mean "{near[0]}"? ' if near else ""
        super().__init__(
            f'unknown {kind} "{name}"', where=where, help=f"{hint}known: {', '.join(names)}"
        )


class IllegalPlanError(InfersimError):
    """A policy asked for what the engine cannot do; nothing of the request was carried out."""


class NoProgressError(InfersimError):
    """Requests are waiting and nothing that is scheduled could ever serve them."""
