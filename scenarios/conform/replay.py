"""Recorded decisions beside ours, file by file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from ...policies.errors import InfersimError, InputError, UnknownNameError
from ...sim.state.kv.extents import ExtentPool
from .prefill import PrefillCase
from .radix import RadixCase
from .vllm import VllmCase

#: recording format -> what such a file has
FORMATS: dict[str, tuple[str, ...]] = {
    "oracle/vllm/1": ("config", "requests", "steps"),
    "oracle/sglang-radix/1": ("config", "keys", "ops", "steps", "final"),
    "oracle/sglang-prefill/1": ("config", "ops", "steps"),
}

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


class Player(Protocol):
    """A case that can be played."""

    t: int  #: the step it is at

    def play(self) -> list[Any]:
        """Every step in the recording's format."""


def conform(file: Path) -> Verdict:
    """Replay one recorded case and compare every recorded field at every step.

    A vLLM case is played with both KV pools of the simulator: block by block, and as runs of blocks
    (there without the fields that speak of block ids). A case of SGLang's radix tree is played
    with every tree that its file was recorded from.

    Raises:
        InputError: the file is no recorded case.
    """
    case = _load(file)
    compared = {
        "oracle/vllm/1": _vllm,
        "oracle/sglang-radix/1": _radix,
        "oracle/sglang-prefill/1": _prefill,
    }
    difference = compared[case["format"]](case)
    return Verdict(file, str(case.get("name", file.stem)), len(case["steps"]), difference)


def _load(file: Path) -> dict[str, Any]:
    try:
        case = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", where=str(file)) from error
    except ValueError as error:
        raise InputError(f"is no JSON: {error}", where=str(file)) from error
    if not isinstance(case, dict) or "format" not in case:
        raise InputError("is no recorded case", where=str(file), help='it needs a "format"')
    if case["format"] not in FORMATS:
        raise UnknownNameError("recording format", case["format"], FORMATS, where=str(file))
    missing = [name for name in FORMATS[case["format"]] if name not in case]
    if missing:
        raise InputError(
            f'is no recorded case: it has no "{missing[0]}"',
            where=str(file),
            help=f"a file of {case['format']} has {', '.join(FORMATS[case['format']])}",
        )
    return case


def _vllm(case: dict[str, Any]) -> str:
    want, config = case["steps"], case["config"]
    difference = _play(VllmCase(case), want, set())
    if difference:
        return difference
    pool = ExtentPool(
        config["num_gpu_blocks"] - 1,
        config["block_size"],
        caching=bool(config["enable_prefix_caching"]),
    )
    difference = _play(VllmCase(case, pool), want, BLOCK_FIELDS)
    return f"with runs of blocks: {difference}" if difference else ""


def _radix(case: dict[str, Any]) -> str:
    for kind in RadixCase.kinds(case):
        player = RadixCase(case, kind)
        difference = _play(player, case["steps"], ())
        final = case["final"] | json.loads(json.dumps(player.final()))
        for field in () if difference else sorted(case["final"]):
            if final[field] != case["final"][field]:
                difference = f"at the end: {_differ(field, final[field], case['final'][field])}"
                break
        if difference:
            return f"as the {kind} tree: {difference}"
    return ""


def _prefill(case: dict[str, Any]) -> str:
    return _play(PrefillCase(case), case["steps"], ())


def _play(player: Player, want: list[Any], ignored: Iterable[str]) -> str:
    try:
        got = json.loads(json.dumps(player.play()))
    except (InfersimError, RuntimeError) as error:
        return f"step {player.t}: {error}"
    for number, (mine, theirs) in enumerate(zip(got, want, strict=False)):
        if not isinstance(theirs, dict):
            if mine != theirs:
                return f"step {number}: {_differ('result', mine, theirs)}"
            continue
        for field in sorted((mine.keys() | theirs.keys()).difference(ignored)):
            if mine.get(field) != theirs.get(field):
                step = theirs.get("t", number)
                return f"step {step}: {_differ(field, mine.get(field), theirs.get(field))}"
    if len(got) != len(want):
        return f"{len(got)} steps, recorded {len(want)}"
    return ""


def _differ(field: str, mine: object, theirs: object) -> str:
    return f"{field} is {_short(mine)}, recorded {_short(theirs)}"


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 160 else f"{text[:157]}…"
