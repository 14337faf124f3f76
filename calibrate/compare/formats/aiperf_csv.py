"""AIPerf's (and GenAI-Perf's) aggregated CSV: tables of percentiles and of single values.

Two sections, each with its header: ``Metric,avg,min,…,p50,…,p99,std`` with rows such as
"Time to First Token (ms)", then ``Metric,Value`` with rows such as "Request Throughput
(requests/sec)". Further sections (GPU telemetry) are not read. What AIPerf calls inter token
latency is our TPOT: a mean per request.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from ....policies.errors import InputError
from ..measured import Figures, Measured
from .aiperf import CLIENT
from .values import in_seconds, text_of

FORMAT = "AIPerf CSV"
_LATENCIES = {
    "time to first token": "ttft_s",
    "inter token latency": "tpot_s",
    "inter chunk latency": "itl_s",
    "request latency": "e2e_s",
}
_VALUES = {
    "request throughput": "requests_per_s",
    "output token throughput": "output_tokens_per_s",
    "total token throughput": "total_tokens_per_s",
    "benchmark duration": "duration_s",
    "request count": "requests",
}
_STATISTICS = {"avg": "mean", "p50": "p50", "p90": "p90", "p99": "p99"}
_NAME = re.compile(r"(?P<name>.*?)\s*(?:\((?P<unit>[^()]*)\))?\s*")


def load(path: Path) -> Measured:
    """Read the tables.

    Raises:
        InputError: a cell that is no number, or no latency in the file.
    """
    found: Figures = {}
    for line, name, unit, cells in _rows(path):
        where = f"{path}:{line}"
        if name in _LATENCIES:
            metric = _LATENCIES[name]
            found[metric] = {
                ours: in_seconds(_number(cells[theirs], where), unit, name, where)
                for theirs, ours in _STATISTICS.items()
                if cells.get(theirs)
            }
        elif name in _VALUES and cells.get("Value", cells.get("avg")):
            text = cells.get("Value") or cells["avg"]
            found[_VALUES[name]] = {"value": _number(text, where)}
    if "ttft_s" not in found and "e2e_s" not in found:
        raise InputError("no latency in the tables", where=str(path))
    count = found.pop("requests", None)
    if count is not None:
        for metric in set(found) & set(_LATENCIES.values()):
            found[metric]["n"] = count["value"]
    notes = (CLIENT, "aggregates only: profile_export.jsonl of the same run says more")
    return Measured(path.name, FORMAT, "client", given=found, notes=notes)


def _rows(path: Path) -> Iterator[tuple[int, str, str, dict[str, str]]]:
    """(line, metric in lower case, unit, cells by column) of both tables."""
    header: list[str] | None = None
    for line, text in enumerate(text_of(path).splitlines(), 1):
        cells = next(csv.reader([text]), [])
        if not cells or not cells[0].strip():
            header = None
        elif header is None:
            header = cells if cells[0].strip() == "Metric" else []
        elif header:
            matched = _NAME.fullmatch(cells[0])
            assert matched is not None
            values = dict(zip(header, (cell.strip() for cell in cells), strict=False))
            yield line, matched["name"].lower(), matched["unit"] or "", values


def _number(text: str, where: str) -> float:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        raise InputError(f'"{text[:40]}" is not a number', where=where) from None
