"""Recorded decisions beside ours, file by file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ...policies.errors import InfersimError, InputError, UnknownNameError
from ...sim.state.kv.extents import ExtentPool
from .vllm import VllmCase

FORMATS = ("oracle/vllm/1",)

#: what only a pool with block ids can know
BLOCK_FIELDS = {"blk", "fq", "fqc", "evict", "stored"}


class Verdict(NamedTuple):
    """What became of one recorded case.

    Attributes:
        difference: the first one found, in words; "" when every recorded field agrees.
    """

    file: Path
    name: str
    steps: int
    difference: str


def conform(file: Path) -> Verdict:
    """Replay one recorded case and compare every recorded field at every step.

    The case is played with both KV pools of the simulator: block by block, and as runs of blocks
    (there without the fields that speak of block ids).

    Raises:
        InputError: the file is no recorded case.
    """
    case = _load(file)
    want: list[dict[str, Any]] = case["steps"]
    difference = _play(VllmCase(case), want, set())
    config = case["config"]
    if not difference:
        pool = ExtentPool(
            config["num_gpu_blocks"] - 1,
            config["block_size"],
            caching=bool(config["enable_prefix_caching"]),
        )
        difference = _play(VllmCase(case, pool), want, BLOCK_FIELDS)
        if difference:
            difference = f"with runs of blocks: {difference}"
    return Verdict(file, str(case.get("name", file.stem)), len(want), difference)


def _load(file: Path) -> dict[str, Any]:
    try:
        case = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(file)) from error
    except ValueError as error:
        raise InputError(f"is no JSON: {error}", where=str(file)) from error
    if not isinstance(case, dict) or not {"format", "config", "requests", "steps"} <= case.keys():
        raise InputError(
            "is no recorded case",
            where=str(file),
            help='it needs "format", "config", "requests" and "steps"',
        )
    if case["format"] not in FORMATS:
        raise UnknownNameError("recording format", case["format"], FORMATS, where=str(file))
    return case


def _play(player: VllmCase, want: list[dict[str, Any]], ignored: Iterable[str]) -> str:
    try:
        got = json.loads(json.dumps(player.play()))
    except (InfersimError, RuntimeError) as error:
        return f"step {player.t}: {error}"
    for mine, theirs in zip(got, want, strict=False):
        for field in sorted((mine.keys() | theirs.keys()).difference(ignored)):
            if mine.get(field) != theirs.get(field):
                return (
                    f"step {theirs.get('t')}: {field} is {_short(mine.get(field))}, "
                    f"recorded {_short(theirs.get(field))}"
                )
    if len(got) != len(want):
        return f"{len(got)} steps, recorded {len(want)}"
    return ""


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 160 else f"{text[:157]}…"
