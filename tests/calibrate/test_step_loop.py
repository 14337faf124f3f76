"""Whole steps in the executor's own loop: they have the shape that was asked for."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="the executor needs torch")

from infersim.calibrate.executor.kv import KVCache  # noqa: E402
from infersim.calibrate.executor.model import Inputs, Model  # noqa: E402
from infersim.calibrate.executor.ops import TorchOps  # noqa: E402
from infersim.calibrate.executor.pace import Paced  # noqa: E402
from infersim.calibrate.executor.weights import Random  # noqa: E402
from infersim.calibrate.measure.loop import Loop  # noqa: E402
from infersim.scenarios.catalog import load  # noqa: E402
from infersim.sim.cost.roofline import Roofline  # noqa: E402

SIZE = 16
CPU = torch.device("cpu")


class Watched(Model):
    """A model that remembers what it was given."""

    seen: list[Inputs]

    def forward(self, inputs: Inputs, kv: KVCache) -> torch.Tensor:
        """Compute, and take note."""
        self.seen.append(inputs)
        return super().forward(inputs, kv)


@pytest.fixture(scope="module")
def model() -> Watched:
    """The smallest of the catalogue."""
    made = Watched(load.model("tiny"), TorchOps(), Random(0, torch.float32, CPU), 512, CPU)
    made.seen = []
    return made


@pytest.fixture
def loop(model: Watched) -> Loop:
    """A replica over 60 blocks."""
    model.seen.clear()
    cache = KVCache(model.spec, 60, SIZE, dtype=torch.float32, device=CPU)
    return Loop(model, cache, CPU, Roofline(model.spec, load.gpu("cpu")), graphs=0)


def test_decodes_read_their_context_and_grow(
    loop: Loop, model: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_pace_ps", lambda: 30_000_000)
    found = loop.steps(3, 100, (), 3)
    assert len(found) == 3
    assert all(one.wall_s > one.device_s > 0 for one in found)
    assert [isinstance(one.wall_s, Paced) and one.wall_s.pace_s for one in found] == [3e-5] * 3
    lengths = [inputs.decode_lengths.tolist() for inputs in model.seen]
    assert lengths == [[98] * 3, [99] * 3, [100] * 3, [101] * 3]  # the first is not timed
    assert all(len(inputs.prefill_lengths) == 0 for inputs in model.seen)


def test_chunks_join_the_decodes_after_what_is_cached(loop: Loop, model: Watched) -> None:
    loop.steps(2, 40, [(5, 32), (20, 0)], 2)
    assert len(model.seen) == 3
    for inputs in model.seen:
        assert inputs.decodes == 2
        assert inputs.prefill_lengths.tolist() == [37, 20]
        assert inputs.query_start.tolist() == [0, 5, 25]
        assert len(inputs.rows) == 4
    chunks = [inputs.tokens[2:].tolist() for inputs in model.seen]
    assert chunks[0] != chunks[1]  # or they would be found in the cache


def test_prompts_alone(loop: Loop, model: Watched) -> None:
    found = loop.steps(0, 0, [(30, 16)], 2)
    assert len(found) == 2
    assert [inputs.prefill_lengths.tolist() for inputs in model.seen] == [[46]] * 3


def test_the_longest_context_stays_within_the_positions(loop: Loop, model: Watched) -> None:
    loop.steps(1, 512, (), 3)
    assert max(int(inputs.positions.max()) for inputs in model.seen) == 511


def test_a_step_that_does_not_fit_is_refused(loop: Loop) -> None:
    with pytest.raises(RuntimeError, match="the cache is too small"):
        loop.steps(4, 300, (), 2)
