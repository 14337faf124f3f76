"""Simulated beside measured: vLLM serving Llama and Qwen on H100 and H200, row by row.

    python benchmarks/measured_serving.py ROWS.csv.gz TABLES --out DIR [--roofline] [--only TEXT]

ROWS has a serving run a line (model, GPU, lengths, concurrency, TTFT, TPOT, notes with a grade);
TABLES holds aiconfigurator's kernel tables. Each row is run as a scenario: closed loop, as many
requests in flight as the row says, step times from a profile imported from TABLES. TPOT is compared
on all rows, TTFT on grades A and A- only (in the others it contains waiting for a slot of the
client). DIR receives rows.csv, worst.csv and scatter.html.

First nothing is fitted to any row. Then two things are, on rows of even number, and the odd ones
are counted: the host time of the synchronous engine (a step, a sequence), from rows of Qwen3-32B in
bf16 that fit into KV; and whether TTFT is a mean or a median, which the source does not say.

What the rows do not say is taken from where they come from:
A-: InferenceX's scripts (github:SemiAnalysisAI/InferenceX benchmarks/70b_fp8_h100_slurm.sh and
    _h200_): fp8 KV, async scheduling, no prefix caching, 8192 tokens a step, as many sequences as
    clients, 10 requests a client, lengths uniform from 0.8 of the nominal ones
    (.github/workflows/benchmark-tmpl.yml, github:kimbochen/bench_serving).
B-: vLLM 0.12's defaults: no async scheduling, 8192 tokens a step, KV in bf16 but in fp8 where the
    checkpoint says so (nvidia's do: kv_cache_quant_algo); lengths are exact.

Some rows contradict themselves: a GPU at its peak rates would need longer than was measured for
reading the weights and the KV of a step and for the prompts that each output token waits for. They
stay in the first line of the result, and are told apart.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from serving_rows import Row, floor_s, rows_of

from infersim.calibrate.importers.aiconfigurator import read as read_tables
from infersim.policies.errors import InfersimError
from infersim.scenarios import grid, load, runner
from infersim.sim.cost.overheads import Overheads
from infersim.sim.cost.profile import Host, save
from infersim.sim.cost.profile import load as load_profile

GOALS = {"tpot": 10.0, "ttft": 25.0}
REQUESTS_PER_CLIENT = 10
WORST = 12


def make_profiles(rows: list[Row], tables: Path, folder: Path) -> dict[str, str]:
    """Import every profile that a row needs and that *folder* lacks; name -> why it has none."""
    failed: dict[str, str] = {}
    for row in {row.profile: row for row in rows}.values():
        if (folder / row.profile / "profile.json").exists():
            continue
        start = time.perf_counter()
        try:
            profile = read_tables(
                tables,
                model=row.model,
                gpu=row.gpu,
                tp=row.tp,
                ep=row.ep,
                dtype=row.dtype,
                kv_dtype=row.kv_dtype,
                gemm_dtype=row.gemm_dtype,
            )
        except InfersimError as error:
            failed[row.profile] = str(error).replace("\n", " ")
            continue
        save(profile, folder / row.profile)
        print(f"{row.profile}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    return failed


def scenario(row: Row, profile: Path | None) -> dict[str, Any]:
    """The row as a scenario document."""
    lengths = {
        key: {"kind": "uniform", "low": int(tokens * row.shortest), "high": tokens}
        if row.shortest < 1
        else tokens
        for key, tokens in (
            ("prompt_tokens", row.input_tokens),
            ("output_tokens", row.output_tokens),
        )
    }
    cluster: dict[str, Any] = {
        "gpu": row.gpu,
        "model": row.model,
        "tp": row.tp,
        "dtype": row.dtype,
        "kv_dtype": row.kv_dtype,
        "engine": {
            "preset": "vllm-v1",
            "max_num_seqs": row.clients if row.grade.startswith("A") else 256,
            "async_scheduling": row.is_async,
            "enable_prefix_caching": False,
        },
    }
    if row.ep > 1:
        cluster["expert_parallel"] = True
    if profile is not None:
        cluster["profile"] = str(profile)
    workload = {
        "kind": "chat",
        "sessions": row.clients * REQUESTS_PER_CLIENT,
        "concurrency": row.clients,
        "turns": 1,
        "think_s": 0,
        "system": {"tokens": 1},
        **lengths,
    }
    return {"name": f"row-{row.number}", "cluster": cluster, "workload": workload}


def simulate(row: Row, profile: Path | None, folder: Path) -> dict[str, Any]:
    """What the simulated run gave: the median of TPOT, mean and median of TTFT.

    Raises:
        InfersimError: the scenario cannot be run.
    """
    file = folder / f"row-{row.number}.json"
    file.write_text(json.dumps(scenario(row, profile)))
    source = load.read(str(file))
    _, (cell,) = grid.cells(source)
    ended = runner.run_cells([cell], source.folders, jobs=1)
    if ended.failed:
        raise ended.failed[0].error
    records = ended.finished[0].records
    requests = records.requests
    ttft = (requests["first_token_ps"] - requests["arrival_ps"]) / 1e12
    gaps = np.maximum(requests["output_tokens"] - 1, 1)
    tpot = (requests["finish_ps"] - requests["first_token_ps"]) / 1e12 / gaps
    return {
        "tpot_sim_s": float(np.median(tpot)),
        "ttft_mean_s": float(ttft.mean()),
        "ttft_median_s": float(np.median(ttft)),
        "kv_blocks": records.totals["kv_blocks"],
        "preemptions": records.totals["preemptions"],
        "notes": "; ".join(records.notes),
    }


def results(rows: list[Row], profiles: Path | None, folder: Path) -> pd.DataFrame:
    """Every row with what was simulated; `failed` says why one could not be."""
    found = []
    for row in rows:
        profile = None if profiles is None else profiles / row.profile
        try:
            outcome = simulate(row, profile, folder)
        except InfersimError as error:
            outcome = {"failed": str(error).replace("\n", " ")}
        found.append({"failed": "", **row._asdict(), **outcome, "floor_s": floor_s(row)})
    return pd.DataFrame(found)


def errors(data: pd.DataFrame, statistic: str) -> pd.DataFrame:
    """The rows with their errors in percent, TTFT by its "mean" or "median"."""
    tpot = 100 * (data["tpot_sim_s"] / data["tpot_s"] - 1)
    ttft = 100 * (data[f"ttft_{statistic}_s"] / data["ttft_s"] - 1)
    return data.assign(tpot_error_pct=tpot, ttft_error_pct=ttft)


def better_statistic(data: pd.DataFrame) -> str:
    """Of TTFT, the one that is nearer on rows of even number."""
    even = data[data["number"] % 2 == 0]
    off = {s: errors(even, s)["ttft_error_pct"].abs().median() for s in ("median", "mean")}
    return min(off, key=lambda s: off[s])


def host_of(data: pd.DataFrame) -> tuple[float, float]:
    """Seconds (a step, a sequence) that the synchronous engine lacks, from rows of even number.

    Least squares on relative error, neither below 0.
    """
    some = data[
        (data["number"] % 2 == 0)
        & (data["model"] == "qwen3-32b")
        & (data["dtype"] == "bf16")
        & (data["preemptions"] == 0)
    ]
    lacking = (some["tpot_s"] - some["tpot_sim_s"]) / some["tpot_s"]
    sides = np.stack([1 / some["tpot_s"], some["clients"] / some["tpot_s"]], axis=1)
    best = np.linalg.lstsq(sides, lacking, rcond=None)[0]
    if best.min() < 0:
        alone = [max(0.0, float(lacking @ side / (side @ side))) for side in sides.T]
        best = np.array([alone[0], 0.0]) if best[1] < 0 else np.array([0.0, alone[1]])
    return float(best[0]), float(best[1])


def with_host(profiles: Path, target: Path, step_s: float, sequence_s: float) -> None:
    """The profiles again, with host time on top of the default's."""
    usual = Overheads()
    for folder in sorted(profiles.iterdir()):
        host = Host(
            step_s=usual.host_step_s + step_s, sequence_s=usual.host_sequence_s + sequence_s
        )
        save(load_profile(folder).model_copy(update={"host": host}), target / folder.name)


def line(title: str, data: pd.DataFrame) -> str:
    """One row of the summary: median and 90th percentile of |error|, and the median error."""
    cells = [title]
    for name in ("tpot", "ttft"):
        error = data[f"{name}_error_pct"].dropna()
        if len(error):
            size = error.abs()
            cells += [
                str(len(error)),
                f"{size.median():.1f}",
                f"{size.quantile(0.9):.1f}",
                f"{error.median():+.1f}",
            ]
        else:
            cells += ["0", "", "", ""]
    return "| " + " | ".join(cells) + " |"


def explained(row: Any) -> str:
    """Why a row may be off, from what is known of it."""
    reasons = []
    share = row["floor_s"] / row["tpot_s"]
    if share > 0.7:
        reasons.append(f"a GPU at its peak rates would need {share:.0%} of the measured TPOT")
    if "carried over" in str(row["notes"]):
        reasons.append("a table of another GPU stands in")
    if row["preemptions"]:
        reasons.append(f"{row['preemptions']} preemptions: the number of KV blocks decides")
    held = row["kv_blocks"] * 16 / (row["input_tokens"] + row["output_tokens"])
    if held < row["clients"]:
        reasons.append(f"KV holds {held:.0f} of {row['clients']} requests: queueing amplifies")
    share = row["output_tokens"] / row["input_tokens"]
    if share <= 0.15:
        reasons.append("few output tokens a prompt: TPOT is mostly others' prefill")
    if not row["is_async"]:
        reasons.append("host time of the synchronous engine comes from other rows")
    if row["is_async"]:
        reasons.append("tables are of vLLM 0.24, the run is of 0.10")
    return "; ".join(reasons)


def summary(data: pd.DataFrame) -> str:
    """The markdown table: all rows, then by model, GPU and whose tables."""
    heads = [
        "rows",
        "TPOT n",
        "median %",
        "p90 %",
        "bias %",
        "TTFT n",
        "median %",
        "p90 %",
        "bias %",
    ]
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads), line("all", data)]
    carried = data["notes"].fillna("").str.contains("carried over")
    lines.append(line("with tables of the GPU itself", data[~carried]))
    lines.append(line("with a table carried over", data[carried]))
    is_possible = data["floor_s"] <= data["tpot_s"]
    lines.append(line("that do not contradict themselves", data[is_possible]))
    lines.append(line("that do", data[~is_possible]))
    lines.append(line("of odd number", data[data["number"] % 2 == 1]))
    for (model, gpu, dtype), part in data.groupby(["model", "gpu", "dtype"]):
        lines.append(line(f"{model} {dtype} on {gpu}", part))
    for tp, part in data.groupby("tp"):
        lines.append(line(f"tp {tp}", part))
    return "\n".join(lines)


def scatter(data: pd.DataFrame, statistic: str, path: Path) -> None:
    """Simulated over measured, TPOT and TTFT, one point a row."""
    from plotly.subplots import make_subplots

    figure = make_subplots(1, 2, subplot_titles=("TPOT, ms", "TTFT, ms (grades A and A-)"))
    for column, name in ((1, "tpot"), (2, "ttft")):
        simulated = f"ttft_{statistic}_s" if name == "ttft" else "tpot_sim_s"
        shown = data.dropna(subset=[f"{name}_error_pct"])
        ends = 1e3 * np.array([shown[f"{name}_s"].min() * 0.8, shown[f"{name}_s"].max() * 1.2])
        for (model, gpu), part in shown.groupby(["model", "gpu"]):
            figure.add_scatter(
                x=1e3 * part[f"{name}_s"],
                y=1e3 * part[simulated],
                mode="markers",
                name=f"{model} on {gpu}",
                legendgroup=f"{model} on {gpu}",
                showlegend=column == 1,
                text=part["source"],
                row=1,
                col=column,
            )
        figure.add_scatter(
            x=ends, y=ends, mode="lines", line_color="gray", showlegend=False, row=1, col=column
        )
        figure.update_xaxes(title="measured", type="log", row=1, col=column)
        figure.update_yaxes(title="simulated", type="log", row=1, col=column)
    figure.write_html(path, include_plotlyjs=True)


def main() -> int:
    """Run every row, print the summary; 0 if both medians meet their goal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", type=Path)
    parser.add_argument("tables", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--roofline", action="store_true", help="datasheets instead of tables")
    parser.add_argument("--only", default="", help="rows whose source contains this")
    args = parser.parse_args()
    rows, left = rows_of(args.rows)
    rows = [row for row in rows if args.only in row.source]
    if not rows:
        print(f"error: no row's source contains {args.only!r}", file=sys.stderr)
        return 2
    profiles, scenarios = args.out / "profiles", args.out / "scenarios"
    scenarios.mkdir(parents=True, exist_ok=True)
    missing = {} if args.roofline else make_profiles(rows, args.tables, profiles)
    left += [(r.number, r.source, missing[r.profile]) for r in rows if r.profile in missing]
    rows = [row for row in rows if row.profile not in missing]
    data = results(rows, None if args.roofline else profiles, scenarios)
    failed = data["failed"] != ""
    left += list(data[failed][["number", "source", "failed"]].itertuples(index=False, name=None))
    data = data[~failed]
    if data.empty:
        print("no row could be run:", *(reason for *_, reason in left), sep="\n", file=sys.stderr)
        return 2
    print("Nothing fitted, medians:\n\n" + summary(errors(data, "median")))
    statistic = better_statistic(data)
    counted = errors(data, statistic)
    if not args.roofline:
        step_s, sequence_s = host_of(data)
        sync = [row for row in rows if not row.is_async and row.number % 2]
        with_host(profiles, args.out / "hosted", step_s, sequence_s)
        again = results(sync, args.out / "hosted", scenarios)
        parts = [data[data["is_async"]], again[again["failed"] == ""]]
        counted = errors(pd.concat(parts, ignore_index=True), statistic)
        print(
            f"\nHost of the synchronous engine + {1e6 * step_s:.0f} us a step, "
            f"{1e6 * sequence_s:.1f} us a sequence; TTFT is the {statistic}"
        )
    counted.loc[counted["number"] % 2 == 0, "ttft_error_pct"] = float("nan")
    print("\nCounted, rows that nothing was fitted on:\n\n" + summary(counted))
    counted.to_csv(args.out / "rows.csv", index=False)
    for number, source, reason in left:
        print(f"left out: line {number}, {source}: {reason}")
    data = counted
    ranked = data.assign(worst=data["tpot_error_pct"].abs()).nlargest(WORST, "worst")
    ranked["explanation"] = [explained(row) for _, row in ranked.iterrows()]
    ranked.to_csv(args.out / "worst.csv", index=False)
    scatter(data, statistic, args.out / "scatter.html")
    medians = {name: data[f"{name}_error_pct"].abs().median() for name in GOALS}
    return 0 if all(medians[name] <= goal for name, goal in GOALS.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
