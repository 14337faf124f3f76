"""Every kernel compiles for GPUs that are not here: no spills, tensor cores where they belong."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from infersim.kernels import compile_check

TOOLS = Path(importlib.import_module("triton").__file__).parent / "backends" / "nvidia" / "bin"
pytestmark = pytest.mark.skipif(
    not (TOOLS / "cuobjdump").exists(), reason="this Triton comes without the CUDA tools"
)
KERNELS = Path(compile_check.__file__).parent


def compiled(*command: str) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own, in which kernels are compiled."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, *command],
        env=environment | {"TRITON_DEFAULT_FP_FUSION": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "target",
    [
        "sm_90",
        *(pytest.param(t, marks=pytest.mark.slow) for t in ("sm_80", "sm_86", "sm_89", "sm_100")),
    ],
)
def test_every_specialisation_compiles(target: str) -> None:
    done = compiled("-m", compile_check.__name__, "--target", target)
    assert done.returncode == 0, done.stdout + done.stderr
    listed = sum(len(compile_check._specialisations(m, target)) for m in compile_check.modules())
    assert done.stdout.splitlines()[-1] == f"{listed} passed, 0 failed"


@pytest.mark.parametrize("module", sorted(p.stem for p in KERNELS.glob("*.py")))
def test_every_kernel_is_listed(module: str) -> None:
    source = (KERNELS / f"{module}.py").read_text()
    launched = set(re.findall(r"^\s+(_\w+)\[", source, re.MULTILINE))
    jitted = set(re.findall(r"@triton\.jit.*\ndef (\w+)", source))
    if not jitted & launched:
        return
    listed = {
        s.kernel.__name__
        for target in compile_check.SHARED_BYTES
        for s in compile_check._specialisations(module, target)
    }
    assert listed >= jitted & launched


def test_batches_of_other_lengths_compile_nothing_anew() -> None:
    """What is other in every step, of the kernels that the executor launches outside of graphs."""
    script = """
from infersim.kernels import decode_attention, moe_gemm, moe_route, prefill_attention, rms_norm
from infersim.kernels import row_groups
varied = {
    decode_attention._decode: "p_table p_lengths window s_table",
    decode_attention._combine: "splits",
    prefill_attention._attend: "p_table p_start p_lengths sequences s_table tree_step",
    rms_norm._norm: "rows",
    moe_gemm._gate_up: "pairs",
    moe_gemm._down: "pairs",
    moe_route._route: "tokens",
    row_groups._group_rows: "count blocks",
}
for kernel, names in varied.items():
    for one in kernel.params:
        if one.name in names.split():
            looks = one.do_not_specialize_on_alignment if one.name[:2] == "p_" else (
                one.do_not_specialize)
            print(kernel.__name__, one.name, "never" if looks else "LOOKED AT")
"""
    done = compiled("-c", script)
    lines = done.stdout.splitlines()
    assert len(lines) == 17, done.stderr
    assert not [line for line in lines if "LOOKED AT" in line]


def test_keys_of_a_prefill_are_loaded_two_iterations_ahead() -> None:
    """Three buffers of keys and three of values; with two, loads hide behind one product only."""
    script = """
import re
from infersim.kernels import compile_check, prefill_attention
one = prefill_attention.specialisations(90)[0]
made = compile_check._compile(one, "sm_90")
tile = f"x{one.constants['KEYS']}x{one.constants['HEAD_DIM']}xbf16"
print(one.name, max(int(n) for n in re.findall(rf"memdesc<(\\d+){tile}", made.asm["ttgir"])))
"""
    done = compiled("-c", script)
    assert done.stdout == "prefill_attention[bf16] 3\n", done.stderr


def test_a_kernel_that_spills_is_a_fault() -> None:
    """One warp, 256 logits a thread."""
    script = """
from infersim.kernels import compile_check, moe_route
spilling = moe_route.specialisations(90)[0]._replace(num_warps=1)
spilling.constants.update(EXPERTS=512, BLOCK=512, ROWS=16)
moe_route.specialisations = lambda architecture: [spilling]
row = compile_check.check("moe_route", 0, "sm_90")
print(row.spills > 0, row.stack_bytes > 0, row.fault)
"""
    done = compiled("-c", script)
    assert done.stdout == "True True spills registers\n", done.stderr


def test_what_does_not_compile_is_a_fault() -> None:
    script = """
from infersim.kernels import compile_check, moe_route
broken = moe_route.specialisations(90)[0]
broken.signature["p_ids"] = "fp32"
moe_route.specialisations = lambda architecture: [broken]
print(compile_check.check("moe_route", 0, "sm_90").fault != "")
"""
    assert compiled("-c", script).stdout == "True\n"


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        (compile_check.Row("k", "sm_90", tensor_core="wgmma.mma_async"), ""),
        (compile_check.Row("k", "sm_90"), "no tensor-core product"),
        (compile_check.Row("k", "sm_90", stack_bytes=8), "spills registers"),
        (compile_check.Row("k", "sm_89", shared_bytes=102_400), "only 101376 B there"),
    ],
)
def test_faults(row: compile_check.Row, fault: str) -> None:
    found = compile_check._fault(row, tensor_cores=True)
    assert fault in found
    assert bool(found) == bool(fault)


def test_names_of_nothing() -> None:
    assert compiled("-m", compile_check.__name__, "--only", "nothing").returncode == 2
    assert compiled("-m", compile_check.__name__, "--target", "sm_70").returncode == 2
