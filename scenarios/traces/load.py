"""Open a trace in any supported format, recognised by what it holds."""

from __future__ import annotations

from pathlib import Path

from ...policies.errors import InputError, UnknownNameError
from .formats import FORMATS, Format
from .rows import Trace
from .source import Options, Source


def load(path: str | Path, *, format: str | None = None, options: Options | None = None) -> Trace:
    """Read *path* whole, or as much of it as ``options.limit`` allows.

    Args:
        path: the file, plain or .gz, .xz, .zst.
        format: one of `FORMATS`; None recognises it by the keys of the first row.
        options: block size, limit and what to do with odd rows.

    Raises:
        InputError: with file and line, whatever is wrong with the file.
    """
    source = Source(Path(path), options or Options())
    for name in ("block_size", "limit"):
        value = getattr(source.options, name)
        if value is not None and value < 1:
            raise InputError(f"{name} must be at least 1, found {value}")
    trace = (detect(source) if format is None else named(format)).read(source)
    _refuse_unused(source, trace)
    return trace


def _refuse_unused(source: Source, trace: Trace) -> None:
    """Refuse an option that says something else than the file, or nothing in its format."""
    wanted, text = source.options.block_size, FORMATS["sharegpt"].name
    if wanted not in (None, trace.block_size):
        holds = (
            f"has blocks of {trace.block_size} tokens" if trace.block_size else "has no block ids"
        )
        raise InputError(f"{trace.format} {holds}, and block_size says {wanted}", where=trace.file)
    if (
        trace.format != text
        and source.options.characters_per_token != Options().characters_per_token
    ):
        message = f"{trace.format} holds token counts: characters_per_token is for {text}"
        raise InputError(message, where=trace.file)


def named(format: str) -> Format:
    """The format called so.

    Raises:
        UnknownNameError: there is none.
    """
    if format not in FORMATS:
        raise UnknownNameError("trace format", format, FORMATS)
    return FORMATS[format]


def detect(source: Source) -> Format:
    """The format whose required keys the first row has; the one with most of them.

    Raises:
        InputError: the first row fits none.
    """
    line, text, ended = next(source.lines())
    if text.lstrip().startswith("["):
        return FORMATS["sharegpt"]
    csv = not text.lstrip().startswith("{")
    if csv:
        keys = frozenset(name.strip() for name in text.split(","))
    else:
        keys = frozenset(source.parse(text, line, ended))
    fits = [f for f in FORMATS.values() if f.csv == csv and f.required <= keys]
    if not fits:
        raise InputError(
            f"no known format has the {'columns' if csv else 'keys'} {_some(keys)}",
            where=source.where(line),
            help="; ".join(f"{f.name}: {f.summary}" for f in FORMATS.values() if f.csv == csv),
        )
    return max(fits, key=lambda f: (len(f.required), f.name))


def _some(keys: frozenset[str]) -> str:
    shown = ", ".join(repr(key) for key in sorted(keys)[:8])
    return shown if len(shown) <= 200 else shown[:197] + "..."
