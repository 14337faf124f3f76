"""Files that are either whole or not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write to; it becomes *path* on success and is removed on any failure.

    An earlier file of that name stays until the new one is complete.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write *text* as UTF-8, whole or not at all.

    Raises:
        OSError: the disk is full or the folder cannot be written to.
    """
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def asset(name: str) -> str:
    """The text of a file in ``reports/assets``."""
    return files(__package__).joinpath("assets", name).read_text(encoding="utf-8")
