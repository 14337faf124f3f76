"""Write a text file whole or not at all, compressed as its suffix says."""

from __future__ import annotations

import gzip
import lzma
import os
from collections.abc import Iterable
from pathlib import Path

from ...policies.errors import InputError


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write *lines* to a file beside *path*, then put it in place.

    .gz, .xz and .zst are compressed; equal lines give equal bytes.

    Raises:
        InputError: the folder cannot be written to.
    """
    data = _compress(path.suffix, "".join(line + "\n" for line in lines).encode())
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        beside.write_bytes(data)
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


def _compress(suffix: str, data: bytes) -> bytes:
    if suffix == ".gz":
        return gzip.compress(data, mtime=0)
    if suffix == ".xz":
        return lzma.compress(data)
    if suffix == ".zst":
        import zstandard

        return zstandard.ZstdCompressor().compress(data)
    return data
