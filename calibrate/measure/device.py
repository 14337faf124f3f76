"""What is measured on: the device, its versions, its clocks, and its name in the catalogue."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import metadata
from typing import NamedTuple

from ...policies.errors import InputError
from ...scenarios.catalog import load
from ...sim.cost.stamps import kernels_hash

_MAKERS = ("nvidia", "geforce", "tesla", "amd", "instinct", "blackwell", "edition")
_MEMORY = ("hbm2", "hbm2e", "hbm3", "hbm3e")


@dataclass(frozen=True)
class Device:
    """A device and the software that drives it; two profiles compare by these.

    Attributes:
        kind: "cuda" or "cpu".
        name: as the driver calls it.
        gpu: its name in the catalogue, or a catalogue file of the user's.
        kernels: SHA-256 of the sources in ``kernels/``.
        l2_bytes: last-level cache that rotating buffers must exceed.
        memory_bytes: what the driver shows a process.
        threads: of the CPU back end; 0 on a GPU.
        count: devices of this kind here.
    """

    kind: str
    name: str
    gpu: str
    driver: str
    cuda: str
    torch: str
    triton: str
    kernels: str
    l2_bytes: int
    memory_bytes: int
    threads: int = 0
    count: int = 1


class Readings(NamedTuple):
    """Clocks and temperature while measuring; 0 where the device does not tell."""

    sm_mhz: float = 0.0
    memory_mhz: float = 0.0
    temperature_c: float = 0.0
    power_w: float = 0.0


def require_torch() -> None:
    """Refuse where torch is missing.

    Raises:
        InputError: names the extra that brings it.
    """
    try:
        import torch  # noqa: F401
    except ImportError:
        raise InputError(
            "measuring needs torch, which is not installed",
            help='pip install "infersim[gpu]"',
        ) from None


def read_device(kind: str, gpu: str | None = None, threads: int | None = None) -> Device:
    """The device of this machine.

    Args:
        kind: "cuda" (the first GPU that torch shows) or "cpu".
        gpu: its name in the catalogue or a file; recognised by the driver's name if None.
        threads: of torch on the CPU, which stay so for this process; None: as they are.

    Raises:
        InputError: no such device here, torch is missing, or nothing recognises the device.
    """
    require_torch()
    import torch

    sources, triton = kernels_hash(), _version("triton")
    if kind == "cpu":
        if threads is not None:
            torch.set_num_threads(threads)
        known = load.gpu(gpu or "cpu")
        name = f"{torch.backends.cpu.get_cpu_capability()} CPU"
        version = str(torch.__version__)
        return Device(
            *(kind, name, known.name, "", "", version, triton, sources),
            l2_bytes=1 << 22,
            memory_bytes=known.memory_bytes,
            threads=torch.get_num_threads(),
        )
    if not torch.cuda.is_available():
        raise InputError(
            "--gpu was asked for, but torch sees no CUDA device here",
            help="run it on the GPU machine, or --cpu to try the pipeline",
        )
    found = torch.cuda.get_device_properties(0)
    return Device(
        kind,
        found.name,
        load.gpu(gpu).name if gpu else catalogue_name(found.name, int(found.total_memory)),
        _ask_driver("driver_version"),
        str(torch.version.cuda or ""),
        str(torch.__version__),
        triton,
        sources,
        int(getattr(found, "L2_cache_size", 0)) or 50 << 20,
        int(found.total_memory),
        count=torch.cuda.device_count(),
    )


def catalogue_name(name: str, memory_bytes: int) -> str:
    """The catalogue's name of the device that the driver calls *name*.

    "NVIDIA H100 80GB HBM3" is h100-sxm, "NVIDIA A100-SXM4-80GB" a100-sxm-80gb. A row fits only if
    its memory is within 5 % of *memory_bytes*: an A100 of 40 GB is another GPU than one of 80.

    Raises:
        InputError: no row fits.
    """
    words = [word for word in _words(name) if word not in _MAKERS + _MEMORY]
    for guess in ("-".join(words), "-".join(word for word in words if not word.endswith("gb"))):
        try:
            found = load.gpu(guess)
        except InputError:
            continue
        if abs(found.memory_bytes / memory_bytes - 1) < 0.05:
            return found.name
    raise InputError(
        f'the catalogue has no GPU that the driver calls "{name}" with {memory_bytes / 1e9:.1f} GB',
        help="name it with --device-name; `infersim gpus` lists them, a YAML file of yours works",
    )


def _words(name: str) -> list[str]:
    return name.lower().replace("-", " ").replace("_", " ").split()


def readings(device: Device, ask: Callable[[str], str] | None = None) -> Readings:
    """What the driver says of clocks and temperature right now; zeros on a CPU."""
    if device.kind != "cuda":
        return Readings()
    text = (ask or _ask_driver)("clocks.sm,clocks.mem,temperature.gpu,power.draw")
    return Readings(*_numbers(text.split(","))) if text else Readings()


def _numbers(parts: Iterable[str]) -> list[float]:
    found = []
    for part in parts:
        try:
            found.append(float(part))
        except ValueError:
            found.append(0.0)  # "[N/A]"
    return (found + [0.0] * 4)[:4]


def _ask_driver(query: str) -> str:
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
