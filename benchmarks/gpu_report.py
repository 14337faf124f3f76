"""What ``gpu.py`` found, as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

FORMAT = "infersim-gpu-1"
_SHOWN = ("name", "driver", "cuda", "torch", "triton", "python", "numpy", "commit", "begun")


def render(results: dict[str, Any]) -> str:
    """Tables of every part that is there, each with what it was measured on."""
    lines = ["# Measured by benchmarks/gpu.py", ""]
    for name, part in results["parts"].items():
        about, found = part["provenance"], part.get("result") or {}
        lines += [f"## {name}: {part['state']}", ""]
        if about["kind"] == "cpu":
            lines += [
                "**On a CPU, in small: this tries the script, no figure means anything.**",
                "",
            ]
        told = [f"{key} {about[key]}" for key in _SHOWN if about.get(key)]
        lines += [", ".join([*told, f"kernels {about['kernels'][:12]}"]) + ".", ""]
        if part.get("why"):
            lines += [f"Why: {part['why']}", ""]
        if found:
            lines += _PARTS[name.split(" ")[0]](found)
        broken = found.get("broken", [])
        lines += [f"- not kept: {text}" for text in broken] + [""] * bool(broken)
    return "\n".join(lines)


def _tests(found: dict[str, Any]) -> list[str]:
    return [found["last"], ""]


def _kernels(found: dict[str, Any]) -> list[str]:
    lines = []
    for name in ("ceilings", "again"):
        if name in found:
            top = found[name]
            lines.append(
                f"{'At the end' if name == 'again' else 'Ceilings'}: copy "
                f"{top['copy_bytes_per_s'] / 1e12:.2f} TB/s (read and written), product "
                f"{top['product_flops_per_s'] / 1e12:.0f} TFLOP/s."
            )
    decodes = [one for one in found["rows"] if one["op"] == "decode"]
    prefills = [one for one in found["rows"] if one["op"] == "prefill"]
    for title, rows, unit in (("decode", decodes, "GB/s"), ("prefill", prefills, "TFLOP/s")):
        head = (title, "batch", "tokens", "us", unit, "of ceiling", "goal", "met", "error")
        body = [_kernel(one, 1e9 if unit == "GB/s" else 1e12) for one in rows]
        lines += ["", *_table((*head, "SDPA us", "Flex us"), body)]
    if found["launches"]:
        head = ("other launches", "batch", "tokens", "rows columns warps stages", "us", "right")
        lines += ["", *_table(head, [_launch(one) for one in found["launches"]])]
    return [*lines, ""]


def _kernel(one: dict[str, Any], unit: float) -> list[str]:
    named = [one["model"], str(one["batch"]), f"{one['context']:,}"]
    if "failed" in one:
        return [*named, f"failed: {one['failed']}", *[""] * 7]
    return [
        *named,
        _us(one["seconds"]),
        f"{one['rate'] / unit:.0f}",
        f"{one['share']:.1%}",
        _or(one["goal"], "{:.0%}"),
        {True: "yes", False: "NO", None: "–"}[one["met"]],
        f"{one['error']:.1e}" + ("" if one["right"] else " WRONG"),
        _us(one.get("sdpa_s")),
        _us(one.get("flex_s")) + (" failed" if "flex_failed" in one else ""),
    ]


def _launch(one: dict[str, Any]) -> list[str]:
    told = [one["op"], str(one["batch"]), f"{one['context']:,}", one["launch"]]
    if "failed" in one:
        return [*told, f"failed: {one['failed']}", ""]
    return [*told, _us(one["seconds"]), "yes" if one["right"] else "NO"]


def _calibration(found: dict[str, Any]) -> list[str]:
    errors = [abs(e) for e in found["step_errors"]]
    foretold = f"{len(errors)} steps foretold within {median(errors):.1%}" if errors else "no steps"
    return [
        f"{found['measured']:,} of {found['planned']:,} points in {found['took_s']:.0f} s"
        f"{', stopped: ' + found['stopped'] if found['stopped'] else ''}; {foretold} (median); "
        f"drift {found['drift']:.1%}, {found['repeated_rounds']} rounds repeated.",
        "",
        *[f"- {text}" for text in (*found["warnings"], *found["notes"])],
        *[f"- refused: {name}: {why}" for name, why in found["refused"].items()],
        "",
    ]


def _validation(found: dict[str, Any]) -> list[str]:
    head = ("cell", "load", "requests/s", "steps", "step error", "bias", "repeats apart")
    head = (*head, "TPOT mean", "TTFT mean", "hit rate", "simulated", "kept")
    lines = _table(head, [_cell(one) for one in found["rows"]])
    ranks = [
        f"{one['metric']} {one['stat']} {_or(one['tau'], '{:.2f}')}" for one in found["ranking"]
    ]
    lines += ["", f"Kendall's tau over the cells: {', '.join(ranks) or 'one cell'}.", ""]
    return lines + [f"- failed: {name}: {why}" for name, why in found["failed_cells"].items()]


def _cell(one: dict[str, Any]) -> list[str]:
    kept = all(check["met"] for check in one["checks"])
    hits = one["hit_rate"] or {"measured": None, "simulated": None}
    return [
        one["cell"],
        one["load"],
        f"{one['requests_per_s']:.2f}",
        str(one["steps"]),
        f"{one['step_median']:.1%}",
        f"{one['step_bias']:+.1%}",
        _or(one["step_noise"], "{:.1%}"),
        _error(one["tpot_mean"]),
        _error(one["ttft_mean"]),
        _or(hits["measured"], "{:.4f}"),
        _or(hits["simulated"], "{:.4f}"),
        "–" if not one["checks"] else "yes" if kept else "NO",
    ]


def _error(row: dict[str, Any] | None) -> str:
    return "–" if row is None else _or(row["error"], "{:+.1%}")


def _us(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds * 1e6:.1f}"


def _or(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


_PARTS: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "tests": _tests,
    "kernels": _kernels,
    "calibrate": _calibration,
    "validate": _validation,
}
