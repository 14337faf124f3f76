"""What `infersim calibrate --gpu` launches, built as for a GPU and called once where tests run."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from infersim.calibrate.measure.device import read_device
from infersim.calibrate.measure.ops import operations
from infersim.calibrate.measure.ops.bench import Bench
from infersim.calibrate.measure.ops.host import _layer
from infersim.calibrate.measure.ops.steps import STEP
from infersim.calibrate.measure.plan import grids
from infersim.calibrate.measure.point import Point
from infersim.calibrate.measure.shapes import Shapes
from infersim.scenarios.catalog import load

FORMATS = [("bf16", "bf16"), ("fp8", "fp8"), ("int4", "bf16")]


def bench_of(dtype: str, kv_dtype: str, device: str) -> Bench:
    """A bench that takes the kernels, in bf16, wherever it is."""
    spec = load.model("tiny")
    spec = replace(
        spec, vocab=320, qk_norm=True, experts=4, top_k=2, moe_ffn=64, first_dense_layers=1
    )
    shapes = Shapes(spec, dtype, kv_dtype, 1, False, 16, 64, 8, 2048)
    made = Bench(shapes, replace(read_device("cpu"), l2_bytes=1 << 10))
    made.device = replace(made.device, kind="cuda", l2_bytes=1 << 10)
    made.where = torch.device(device)
    made._random = torch.Generator(device=device).manual_seed(0)
    return made


@pytest.mark.parametrize(("dtype", "kv_dtype"), FORMATS, ids=[f"{w}, KV {k}" for w, k in FORMATS])
def test_every_operation_runs(dtype: str, kv_dtype: str, device: str) -> None:
    bench = bench_of(dtype, kv_dtype, device)
    left_out = {STEP, "step_device", "launch", "event_sync", "graph_replay"}
    smallest: dict[tuple[str, str], Point] = {}
    builders = {}
    for op in operations("cuda"):
        for point in op.points(bench.shapes, grids(bench.shapes, "cuda")):
            if point.op in left_out or point.op.startswith("copy_"):
                continue
            kind = (point.op, point.variant if point.op != "prefill_attention" else "")
            if kind not in smallest or sum(point.at) < sum(smallest[kind].at):
                smallest[kind], builders[kind] = point, op
    assert len(smallest) > 20
    for kind, point in smallest.items():
        calls = builders[kind].build(point, bench).calls
        with torch.no_grad():
            for call in calls[:2]:
                call()


def test_the_launches_of_a_layer_run(device: str) -> None:
    for call in _layer(bench_of("bf16", "bf16", device)):
        call()
