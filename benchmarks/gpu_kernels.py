"""Attention kernels against what the device can: part "kernels" of ``gpu.py``.

Decode attention is judged by the bytes that it must read, over the bandwidth of a copy measured in
the same run; prefill attention by its operations, over the rate of a matrix product. Every output
is compared before it is timed: some rows with the plain-torch reference in fp32, all of it with
torch's own attention, which is timed beside it on the same numbers in contiguous tensors. On a CPU
kernels are interpreted: that checks this script, and no figure means anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from time import monotonic
from typing import Any, NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention

from infersim.calibrate.measure.timer import GraphTimer, HostTimer, Timer
from infersim.kernels import decode_attention as decode
from infersim.kernels import prefill_attention as prefill
from infersim.kernels.launch import Launch, architecture
from infersim.scenarios.catalog import load

DECODE_GOAL, PREFILL_GOAL = 0.80, 0.55  #: of the copy's bandwidth; of the product's rate, at 8k
BLOCK = 16
MOST_ERROR = 0.01  #: relative norm against the reference: bf16's own is a few thousandths
CHECKED_ROWS = 4  #: sequences, or twice as many times 16 queries, that the reference computes
#: tiles and pipelines to try beside the table's; all compile for sm_90 without spills
OTHER_PREFILL = (
    *(Launch(128, 64, 8, 5), Launch(128, 64, 8, 2), Launch(128, 128, 8, 3)),
    *(Launch(64, 64, 4, 5), Launch(64, 64, 4, 3)),
)
OTHER_DECODE = (
    *(Launch(0, 64, 4, 2), Launch(0, 64, 4, 5), Launch(0, 64, 8, 4)),
    *(Launch(0, 128, 4, 3), Launch(0, 128, 8, 3), Launch(0, 32, 4, 4)),
)
OTHER_SPLITS = (1, 2, 4)


class Sizes(NamedTuple):
    """What is measured.

    Attributes:
        batches, contexts: of decode attention, every pair.
        prompts: of prefill attention, a single sequence each.
        goal_prompt: the one whose share of the product's rate is a goal.
        flex_context, flex_batches: where FlexAttention is compiled: each shape takes seconds.
        copy_bytes, product: of the two ceilings.
    """

    batches: tuple[int, ...]
    contexts: tuple[int, ...]
    prompts: tuple[int, ...]
    goal_prompt: int
    flex_context: int
    flex_batches: tuple[int, ...]
    copy_bytes: int
    product: int


GPU = Sizes(
    (32, 64, 128, 256),
    (4096, 8192, 16384),
    (2048, 8192, 16384),
    8192,
    8192,
    (32, 128),
    1 << 30,
    8192,
)
CPU = Sizes((2,), (48,), (40,), 40, 0, (), 1 << 20, 256)


class Place(NamedTuple):
    """Where kernels run, and who times them."""

    device: torch.device
    dtype: torch.dtype
    timer: Timer
    sizes: Sizes

    @classmethod
    def of(cls, kind: str) -> Place:
        """A GPU ("cuda"), or a CPU in small."""
        if kind == "cuda":
            return cls(torch.device("cuda", 0), torch.bfloat16, GraphTimer(), GPU)
        return cls(torch.device("cpu"), torch.float32, HostTimer(2, 1e-6, 1e-3), CPU)

    @property
    def on_gpu(self) -> bool:
        """Whether figures mean anything."""
        return self.device.type == "cuda"

    def seconds(self, call: Callable[[], object]) -> float:
        """Median of one launch."""
        with torch.no_grad():
            return median(self.timer.time([call]))

    def randn(self, *shape: int) -> torch.Tensor:
        """Normal numbers: zeros would draw less power and time faster."""
        return torch.randn(shape, dtype=self.dtype, device=self.device)


class Case(NamedTuple):
    """One launch of a kernel of ours.

    Attributes:
        call: it, over paged blocks in random order.
        checked: (rows of the output, what the reference says of them) a few times.
        plain: q, k and v as torch takes them: [batch, heads, tokens, head_dim], contiguous.
        amount: bytes of a decode, operations of a prefill.
    """

    call: Callable[..., torch.Tensor]
    checked: Callable[[], Iterator[tuple[torch.Tensor, torch.Tensor]]]
    plain: Callable[[], tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
    amount: int
    causal: bool


def ceilings(place: Place) -> dict[str, float]:
    """The bandwidth of a copy, read and written bytes both counted, and the rate of a product."""
    n, size = place.sizes.product, place.sizes.copy_bytes
    source = torch.ones(size, dtype=torch.uint8, device=place.device)
    target = torch.empty_like(source)
    copy_s = place.seconds(lambda: target.copy_(source))
    a, b = place.randn(n, n), place.randn(n, n)
    out = torch.empty_like(a)
    product_s = place.seconds(lambda: torch.mm(a, b, out=out))
    return {"copy_bytes_per_s": 2 * size / copy_s, "product_flops_per_s": 2 * n**3 / product_s}


def measure(
    models: list[str], kind: str, until: float, keep: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Every row of every model's heads, then other launches of the first model's.

    Args:
        until: on `time.monotonic`: nothing new is begun after it.
        keep: is given what there is, after each row.
    """
    place = Place.of(kind)
    torch.manual_seed(0)
    found: dict[str, Any] = {"ceilings": ceilings(place), "rows": [], "launches": [], "skipped": 0}
    for model in models:
        for work in works(model, place.sizes):
            if monotonic() > until:
                found["skipped"] += 1
                continue
            found["rows"].append(row(*work, place, found["ceilings"]))
            keep(found)
            if place.on_gpu:
                torch.cuda.empty_cache()
    for trial in _trials(models[0], place) if place.on_gpu else ():
        if monotonic() > until:
            break
        found["launches"].append(trial)
        keep(found)
    found["again"] = ceilings(place)
    return found


def works(model: str, sizes: Sizes) -> Iterator[tuple[str, str, int, int]]:
    """(model, "decode" or "prefill", batch, context) of every row."""
    for context in sizes.contexts:
        for batch in sizes.batches:
            yield model, "decode", batch, context
    for prompt in sizes.prompts:
        yield model, "prefill", 1, prompt


def row(
    model: str, op: str, batch: int, context: int, place: Place, top: dict[str, float]
) -> dict[str, Any]:
    """One launch: right or not, how fast, and how fast torch's are."""
    is_decode = op == "decode"
    found: dict[str, Any] = {"model": model, "op": op, "batch": batch, "context": context}
    try:
        case = (_decode if is_decode else _prefill)(model, batch, context, place)
        found |= _checked(case)
        seconds = place.seconds(case.call)
        rate = case.amount / seconds
        ceiling = top["copy_bytes_per_s" if is_decode else "product_flops_per_s"]
        found |= {"seconds": seconds, "rate": rate, "share": rate / ceiling}
        found |= _beside(case, op, batch, context, place)
        found["right"] &= found.get("sdpa_apart", 0.0) < MOST_ERROR
        found |= _goal(op, context, found, place)
    except (RuntimeError, ValueError) as error:  # as out of memory: the other rows still count
        found["failed"] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return found


def _goal(op: str, context: int, found: dict[str, Any], place: Place) -> dict[str, Any]:
    goal = DECODE_GOAL if op == "decode" else PREFILL_GOAL
    if not place.on_gpu or (op == "prefill" and context != place.sizes.goal_prompt):
        return {"goal": None, "met": None}
    return {"goal": goal, "met": bool(found["right"] and found["share"] >= goal)}


def _checked(case: Case) -> dict[str, Any]:
    """The largest relative error of the rows that the reference computed."""
    out = case.call()
    errors = [_apart(out[rows], wanted) for rows, wanted in case.checked()]
    worst = max(errors) if all(e == e for e in errors) else float("inf")
    return {"error": worst, "right": worst < MOST_ERROR and bool(out.isfinite().all())}


def _apart(found: torch.Tensor, wanted: torch.Tensor) -> float:
    wide = wanted.double()
    return float((found.double() - wide).norm() / wide.norm().clamp_min(1e-30))


def _beside(case: Case, op: str, batch: int, context: int, place: Place) -> dict[str, Any]:
    """Seconds of torch's attentions on the same numbers, and how far they are from ours."""
    ours, (q, k, v) = case.call(), case.plain()
    sizes, found = place.sizes, dict[str, Any]()
    calls = {
        "sdpa": lambda: (
            lambda: scaled_dot_product_attention(q, k, v, is_causal=case.causal, enable_gqa=True)
        )
    }
    if context == sizes.flex_context and (op == "prefill" or batch in sizes.flex_batches):
        calls["flex"] = lambda: _flex(q, k, v, causal=case.causal)
    for name, make in calls.items():
        try:
            call = make()
            found[f"{name}_apart"] = _apart(call().transpose(1, 2).flatten(0, 1), ours)
            found[f"{name}_s"] = place.seconds(call)
        except Exception as error:  # whatever torch's compiler raises: it is for comparison only
            found[f"{name}_failed"] = f"{type(error).__name__}: {str(error)[:200]}"
    return found


def _flex(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, causal: bool
) -> Callable[[], torch.Tensor]:
    """torch's FlexAttention, compiled for these shapes."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    mask = None
    if causal:
        n = q.shape[2]
        mask = create_block_mask(
            lambda b, h, i, j: i >= j, None, None, n, n, device=str(q.device.type)
        )
    compiled = torch.compile(flex_attention, dynamic=False)
    return lambda: compiled(q, k, v, block_mask=mask, enable_gqa=True)  # type: ignore[no-any-return]


class _Paged(NamedTuple):
    """Keys and values of sequences of equal length, in blocks in random order."""

    keys: torch.Tensor
    values: torch.Tensor
    table: torch.Tensor
    lengths: torch.Tensor

    @classmethod
    def of(cls, batch: int, tokens: int, kv_heads: int, head_dim: int, place: Place) -> _Paged:
        each = -(-tokens // BLOCK)
        shape = (batch * each, BLOCK, kv_heads, head_dim)
        order = torch.randperm(batch * each, device=place.device).int().view(batch, each)
        lengths = torch.full((batch,), tokens, dtype=torch.int32, device=place.device)
        return cls(place.randn(*shape), place.randn(*shape), order, lengths)

    def plain(self, cache: torch.Tensor) -> torch.Tensor:
        """[batch, kv_heads, tokens, head_dim] of *cache*."""
        rows = cache[self.table.long()].flatten(1, 2)[:, : int(self.lengths[0])]
        return rows.transpose(1, 2).contiguous()


def _decode(model: str, batch: int, context: int, place: Place) -> Case:
    spec = load.model(model)
    paged = _Paged.of(batch, context, spec.kv_heads, spec.head_dim, place)
    q, scale = place.randn(batch, spec.heads, spec.head_dim), spec.head_dim**-0.5
    amount = decode.work([context] * batch, spec.heads, spec.kv_heads, spec.head_dim).bytes

    def call(splits: int | None = None) -> torch.Tensor:
        return decode.decode_attention(q, *paged, scale=scale, splits=splits)

    def checked() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        step = max(1, (batch - 1) // max(1, CHECKED_ROWS - 1))
        rows = torch.arange(0, batch, step, device=place.device)
        some = (q[rows], paged.keys, paged.values, paged.table[rows], paged.lengths[rows])
        yield rows, decode.reference(*some, scale=scale)

    def plain() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return q[:, :, None], paged.plain(paged.keys), paged.plain(paged.values)

    return Case(call, checked, plain, amount, False)


def _prefill(model: str, batch: int, tokens: int, place: Place) -> Case:
    spec = load.model(model)
    paged = _Paged.of(batch, tokens, spec.kv_heads, spec.head_dim, place)
    q, scale = place.randn(tokens, spec.heads, spec.head_dim), spec.head_dim**-0.5
    starts = torch.tensor([0, tokens], dtype=torch.int32, device=place.device)
    given = (q, paged.keys, paged.values, paged.table, starts, paged.lengths)
    amount = prefill.work([(tokens, 0)], spec.heads, spec.kv_heads, spec.head_dim).flops

    def call(launch: Launch | None = None) -> torch.Tensor:
        if launch is None:
            return prefill.prefill_attention(*given, scale=scale)
        out = torch.empty_like(q)
        prefill.attend_chunks(given, out, launch, scale, 1.0, 0)
        return out

    def checked() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        new = min(16, tokens)
        for part in range(2 * CHECKED_ROWS):
            end = tokens - part * (tokens - new) // (2 * CHECKED_ROWS - 1)
            rows = torch.arange(end - new, end, device=place.device)
            ends = torch.tensor([end], dtype=torch.int32, device=place.device)
            some = torch.tensor([0, new], dtype=torch.int32, device=place.device)
            wanted = prefill.reference(
                q[rows], paged.keys, paged.values, paged.table, some, ends, scale=scale
            )
            yield rows, wanted

    def plain() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        heads = q.transpose(0, 1)[None].contiguous()
        return heads, paged.plain(paged.keys), paged.plain(paged.values)

    return Case(call, checked, plain, amount, True)


def _trials(model: str, place: Place) -> Iterator[dict[str, Any]]:
    """Other launches of the kernels than those of their tables, at one size each."""
    context, batch = place.sizes.goal_prompt, place.sizes.batches[1]
    case = _prefill(model, 1, context, place)
    for launch in (None, *OTHER_PREFILL):
        told = {"op": "prefill", "batch": 1, "context": context, "launch": _said(launch)}
        yield told | _tried(case, lambda launch=launch: case.call(launch), place)
    case = _decode(model, batch, context, place)
    for launch in (None, *OTHER_DECODE):
        told = {"op": "decode", "batch": batch, "context": context, "launch": _said(launch)}
        with _taken(launch, place):
            yield told | _tried(case, case.call, place)
    for splits in OTHER_SPLITS:
        told = {"op": "decode", "batch": batch, "context": context, "launch": f"{splits} splits"}
        yield told | _tried(case, lambda splits=splits: case.call(splits), place)


def _tried(case: Case, call: Callable[[], torch.Tensor], place: Place) -> dict[str, Any]:
    try:
        right = _checked(case._replace(call=call))["right"]
        seconds = place.seconds(call)
    except (RuntimeError, ValueError) as error:
        return {"failed": str(error).splitlines()[0]}
    return {"seconds": seconds, "rate": case.amount / seconds, "right": right}


def _said(launch: Launch | None) -> str:
    return "the table's" if launch is None else " ".join(map(str, launch))


@contextmanager
def _taken(launch: Launch | None, place: Place) -> Iterator[None]:
    """Decode attention is launched so."""
    key = (architecture(place.device), "<=256 bytes")
    kept = decode.CONFIGS[key]
    decode.CONFIGS[key] = launch or kept
    try:
        yield
    finally:
        decode.CONFIGS[key] = kept


def broken(result: dict[str, Any]) -> list[str]:
    """Every row that failed, is wrong, or misses its goal."""
    found = []
    for one in result["rows"]:
        name = f"{one['model']} {one['op']}, batch {one['batch']}, {one['context']:,} tokens"
        if "failed" in one:
            found.append(f"{name}: {one['failed']}")
        elif not one["right"]:
            found.append(f"{name}: off the reference by {one['error']:.2%}")
        elif one["met"] is False:
            found.append(f"{name}: {one['share']:.0%} of the ceiling, not {one['goal']:.0%}")
    if result["skipped"]:
        found.append(f"{result['skipped']} rows were not measured: no time was left")
    return found
