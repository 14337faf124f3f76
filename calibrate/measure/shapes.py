"""The shapes of a model's operations on one GPU of a TP group: what a plan is made for."""

from __future__ import annotations

from dataclasses import dataclass

from ...policies.errors import InputError
from ...sim.cost.dtypes import kv_element_bytes
from ...sim.cost.parameters import gemms, kv_heads_per_gpu, layers_where
from ...sim.cost.specs import ModelSpec, Parallelism

#: CUDA-graph batch sizes of vLLM and of infersim's executor, as far as they are below max_seqs
GRAPH_SIZES = (1, 2, 4, *range(8, 257, 8))
HEAD = "lm_head"
MEMORY_FRACTION = 0.9  #: of the device's memory that an engine may take, as vLLM's default
_FORMATS = ("bf16", "fp8", "int4")


@dataclass(frozen=True)
class Shapes:
    """Dimensions of one GPU's share of *model*.

    Attributes:
        dtype: format of the weights: "bf16", "fp8" or "int4". Activations are bf16.
        kv_dtype: of the KV cache, "bf16" or "fp8".
        wide: everything is computed in fp32 instead, as the CPU back end does.
        budget: tokens of a step at most.
        max_seqs: sequences of a step at most.
        max_tokens: KV tokens that fit beside the weights; bounds what is worth measuring.
    """

    model: ModelSpec
    dtype: str
    kv_dtype: str
    tp: int
    wide: bool
    block_size: int
    budget: int
    max_seqs: int
    max_tokens: int

    @property
    def heads(self) -> int:
        """Query heads of this GPU."""
        return self.model.heads // self.tp

    @property
    def kv_heads(self) -> int:
        """KV heads of this GPU."""
        return kv_heads_per_gpu(self.model, self.tp)

    @property
    def max_context(self) -> int:
        """Longest context that the model and the memory allow."""
        return min(self.model.max_pos, self.max_tokens)

    @property
    def vocab(self) -> int:
        """Rows of the LM head of this GPU."""
        return -(-self.model.vocab // self.tp)

    @property
    def activation_bytes(self) -> int:
        """Bytes of an activation."""
        return 4 if self.wide else 2

    @property
    def kv_bytes(self) -> int:
        """Bytes of one number in the KV cache."""
        return 4 if self.wide else kv_element_bytes(self.kv_dtype)

    def gemm(self, op: str) -> tuple[int, int]:
        """(inputs, outputs) of the dense product *op*, named as in `sim.cost.ops`."""
        if op == HEAD:
            return self.model.hidden, self.vocab
        found = {g.name.replace(" ", "_"): g for g in gemms(self.model, self.tp)}[op]
        return found.inputs, found.outputs

    def dense_gemms(self) -> dict[str, int]:
        """The dense products of the layers: how often a step has each."""
        m = self.model
        return {
            g.name.replace(" ", "_"): layers_where(m, g.where, 0, m.layers)
            for g in gemms(m, self.tp)
            if g.copies == 1
        }

    def weight_bytes(self, op: str) -> float:
        """Bytes of a weight of *op*, scales included; head and router stay in bf16."""
        if self.wide:
            return 4.0
        kept = op in (HEAD, "router")
        return 2.0 if kept else self.model.format(self.dtype).bytes_per_weight

    def graph_sizes(self) -> tuple[int, ...]:
        """The batch sizes that decode graphs are captured for."""
        return tuple(size for size in GRAPH_SIZES if size <= self.max_seqs)


def kv_token_bytes(shapes: Shapes) -> int:
    """KV of one token over all layers on this GPU."""
    numbers = 2 * shapes.model.layers * shapes.kv_heads * shapes.model.head_dim
    return numbers * shapes.kv_bytes


def free_tokens(shapes: Shapes, memory_bytes: int) -> int:
    """KV tokens that fit beside the weights, roughly: what is worth measuring.

    On a CPU an eighth of the memory counts: it is not the model's alone.
    """
    if shapes.wide:
        return memory_bytes // 8 // kv_token_bytes(shapes)
    weights = shapes.model.weight_bytes(shapes.dtype, shapes.tp)
    return max(0, int(MEMORY_FRACTION * memory_bytes) - weights) // kv_token_bytes(shapes)


def check(model: ModelSpec, dtype: str, tp: int, *, wide: bool) -> None:
    """Refuse what there are no kernels to measure with.

    Raises:
        InputError: latent attention, an unknown weight format, or a split that engines refuse.
    """
    model.check(Parallelism(tp))
    if model.is_mla:
        raise InputError(
            f"{model.name} has latent attention; calibrate measures models with grouped-query "
            "attention",
            where="--model",
            help="import published tables for it: infersim calibrate import --help",
        )
    known = ("bf16",) if wide else _FORMATS
    if dtype not in known:
        device = "the CPU back end" if wide else "calibrate"
        raise InputError(
            f'{device} has no kernels for weights in "{dtype}"; it has: {", ".join(known)}',
            where="--dtype",
        )
