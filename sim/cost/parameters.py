"""The matrices of a model: one list from which parameters, bytes and operations are all counted."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .dtypes import HALF_BYTES, WeightFormat

if TYPE_CHECKING:
    from .specs import ModelSpec, Parallelism


class Gemm(NamedTuple):
    """A matrix product of every layer of one kind, as one GPU of a TP group does it.

    Attributes:
        inputs, outputs: the shape of the weight on this GPU.
        where: "all", "dense" or "moe" layers.
        copies: matrices of that shape (experts).
        quantised: stored in the model's weight format, else in bf16.
        routed: each token meets some of the copies (in all of the model: top_k).
    """

    name: str
    inputs: int
    outputs: int
    where: str = "all"
    copies: int = 1
    quantised: bool = True
    routed: bool = False


def kv_heads_per_gpu(m: ModelSpec, tp: int) -> int:
    """KV heads that one GPU keeps: they are replicated when there are more GPUs than heads."""
    return max(1, m.kv_heads // tp)


def gemms(m: ModelSpec, tp: int = 1, split: Parallelism | None = None) -> list[Gemm]:
    """The weight matrices of the layers, without embedding, norms and biases.

    Args:
        split: how the experts are shared, where that is more than a slice for each of *tp* GPUs.
    """
    found = _mla(m, tp) if m.is_mla else _gqa(m, tp)
    if m.ffn:
        found += _feed_forward(m, m.ffn // tp, "dense", "")
    if m.experts:
        found.append(Gemm("router", m.hidden, m.experts, "moe", quantised=False))
        gpus = split.expert_gpus if split else tp
        whole = bool(split and split.expert_parallel)
        width, copies = (m.moe_ffn, m.experts // gpus) if whole else (m.moe_ffn // gpus, m.experts)
        found.append(Gemm("experts gate_up", m.hidden, 2 * width, "moe", copies, routed=True))
        found.append(Gemm("experts down", width, m.hidden, "moe", copies, routed=True))
    if m.shared_experts:
        found += _feed_forward(m, m.shared_experts * m.moe_ffn // tp, "moe", "shared ")
    return found


def _gqa(m: ModelSpec, tp: int) -> list[Gemm]:
    queries = m.heads // tp * m.head_dim
    outputs = queries + 2 * kv_heads_per_gpu(m, tp) * m.head_dim
    return [Gemm("qkv", m.hidden, outputs), Gemm("o", queries, m.hidden)]


def _mla(m: ModelSpec, tp: int) -> list[Gemm]:
    heads = m.heads // tp
    queries = heads * (m.qk_nope + m.qk_rope)
    found = [
        Gemm("kv_b", m.kv_lora, heads * (m.qk_nope + m.v_head)),
        Gemm("o", heads * m.v_head, m.hidden),
    ]
    # the projections to the latents are whole on every GPU
    found.append(Gemm("qkv_a", m.hidden, m.q_lora + m.kv_lora + m.qk_rope))
    found.append(Gemm("q_b", m.q_lora or m.hidden, queries))
    if m.index_heads:
        found.append(Gemm("indexer qk", m.hidden, m.index_head_dim + m.index_heads))
        found.append(Gemm("indexer q_b", m.q_lora, m.index_heads * m.index_head_dim))
    return found


def _feed_forward(m: ModelSpec, width: int, where: str, prefix: str) -> list[Gemm]:
    return [
        Gemm(f"{prefix}gate_up", m.hidden, 2 * width, where),
        Gemm(f"{prefix}down", width, m.hidden, where),
    ]


def vectors_per_layer(m: ModelSpec, tp: int = 1) -> int:
    """Norms and biases of one layer, in numbers."""
    found = 2 * m.hidden
    if m.qk_norm:
        found += 2 * m.head_dim
    if m.attn_bias:
        found += (m.heads // tp + 2 * kv_heads_per_gpu(m, tp)) * m.head_dim
    if m.is_mla:
        found += m.q_lora + m.kv_lora + (2 * m.index_head_dim if m.index_heads else 0)
    return found


def elementwise_bytes(m: ModelSpec, tp: int = 1) -> dict[str, int]:
    """Operation -> bytes that it moves for one token, over all layers.

    Two norms a layer read their input and write their output, the residual staying in cache; the
    rotary embedding rewrites queries and keys; an activation reads gate and up and writes their
    product; routed outputs are summed ("moe", their activations with them).
    """
    norms = 4 * m.hidden
    rotary = 2 * (m.heads // tp + kv_heads_per_gpu(m, tp)) * m.head_dim
    dense = (m.layers - m.moe_layers) * 3 * m.ffn // tp
    shared = m.moe_layers * 3 * m.shared_experts * m.moe_ffn // tp
    moe = m.top_k * 3 * m.moe_ffn // tp + (m.top_k + 1) * m.hidden if m.experts else 0
    found = {
        "norm": m.layers * norms,
        "rope": m.layers * rotary,
        "act": dense + shared,
        "moe": m.moe_layers * moe,
    }
    return {op: numbers * HALF_BYTES for op, numbers in found.items() if numbers}


def layers_where(m: ModelSpec, where: str, start: int, stop: int) -> int:
    """How many of the layers from *start* to *stop* are of a kind ("all", "dense", "moe")."""
    if where == "all":
        return stop - start
    first_moe = m.first_dense_layers if m.experts else m.layers
    dense = max(0, min(stop, first_moe) - start)
    return dense if where == "dense" else stop - start - dense


def count(m: ModelSpec) -> int:
    """All parameters of the language model."""
    matrices = sum(
        g.inputs * g.outputs * g.copies * layers_where(m, g.where, 0, m.layers) for g in gemms(m)
    )
    embeddings = m.vocab * m.hidden * (1 if m.tie_embed else 2)
    return matrices + m.layers * vectors_per_layer(m) + m.hidden + embeddings


def vision_layer_parameters(m: ModelSpec) -> int:
    """Matrices of one layer of the vision tower."""
    v = m.vision
    return 0 if v is None else 4 * v.hidden**2 + (3 if v.gated else 2) * v.hidden * v.ffn


def vision_merger_parameters(m: ModelSpec) -> int:
    """One projection to the language model: merge**2 patches wide, then to its hidden size."""
    v = m.vision
    if v is None:
        return 0
    wide = v.hidden * v.merge**2
    return wide * wide + wide * m.hidden


def count_vision(m: ModelSpec) -> int:
    """All matrices of the vision tower, the patch and position embeddings among them."""
    v = m.vision
    if v is None:
        return 0
    embeddings = (3 * 2 * v.patch**2 + v.positions) * v.hidden
    mergers = v.mergers * vision_merger_parameters(m)
    return v.layers * vision_layer_parameters(m) + mergers + embeddings


def stage_layers(layers: int, pp: int) -> list[int]:
    """Layers of each pipeline stage, as vLLM deals them: what is left over goes to late stages.

    Source: vLLM `distributed/utils.py get_pp_indices`.
    """
    dealt = [layers // pp] * pp
    for i in range(layers % pp):
        dealt[-(i + 2) % pp] += 1
    return dealt


def gemm_bytes(m: ModelSpec, gemm: Gemm, form: WeightFormat) -> float:
    """Stored bytes of one copy of a matrix on one GPU."""
    elements = gemm.inputs * gemm.outputs
    is_expert = gemm.routed
    if not gemm.quantised or (form.experts_only and not is_expert):
        return float(elements * HALF_BYTES)
    if is_expert:
        return elements * form.bytes_per_weight * _padded(m.moe_ffn, form.pad_to) / m.moe_ffn
    return elements * form.bytes_per_weight


def _padded(width: int, multiple: int) -> int:
    return -(-width // multiple) * multiple


def stage_bytes(m: ModelSpec, form: WeightFormat, split: Parallelism, stage: int) -> int:
    """Bytes of weights on one GPU of pipeline stage *stage*: vocabulary matrices at the ends."""
    tp, pp = split.tp, split.pp
    dealt = stage_layers(m.layers, pp)
    start = sum(dealt[:stage])
    stop = start + dealt[stage]
    total = sum(
        gemm_bytes(m, g, form) * g.copies * layers_where(m, g.where, start, stop)
        for g in gemms(m, tp, split)
    )
    numbers = dealt[stage] * vectors_per_layer(m, tp)
    table = -(-m.vocab // tp) * m.hidden
    first, last = stage == 0, stage == pp - 1
    if first:
        numbers += table + count_vision(m) // tp
    if last:
        numbers += m.hidden + (0 if first and m.tie_embed else table)
    return round(total) + numbers * HALF_BYTES


def divides(m: ModelSpec, tp: int) -> bool:
    """Whether heads, KV heads and feed-forward widths can be split over *tp* GPUs."""
    kv_fits = m.is_mla or m.kv_heads % tp == 0 or tp % m.kv_heads == 0
    widths = (m.heads, m.ffn, m.moe_ffn)
    return kv_fits and all(width % tp == 0 for width in widths)


def shares_experts(m: ModelSpec, split: Parallelism) -> bool:
    """Whether the GPUs of all ranks can share the experts: whole ones, or a slice of each."""
    return (m.experts if split.expert_parallel else m.moe_ffn) % split.expert_gpus == 0


def contradiction(m: ModelSpec) -> str:
    """The first thing wrong with the dimensions, as a sentence; "" if nothing is."""
    if min(m.hidden, m.layers, m.heads, m.kv_heads, m.head_dim, m.vocab, m.max_pos) < 1:
        return "hidden, layers, heads, kv_heads, head_dim, vocab and max_pos must be at least 1"
    if m.heads % m.kv_heads:
        return f"heads ({m.heads}) must be a multiple of kv_heads ({m.kv_heads})"
    if m.experts and not (m.moe_ffn and 1 <= m.top_k <= m.experts):
        return "a mixture of experts needs moe_ffn and 1 <= top_k <= experts"
    if not m.experts and (m.top_k or m.moe_ffn or m.shared_experts or m.first_dense_layers):
        return "top_k, moe_ffn, shared_experts and first_dense_layers need experts"
    dense = m.layers - m.moe_layers
    if bool(m.ffn) != (dense > 0) or not 0 <= m.first_dense_layers <= m.layers:
        return f"ffn is {m.ffn} but {dense} of {m.layers} layers are dense"
    if bool(m.sliding_window) != bool(m.sliding_layers) or m.sliding_layers > m.layers:
        return "sliding_window and sliding_layers go together, at most all layers"
    latent = (m.qk_nope, m.qk_rope, m.v_head)
    if not all(latent) if m.kv_lora else any((*latent, m.q_lora)):
        return "latent attention needs kv_lora, qk_nope, qk_rope and v_head together"
    index = (m.index_heads, m.index_head_dim, m.index_top_k)
    if any(index) and not (all(index) and m.q_lora):
        return "an indexer needs index_heads, index_head_dim, index_top_k and q_lora together"
    if m.sliding_window and m.kv_lora:
        return "sliding windows over latent attention are not modelled"
    return _vision_contradiction(m)


def _vision_contradiction(m: ModelSpec) -> str:
    v = m.vision
    if v is None:
        return ""
    if min(v.layers, v.hidden, v.heads, v.ffn, v.merge, v.patch, v.mergers) < 1:
        return "vision: layers, hidden, heads, ffn, merge, patch and mergers must be at least 1"
    if v.hidden % v.heads:
        return f"vision: hidden ({v.hidden}) must be a multiple of heads ({v.heads})"
    if v.window % v.merge:
        return f"vision: window ({v.window}) must be a multiple of merge ({v.merge})"
    if v.full_layers and not v.window:
        return "vision: full_layers says which layers have no windows, and there is no window"
    if v.full_layers and v.layers % v.full_layers:
        return f"vision: layers ({v.layers}) must be a multiple of full_layers ({v.full_layers})"
    return ""
