"""What whole steps take beyond their operations: the host's terms, and what a graph adds.

Fitted to two thirds of the measured steps by non-negative least squares on relative residuals;
the others say how well the sum foretells a step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ...sim.cost.profile import Graphs, Host
from ..measure.ops.lengths import parse_mix
from ..measure.ops.steps import DEVICE, STEP
from ..measure.point import Point
from ..measure.shapes import Shapes
from ..measure.stats import Summary
from .fitted import Fitted
from .nnls import Array, solve

_TEST_EVERY = 3  #: every third step is kept from the fit
_LEAST = 6  #: steps, below which nothing is fitted
_HOST_TERMS = ("step_s", "sequence_s", "token_s")


class Case(NamedTuple):
    """A measured step.

    Attributes:
        chunks: (new tokens, tokens before them).
        total_s: on the host's clock.
        device_s: on the device's; None on a CPU.
        gpu_s: the sum of its operations.
        launches: kernels of it.
    """

    decodes: int
    context: int
    chunks: tuple[tuple[int, int], ...]
    total_s: float
    device_s: float | None
    gpu_s: float
    launches: int

    @property
    def kind(self) -> str:
        """ "decode", "mixed" or "prefill"."""
        if not self.chunks:
            return "decode"
        return "mixed" if self.decodes else "prefill"

    @property
    def tokens(self) -> int:
        """Rows of its forward."""
        return self.decodes + sum(new for new, _ in self.chunks)

    @property
    def sequences(self) -> int:
        """Rows that sample."""
        return self.decodes + len(self.chunks)


class StepRow(NamedTuple):
    """A step that was kept out of the fit, or not."""

    kind: str
    measured_s: float
    foretold_s: float
    fitted: bool


class StepFit(NamedTuple):
    """What was fitted, and how well it foretells the steps kept out.

    Attributes:
        rows: every step, measured and foretold.
        notes: what could not be told apart.
    """

    host: Host
    graphs: Graphs | None
    rows: tuple[StepRow, ...]
    notes: tuple[str, ...]

    @property
    def errors(self) -> tuple[float, ...]:
        """Relative, signed, of the steps that were not fitted."""
        return tuple(r.foretold_s / r.measured_s - 1 for r in self.rows if not r.fitted)

    @property
    def fitted(self) -> int:
        """How many steps were fitted."""
        return sum(row.fitted for row in self.rows)


def fit_steps(
    measured: Mapping[Point, Summary], fitted: dict[str, Fitted], shapes: Shapes, *, on_gpu: bool
) -> StepFit | None:
    """Host terms and graphs; None where too few whole steps were measured."""
    cases = cases_of(measured, fitted, shapes, on_gpu=on_gpu)
    kept = [i % _TEST_EVERY != _TEST_EVERY - 1 for i in range(len(cases))]
    train = [case for case, fits in zip(cases, kept, strict=True) if fits]
    if len(train) < _LEAST:
        return None
    launch = _launch_s(measured) if on_gpu else 0.0
    made = _on_gpu(train, shapes, launch) if on_gpu else _on_cpu(train)
    rows = [
        StepRow(case.kind, case.total_s, foretold(case, made.host, made.graphs), fits)
        for case, fits in zip(cases, kept, strict=True)
    ]
    return made._replace(rows=tuple(rows))


def cases_of(
    measured: Mapping[Point, Summary], fitted: dict[str, Fitted], shapes: Shapes, *, on_gpu: bool
) -> list[Case]:
    """The measured steps beside the sum of their operations."""
    device = {p.key[1:]: s.median_s for p, s in measured.items() if p.op == DEVICE}
    found = []
    for point, summary in measured.items():
        on_device = device.get(point.key[1:])
        if point.op != STEP or (on_gpu and on_device is None):
            continue
        decodes, context = point.at
        chunks = tuple(parse_mix(point.variant)) if point.variant else ()
        padded = _bucket(decodes, shapes) if on_gpu and not chunks else decodes
        gpu_s = operations_s(fitted, padded, decodes, context, chunks)
        launches = sum(one.times for one in fitted.values())
        found.append(Case(decodes, context, chunks, summary.median_s, on_device, gpu_s, launches))
    return found


def operations_s(
    fitted: Mapping[str, Fitted],
    padded: int,
    decodes: int,
    context: int,
    chunks: Sequence[tuple[int, int]],
) -> float:
    """The sum of all operations of a step of *decodes* sequences, computed as *padded* rows."""
    tokens = padded + sum(new for new, _ in chunks)
    total = 0.0
    for one in fitted.values():
        axes = tuple(one.spans)
        if axes == ("tokens",) and one.op != "lora":
            total += one.times * one.seconds(tokens)
        elif axes == ("sequences",) and one.op != "bitmask":
            total += one.times * one.seconds(padded + len(chunks))
        elif one.op == "decode_attention" and decodes:
            total += one.times * one.seconds(decodes, context)
        elif one.op == "prefill_attention":
            total += one.times * sum(one.seconds(new, before) for new, before in chunks)
    return total


def foretold(case: Case, host: Host, graphs: Graphs | None) -> float:
    """Seconds of a step by the formula of calibration: synchronous, operations then host."""
    device = case.gpu_s
    if graphs is not None and not case.chunks:
        device = device * (1 + graphs.gap) + graphs.replay_s
    else:
        device = max(device, case.launches * host.launch_s)
        device += host.mixed_step_s if case.chunks else 0.0
    own = host.step_s + host.sequence_s * case.sequences + host.token_s * case.tokens
    return device + own + host.output_s


def _on_cpu(cases: Sequence[Case]) -> StepFit:
    wanted = np.array([c.total_s - c.gpu_s for c in cases])
    mixed = np.array([float(bool(c.chunks)) for c in cases])
    names = (*_HOST_TERMS, "mixed_step_s")
    values, notes = _solved(names, np.column_stack([_host_columns(cases), mixed]), wanted, cases)
    return StepFit(Host(**values, overlaps=False), None, (), notes)


def _on_gpu(cases: Sequence[Case], shapes: Shapes, launch_s: float) -> StepFit:
    """The host from host minus device; graphs and mixed steps from device minus operations."""
    on_device = np.array([c.device_s or 0.0 for c in cases])
    rest = np.array([c.total_s for c in cases]) - on_device
    values, notes = _solved(_HOST_TERMS, _host_columns(cases), rest, cases)
    decode = [c for c in cases if not c.chunks]
    mixed = [c for c in cases if c.chunks]
    graphs = None
    if decode:
        columns = np.array([[1.0, c.gpu_s] for c in decode])
        left = np.array([(c.device_s or 0.0) - c.gpu_s for c in decode])
        found, told = _solved(("replay_s", "gap"), columns, left, decode)
        notes += told
        graphs = Graphs(sizes=shapes.graph_sizes(), replay_s=found["replay_s"], gap=found["gap"])
    if mixed:
        left = np.array([(c.device_s or 0.0) - max(c.gpu_s, c.launches * launch_s) for c in mixed])
        values["mixed_step_s"] = max(0.0, float(np.median(left)))
    return StepFit(Host(**values, launch_s=launch_s, overlaps=True), graphs, (), notes)


def _host_columns(cases: Sequence[Case]) -> Array:
    return np.array([[1.0, c.sequences, c.tokens] for c in cases], float)


def _solved(
    names: Sequence[str], columns: Array, wanted: Array, cases: Sequence[Case]
) -> tuple[dict[str, float], tuple[str, ...]]:
    weights = np.array([1 / c.total_s for c in cases])
    found = solve(columns, wanted, weights)
    notes = []
    negative = float(np.median(wanted * weights))
    if negative < -0.02:
        notes.append(
            f"whole steps took {-negative:.1%} less than the sum of their operations (median)"
        )
    return dict(zip(names, map(float, found.values), strict=True)), tuple(notes)


def _launch_s(measured: Mapping[Point, Summary]) -> float:
    return next((s.median_s for p, s in measured.items() if p.op == "launch"), 0.0)


def _bucket(decodes: int, shapes: Shapes) -> int:
    return next((n for n in shapes.graph_sizes() if n >= decodes), decodes)
