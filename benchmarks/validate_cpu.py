"""The whole loop on a CPU in one command: calibrate, execute, simulate, validate.

    OMP_NUM_THREADS=1 python benchmarks/validate_cpu.py [--out DIR] [--profile DIR]

1. `infersim calibrate --cpu` of the tiny model, unless a profile is given.
2. Scenarios and policies on the executor's virtual clock: every step must decide what the
   simulation decides; leaves with 1 where one does not.
3. Two scenarios on the real clock, compared with their simulation step by step. How close the
   times are depends on what else the machine does: they are printed, not judged.

Under three minutes on two idle cores.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from time import perf_counter
from typing import Any

import pandas as pd
import yaml

from infersim.cli.main import run

ENGINE = {"max_model_len": 512, "max_num_batched_tokens": 128, "max_num_seqs": 16}
OPEN = {
    "kind": "open-loop",
    "requests": 40,
    "arrivals": 20,
    "system": {"tokens": 40},
    "prompt_tokens": {"kind": "lognormal", "median": 60, "sigma": 0.6, "max": 300},
    "output_tokens": {"kind": "lognormal", "median": 20, "sigma": 0.4, "max": 60},
}
CHAT = {
    "kind": "chat",
    "sessions": 12,
    "concurrency": 6,
    "think_s": {"kind": "exponential", "mean": 0.01},
    "system": {"tokens": 24},
    "prompt_tokens": {"kind": "uniform", "low": 3, "high": 30},
    "output_tokens": {"kind": "uniform", "low": 5, "high": 20},
}
BUSY = OPEN | {"arrivals": 5000, "output_tokens": {"kind": "uniform", "low": 40, "high": 120}}
#: name -> (workload, changes of the pool, policies, what must happen)
DECISIONS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], str]] = {
    "prefix hits": (OPEN, {}, {}, "hit_tokens"),
    "preemption": (BUSY, {"kv_blocks": 40}, {}, "preempted"),
    "sarathi": (BUSY, {}, {"scheduling": "sarathi"}, "hit_tokens"),
    "chat, lfu, tight": (CHAT, {"kv_blocks": 34}, {"eviction": "lfu"}, "hit_tokens"),
    "chat, session-ttl": (CHAT, {"kv_blocks": 34}, {"eviction": "session-ttl"}, "hit_tokens"),
    "host memory tier": (CHAT, {"kv_blocks": 34, "offload": {"blocks": 300}}, {}, "remote_tokens"),
    "prefill, decode": (OPEN, {"split": True}, {}, "remote_tokens"),
}
TIMED = ("prefix hits", "chat, session-ttl")


def scenario(name: str, profile: Path) -> dict[str, Any]:
    """One cell of `DECISIONS` as a scenario."""
    workload, changes, policies, _ = DECISIONS[name]
    pool: dict[str, Any] = {"gpu": "cpu", "model": "tiny", "kv_blocks": 400, "engine": ENGINE}
    pool |= {"profile": str(profile.resolve())} | changes
    made: dict[str, Any] = {"name": name.replace(", ", "-").replace(" ", "-"), "seed": 1}
    made["cluster"] = pool
    if pool.pop("split", False):
        roles = [pool | {"name": role, "role": role} for role in ("prefill", "decode")]
        made |= {"cluster": {"pools": roles}, "links": {"kv": "infiniband-ndr-400g"}}
    return made | {"workload": workload, "policies": policies}


def command(*words: str) -> str:
    """Run `infersim` and return what it printed.

    Raises:
        SystemExit: it failed; it has said why.
    """
    said = StringIO()
    with redirect_stdout(said):
        code = run(list(words))
    if code:
        raise SystemExit(f"infersim {' '.join(words)}: exit code {code}")
    return said.getvalue()


def decisions(folder: Path, name: str, profile: Path) -> tuple[int, int, dict[str, int]]:
    """(steps, steps that both hosts decided alike, what happened in them) of one cell."""
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(scenario(name, profile), sort_keys=False))
    usual = (str(file), "--no-report", "-q")
    command("execute", *usual, "--out", str(folder / f"{name} executed"))
    command("run", *usual, "--trace", "--out", str(folder / f"{name} simulated"))
    executed, simulated = (
        pd.read_parquet(folder / f"{name} {host}" / "steps.parquet").set_index(["replica", "step"])
        for host in ("executed", "simulated")
    )
    both = executed[["digest"]].join(simulated["digest"].rename("theirs"), how="inner")
    same = (both["digest"] == both["theirs"]).sum()
    summary = json.loads((folder / f"{name} simulated" / "summary.json").read_text())
    unanswered = summary["cells"][0]["metrics"]["requests"]["failed"]
    if unanswered:
        raise SystemExit(f"{name}: {unanswered} requests failed, so it compares too little")
    happened = {
        key: int(simulated[key].sum()) for key in ("preempted", "hit_tokens", "remote_tokens")
    }
    if not happened[DECISIONS[name][3]]:
        raise SystemExit(f"{name}: {DECISIONS[name][3]} is 0, so it compares too little")
    return max(len(executed), len(simulated)), int(same), happened


def times(folder: Path, name: str) -> dict[str, Any]:
    """Step times of one cell on the real clock against its simulation."""
    file, run_folder = folder / f"{name}.yaml", folder / f"{name} measured"
    command("execute", str(file), "--clock", "wall", "--no-report", "-q", "--out", str(run_folder))
    words = (
        "validate",
        str(file),
        "--against",
        str(run_folder),
        "--no-sensitivity",
        "--json",
        "-q",
    )
    found = json.loads(command(*words, "--out", str(folder / f"{name} validated")))
    cell: dict[str, Any] = found["cells"][0]
    return cell


def main() -> int:
    """Carry it out; 1 where a decision differs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, help="keep everything here")
    parser.add_argument("--profile", type=Path, help="one that is there already")
    options = parser.parse_args()
    folder = options.out or Path(tempfile.mkdtemp(prefix="infersim-"))
    folder.mkdir(parents=True, exist_ok=True)
    begun = perf_counter()
    profile = options.profile or folder / "profile"
    if options.profile is None:
        command("calibrate", "--cpu", "--minutes", "1", "--out", str(profile), "-q")
        print(f"calibrated in {perf_counter() - begun:.0f} s")
    wrong = 0
    for name in DECISIONS:
        steps, same, happened = decisions(folder, name, profile)
        wrong += same != steps
        what = ", ".join(f"{key} {count:,}" for key, count in happened.items())
        print(f"{name:<20} {same:5d} of {steps:5d} steps decided alike ({what})")
    for name in TIMED:
        for row in times(folder, name)["steps"]["times"]:
            print(
                f"{name:<20} {row['kind']:<8} {row['n']:5d} steps foretold within "
                f"{row['median']:.1%} (median), {row['p95']:.1%} (p95), bias {row['bias']:+.1%}"
            )
    print(f"{perf_counter() - begun:.0f} s in all; {folder}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
