"""Compile every kernel for GPUs that need not be here, and look at the machine code.

``python -m infersim.kernels.compile_check [--target sm_90 …] [--only TEXT] [--jobs N]`` prints a
row for each specialisation and target: registers, stack, spills, shared memory, tensor-core
instruction. Exit status 1 when one does not compile, spills, wants more shared memory than the
target has, or lacks tensor-core products that it should have; 2 when a target or name is unknown.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from .lang import Specialisation

#: bytes of shared memory that one program may have (CUDA programming guide, table of capabilities)
SHARED_BYTES = {
    "sm_80": 166_912,
    "sm_86": 101_376,
    "sm_89": 101_376,
    "sm_90": 232_448,
    "sm_100": 232_448,
}
#: what a tensor-core product is called in PTX, the newest first
TENSOR_CORES = ("tcgen05.mma", "wgmma.mma_async", "mma.sync")
_ALIGNED = [["tt.divisibility", 16]]


class Row(NamedTuple):
    """What one specialisation became on one target.

    Attributes:
        name: of the specialisation.
        target: ``sm_90`` …
        registers: of a thread.
        stack_bytes: of a thread.
        spills: loads and stores of spilled registers in the machine code.
        shared_bytes: of a program.
        tensor_core: the product's name in PTX; empty without one.
        fault: why it fails; empty when it passes.
    """

    name: str
    target: str
    registers: int = 0
    stack_bytes: int = 0
    spills: int = 0
    shared_bytes: int = 0
    tensor_core: str = ""
    fault: str = ""


def modules() -> list[str]:
    """Names of the kernel modules here that list specialisations, in order."""
    here = Path(__file__).parent
    return sorted(
        path.stem
        for path in here.glob("*.py")
        if "def specialisations(" in path.read_text(encoding="utf-8")
        and path.stem != Path(__file__).stem
    )


def check(module: str, index: int, target: str) -> Row:
    """Compile specialisation *index* of *module* for *target* and read its machine code."""
    specialisation = _specialisations(module, target)[index]
    try:
        compiled = _compile(specialisation, target)
    except Exception as error:  # whatever the compiler raises is the finding
        return Row(specialisation.name, target, fault=_first_line(error))
    registers, stack_bytes, spills = _resources(compiled.asm["cubin"])
    tensor_core = next((name for name in TENSOR_CORES if name in compiled.asm["ptx"]), "")
    row = Row(
        specialisation.name,
        target,
        registers,
        stack_bytes,
        spills,
        compiled.metadata.shared,
        tensor_core,
    )
    return row._replace(fault=_fault(row, specialisation.tensor_cores))


def main(arguments: list[str]) -> int:
    """Check what the command line asks for; the exit status."""
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # 3.9 asks; older ones always do
    if os.environ.pop("TRITON_INTERPRET", "0") == "1":
        print("compile_check: TRITON_INTERPRET is ignored: this compiles", file=sys.stderr)
    options = _options(arguments)
    tasks = [
        (module, index, target)
        for target in options.target
        for module in modules()
        for index, specialisation in enumerate(_specialisations(module, target))
        if options.only in specialisation.name
    ]
    if not tasks:
        print(f"compile_check: no specialisation is named …{options.only}…", file=sys.stderr)
        return 2
    with ProcessPoolExecutor(options.jobs) as pool:
        rows = []
        for row in pool.map(check, *zip(*tasks, strict=True)):
            rows.append(row)
            print(_line(row), flush=True)
    failed = sum(bool(row.fault) for row in rows)
    print(f"{len(rows) - failed} passed, {failed} failed")
    return 1 if failed else 0


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m infersim.kernels.compile_check")
    parser.add_argument("--target", action="append", choices=SHARED_BYTES, help="all by default")
    parser.add_argument("--only", default="", metavar="TEXT", help="names that contain TEXT")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    options = parser.parse_args(arguments)
    options.target = options.target or list(SHARED_BYTES)
    return options


def _specialisations(module: str, target: str) -> list[Specialisation]:
    found = importlib.import_module(f"{__package__}.{module}")
    listed: list[Specialisation] = found.specialisations(_architecture(target))
    return listed


def _architecture(target: str) -> int:
    return int(target.removeprefix("sm_"))


def _compile(specialisation: Specialisation, target: str) -> Any:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = list(inspect.signature(specialisation.kernel.fn).parameters)
    signature = {n: specialisation.signature.get(n, "constexpr") for n in names}
    missing = {n for n, t in signature.items() if t == "constexpr"} ^ set(specialisation.constants)
    if missing:
        raise TypeError(f"signature and constants do not cover {', '.join(sorted(missing))}")
    source = ASTSource(
        fn=specialisation.kernel,
        signature=signature,
        constexprs=specialisation.constants,
        attrs={
            (p.num,): _ALIGNED
            for p in specialisation.kernel.params
            if _is_aligned(p, signature[p.name])
        },
    )
    return triton.compile(
        source,
        target=GPUTarget("cuda", _architecture(target), 32),
        options={
            "num_warps": specialisation.num_warps,
            "num_stages": specialisation.num_stages,
        },
    )


def _is_aligned(parameter: Any, type_name: str) -> bool:
    """Whether the launcher finds the argument divisible by 16 at real sizes, and looks."""
    if parameter.do_not_specialize or parameter.do_not_specialize_on_alignment:
        return False
    is_stride = type_name.startswith("i") and parameter.name.startswith("s_")
    return type_name.startswith("*") or is_stride


def _resources(cubin: bytes) -> tuple[int, int, int]:
    """Registers and stack bytes of a thread, and loads and stores of spilled registers."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = _tool("cuobjdump", "-res-usage", file.name)
        found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
        if not found:
            raise RuntimeError(f"cuobjdump says nothing of registers: {usage.strip()[:200]}")
        registers, stack_bytes = int(found[1]), int(found[2])
        # only what has a stack can spill; disassembly is slow
        code = _tool("nvdisasm", "-c", file.name) if stack_bytes else ""
    return registers, stack_bytes, len(re.findall(r"\b(?:LDL|STL)\b", code))


def _tool(name: str, *arguments: str) -> str:
    """What one of the CUDA tools that come with Triton prints."""
    import triton

    path = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    done = subprocess.run([path, *arguments], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def _fault(row: Row, tensor_cores: bool) -> str:
    if row.stack_bytes or row.spills:
        return "spills registers"
    if row.shared_bytes > SHARED_BYTES[row.target]:
        return f"shared memory: only {SHARED_BYTES[row.target]} B there"
    if tensor_cores and not row.tensor_core:
        return "no tensor-core product"
    return ""


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {(lines or ['?'])[-1][:120]}"


def _line(row: Row) -> str:
    return "  ".join(_cells(row)).rstrip()


def _cells(row: Row) -> Iterator[str]:
    yield f"{row.name:38}"
    yield f"{row.target:6}"
    yield f"{row.registers:3} registers"
    yield f"{row.stack_bytes:4} B stack"
    yield f"{row.spills:3} spills"
    yield f"{row.shared_bytes:6} B shared"
    yield f"{row.tensor_core:15}"
    yield f"FAIL: {row.fault}" if row.fault else "ok"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
