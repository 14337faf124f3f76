"""infersim beside other simulators: equal requests, limits and step times, in turns.

    python benchmarks/peers.py [--dynamo PYTHON] [--leap FOLDER] [--requests N] [--turns N]
                               [--case NAME …] [--json FILE]

--dynamo is the interpreter of an environment with NVIDIA's Dynamo (``pip install
ai-dynamo==1.4.2``; no GPU), --leap the folder of the bare prototype of infersim's loop. What cannot
be started is left out, with the reason. Requests are like Azure's 2023 conversation trace
(`speed.py`), no prefix is shared and caching is off, blocks have 16 tokens, routing is round robin,
the engine synchronous.

A step takes 6 ms + 20 us a prompt token + a slope per KV token; one of nothing but a part of a
prompt only the 20 us. Dynamo can be told so with a table, where it counts whole blocks; infersim is
told so with 7.5 tokens more a sequence, as many as half-filled blocks add on average. The prototype
takes the 6 ms in every step. The commands (`infersim run`, ``python -m dynamo.replay``) do all that
a user waits for; `infersim run` prices steps with the roofline of Llama 3.1 8B on an H100, since it
has no linear step time, so it is run where that comes close.

Every run is a process of its own. "work" is CPU seconds from the trace file to the results; of a
command, of all it does. Requests a second and their ratio to infersim's follow from it. "loop" is
the simulation alone, CPU seconds for infersim and the prototype, what they report for the others,
which is wall time. "start" is CPU seconds of importing. Dynamo counts neither steps nor events.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from shutil import rmtree
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

from players import engine_arguments, table_beside, told, write_table
from speed import azure_like

PLAYERS = Path(__file__).with_name("players.py")
RATE_RPS = 5.53
TRACE_BLOCK_TOKENS = 512
#: what a player may leave unsaid: Dynamo counts no steps
UNSAID = float("nan")


@dataclass(frozen=True)
class Case:
    """A cluster and the step time of its engines.

    Attributes:
        context_ns: what a KV token adds to a step.
        commands: whether the commands are run too.
    """

    workers: int
    context_ns: int
    commands: bool
    blocks: int = 27_000
    budget: int = 2_048
    sequences: int = 256
    base_ns: int = 6_000_000
    token_ns: int = 20_000
    trace_block: int = TRACE_BLOCK_TOKENS


CASES = {
    "1 worker, near saturation": Case(1, 500, commands=False),
    "1 worker, moderate load": Case(1, 70, commands=True),
    "16 workers": Case(16, 500, commands=True),
}
SCENARIO = """
name: peers
cluster:
  gpu: h100-sxm
  model: llama-3.1-8b
  replicas: {workers}
  kv_blocks: {blocks}
  engine:
    max_num_batched_tokens: {budget}
    max_num_seqs: {sequences}
    enable_prefix_caching: false
    async_scheduling: false
workload: {{kind: trace, file: {trace}, format: mooncake}}
policies: {{routing: round-robin}}
"""


@dataclass(frozen=True)
class Player:
    """Something that can play a case: its words to start, and how to read what it left."""

    name: str
    words: Callable[[Path, Case], list[str]]
    read: Callable[[Path, str], dict[str, float]]
    command: bool = False


def write_trace(path: Path, requests: int) -> None:
    """The requests as a Mooncake trace: every block is seen once."""
    seen = 0
    with path.open("w") as out:
        for at_ps, prompt, answer in azure_like(requests, RATE_RPS).rows:
            blocks = -(-prompt // TRACE_BLOCK_TOKENS)
            row = {"timestamp": at_ps / 1e9, "input_length": prompt, "output_length": answer}
            out.write(json.dumps(row | {"hash_ids": list(range(seen, seen + blocks))}) + "\n")
            seen += blocks


def last_line(_: Path, stdout: str) -> dict[str, float]:
    """What `players.py` says of its run."""
    said: dict[str, float] = json.loads(stdout.splitlines()[-1])
    return said


def read_infersim(folder: Path, _: str) -> dict[str, float]:
    """From the files of `infersim run`."""
    out = folder / "infersim"
    effort = json.loads((out / "timing.json").read_text())["cells"][0]
    metrics = json.loads((out / "summary.json").read_text())["cells"][0]["metrics"]
    return {
        "loop_s": effort["wall_s"],
        "steps": effort["steps"],
        "events": effort["events"],
        "ttft_ms": 1e3 * metrics["ttft_s"]["mean"],
        "ttft_p99_ms": 1e3 * metrics["ttft_s"]["p99"],
        "tpot_ms": 1e3 * metrics["tpot_s"]["mean"],
        "tokens_per_s": metrics["output_tokens_per_s"],
    }


def read_dynamo(folder: Path, _: str) -> dict[str, float]:
    """From the report of ``dynamo.replay``."""
    return told(json.loads((folder / "dynamo.json").read_text()))


def players(options: argparse.Namespace) -> list[Player]:
    """Those that can be started here; why the others cannot is printed."""

    def script(name: str, python: str) -> Callable[[Path, Case], list[str]]:
        def words(folder: Path, _: Case) -> list[str]:
            files = [str(folder / "case.json"), str(folder / "trace.jsonl")]
            return [python, str(PLAYERS), name, *files]

        return words

    found = [
        Player("infersim", script("infersim", sys.executable), last_line),
        Player("infersim run", infersim_words, read_infersim, command=True),
    ]
    if options.leap is None:
        print("prototype: left out, no --leap FOLDER")
    else:
        found.append(Player("prototype", script("leap", sys.executable), last_line))
    python = options.dynamo or sys.executable
    probe = subprocess.run([python, "-c", VERSION], capture_output=True, text=True)
    if probe.returncode:
        why = (probe.stderr.strip() or "it says nothing").splitlines()[-1]
        print(f"Dynamo: left out, {python} cannot import dynamo.replay: {why}")
        return found
    print(f"Dynamo: ai-dynamo {probe.stdout.split()[-1]}")
    found.insert(1, Player("Dynamo", script("dynamo", python), last_line))

    def dynamo_words(folder: Path, case: Case) -> list[str]:
        return [python, "-m", "dynamo.replay", *replay_words(folder, case)]

    found.append(Player("dynamo.replay", dynamo_words, read_dynamo, command=True))
    return found


VERSION = "import dynamo.replay, importlib.metadata as m; print(m.version('ai-dynamo'))"


def infersim_words(folder: Path, case: Case) -> list[str]:
    """`infersim run` of a scenario with the same trace and limits."""
    scenario = folder / "peers.yaml"
    scenario.write_text(SCENARIO.format(**asdict(case), trace=folder / "trace.jsonl"))
    out = str(folder / "infersim")
    rmtree(out, ignore_errors=True)
    return [sys.executable, "-m", "infersim", "run", str(scenario), "--out", out]


def replay_words(folder: Path, case: Case) -> list[str]:
    """Arguments of ``dynamo.replay``."""
    engine = engine_arguments(asdict(case), table_beside(folder / "trace.jsonl"))
    return [
        *(str(folder / "trace.jsonl"), "--replay-mode", "offline"),
        *("--router-mode", "round_robin", "--num-workers", str(case.workers)),
        *("--trace-block-size", str(case.trace_block)),
        *("--extra-engine-args", json.dumps(engine)),
        *("--report-json", str(folder / "dynamo.json")),
    ]


def play(player: Player, case: Case, folder: Path) -> dict[str, float]:
    """One run in a process of its own: what it says, its wall and CPU seconds, its memory.

    Raises:
        SystemExit: it failed.
    """
    words = player.words(folder, case)
    start = perf_counter()
    with (folder / "out").open("w+") as out, (folder / "err").open("w+") as err:
        process = subprocess.Popen(words, stdout=out, stderr=err)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    wall_s = perf_counter() - start
    if process.returncode:
        raise SystemExit(f"{player.name}: {(folder / 'err').read_text()[-2000:]}")
    whole = {
        "wall_s": wall_s,
        "cpu_s": used.ru_utime + used.ru_stime,
        "memory_mb": used.ru_maxrss / 1024,
    }
    return player.read(folder, (folder / "out").read_text()) | whole


def table(name: str, runs: dict[str, list[dict[str, float]]], requests: int) -> None:
    """Medians of the runs of a case, and what was simulated."""

    def middle(player: str, key: str) -> float:
        return median(run.get(key, UNSAID) for run in runs[player])

    print(f"\n{name}, {requests} requests, medians of {len(runs['infersim'])} (least to most)")
    print(
        f"{'':14} {'req/s':>7} {'ratio':>6} {'work s':>6} {'':13} {'loop s':>6} {'start':>5} "
        f"{'CPU s':>6} {'wall s':>6} {'MB':>5} {'steps':>8} {'events':>7}"
    )
    for player, ran in runs.items():
        key = "work_s" if "work_s" in ran[0] else "cpu_s"
        base = "infersim" if key == "work_s" else "infersim run"
        work = [run[key] for run in ran]
        print(
            f"{player:14} {requests / median(work):7,.0f} {middle(base, key) / median(work):6.2f} "
            f"{median(work):6.2f} ({min(work):5.2f}-{max(work):5.2f}) "
            f"{middle(player, 'loop_s'):6.2f} {middle(player, 'start_s'):5.2f} "
            f"{middle(player, 'cpu_s'):6.2f} {middle(player, 'wall_s'):6.2f} "
            f"{middle(player, 'memory_mb'):5.0f} {middle(player, 'steps'):8,.0f} "
            f"{middle(player, 'events'):7,.0f}"
        )
    print(f"{'':14} {'TTFT ms':>9} {'p99':>9} {'TPOT ms':>8} {'tokens/s':>9}")
    for player in runs:
        print(
            f"{player:14} {middle(player, 'ttft_ms'):9.3f} {middle(player, 'ttft_p99_ms'):9.3f} "
            f"{middle(player, 'tpot_ms'):8.3f} {middle(player, 'tokens_per_s'):9.3f}"
        )


def main() -> int:
    """A table a case."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dynamo", metavar="PYTHON", help="of an environment with ai-dynamo")
    parser.add_argument("--leap", type=Path, metavar="FOLDER", help="the prototype's folder")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--case", action="append", help="the beginning of a name")
    parser.add_argument("--json", type=Path, help="write every run to this file too")
    options = parser.parse_args()
    there, kept = players(options), {}
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_trace(folder / "trace.jsonl", options.requests)
        for title, case in CASES.items():
            if options.case and not title.startswith(tuple(options.case)):
                continue
            written = asdict(case) | {"leap": str(options.leap)}
            (folder / "case.json").write_text(json.dumps(written))
            write_table(written, table_beside(folder / "trace.jsonl"))
            playing = [player for player in there if case.commands or not player.command]
            runs: dict[str, list[dict[str, float]]] = {player.name: [] for player in playing}
            for _ in range(options.turns):
                for player in playing:
                    runs[player.name].append(play(player, case, folder))
            kept[title] = runs
            table(title, runs, options.requests)
    if options.json is not None:
        options.json.write_text(json.dumps(kept, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
