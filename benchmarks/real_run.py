"""A recorded vLLM run beside its simulation from tables measured apart from it.

    python benchmarks/real_run.py BUNDLE RECORDED [--shared]

BUNDLE is a folder of LLMServingSim's tables (``profiler/perf/RTX4090/meta-llama_llama-3.1-8b``),
RECORDED its requests.jsonl of vLLM 0.19 on that card, with timeseries.csv beside it. Prints the
error of every figure, and how far each moves with step times ±1 % and KV blocks ±5 %. Nothing is
fitted: the KV blocks are what the engine printed. The requests are replayed by their lengths, so
they share no prefix; with --shared the scenario's own trace is used, which has the prompts. Leaves
with 1 when a figure is more than 2 % off.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from infersim.calibrate.importers.llmservingsim import read
from infersim.cli.main import app
from infersim.sim.cost.profile import save

LIMITS = "ttft=2,tpot=2,e2e=2,running=0.98,kv=0.975"


def main() -> None:
    """Import the tables and compare."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("bundle")
    parser.add_argument("recorded")
    parser.add_argument("--shared", action="store_true", help="with the prompts of the trace")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        profile = Path(folder) / "profile"
        save(read(options.bundle), profile)
        words = ["validate", "validate_vllm_4090", "--against", options.recorded]
        words += ["--ttft-from", "queued"] if options.shared else ["--replay"]
        words += ["--set", f"cluster.profile={profile}", "--tolerance", LIMITS]
        words += ["--out", str(Path(folder) / "out")]
        sys.exit(app(words, standalone_mode=False))


if __name__ == "__main__":
    main()
