"""The next token from logits: greedy, or drawn among the top k and the nucleus of mass p.

Nothing is sorted. A cut is the logit from which on tokens are kept; it is found by bisection over
the bits of fp32, in passes over the row that count tokens (top k) or add their mass (nucleus).
Tokens with equal logits stay together, so a draw depends on the numbers alone.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .lang import Specialisation, inline
from .launch import Launch, architecture, same_everywhere
from .work import Work

#: a program has a row; columns: tokens of one step through it
CONFIGS = same_everywhere(
    {
        "<=1024 tokens": Launch(rows=1, columns=1024, num_warps=4, num_stages=1),
        ">1024 tokens": Launch(rows=1, columns=2048, num_warps=8, num_stages=1),
    }
)


def greedy(logits: torch.Tensor) -> torch.Tensor:
    """The token of the greatest logit of each row; of equal ones, the lowest.

    Args:
        logits: [rows, vocabulary], rows contiguous; a row needs one that is above -inf.

    Returns:
        [rows] int64.
    """
    rows, vocabulary = logits.shape
    out = torch.empty(rows, dtype=torch.int64, device=logits.device)
    launch = CONFIGS[architecture(logits.device), _bucket(vocabulary)]
    if rows:
        _greedy[(rows,)](
            logits,
            out,
            vocabulary,
            logits.stride(0),
            BLOCK=launch.columns,
            num_warps=launch.num_warps,
            num_stages=launch.num_stages,
        )
    return out


def sample(
    logits: torch.Tensor,
    temperature: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    uniform: torch.Tensor,
) -> torch.Tensor:
    """One token a row by inversion: the same *uniform* draws the same token.

    Of softmax(logits / temperature), tokens at least as likely as the k-th are kept; of those, the
    likeliest that together reach *top_p* of their mass; the token is where the running sum of what
    is kept, in the order of the vocabulary, passes *uniform*. Sums are in fp32: at the edge of a
    token, a part in a million, `reference` (float64) may draw its neighbour.

    Args:
        logits: [rows, vocabulary], rows contiguous; a row needs one that is above -inf.
        temperature: [rows] fp32; 0 is greedy.
        top_k: [rows] int32; 0 keeps all.
        top_p: [rows] fp32; 1 keeps all, and the likeliest is always kept.
        uniform: [rows] fp32 in [0, 1).

    Returns:
        [rows] int64.
    """
    rows, vocabulary = logits.shape
    out = torch.empty(rows, dtype=torch.int64, device=logits.device)
    launch = CONFIGS[architecture(logits.device), _bucket(vocabulary)]
    if rows:
        _sample[(rows,)](
            logits,
            temperature,
            top_k,
            top_p,
            uniform,
            out,
            vocabulary,
            logits.stride(0),
            BLOCK=launch.columns,
            num_warps=launch.num_warps,
            num_stages=launch.num_stages,
        )
    return out


def greedy_reference(logits: torch.Tensor) -> torch.Tensor:
    """`greedy` in plain torch."""
    best = logits == logits.amax(-1, keepdim=True)
    return best.to(torch.uint8).argmax(-1)


def reference(
    logits: torch.Tensor,
    temperature: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    uniform: torch.Tensor,
) -> torch.Tensor:
    """`sample` in plain torch, in float64."""
    x = logits.double()
    kept = kept_tokens(x, temperature, top_k, top_p)
    warm = torch.where(temperature > 0, temperature, 1.0).double()
    mass = ((x - x.amax(-1, keepdim=True)) / warm[:, None]).exp() * kept
    cumulative = mass.cumsum(-1)
    target = uniform.double() * cumulative[:, -1]
    drawn = (cumulative > target[:, None]).to(torch.uint8).argmax(-1)
    return torch.where(temperature > 0, drawn, greedy_reference(logits))


def kept_tokens(
    logits: torch.Tensor, temperature: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor
) -> torch.Tensor:
    """[rows, vocabulary] bool: which tokens `sample` draws from; equal logits stay together."""
    vocabulary = logits.shape[1]
    warm = torch.where(temperature > 0, temperature, 1.0).double()
    ordered = logits.double().sort(dim=-1, descending=True).values
    k = torch.where((top_k > 0) & (top_k < vocabulary), top_k, vocabulary).long()
    ordered = ordered.masked_fill(ordered < ordered.gather(1, k[:, None] - 1), float("-inf"))
    mass = (ordered / warm[:, None]).softmax(-1)
    full = mass.cumsum(-1) >= top_p.clamp(0.0, 1.0).double()[:, None]
    last_of_k = (ordered > float("-inf")).sum(-1) - 1
    last = torch.where(full.any(-1) & (top_p < 1.0), full.to(torch.uint8).argmax(-1), last_of_k)
    return logits.double() >= ordered.gather(1, last[:, None])


def work(rows: int, vocabulary: int, item_bytes: int = 4) -> Work:
    """Of one launch: every logit once, though cuts of top-k and top-p pass over it many times."""
    return Work(flops=4 * rows * vocabulary, bytes=rows * (vocabulary * item_bytes + 8))


def specialisations(architecture: int = 90) -> list[Specialisation]:
    """Both kernels on fp32 and bf16 logits of a large vocabulary."""
    launch = CONFIGS[architecture, _bucket(128_256)]
    found = []
    for logits in ("*fp32", "*bf16"):
        for kernel, signature in ((_greedy, _GREEDY_SIGNATURE), (_sample, _SAMPLE_SIGNATURE)):
            found.append(
                Specialisation(
                    name=f"sampling.{kernel.__name__.removeprefix('_')}[{logits.removeprefix('*')}]",
                    kernel=kernel,
                    signature=signature | {"p_logits": logits},
                    constants={"BLOCK": launch.columns},
                    num_warps=launch.num_warps,
                    num_stages=launch.num_stages,
                    tensor_cores=False,
                )
            )
    return found


def _bucket(vocabulary: int) -> str:
    return "<=1024 tokens" if vocabulary <= 1024 else ">1024 tokens"


_GREEDY_SIGNATURE = {"p_logits": "*fp32", "p_out": "*i64", "vocabulary": "i32", "s_logits": "i32"}
_SAMPLE_SIGNATURE = {
    "p_logits": "*fp32",
    "p_temperature": "*fp32",
    "p_top_k": "*i32",
    "p_top_p": "*fp32",
    "p_uniform": "*fp32",
    "p_out": "*i64",
    "vocabulary": "i32",
    "s_logits": "i32",
}


@triton.jit
def _greedy(p_logits, p_out, vocabulary, s_logits, BLOCK: tl.constexpr):
    # one program: a row
    i_r = tl.program_id(0).to(tl.int64)
    _, token = _greatest(p_logits + i_r * s_logits, vocabulary, BLOCK)
    tl.store(p_out + i_r, token.to(tl.int64))


@triton.jit
def _sample(
    p_logits,
    p_temperature,
    p_top_k,
    p_top_p,
    p_uniform,
    p_out,
    vocabulary,
    s_logits,
    BLOCK: tl.constexpr,
):
    # one program: a row
    i_r = tl.program_id(0).to(tl.int64)
    row = p_logits + i_r * s_logits
    top, token = _greatest(row, vocabulary, BLOCK)
    temperature = tl.load(p_temperature + i_r)
    if temperature > 0.0:
        inverse = 1.0 / temperature
        cut = tl.full((), -2147483648, tl.int64)
        k = tl.load(p_top_k + i_r)
        if (k > 0) & (k < vocabulary):
            cut = _bisect(row, vocabulary, top, inverse, cut, k.to(tl.float32), False, BLOCK)
        mass, _, _, _ = _from(row, vocabulary, top, inverse, cut, BLOCK)
        p = tl.load(p_top_p + i_r)
        if p < 1.0:
            cut = _bisect(row, vocabulary, top, inverse, cut, p * mass, True, BLOCK)
            mass, _, _, _ = _from(row, vocabulary, top, inverse, cut, BLOCK)
        target = tl.load(p_uniform + i_r) * mass
        token = _invert(row, vocabulary, top, inverse, cut, target, BLOCK)
    tl.store(p_out + i_r, token.to(tl.int64))


@inline
def _greatest(row, vocabulary, BLOCK: tl.constexpr):
    """The greatest logit and its lowest token."""
    o_b = tl.arange(0, BLOCK)
    best = tl.full((BLOCK,), -float("inf"), tl.float32)
    at = tl.full((BLOCK,), 0, tl.int32) + vocabulary
    for first in range(0, vocabulary, BLOCK):
        o_v = first + o_b
        x = tl.load(row + o_v, mask=o_v < vocabulary, other=-float("inf")).to(tl.float32)
        at = tl.where(x > best, o_v, at)
        best = tl.maximum(x, best)
    top = tl.max(best, 0)
    return top, tl.min(tl.where(best == top, at, vocabulary), 0)


@inline
def _order(x):
    """Bits of fp32 as int32 in the order of the numbers; -0 is 0."""
    bits = (x + 0.0).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@inline
def _from(row, vocabulary, top, inverse, cut, BLOCK: tl.constexpr):
    """Of the tokens from *cut* on: mass relative to the greatest logit's, number, least order.

    The fourth is the greatest order below *cut*.
    """
    o_b = tl.arange(0, BLOCK)
    mass = tl.zeros((BLOCK,), tl.float32)
    count = tl.zeros((BLOCK,), tl.int32)
    least = tl.full((BLOCK,), 0x7FFFFFFF, tl.int32)
    below = tl.full((BLOCK,), -0x80000000, tl.int32)
    for first in range(0, vocabulary, BLOCK):
        o_v = first + o_b
        m_v = o_v < vocabulary
        x = tl.load(row + o_v, mask=m_v, other=-float("inf")).to(tl.float32)
        order = _order(x)
        kept = m_v & (order >= cut)
        mass += tl.where(kept, tl.exp((x - top) * inverse), 0.0)
        count += kept.to(tl.int32)
        least = tl.where(kept, tl.minimum(least, order), least)
        below = tl.where(kept, below, tl.maximum(below, order))
    return tl.sum(mass, 0), tl.sum(count, 0), tl.min(least, 0), tl.max(below, 0)


@inline
def _bisect(row, vocabulary, top, inverse, cut, target, MASS: tl.constexpr, BLOCK: tl.constexpr):
    """The highest cut, from *cut* on, that keeps at least *target* tokens, or mass."""
    low = cut
    high = _order(top).to(tl.int64) + 1
    while high - low > 1:
        middle = (low + high) // 2
        mass, count, least, below = _from(row, vocabulary, top, inverse, middle, BLOCK)
        enough = (mass if MASS else count.to(tl.float32)) >= target
        # both ends move on to where a logit is: gaps between logits take no passes
        low = tl.where(enough, least.to(tl.int64), low)
        high = tl.where(enough, high, tl.maximum(below.to(tl.int64), low) + 1)
    return low


@inline
def _invert(row, vocabulary, top, inverse, cut, target, BLOCK: tl.constexpr):
    """The first token from *cut* on at which the running mass passes *target*."""
    o_b = tl.arange(0, BLOCK)
    token = tl.full((), 0, tl.int32) + vocabulary
    last = 0
    before = 0.0
    first = 0
    while (first < vocabulary) & (token == vocabulary):
        o_v = first + o_b
        x = tl.load(row + o_v, mask=o_v < vocabulary, other=-float("inf")).to(tl.float32)
        mass = tl.exp((x - top) * inverse)
        kept = (o_v < vocabulary) & (_order(x) >= cut) & (mass > 0.0)
        mass = tl.where(kept, mass, 0.0)
        passed = kept & (before + tl.cumsum(mass, 0) > target)
        token = tl.min(tl.where(passed, o_v, vocabulary), 0)
        last = tl.maximum(last, tl.max(tl.where(kept, o_v, 0), 0))
        before += tl.sum(mass, 0)
        first += BLOCK
    # rounding may leave the sum just short of a uniform near 1
    return tl.where(token == vocabulary, last, token)
