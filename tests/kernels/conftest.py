"""The same tests in the interpreter on a CPU and compiled on a GPU (``-m gpu`` adds real sizes)."""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the interpreter's small products: 50x faster

import pytest

torch = pytest.importorskip("torch", reason="kernels need torch")
ON_GPU = torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1"
if not ON_GPU:
    os.environ["TRITON_INTERPRET"] = "1"
pytest.importorskip("triton", reason="kernels need triton")


@pytest.fixture(scope="session")
def device() -> str:
    """Where the kernels run."""
    return "cuda" if ON_GPU else "cpu"
