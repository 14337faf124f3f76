"""Everything that is claimed of a GPU, measured on the one that is here, by one command.

    python benchmarks/gpu.py --out DIR [--parts tests,kernels,calibrate,validate]
        [--models llama-3.1-8b qwen3-0.6b] [--minutes 8] [--commit HASH]

tests      ``tests/kernels`` compiled for this GPU, at real sizes, some minutes
kernels    decode attention over the bandwidth of a copy (batch 32 to 256, context 4k to 16k),
           prefill attention over the rate of a matrix product (2k to 16k), torch's SDPA and
           FlexAttention beside them; then other launches than the tables' (`gpu_kernels`); a few
           minutes
calibrate  a profile of every model in at most --minutes; the same command goes on where it stopped
validate   the executor on the real clock beside the simulation with that profile, ten workload ×
           policy cells below, at and above the knee, each executed twice (`gpu_serving`); about
           twice --seconds and some more a cell

DIR receives results.json, results.md and, for each model, profile-MODEL/profile.json and
samples.parquet: at most 8 files for three models. Parts that are there already are kept unless they
are asked for again, so that several calls may share the work; each part carries its own provenance.
A part runs in a process of its own: when one fails, it is reported and the others go on. Ctrl-C
keeps what is finished.

Exit code 0: everything ran and kept its limits; 1: a part failed or was stopped, or a limit is
broken; 2: bad input. ``--cpu`` runs the same on a CPU in small, kernels interpreted, with the model
tiny: to try this script. It checks no limit, and its figures mean nothing.

Beside torch and triton it needs what infersim needs to simulate: numpy, pandas, pyarrow, pyyaml,
typer, rich, simpy and pydantic (with pydantic-core, annotated-types, typing-inspection); plotly is
for pages, which it writes none of. Where nothing can be fetched, bring what is missing as wheels;
simpy and pydantic are what machines for training lack. Part tests needs pytest, and takes several
cores with pytest-xdist.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import multiprocessing
import os
import platform
import shlex
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from time import monotonic
from typing import Any

from gpu_report import FORMAT, render

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("tests", "kernels", "calibrate", "validate")
MODELS = ("llama-3.1-8b", "qwen3-0.6b")
RESULTS, PAGE = "results.json", "results.md"
_TEST_PROCESSES = 6  # the largest caches of tests are 9 GB each
STOP_S = 60.0  #: that a process may take to end when it has said everything
Keep = Callable[[dict[str, Any]], None]


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line asks for; the exit code."""
    options = _options(arguments)
    if options.cpu:
        os.environ["TRITON_INTERPRET"] = "1"  # read when a part imports triton
    out = Path(options.out)
    results = _earlier(out / RESULTS)
    state, about, why = _run("about", None, options, lambda part: None)
    if state != "done":
        print(why, file=sys.stderr)
        return 2
    for name, part, model in _asked(options):
        print(f"\n== {name}", file=sys.stderr, flush=True)
        begun, entry = monotonic(), {"provenance": about}

        def keep(found: dict[str, Any], entry: dict[str, Any] = entry, name: str = name) -> None:
            results["parts"][name] = entry | {"state": "unfinished", "result": found}
            _write(out, results)

        state, found, why = _run(part, model, options, keep)
        last = results["parts"].get(name, {}) if state != "done" else {}
        kept = last["result"] if last.get("state") == "unfinished" else found
        results["parts"][name] = entry | {
            "state": state,
            "why": why,
            "seconds": monotonic() - begun,
            "result": kept,
        }
        _write(out, results)
        if state == "interrupted":
            break
    print((out / PAGE).read_text(encoding="utf-8"))
    asked = [results["parts"].get(name, {}) for name, _, _ in _asked(options)]
    good = all(one.get("state") == "done" and not one["result"]["broken"] for one in asked)
    return 0 if good else 1


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True, help="folder of the results")
    parser.add_argument("--parts", default=",".join(PARTS), help="some of them, by commas")
    parser.add_argument("--models", nargs="+", default=None, help="of the catalogue")
    parser.add_argument("--minutes", type=float, default=8.0, help="of each calibration, at most")
    parser.add_argument("--kernel-minutes", type=float, default=5.0, help="of part kernels")
    parser.add_argument("--test-minutes", type=float, default=8.0, help="of part tests")
    parser.add_argument("--seconds", type=float, default=None, help="of arrivals in a cell")
    parser.add_argument("--repeats", type=int, default=2, help="executions of a cell")
    parser.add_argument("--only", default="", help="cells whose name contains this")
    parser.add_argument("--device-name", default=None, help="the GPU's name in the catalogue")
    parser.add_argument("--commit", default=None, help="what is measured, where git does not tell")
    parser.add_argument("--cpu", action="store_true", help="in small on a CPU")
    options = parser.parse_args(arguments)
    options.parts = options.parts.split(",")
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no part is named {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if options.repeats < 1:
        parser.error("--repeats is at least 1")
    options.models = options.models or (["tiny"] if options.cpu else list(MODELS))
    options.kind = "cpu" if options.cpu else "cuda"
    options.command = shlex.join(["benchmarks/gpu.py", *(arguments or sys.argv[1:])])
    return options


def _asked(options: argparse.Namespace) -> Iterator[tuple[str, str, str | None]]:
    """(name, part, model) of everything to do: kernels first, then model by model."""
    for part in PARTS[:2]:
        if part in options.parts:
            yield part, part, None
    for model in options.models:
        for part in PARTS[2:]:
            if part in options.parts:
                yield f"{part} {model}", part, model


# ---- a part in a process of its own -------------------------------------------------------------


def _run(
    part: str, model: str | None, options: argparse.Namespace, keep: Keep
) -> tuple[str, dict[str, Any], str]:
    """("done", its result, ""), or ("failed" or "interrupted", {}, why)."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(theirs, part, model, options))
    process.start()
    theirs.close()
    stopped = False
    while True:
        try:
            kind, told = ours.recv()
            if kind == "so far":
                keep(told)
                continue
        except KeyboardInterrupt:
            stopped = True  # the part got it as well: it says what it has
            continue
        except EOFError:
            kind, told = "failed", ""
        process.join(STOP_S)
        if process.is_alive():
            process.terminate()
        if kind == "done":
            return "done", told, ""
        state = "interrupted" if stopped else kind
        return state, {}, told or f"its process ended with {process.exitcode}"


def _work(connection: Any, part: str, model: str | None, options: argparse.Namespace) -> None:
    """In the process: do *part*, and tell."""

    def keep(found: dict[str, Any]) -> None:
        connection.send(("so far", found | {"broken": []}))

    from infersim.policies.errors import InfersimError

    try:
        done = _DOING[part](model, options, keep)
        connection.send(("done", done))
    except KeyboardInterrupt:
        connection.send(("interrupted", "interrupted"))
    except InfersimError as error:
        connection.send(("failed", str(error)))
    except Exception as error:
        traceback.print_exc()
        connection.send(("failed", f"{type(error).__name__}: {error}"))


def _about(model: str | None, options: argparse.Namespace, keep: Keep) -> dict[str, Any]:
    """Where and with what this is measured."""
    from infersim import __version__
    from infersim.calibrate.measure.device import read_device

    device = read_device(options.kind, options.device_name)
    return {
        **asdict(device),
        "python": platform.python_version(),
        "numpy": metadata.version("numpy"),
        "infersim": __version__,
        "commit": options.commit or _commit(),
        "begun": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "command": options.command,
    }


def _tests(model: str | None, options: argparse.Namespace, keep: Keep) -> dict[str, Any]:
    """``tests/kernels`` by pytest."""
    if options.kind == "cpu":
        return {"last": "not run: in small they are what the test suite runs", "broken": []}
    # what another version of a library warns of says nothing of the kernels
    command = [sys.executable, "-m", "pytest", "-q", "-W", "default", "-p", "no:cacheprovider"]
    command += ["tests/kernels"]
    if find_spec("xdist") is not None:
        command += ["-n", str(min(_TEST_PROCESSES, os.cpu_count() or 1))]
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60 * options.test_minutes,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        told = (error.stdout or b"").decode(errors="replace")
        last = f"not finished in {options.test_minutes:g} minutes"
        return {"last": last, "output": told[-4000:], "broken": [last]}
    lines = [line for line in done.stdout.splitlines() if line.strip()] or ["no output"]
    broken = [] if done.returncode == 0 else [f"pytest left with {done.returncode}: {lines[-1]}"]
    told = "" if done.returncode == 0 else (done.stdout + done.stderr)[-12_000:]
    return {"last": lines[-1], "output": told, "broken": broken}


def _kernels(model: str | None, options: argparse.Namespace, keep: Keep) -> dict[str, Any]:
    """Attention against the ceilings."""
    import gpu_kernels

    until = monotonic() + 60 * options.kernel_minutes
    found = gpu_kernels.measure(options.models, options.kind, until, keep)
    return found | {"broken": gpu_kernels.broken(found)}


def _calibrate(model: str | None, options: argparse.Namespace, keep: Keep) -> dict[str, Any]:
    """A profile of *model*, going on with what is there."""
    from infersim import __version__
    from infersim.calibrate.session import Request, calibrate
    from infersim.cli.calibrating import CalibrationView

    assert model is not None
    folder = _profile(options, model)
    request = Request(
        options.kind,
        model,
        folder,
        options.minutes,
        device_name=options.device_name,
        threads=1 if options.kind == "cpu" else None,
        version=__version__,
    )
    begun = monotonic()
    with CalibrationView(options.minutes, quiet=False) as view:
        done = calibrate(request, view.hear)
    outcome, made = done.outcome, done.assembled
    if outcome.stopped == "interrupted":
        raise KeyboardInterrupt
    steps = made.steps if made is not None else None
    broken = [] if made is not None else ["too little was measured for a profile"]
    return {
        "planned": outcome.planned,
        "measured": outcome.measured,
        "stopped": outcome.stopped,
        "took_s": monotonic() - begun,
        "repeated_rounds": outcome.repeated,
        "drift": outcome.drift,
        "refused": dict(list(outcome.refused.items())[:20]),
        "step_errors": list(steps.errors) if steps is not None else [],
        "host": steps.host.model_dump() if steps is not None else None,
        "notes": list(made.profile.notes) if made is not None else [],
        "warnings": list(done.warnings),
        "broken": broken,
    }


def _validate(model: str | None, options: argparse.Namespace, keep: Keep) -> dict[str, Any]:
    """Executed beside simulated, with the profile that is there."""
    from tempfile import TemporaryDirectory

    import gpu_serving

    assert model is not None
    with TemporaryDirectory() as folder:
        found = gpu_serving.measure(
            Path(folder),
            _profile(options, model),
            options.kind,
            options.repeats,
            options.seconds,
            options.only,
            lambda text: print(text, file=sys.stderr, flush=True),
            keep,
        )
    failed = [f"{name}: {why}" for name, why in found["failed_cells"].items()]
    return found | {"broken": [*failed, *gpu_serving.broken(found)]}


_DOING: dict[str, Callable[[str | None, argparse.Namespace, Keep], dict[str, Any]]] = {
    "about": _about,
    "tests": _tests,
    "kernels": _kernels,
    "calibrate": _calibrate,
    "validate": _validate,
}


# ---- files --------------------------------------------------------------------------------------


def _profile(options: argparse.Namespace, model: str) -> Path:
    return Path(options.out) / f"profile-{Path(model).stem if '/' in model else model}"


def _earlier(file: Path) -> dict[str, Any]:
    """What earlier calls left in *file*."""
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {"format": FORMAT, "parts": {}}
    return found if found.get("format") == FORMAT else {"format": FORMAT, "parts": {}}


def _write(out: Path, results: dict[str, Any]) -> None:
    from infersim.reports.files import write_text
    from infersim.reports.metrics import dumps

    out.mkdir(parents=True, exist_ok=True)
    write_text(out / RESULTS, dumps(results))
    write_text(out / PAGE, render(results))


def _commit() -> str:
    """Of the working tree, with a plus where it has changes."""
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        )
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


if __name__ == "__main__":
    sys.exit(main())
