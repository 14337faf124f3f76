"""infersim beside other simulators: equal requests, limits and step times, in turns.

    python benchmarks/peers.py [--dynamo PYTHON] [--vidur PYTHON] [--leap FOLDER]
                               [--mooncake FILE] [--requests N] [--turns N] [--case NAME …]
                               [--flat] [--json FILE]

--dynamo and --vidur are interpreters of environments with NVIDIA's Dynamo (``pip install
ai-dynamo==1.4.2``; no GPU) and with Vidur (``pip install vidur==0.0.26``), --leap is the folder of
the bare prototype of infersim's loop. What cannot be started is left out, with the reason.

Requests are like Azure's 2023 conversation trace (`speed.py`), no prefix is shared and caching is
off; with --mooncake also those of Mooncake's conversation trace (kvcache-ai/Mooncake,
FAST25-release), with caching. Blocks have 16 tokens, routing is round robin, the engine
synchronous.

A step takes 6 ms + 20 us a prompt token + a slope per KV token; one of nothing but a part of a
prompt only the 20 us. Dynamo can be told so with a table, where it counts whole blocks; infersim is
told so with 7.5 tokens more a sequence, as many as half-filled blocks add on average. Vidur, whose
own tables are downloads, is given the same line as a predictor; there and in the prototype every
step takes the 6 ms. The commands (`infersim run`, ``python -m dynamo.replay``) do all that a user
waits for; `infersim run` prices steps with the roofline of Llama 3.1 8B on an H100, since it has no
linear step time, so it is run where that comes close.

Every run is a process of its own. "work" is CPU seconds from the trace file to the results, each
with its own reader (the prototype and Vidur: with ours); of a command, of all it does. Requests a
second follow from it, and their ratio to infersim's of the same turn. "loop" is the simulation
alone: CPU seconds, but wall time where a peer or a command says it itself. "start" is CPU seconds
of importing. Dynamo and Vidur count neither steps nor events. A first run of each, which is not
measured, writes when every request got its first token: "as here" is the share of requests that get
it within a millisecond of infersim's. Near saturation a microsecond decides which step a request
just misses, and all that follows; with --flat a step takes 10 ms + 20 us a prompt token, which
infersim and Dynamo can be told alike.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from shutil import rmtree
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TypeAlias

from players import engine_arguments, table_beside, told, write_table
from speed import azure_like

PLAYERS = Path(__file__).with_name("players.py")
RATE_RPS = 5.53
TRACE_BLOCK_TOKENS = 512
FLAT_NS = 10_000_000
#: what a player may leave unsaid: Dynamo counts no steps
UNSAID = float("nan")
Runs: TypeAlias = dict[str, list[dict[str, float]]]


@dataclass(frozen=True)
class Case:
    """A cluster and the step time of its engines.

    Attributes:
        context_ns: what a KV token adds to a step.
        commands: whether the commands are run too.
        caching: prompts share KV, as Mooncake's do; only infersim and Dynamo play that here.
    """

    workers: int
    context_ns: int
    commands: bool
    caching: bool = False
    blocks: int = 27_000
    budget: int = 2_048
    sequences: int = 256
    base_ns: int = 6_000_000
    token_ns: int = 20_000
    trace_block: int = TRACE_BLOCK_TOKENS
    leap: str = ""


CASES = {
    "1 worker, near saturation": Case(1, 500, commands=False),
    "1 worker, moderate load": Case(1, 70, commands=True),
    "16 workers": Case(16, 500, commands=True),
    "8 workers, Mooncake": Case(8, 70, commands=False, caching=True),
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
    caching: bool = False

    def plays(self, case: Case) -> bool:
        """Whether it can."""
        return (case.commands or not self.command) and (self.caching or not case.caching)


def write_trace(path: Path, requests: int, mooncake: Path | None, case: Case) -> int:
    """The requests of a case as a Mooncake trace, and how many: Mooncake's, or of fresh blocks."""
    if case.caching and mooncake is not None:
        with (gzip.open if mooncake.suffix == ".gz" else open)(mooncake, "rt") as lines:
            text = lines.read()
        path.write_text(text)
        return len(text.splitlines())
    seen = 0
    with path.open("w") as out:
        for at_ps, prompt, answer in azure_like(requests, RATE_RPS).rows:
            blocks = -(-prompt // TRACE_BLOCK_TOKENS)
            row = {"timestamp": at_ps / 1e9, "input_length": prompt, "output_length": answer}
            out.write(json.dumps(row | {"hash_ids": list(range(seen, seen + blocks))}) + "\n")
            seen += blocks
    return requests


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
        "hit_rate": metrics["hit_rate"],
    }


def read_dynamo(folder: Path, _: str) -> dict[str, float]:
    """From the report of ``dynamo.replay``."""
    return told(json.loads((folder / "dynamo.json").read_text()))


#: name -> (in `players.py`, what it imports, distribution)
PEERS = {
    "Dynamo": ("dynamo", "dynamo.replay", "ai-dynamo"),
    "Vidur": ("vidur", "vidur.simulator", "vidur"),
}


def script(name: str, python: str) -> Callable[[Path, Case], list[str]]:
    """The words that play *name* with `players.py`."""

    def words(folder: Path, _: Case) -> list[str]:
        files = [str(folder / "case.json"), str(folder / "trace.jsonl")]
        return [python, str(PLAYERS), name, *files]

    return words


def players(pythons: dict[str, str | None], leap: Path | None) -> list[Player]:
    """Those that can be started here; why the others cannot is printed."""
    found = [Player("infersim", script("infersim", sys.executable), last_line, caching=True)]
    for peer, (name, module, distribution) in PEERS.items():
        python = pythons[peer] or sys.executable
        code = f"import {module}, importlib.metadata as m; print(m.version({distribution!r}))"
        probe = subprocess.run([python, "-c", code], capture_output=True, text=True)
        if probe.returncode:
            why = (probe.stderr.strip() or "it says nothing").splitlines()[-1]
            print(f"{peer}: left out, {python} cannot import {module}: {why}")
            continue
        print(f"{peer}: {distribution} {probe.stdout.split()[-1]}")
        found.append(Player(peer, script(name, python), last_line, caching=peer == "Dynamo"))
        if peer == "Dynamo":
            found.append(Player("dynamo.replay", replay(python), read_dynamo, command=True))
    if leap is None:
        print("prototype: left out, no --leap FOLDER")
    else:
        found.append(Player("prototype", script("leap", sys.executable), last_line))
    return [*found, Player("infersim run", infersim_words, read_infersim, command=True)]


def infersim_words(folder: Path, case: Case) -> list[str]:
    """`infersim run` of a scenario with the same trace and limits."""
    scenario = folder / "peers.yaml"
    scenario.write_text(SCENARIO.format(**asdict(case), trace=folder / "trace.jsonl"))
    out = str(folder / "infersim")
    rmtree(out, ignore_errors=True)
    return [sys.executable, "-m", "infersim", "run", str(scenario), "--out", out]


def replay(python: str) -> Callable[[Path, Case], list[str]]:
    """The command of Dynamo's users."""

    def words(folder: Path, case: Case) -> list[str]:
        trace = folder / "trace.jsonl"
        engine = engine_arguments(asdict(case), table_beside(trace))
        return [
            *(python, "-m", "dynamo.replay", str(trace), "--replay-mode", "offline"),
            *("--router-mode", "round_robin", "--num-workers", str(case.workers)),
            *("--trace-block-size", str(case.trace_block)),
            *("--extra-engine-args", json.dumps(engine)),
            *("--report-json", str(folder / "dynamo.json")),
        ]

    return words


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


def table(name: str, runs: Runs, same: dict[str, float], requests: int) -> None:
    """Medians of the runs of a case, and what was simulated."""

    def middle(player: str, key: str) -> float:
        return median(run.get(key, UNSAID) for run in runs[player])

    print(f"\n{name}, {requests} requests, medians of {len(runs['infersim'])} (least to most)")
    print(
        f"{'':14} {'req/s':>7} {'ratio':>6} {'work s':>6} {'':13} {'loop s':>6} "
        f"{'start':>5} {'CPU s':>6} {'wall s':>6} {'MB':>5} {'steps':>8} {'events':>7}"
    )
    for player, ran in runs.items():
        key = "work_s" if "work_s" in ran[0] else "cpu_s"
        base = runs["infersim" if key == "work_s" else "infersim run"]
        work = [run[key] for run in ran]
        ratio = median(here[key] / run[key] for here, run in zip(base, ran, strict=True))
        print(
            f"{player:14} {requests / median(work):7,.0f} {ratio:6.2f} "
            f"{median(work):6.2f} ({min(work):5.2f}-{max(work):5.2f}) "
            f"{middle(player, 'loop_s'):6.2f} {middle(player, 'start_s'):5.2f} "
            f"{middle(player, 'cpu_s'):6.2f} {middle(player, 'wall_s'):6.2f} "
            f"{middle(player, 'memory_mb'):5.0f} {middle(player, 'steps'):8,.0f} "
            f"{middle(player, 'events'):7,.0f}"
        )
    heads = f"{'TTFT ms':>9} {'p99':>9} {'TPOT ms':>8} {'tokens/s':>9} {'hits':>7} {'as here':>8}"
    print(f"{'':14} {heads}")
    for player in runs:
        print(
            f"{player:14} {middle(player, 'ttft_ms'):9.3f} {middle(player, 'ttft_p99_ms'):9.3f} "
            f"{middle(player, 'tpot_ms'):8.3f} {middle(player, 'tokens_per_s'):9.3f} "
            f"{middle(player, 'hit_rate'):7.3%} {same.get(player, UNSAID):8.1%}"
        )


def first_tokens(player: Player, case: Case, folder: Path) -> list[float]:
    """When each request got its first token, ms after it came; of a run that is not measured."""
    times = folder / "times.json"
    tell(folder, case, times)
    play(player, case, folder)
    tell(folder, case, None)
    told_ms: list[float] = json.loads(times.read_text())
    return told_ms


def tell(folder: Path, case: Case, times: Path | None) -> None:
    """Write the case for `players.py`."""
    told_so = asdict(case) | {"times": times and str(times)}
    (folder / "case.json").write_text(json.dumps(told_so))


def agreement(player: str, here: list[float], there: list[float]) -> float:
    """Share of the requests whose first token comes within a millisecond of infersim's."""
    if len(here) != len(there):
        raise SystemExit(f"{player}: {len(there)} of {len(here)} requests were served")
    return sum(abs(a - b) <= 1 for a, b in zip(here, there, strict=True)) / len(here)


def main() -> int:
    """A table a case."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for peer in PEERS:
        parser.add_argument(f"--{peer.lower()}", metavar="PYTHON", help=f"that can import {peer}")
    parser.add_argument("--leap", type=Path, metavar="FOLDER", help="the prototype's folder")
    parser.add_argument("--mooncake", type=Path, metavar="FILE", help="conversation_trace.jsonl")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--case", action="append", help="the beginning of a name")
    parser.add_argument("--flat", action="store_true", help="no price on KV tokens")
    parser.add_argument("--json", type=Path, help="write every run to this file too")
    options = parser.parse_args()
    pythons = {peer: getattr(options, peer.lower()) for peer in PEERS}
    there, kept = players(pythons, options.leap), {}
    with TemporaryDirectory() as name:
        folder = Path(name)
        trace = folder / "trace.jsonl"
        for title, case in CASES.items():
            if options.case and not title.startswith(tuple(options.case)):
                continue
            if case.caching and options.mooncake is None:
                print(f"\n{title}: left out, no --mooncake FILE")
                continue
            requests = write_trace(trace, options.requests, options.mooncake, case)
            case = replace(case, leap=str(options.leap))
            if options.flat:
                case = replace(case, context_ns=0, base_ns=FLAT_NS)
            write_table(asdict(case), table_beside(trace))
            playing = [player for player in there if player.plays(case)]
            firsts = {p.name: first_tokens(p, case, folder) for p in playing if not p.command}
            here = firsts["infersim"]
            same = {peer: agreement(peer, here, ms) for peer, ms in firsts.items()}
            runs: Runs = {player.name: [] for player in playing}
            for _ in range(options.turns):
                for player in playing:
                    runs[player.name].append(play(player, case, folder))
            kept[title] = runs
            table(title, runs, same, requests)
    if options.json is not None:
        options.json.write_text(json.dumps(kept, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
