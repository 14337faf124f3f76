"""Which importer reads what."""

from __future__ import annotations

from importlib import import_module
from inspect import signature
from typing import Any

from ..policies.errors import InputError, UnknownNameError
from ..sim.cost.profile import Profile

FORMATS = ("aiconfigurator", "llmservingsim", "silicon")


def import_profile(format: str, path: str, **options: Any) -> Profile:
    """The profile that the tables of *format* at *path* give.

    Args:
        path: a folder or file; for "silicon" the name that it has for the model.
        options: of the importer, see `read` of ``calibrate/importers/<format>.py``.

    Raises:
        UnknownNameError: an unknown format, model or GPU.
        InputError: an option that the format does not have, or tables that cannot be read.
    """
    if format not in FORMATS:
        raise UnknownNameError("format", format, FORMATS, where="FORMAT")
    read = import_module(f".importers.{format}", __package__).read
    known = signature(read).parameters
    for name in options:
        if name not in known:
            raise InputError(f"{format} has no --{name.replace('_', '-')}", where=f"--{name}")
    profile: Profile = read(path, **options)
    return profile
