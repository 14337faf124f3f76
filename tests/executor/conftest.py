"""Scenarios on both hosts: the simulator, and the executor over a tiny model or over nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the executor needs torch", exc_type=ImportError)

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported

from infersim.calibrate.executor import (  # noqa: E402
    clock,
    host,
    kv,
    model,
    ops,
    runner,
    texts,
    tier,
    tower,
    weights,
)
from infersim.policies.types import ReplicaId  # noqa: E402
from infersim.scenarios import build, grid, load  # noqa: E402
from infersim.sim.engine.foresight import foresee, oracle_pool  # noqa: E402
from infersim.sim.engine.run import Outcome, simulate  # noqa: E402
from infersim.sim.state.content import Chains  # noqa: E402
from infersim.sim.state.steps import MEASURED_COLUMNS, StepLog  # noqa: E402

MODEL = """\
name: mini
hidden: 64
layers: 2
heads: 4
kv_heads: 2
head_dim: 16
ffn: 96
vocab: 257
max_pos: 4096
qk_norm: true
"""
SEEING = (
    MODEL
    + """\
vision:
  {layers: 4, hidden: 32, heads: 2, ffn: 48, gated: true, patch: 2, window: 4, full_layers: 2,
   mergers: 3}
"""
)
MOE = MODEL.replace("ffn: 96", "experts: 4\ntop_k: 2\nmoe_ffn: 48") + "tie_embed: true\n"
CPU = torch.device("cpu")


class Nothing:
    """A device that computes nothing: for the decisions alone."""

    def launch(self, batch: Any) -> Any:
        self.rows = len(batch.rows)
        done = runner.Done([0] * len(batch.rows), "eager", 0, 0, 0, 0, 0)

        class Ticket:
            def wait(self) -> runner.Done:
                return done

        return Ticket()

    waitable = None

    def ready(self) -> None:
        pass

    def read_blocks(self, blocks: list[int]) -> Any:
        return torch.zeros(0)

    def write_blocks(self, blocks: list[int], content: Any) -> None:
        pass

    def keep_blocks(self, moves: Any) -> None:
        pass

    def fetch_blocks(self, moves: Any) -> Any:
        return lambda: True

    def swap_blocks(self, *, out: bool, moves: Any) -> None:
        pass

    def read_embedding(self, identifier: int) -> Any:
        return torch.zeros(0)

    def write_embedding(self, identifier: int, content: Any) -> None:
        pass

    def close(self) -> None:
        pass


class Both:
    """One scenario, ready for either host as often as asked.

    Args:
        text: the scenario without its model, which is the mini one.
        settings: as ``--set``.
    """

    def __init__(self, folder: Path, text: str, *settings: str) -> None:
        (folder / "mini.yaml").write_text(MODEL)
        (folder / "moe.yaml").write_text(MOE)
        (folder / "seeing.yaml").write_text(SEEING)
        path = folder / "scenario.yaml"
        path.write_text(text)
        self.source = load.read(str(path), settings)
        self.cell = grid.cells(self.source)[1][0]

    def assembly(self) -> build.Assembly:
        return build.assemble(self.cell, self.source.folders)

    def simulated(self) -> tuple[Outcome, dict[str, np.ndarray[Any, Any]]]:
        made, log = self.assembly(), StepLog()
        outcome = simulate(made.config, made.workload, limits=made.limits, trace=log)
        return outcome, log.arrays()

    def executed(
        self,
        *,
        compute: bool = False,
        triton: bool = False,
        wall: bool = False,
    ) -> tuple[host.Executed, dict[str, np.ndarray[Any, Any]]]:
        made, log = self.assembly(), StepLog(measured=True)
        spec = made.pools[0].model
        shared: dict[str, Any] = {}

        def device(pool: Any, number: ReplicaId) -> Any:
            if not compute:
                return Nothing()
            limits = pool.limits
            if not shared:
                back: Any = ops.TorchOps()
                if triton:
                    from infersim.calibrate.executor.triton_ops import TritonOps

                    back = TritonOps()
                source = weights.Random(7, torch.float32, CPU)
                longest = max(pool.limits.max_model_len for pool in made.config.pools)
                shared["model"] = model.Model(spec, back, source, longest, CPU)
                if spec.vision is not None:
                    shared["tower"] = tower.Tower(spec, source, torch.float32, CPU)
            cache = kv.KVCache(
                spec, limits.kv_blocks, limits.block_size, dtype=torch.float32, device=CPU
            )
            slots = pool.offload.blocks if pool.offload is not None else 1
            store = tier.TierStore(cache, slots, CPU)
            room = None
            if pool.swap is not None:
                room = tier.TierStore(cache, pool.swap.blocks, CPU)
            return runner.Runner(
                shared["model"],
                cache,
                CPU,
                graphs=0,
                tier=store,
                swap=room,
                tower=shared.get("tower"),
            )

        time = clock.WallClock() if wall else clock.VirtualClock()
        seer, seen = oracle_pool(made.config), None
        if seer is not None:
            chains = Chains()
            future, arrivals = foresee(made.config, seer, made.workload, chains)
            seen = (chains, arrivals, future)
        played = host.DeviceRun(
            made.config,
            made.workload,
            made.limits,
            time,
            texts=lambda: texts.Texts(spec.vocab, made.contents, sees=spec.vision is not None),
            make_runner=device,
            log=log,
            seen=seen,
        ).play()
        return played, log.arrays()


def differing(outcome: Outcome, played: host.Executed) -> list[str]:
    """Names of the records in which the simulator and the executor differ."""
    found = [name for name, value in outcome.totals.items() if played.totals[name] != value]
    if outcome.itl.counts.tolist() != played.itl.counts.tolist() or outcome.itl.total_ps != (
        played.itl.total_ps
    ):
        found.append("itl")
    for table in ("requests", "series"):
        mine, theirs = getattr(outcome, table), getattr(played, table)
        found += [f"{table}.{c}" for c in mine if mine[c].tolist() != theirs[c].tolist()]
    return found


def answers(played: host.Executed) -> dict[Any, list[int]]:
    """What the model said to each request, whoever served it; sessions by their turns."""
    rows = {name: played.requests[name].tolist() for name in COLUMNS}
    said = {}
    for number, *key, replica, prompt, tokens in zip(*rows.values(), strict=True):
        mine = played.answers[replica][number]
        said[tuple(key) if key[0] >= 0 else number] = [
            mine[at] for at in range(prompt, prompt + tokens)
        ]
    return said


COLUMNS = ("request_id", "session", "turn", "replica", "prompt_tokens", "output_tokens")


class Tools:
    """What the tests of this folder share."""

    Both, MEASURED = Both, MEASURED_COLUMNS
    MODELS: ClassVar = {"dense": MODEL, "moe": MOE}
    differing, answers = staticmethod(differing), staticmethod(answers)


@pytest.fixture(scope="session")
def tools() -> type[Tools]:
    return Tools
