"""Reading what engines print: an iteration a line (vLLM), or a batch a line (SGLang)."""

from __future__ import annotations

import re
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from ...policies.errors import InputError
from ...sim.cost.profile import hash_file
from ..compare.formats import load
from .observed import Observation, Run, shape, steps_of

#: vLLM's --enable-logging-iteration-details (v1/metrics/loggers.py, 0.27; without usage before)
_ITERATION = re.compile(
    r"Iteration\(\d+\): (\d+) context requests, (\d+) context tokens, (\d+) generation requests, "
    r"(\d+) generation tokens, iteration elapsed time: ([\d.]+) ms(?! \(dummy\))"
    r"(?:, GPU KV cache usage: ([\d.]+)%)?"
)
_VLLM_CAPACITY = re.compile(r"GPU KV cache size: ([\d,]+) tokens")
#: SGLang's decode log: throughput is a mean since the last such line
_DECODE = re.compile(
    r"Decode batch.*?#running-req: (\d+), #token: (\d+), .*?gen throughput \(token/s\): ([\d.]+)"
)
_PREFILL = re.compile(r"Prefill batch")
_SGLANG_CAPACITY = re.compile(r"max_total_num_tokens=(\d+)")


def read(path: Path, block_size: int, context: Callable[[], float]) -> Run | None:
    """The run at *path*, if it holds timed steps; None for requests only.

    Args:
        block_size: of the scenario, for logs that count KV in tokens.
        context: mean KV tokens of a decoding sequence, for logs that do not say how many there are.

    Raises:
        InputError: nothing is there, or it is damaged.
    """
    if path.is_file() and not path.name.endswith((".json", ".jsonl", ".csv")):
        text = path.read_text(encoding="utf-8", errors="replace")
        found = _vllm(path, text, block_size, context) or _sglang(path, text, block_size)
        if found is not None:
            return found
    runs = load(path)
    if len(runs) != 1:
        raise InputError(f"{path} holds {len(runs)} runs, one is fitted at a time", where="--from")
    run = runs[0]
    if run.timed_by:
        raise InputError(
            f"the times of {path} are a cost model's ({run.timed_by}): nothing to learn from",
            where="--from",
            help="infersim execute --clock wall measures",
        )
    if run.steps is None:
        return None
    made = Run(run.name, run.format, digest(path), steps_of(run), "infersim executor")
    made.kv_blocks, made.block_size = run.kv_blocks, run.block_size
    return made


def digest(path: Path) -> str:
    """SHA-256 of a file, or of all files of a folder with their names: what a run is known by."""
    if path.is_file():
        return hash_file(path)
    whole = sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file()):
        whole.update(f"{file.relative_to(path).as_posix()} {hash_file(file)}\n".encode())
    return whole.hexdigest()


def _vllm(path: Path, text: str, block_size: int, context: Callable[[], float]) -> Run | None:
    lines = _ITERATION.findall(text)
    if not lines:
        return None
    found = _VLLM_CAPACITY.search(text)
    tokens = int(found.group(1).replace(",", "")) if found else None
    said = tokens is not None and all(usage for *_, usage in lines)
    mean = 0.0 if said else context()
    observations = []
    for chunks, chunk_tokens, sequences, generated, ms, usage in lines:
        decodes = int(sequences)
        if float(ms) <= 0 or int(generated) > decodes or not decodes + int(chunks):
            continue  # idle, or tokens of a draft: no step of one token a sequence
        held = round(decodes * mean)
        if said and tokens is not None:
            held = round(float(usage) / 100 * tokens)
        row = shape(
            decodes,
            held if decodes else 0,
            int(chunks),
            int(chunk_tokens),
            0,
            decodes + int(chunks),
        )
        observations.append(Observation((row,), float(ms) / 1e3))
    run = Run(path.name, "vLLM iteration log", hash_file(path), observations, "vllm")
    if tokens is not None:
        run.kv_blocks, run.block_size = tokens // block_size, block_size
    if not said:
        run.notes.append(
            f"the log does not say how long contexts were: {mean:,.0f} tokens a sequence, the "
            "mean of the simulated scenario"
        )
    run.notes.append("the log does not say what stood before a chunk: taken as nothing")
    return run


def _sglang(path: Path, text: str, block_size: int) -> Run | None:
    observations = []
    mixed = True  # a prefill since the last line makes its mean throughput that of both
    for line in text.splitlines():
        if _PREFILL.search(line):
            mixed = True
        elif found := _DECODE.search(line):
            running, held, rate = int(found[1]), int(found[2]), float(found[3])
            if not mixed and running and rate > 0:
                step = shape(running, held, 0, 0, 0, running)
                observations.append(Observation((step,), running / rate))
            mixed = False
    if not observations:
        return None
    run = Run(path.name, "SGLang log", hash_file(path), observations, "sglang")
    if found := _SGLANG_CAPACITY.search(text):
        run.kv_blocks, run.block_size = int(found[1]) // block_size, block_size
    run.notes.append("the log times decode batches only: nothing is known of prefill")
    return run
