"""A workload made of a measured run's own arrivals and lengths (``--replay``)."""

from __future__ import annotations

import json
from pathlib import Path

from ...policies.errors import InputError
from ...scenarios import load, overrides
from .measured import Measured

NOTE = (
    "replayed from the run's own arrivals and lengths: the record has no text, so requests share "
    "no prefix but their own after a preemption"
)


def write(path: Path, run: Measured) -> None:
    """Write the requests of *run* as a trace that a scenario can name (format llmservingsim).

    Raises:
        InputError: the run does not say when its requests arrived.
        OSError: the file cannot be written.
    """
    requests = run.requests
    if requests is None or requests.arrival_s is None:
        raise InputError(
            f"{run.name} does not say when its requests arrived", where="--replay", help=run.format
        )
    rows = zip(
        requests.prompt_tokens.tolist(),
        requests.output_tokens.tolist(),
        requests.arrival_s.tolist(),
        strict=True,
    )
    lines = [
        json.dumps(
            {"input_toks": prompt, "output_toks": output, "arrival_time_ns": round(at_s * 1e9)}
        )
        for prompt, output, at_s in rows
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def replayed(source: load.Source, trace: Path) -> load.Source:
    """*source* with the trace as its workload, in place of its own."""
    workload = {"kind": "trace", "file": str(trace.resolve()), "format": "llmservingsim"}
    document = overrides.changed(source.document, ("workload",), workload, "--replay")
    return load.Source(document, source.folders)
