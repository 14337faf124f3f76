"""Plant bugs in the kernels, one at a time, and see whether their tests notice.

    python tests/kernels/mutations.py [--only TEXT] [--jobs N]

Every bug is a change of text in a copy of the package; the tests of the kernel run on it in a
process of their own, and before that without any bug. Prints a line a run. Leaves with 1 when a bug
survives, 2 when tests cannot run or fail without a bug. Ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).resolve().parent
REPOSITORY = TESTS.parents[1]


class Mutation(NamedTuple):
    """One bug.

    Attributes:
        name: what is wrong.
        module: of kernels/, in which it is.
        before: the right text, found once in the module.
        after: the wrong one.
        tests: the kernel whose tests should notice; None: the module's own.
    """

    name: str
    module: str
    before: str
    after: str
    tests: str | None = None


MUTATIONS = [
    Mutation("mask off by one", "decode_attention", "m_k = o_k < length", "m_k = o_k <= length"),
    Mutation("lost split", "decode_attention", "mask=o_s < splits,", "mask=o_s < splits - 1,"),
    Mutation("wrong KV head", "decode_attention", "+ i_h * s_head", "+ i_h // 2 * s_head"),
    Mutation("no rescale", "decode_attention", "acc = acc * rescale[:, None] +", "acc = acc +"),
    Mutation(
        "window off by one", "decode_attention", "length - window, 0)", "length - window - 1, 0)"
    ),
    Mutation(
        "length 0 divides by 0",
        "decode_attention",
        "total = tl.where(some, total, 1.0)",
        "total = total",
    ),
    Mutation("value scale ignored", "decode_attention", "cast(mean * v_scale,", "cast(mean,"),
    Mutation(
        "causal shift",
        "prefill_attention",
        "o_k[None, :] <= position[:, None]",
        "o_k[None, :] < position[:, None]",
    ),
    Mutation("prefix ignored", "prefill_attention", "position = prefix + i_q", "position = i_q"),
    Mutation(
        "window off by one",
        "prefill_attention",
        "position[:, None] - window\n",
        "position[:, None] - window - 1\n",
    ),
    Mutation(
        "tree mask ignored",
        "prefill_attention",
        "visible, mask != 0)",
        "visible, mask >= 0)",
        "tree_attention",
    ),
    Mutation("rotary key part ignored", "mla_decode", " + dot(b_qr, tl.trans(b_r))", ""),
    Mutation("splits weigh alike", "mla_decode", "top + tl.log2(total)", "top"),
    Mutation("mask off by one", "mla_decode", "m_k = o_k < length", "m_k = o_k <= length"),
    Mutation(
        "causal shift",
        "mla_prefill",
        "(o_k[None, :] <= position[:, None])",
        "(o_k[None, :] < position[:, None] + 2)",
    ),
    Mutation(
        "last token of a tile cut",
        "mla_prefill",
        "(tile * ROWS + ROWS - 1) // heads + 1",
        "(tile * ROWS + ROWS - 1) // heads",
    ),
    Mutation(
        "no rescale of the sum", "mla_prefill", "total = total * rescale +", "total = total +"
    ),
    Mutation(
        "rotation's sign", "rope_kv_write", "return a * cos - b * sin", "return a * cos + b * sin"
    ),
    Mutation(
        "slot -1 is written",
        "rope_kv_write",
        "if slot >= 0:",
        "slot = tl.maximum(slot, 0)\n        if slot >= 0:",
    ),
    Mutation("mean over the padded row", "rms_norm", "/ WIDTH + eps", "/ BLOCK_N + eps"),
    Mutation("gate taken as up", "silu_mul", "s_x + s_ffn + o_f", "s_x + o_f"),
    Mutation(
        "no clamp of fp8",
        "lang",
        "return tl.where(x > 448.0, 448.0,",
        "return tl.where(x > 1e30, 448.0,",
        "fp8_kv",
    ),
    Mutation(
        "e4m3 bits' exponent",
        "lang",
        "half.to(tl.float32) * 256.0",
        "half.to(tl.float32) * 128.0",
        "fp8_gemm",
    ),
    Mutation(
        "bits of a word reversed",
        "token_bitmask",
        "(word >> (o_v % 32))",
        "(word >> (31 - o_v % 32))",
    ),
    Mutation(
        "mask of the wrong row",
        "token_bitmask",
        "p_logits + i_r * s_logits",
        "p_logits + i_m * s_logits",
    ),
    Mutation("last token of equals", "sampling", "x > best, o_v, at)", "x >= best, o_v, at)"),
    Mutation(
        "top k keeps one less",
        "sampling",
        "count.to(tl.float32)) >= target",
        "count.to(tl.float32)) > target",
    ),
    Mutation(
        "mass without temperature",
        "sampling",
        "mass = tl.exp((x - top) * inverse)",
        "mass = tl.exp(x - top)",
    ),
    Mutation("copy to the wrong block", "block_copy", "p_to + i_to * s_to", "p_to + i_b * s_to"),
    Mutation(
        "zero point ignored",
        "w4a16_gemm",
        "(nibble.to(tl.float32) - zero[None, :])",
        "nibble.to(tl.float32)",
    ),
    Mutation("scale of the first group", "w4a16_gemm", "(first // GROUP) * s_n + o_n", "o_n"),
    Mutation(
        "weight scale ignored",
        "fp8_gemm",
        "acc * x_scale[:, None] * w_scale[None, :]",
        "acc * x_scale[:, None]",
    ),
    Mutation(
        "an expert chosen twice", "moe_route", "o_e[None, :] == i_best[:, None]", "o_e[None, :] < 0"
    ),
    Mutation("weights not renormalized", "moe_route", "b_w / tl.sum(b_w, 1)[:, None]", "b_w"),
    Mutation(
        "routing weight ignored",
        "moe_gemm",
        "y *= tl.load(p_weights + pair, mask=m_m, other=0.0)[:, None]",
        "y *= 1.0",
    ),
    Mutation(
        "up taken from the gate",
        "moe_gemm",
        "(i_g * 2 * s_ffn + s_ffn + o_n)",
        "(i_g * 2 * s_ffn + o_n)",
    ),
    Mutation("groups not padded", "row_groups", "(counts + BLOCK - 1) // BLOCK * BLOCK", "counts"),
    Mutation(
        "rows of a second chunk lost", "row_groups", "at += tl.sum(mine.to(tl.int32), 0)", "at += 0"
    ),
    Mutation("adapter's scale ignored", "lora", " * tl.load(p_scale + i_g)", ""),
    Mutation(
        "lost split", "lora", "tl.static_range(SPLITS)", "tl.static_range(SPLITS - SPLITS // 2)"
    ),
]


def main() -> int:
    """Plant each bug and report; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", default="", metavar="TEXT", help="bugs whose line contains TEXT")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    options = parser.parse_args()
    chosen = [m for m in MUTATIONS if options.only in f"{m.module}: {m.name}"]
    tested = sorted({m.tests or m.module for m in chosen})
    if not chosen:
        print(f"no bug is named …{options.only}…", file=sys.stderr)
        return 2
    with ThreadPoolExecutor(options.jobs) as pool:
        sound = [
            report(f"{tests}: no bug", status, {0: "passed", 1: "FAILED"})
            for tests, status in zip(tested, pool.map(run, tested), strict=True)
        ]
        if any(sound):
            return 2
        found = [
            report(f"{mutation.module}: {mutation.name}", status, {0: "SURVIVED", 1: "caught"})
            for mutation, status in zip(chosen, pool.map(attempt, chosen), strict=True)
        ]
    print(f"{found.count(1)} of {len(found)} caught")
    return 0 if found.count(1) == len(found) else 1 if {*found} <= {0, 1} else 2


def report(name: str, status: int, words: dict[int, str]) -> int:
    """Print a line, and give the status back."""
    print(f"{name:50} {words.get(status, f'tests did not run: status {status}')}", flush=True)
    return status


def attempt(mutation: Mutation) -> int:
    """Run the tests of a bug; pytest's status."""
    return run(mutation.tests or mutation.module, mutation)


def run(tests: str, mutation: Mutation | None = None) -> int:
    """Run the *tests* of a kernel on a package with a bug, or without; pytest's status."""
    with tempfile.TemporaryDirectory() as folder:
        plant(mutation, Path(folder) / "infersim")
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"),
                *("--rootdir", REPOSITORY, "-c", REPOSITORY / "pyproject.toml"),
                TESTS / f"test_{tests}.py",
            ],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": folder, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
    return done.returncode


def plant(mutation: Mutation | None, copy: Path) -> None:
    """A package at *copy* like this one, with the bug in its kernels."""
    copy.mkdir()
    for entry in REPOSITORY.iterdir():
        if entry.name == "kernels":
            shutil.copytree(entry, copy / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
        elif not entry.name.startswith("."):
            (copy / entry.name).symlink_to(entry)
    if mutation:
        changed = copy / "kernels" / f"{mutation.module}.py"
        source = changed.read_text(encoding="utf-8")
        changed.write_text(source.replace(mutation.before, mutation.after), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
