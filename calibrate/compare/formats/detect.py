"""Which format a path holds, by content."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ....policies.errors import InputError
from ....scenarios.traces.compressed import read_lines
from ..measured import Measured
from . import aiperf, aiperf_csv, run_folder, vllm_bench, vllm_log
from .values import json_of
from .vllm_log import TtftFrom

ACCEPTED = (
    "accepted: the folder of `infersim run` or `infersim execute`; a vLLM request log "
    "(…requests.jsonl); the JSON of `vllm bench serve --save-detailed`; AIPerf's "
    "profile_export.jsonl or profile_export_aiperf.csv; or a folder with one of these"
)
_IN_FOLDERS = ("profile_export.jsonl", "*requests.jsonl", "*requests.jsonl.gz")


def load(path: Path, ttft_from: TtftFrom = "arrival") -> list[Measured]:
    """The run at *path*: one `Measured` a cell.

    Args:
        ttft_from: for vLLM request logs; other files know one start only.

    Raises:
        InputError: nothing is there, it is of no known kind, or it is damaged.
    """
    if not path.exists():
        raise InputError(f"no file or folder {path}", where="--against", help=ACCEPTED)
    if path.is_dir():
        return _load_folder(path, ttft_from)
    first = _first_line(path)
    if first.startswith(("Metric,", '"Metric",')):
        return [aiperf_csv.load(path)]
    row = _object(first)
    if row is not None and row.keys() >= vllm_log.KEYS:
        return [vllm_log.load(path, ttft_from)]
    if row is not None and row.keys() >= aiperf.KEYS:
        return [aiperf.load(path)]
    if first.lstrip().startswith("{"):
        data = json_of(path)
        if vllm_bench.recognises(data):
            return [vllm_bench.load(path, data)]
        if isinstance(data, dict) and "cells" in data and path.name == run_folder.SUMMARY:
            return run_folder.load(path.parent)
    raise _unknown(path)


def _load_folder(path: Path, ttft_from: TtftFrom) -> list[Measured]:
    if (path / run_folder.SUMMARY).is_file():
        return run_folder.load(path)
    for pattern in _IN_FOLDERS:
        found = sorted(path.glob(pattern))
        if len(found) == 1:
            return load(found[0], ttft_from)
        if found:
            names = ", ".join(one.name for one in found[:5])
            raise InputError(f"{path} holds several recorded runs: {names}", help="name one file")
    raise _unknown(path)


def _first_line(path: Path) -> str:
    for _, raw in read_lines(path):
        text = raw.decode("utf-8-sig", errors="replace")
        if text.strip():
            return text
    return ""


def _object(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _unknown(path: Path) -> InputError:
    return InputError(f"{path} is no run to compare with", where="--against", help=ACCEPTED)
