"""Lines of a file, plain or compressed (.gz, .xz, .zst), with errors that name file and line."""

from __future__ import annotations

import gzip
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from ...policies.errors import InputError

_MAGIC = {b"\x1f\x8b": ".gz", b"\xfd7zXZ\x00": ".xz", b"\x28\xb5\x2f\xfd": ".zst"}
_CHUNK_BYTES = 1 << 20


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (line number from 1, line with its newline).

    Compression is recognised by content and checked against the suffix.

    Raises:
        InputError: no such file, a folder, an empty file, or damaged or cut-off compression.
    """
    number = 0
    begun: list[bytes] = []  # the parts so far of a line longer than a chunk
    try:
        for chunk in _chunks(path):
            first, *rest = chunk.split(b"\n")
            begun.append(first)
            for piece in rest:
                number += 1
                yield number, b"".join(begun) + b"\n"
                begun = [piece]
    except (EOFError, OSError, lzma.LZMAError, zlib.error) as error:
        if isinstance(error, OSError) and not isinstance(error, gzip.BadGzipFile):
            raise InputError(f"cannot read {path}: {error.strerror or error}") from error
        what = "is cut off" if isinstance(error, EOFError) else "is damaged"
        raise InputError(
            f"the compressed file {what} after line {number}: {error}", where=f"{path}:{number + 1}"
        ) from error
    if any(begun):
        number += 1
        yield number, b"".join(begun)
    if number == 0:
        raise InputError("the file is empty", where=str(path))


def _chunks(path: Path) -> Iterator[bytes]:
    if not path.exists():
        raise InputError(f"no file {path}")
    if path.is_dir():
        raise InputError(f"{path} is a folder, a trace is a file")
    with path.open("rb") as raw:
        head = raw.read(6)
        raw.seek(0)
        if head.startswith(b"PAR1"):
            raise InputError(
                "a Parquet file, and traces are JSON lines or CSV",
                where=str(path),
                help='e.g. pandas.read_parquet(…).to_json(…, orient="records", lines=True)',
            )
        kind = next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), "")
        if path.suffix in _MAGIC.values() and kind != path.suffix:
            raise InputError(
                f"the file is named {path.suffix} but its content is "
                f"{kind + ' data' if kind else 'not compressed that way'}",
                where=str(path),
            )
        if kind == ".zst":
            yield from _zstd_chunks(raw)
            return
        opened = _opened(kind, raw)
        while chunk := opened.read(_CHUNK_BYTES):
            yield chunk


def _opened(kind: str, raw: IO[bytes]) -> IO[bytes]:
    if kind == ".gz":
        return cast(IO[bytes], gzip.GzipFile(fileobj=raw))
    return lzma.LZMAFile(raw) if kind == ".xz" else raw


def _zstd_chunks(raw: IO[bytes]) -> Iterator[bytes]:
    """Frame by frame, because zstandard's own reader takes a cut-off frame for a whole one."""
    import zstandard

    try:
        frame = zstandard.ZstdDecompressor().decompressobj()
        begun = False
        while data := raw.read(_CHUNK_BYTES):
            while data:
                begun = True
                yield frame.decompress(data)
                data = frame.unused_data
                if frame.eof:
                    frame, begun = zstandard.ZstdDecompressor().decompressobj(), False
    except zstandard.ZstdError as error:
        raise zlib.error(str(error)) from error
    if begun:
        raise EOFError("the last zstd frame has no end")
