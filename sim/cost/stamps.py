"""Whether a profile was measured with what is here: versions differ by more than fits err."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path

from .profile import Stamp

KERNELS = Path(__file__).parents[2] / "kernels"


def kernels_hash(folder: Path = KERNELS) -> str:
    """SHA-256 over the names and sources of all kernels."""
    digest = sha256()
    for path in sorted(folder.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


@cache
def _own_kernels() -> str:
    return kernels_hash()


def other_kernels(stamp: Stamp) -> list[str]:
    """A remark where the kernels that were measured are not those of this infersim."""
    if stamp.origin != "measured" or not stamp.kernels or stamp.kernels == _own_kernels():
        return []
    return [
        f"step times: measured with other kernels ({stamp.kernels[:12]}) than this infersim has "
        f"({_own_kernels()[:12]}): measure again"
    ]


def other_versions(stamp: Stamp, installed: Mapping[str, str]) -> list[str]:
    """A remark where the device that computes is not as the one that was measured.

    Args:
        installed: "device", "torch" and "triton" of here; "" where it is not known.
    """
    if stamp.origin != "measured":
        return []
    pairs = [(name, getattr(stamp, name), here) for name, here in installed.items()]
    other = [f"{name} {was}, here {here}" for name, was, here in pairs if was and here != was]
    if not other:
        return []
    return [f"step times: the profile was measured with {'; '.join(other)}"]
