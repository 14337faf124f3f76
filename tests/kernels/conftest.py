"""The same tests in the interpreter on a CPU and compiled on a GPU (``-m gpu`` adds real sizes)."""

from __future__ import annotations

import os
from collections.abc import Callable

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the interpreter's small products: 50x faster

import pytest

torch = pytest.importorskip("torch", reason="kernels need torch")
ON_GPU = torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1"
if not ON_GPU:
    os.environ["TRITON_INTERPRET"] = "1"
pytest.importorskip("triton", reason="kernels need triton")


def pytest_configure(config: pytest.Config) -> None:
    """Know the marker wherever tests are started."""
    config.addinivalue_line("markers", "gpu: real sizes, on a GPU")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Real sizes are for a GPU."""
    if item.get_closest_marker("gpu") and not ON_GPU:
        pytest.skip("needs a GPU")


def pytest_runtest_teardown(item: pytest.Item) -> None:
    """What real sizes took is there for the processes beside this one."""
    if item.get_closest_marker("gpu") and ON_GPU:
        torch.cuda.empty_cache()


@pytest.fixture(scope="session")
def device() -> str:
    """Where the kernels run."""
    return "cuda" if ON_GPU else "cpu"


@pytest.fixture(scope="session")
def close() -> Callable[[torch.Tensor, torch.Tensor], None]:
    """Assert that a result is the float64 expectation, in relative norm by the result's type.

    A GPU multiplies fp32 as tf32: all but 10 bits of an operand are cut off, not rounded. That
    takes up to 2^-10 of it, always towards zero, so that the losses of a sum do not cancel and
    those of products in a row add up: 2.6e-3 in a mixture of experts, with operands cut on a CPU.
    """
    tolerances = {
        torch.float32: 4e-3 if ON_GPU else 1e-5,
        torch.float16: 2e-3,
        torch.bfloat16: 1e-2,
    }

    def check(actual: torch.Tensor, expected: torch.Tensor) -> None:
        assert actual.shape == expected.shape
        assert expected.dtype == torch.float64
        error = (actual.double() - expected).norm() / expected.norm().clamp_min(1e-30)
        assert error.item() < tolerances[actual.dtype]  # NaN fails too

    return check


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """New memory holds NaN, or integers that are no index: what a kernel leaves unwritten shows."""

    def poison(empty: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def filled(*args: object, **kwargs: object) -> torch.Tensor:
            tensor = empty(*args, **kwargs)
            integers = not tensor.dtype.is_floating_point
            return tensor.fill_(torch.iinfo(tensor.dtype).max if integers else float("nan"))

        return filled

    monkeypatch.setattr(torch, "empty", poison(torch.empty))
    monkeypatch.setattr(torch, "empty_like", poison(torch.empty_like))
