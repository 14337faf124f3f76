"""The weights of a decoder: drawn from a seed, or read from a checkpoint in safetensors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any, Protocol

import torch

from ...policies.errors import InputError
from ...sim.cost.specs import ModelSpec

EPS = 1e-6  #: of norms, where no checkpoint says


class Source(Protocol):
    """Where weights come from.

    Attributes:
        eps: of the norms.
    """

    eps: float

    def __call__(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """A tensor; the names are those of Hugging Face's Llama, without "model."."""


_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
_MIXTRAL = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}


@dataclass(slots=True)
class Layer:
    """One decoder layer; matrices are [outputs, inputs], as `torch.nn.functional.linear` has them.

    Attributes:
        qkv: queries, keys and values of all heads, one below the other.
        gate_up, down: of the dense feed-forward or the shared experts; None without.
        router: [experts, hidden]; None in dense layers.
        experts_gate_up, experts_down: [experts, 2 * width, hidden], [experts, hidden, width].
    """

    norm_1: torch.Tensor
    qkv: torch.Tensor
    qkv_bias: torch.Tensor | None
    q_norm: torch.Tensor | None
    k_norm: torch.Tensor | None
    out: torch.Tensor
    norm_2: torch.Tensor
    gate_up: torch.Tensor | None = None
    down: torch.Tensor | None = None
    router: torch.Tensor | None = None
    experts_gate_up: torch.Tensor | None = None
    experts_down: torch.Tensor | None = None


@dataclass(slots=True)
class Weights:
    """All of a model: embedding and head [vocab, hidden], final norm [hidden]."""

    embedding: torch.Tensor
    layers: list[Layer]
    norm: torch.Tensor
    head: torch.Tensor


def build(spec: ModelSpec, source: Source) -> Weights:
    """Ask *source* for every tensor of the model, layer by layer."""
    embedding = source("embed_tokens.weight", (spec.vocab, spec.hidden))
    layers = [_layer(spec, i, source) for i in range(spec.layers)]
    norm = source("norm.weight", (spec.hidden,))
    head = embedding if spec.tie_embed else source("lm_head.weight", (spec.vocab, spec.hidden))
    return Weights(embedding, layers, norm, head)


def _layer(spec: ModelSpec, number: int, source: Source) -> Layer:
    name = f"layers.{number}."
    q, kv = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
    sizes = (("q", q), ("k", kv), ("v", kv))
    matrices = [source(f"{name}self_attn.{p}_proj.weight", (n, spec.hidden)) for p, n in sizes]
    bias = None
    if spec.attn_bias:
        bias = torch.cat([source(f"{name}self_attn.{p}_proj.bias", (n,)) for p, n in sizes])
    norms = [
        source(f"{name}self_attn.{p}_norm.weight", (spec.head_dim,)) if spec.qk_norm else None
        for p in ("q", "k")
    ]
    layer = Layer(
        source(f"{name}input_layernorm.weight", (spec.hidden,)),
        torch.cat(matrices),
        bias,
        norms[0],
        norms[1],
        source(f"{name}self_attn.o_proj.weight", (spec.hidden, q)),
        source(f"{name}post_attention_layernorm.weight", (spec.hidden,)),
    )
    if not spec.experts or number < spec.first_dense_layers:
        layer.gate_up, layer.down = _feed_forward(spec, f"{name}mlp.", spec.ffn, source)
        return layer
    layer.router = source(f"{name}mlp.gate.weight", (spec.experts, spec.hidden))
    parts = [
        _feed_forward(spec, f"{name}mlp.experts.{e}.", spec.moe_ffn, source)
        for e in range(spec.experts)
    ]
    layer.experts_gate_up = torch.stack([gate_up for gate_up, _ in parts])
    layer.experts_down = torch.stack([down for _, down in parts])
    if spec.shared_experts:
        width = spec.shared_experts * spec.moe_ffn
        layer.gate_up, layer.down = _feed_forward(spec, f"{name}mlp.shared_experts.", width, source)
    return layer


def _feed_forward(
    spec: ModelSpec, name: str, width: int, source: Source
) -> tuple[torch.Tensor, torch.Tensor]:
    gate = source(f"{name}gate_proj.weight", (width, spec.hidden))
    up = source(f"{name}up_proj.weight", (width, spec.hidden))
    return torch.cat((gate, up)), source(f"{name}down_proj.weight", (spec.hidden, width))


class Random:
    """Normal numbers over the square root of the inputs, norms of one, biases of zero.

    Drawn on the device in fp32; a seed means other weights on a device of another kind.
    """

    eps = EPS

    def __init__(self, seed: int, dtype: torch.dtype, device: torch.device) -> None:
        self._generator = torch.Generator(device).manual_seed(seed)
        self._dtype, self._device = dtype, device

    def __call__(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """The tensor that comes next, whatever its name."""
        if "norm" in name:
            return torch.ones(shape, dtype=self._dtype, device=self._device)
        if name.endswith("bias"):
            return torch.zeros(shape, dtype=self._dtype, device=self._device)
        values = torch.randn(shape, generator=self._generator, device=self._device)
        return (values / sqrt(shape[-1])).to(self._dtype)


class Checkpoint:
    """A folder with config.json and ``*.safetensors``, as Hugging Face publishes them.

    Raises:
        InputError: it is not one.
    """

    def __init__(self, folder: Path, dtype: torch.dtype, device: torch.device) -> None:
        self._folder, self._dtype, self._device = folder, dtype, device
        self._places: dict[str, tuple[Path, int, dict[str, Any]]] = {}
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise InputError(f"{folder} holds no .safetensors file", where="--weights")
        self.eps = _eps(folder / "config.json")
        for path in files:
            for name, start, entry in _header(path):
                self._places[name.removeprefix("model.")] = (path, start, entry)

    def __call__(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """The tensor *name*, which must have this shape.

        Raises:
            InputError: it is not there, has another shape, or a format that is not read.
        """
        found = self._places.get(name) or self._places.get(_mixtral(name))
        if found is None:
            raise InputError(f"{self._folder} has no tensor {name}", where="--weights")
        path, start, entry = found
        dtype = _DTYPES.get(entry["dtype"])
        if dtype is None or tuple(entry["shape"]) != shape:
            raise InputError(
                f"{name} is {entry['dtype']} {entry['shape']}; the catalogue's model needs "
                f"{list(shape)} in one of {', '.join(_DTYPES)}",
                where=str(path),
            )
        low, high = entry["data_offsets"]
        with path.open("rb") as file:
            file.seek(start + low)
            data = bytearray(file.read(high - low))
        return torch.frombuffer(data, dtype=dtype).reshape(shape).to(self._device, self._dtype)


def _eps(path: Path) -> float:
    """What the configuration says of norms, and that its rotary embedding is plain."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the configuration: {error}", where=str(path)) from None
    scaling = config.get("rope_scaling")
    if scaling:
        raise InputError(
            f"rotary embeddings are scaled ({json.dumps(scaling)[:80]}), which is not computed",
            where=str(path),
            help="leave --weights out: drawn weights take as long",
        )
    return float(config.get("rms_norm_eps", EPS))


def _header(path: Path) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """(name, where the data begin, dtype, shape and offsets) of every tensor in a file."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        try:
            header = json.loads(file.read(size))
        except (ValueError, MemoryError) as error:
            raise InputError(f"not a safetensors file: {error}", where=str(path)) from None
    for name, entry in header.items():
        if name != "__metadata__":
            yield name, 8 + size, entry


def _mixtral(name: str) -> str:
    """Mixtral's own name of a tensor of its experts."""
    parts = name.replace("mlp.", "block_sparse_moe.").split(".")
    return ".".join(_MIXTRAL.get(part, part) for part in parts)
