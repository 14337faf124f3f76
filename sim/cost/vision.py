"""Time and memory of a vision tower, beside a language model and on a GPU of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ...policies.errors import InputError
from . import parameters
from .dtypes import HALF_BYTES
from .specs import GpuSpec, ModelSpec

if TYPE_CHECKING:
    from .memory import MemoryOverheads
    from .overheads import Overheads

GB = 10**9


class ImageRate(NamedTuple):
    """The vision tower: linear in the patches of an image, and quadratic for full attention.

    Attributes:
        pair_s: arithmetic for a pair of patches, over the layers where all of them meet.
        near_pair_s: the same, over the layers where only those of a window do.
        near_patches: of a window; those at the edge of an image are taken to be full.
        weight_s: reading the weights.
    """

    patches_per_token: int
    patch_s: float
    pair_s: float
    near_pair_s: float
    near_patches: int
    weight_s: float

    def seconds(self, image_tokens: int) -> float:
        """Time to encode one image of *image_tokens* tokens."""
        patches = image_tokens * self.patches_per_token
        near = patches * min(patches, self.near_patches)
        linear = max(patches * self.patch_s, self.weight_s)
        return linear + patches * patches * self.pair_s + near * self.near_pair_s


def image_rate(m: ModelSpec, gpu: GpuSpec, tp: int, over: Overheads) -> ImageRate | None:
    """The vision tower in bf16, split over the TP group; None for a model without one."""
    v = m.vision
    if v is None:
        return None
    merged = v.mergers * parameters.vision_merger_parameters(m)
    layer = v.layers * parameters.vision_layer_parameters(m)
    flops = gpu.bf16_flops * tp
    pair_s = 4 * v.hidden / (flops * over.prefill_flops)
    near = v.layers - v.full_layers if v.window else 0
    return ImageRate(
        v.merge**2,
        2 * (layer + merged / v.merge**2) / (flops * over.gemm_flops),
        (v.layers - near) * pair_s,
        near * pair_s,
        v.window**2,
        (layer + merged) * HALF_BYTES / (gpu.memory_bytes_per_s * over.gemm_bytes * tp),
    )


def embedding_bytes_per_token(model: ModelSpec) -> int:
    """Bytes of the encoder's output for one token of an image, in bf16; 0 without a tower.

    As wide as the language model, once for every projection: with deepstack, layers of the language
    model get their own (Qwen3-VL).
    """
    return model.hidden * model.vision.mergers * HALF_BYTES if model.vision is not None else 0


def peak_bytes(model: ModelSpec, tokens: int) -> int:
    """Activations of the tower on *tokens* image tokens, as engines profile it; 0 without one."""
    v = model.vision
    if v is None:
        return 0
    widest = max(4 * v.hidden, (3 if v.gated else 2) * v.ffn)
    return tokens * v.merge**2 * (2 * v.hidden + widest) * HALF_BYTES


@dataclass(frozen=True)
class EncoderCapacity:
    """Where the memory of an encoder's GPU goes, in bytes.

    Attributes:
        cache_tokens: image tokens whose output all GPUs of the encoder have room for.
    """

    budget_bytes: int
    weights_bytes: int
    activation_peak_bytes: int
    non_torch_bytes: int
    cache_tokens: int


def encoder_capacity(
    model: ModelSpec,
    gpu: GpuSpec,
    tp: int,
    *,
    memory_fraction: float,
    step_tokens: int,
    overheads: MemoryOverheads,
) -> EncoderCapacity:
    """Room for outputs on an encoder of *tp* GPUs, which has nothing but the vision tower.

    Args:
        step_tokens: image tokens of a step at most.

    Raises:
        InputError: the model has no tower, or it does not fit.
    """
    if model.vision is None:
        raise InputError(
            f"{model.name} has no vision tower, so there is nothing to encode",
            where="model",
            help="choose a model with one, or a `vision:` section in a model file of your own",
        )
    budget = int(gpu.memory_bytes * memory_fraction)
    weights = parameters.count_vision(model) * HALF_BYTES // tp
    peak = peak_bytes(model, step_tokens) // tp
    other = overheads.non_torch_bytes if tp == 1 else overheads.non_torch_bytes_tp
    room = budget - weights - peak - other
    if room <= 0:
        raise InputError(
            f"the vision tower of {model.name} does not fit on {gpu.name}: {-room / GB:.1f} GB "
            f"short of {weights / GB:.1f} GB for weights and {peak / GB:.1f} GB for a step of "
            f"{step_tokens:,} image tokens",
            where="tp",
            help="a smaller engine.encoder_budget, or another GPU",
        )
    tokens = room * tp // embedding_bytes_per_token(model)
    return EncoderCapacity(budget, weights, peak, other, tokens)
