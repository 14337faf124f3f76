"""A vision tower in plain torch: an image that only its name decides, to embeddings.

The layers of Qwen's vision-language models: an embedding of patches of two frames, layers with
rotary positions of rows and columns and full or windowed attention, and projections of squares of
patches to the width of the language model, one for its input and each further one (deepstack) for
what a layer of it gives.
"""

from __future__ import annotations

from math import isqrt
from typing import NamedTuple

import torch
from torch.nn.functional import (
    gelu,
    layer_norm,
    linear,
    rms_norm,
    scaled_dot_product_attention,
    silu,
)

from ...policies.errors import InputError
from ...sim.cost.specs import ModelSpec
from .pictures import Picture
from .weights import Source

CHANNELS, FRAMES = 3, 2  #: of a patch
ROPE_THETA = 10_000.0


class TowerLayer(NamedTuple):
    """Matrices of one layer; *up* holds gate and up where the feed-forward is gated."""

    qkv: torch.Tensor
    out: torch.Tensor
    up: torch.Tensor
    down: torch.Tensor


class Tower:
    """Weights and the forward, one image at a time.

    Norms have no weights. Patches come in the order of their windows, so a window is a run of
    them; a learned position is that of the same share of the table.

    Args:
        source: draws the weights.

    Raises:
        InputError: the model has no tower, or one with heads that cannot be rotated by two axes.
    """

    def __init__(
        self, spec: ModelSpec, source: Source, dtype: torch.dtype, device: torch.device
    ) -> None:
        v = spec.vision
        if v is None:
            raise InputError(f"{spec.name} has no vision tower", where="cluster.model")
        if v.hidden // v.heads % 4:
            raise InputError(
                f"the executor cannot compute the vision tower of {spec.name}: its heads are "
                f"{v.hidden // v.heads} wide, which is no multiple of 4",
                where="cluster.model",
            )
        self._spec, self._vision, self._dtype, self._device = spec, v, dtype, device
        h, wide = v.hidden, v.hidden * v.merge**2
        self._pixels = CHANNELS * FRAMES * v.patch**2
        self._embedding = source("visual.patch_embed.weight", (h, self._pixels))
        self._positions = source("visual.pos_embed.weight", (v.positions, h))
        inner = 2 * v.ffn if v.gated else v.ffn
        self._layers = [
            TowerLayer(
                source(f"visual.blocks.{i}.attn.qkv.weight", (3 * h, h)),
                source(f"visual.blocks.{i}.attn.proj.weight", (h, h)),
                source(f"visual.blocks.{i}.mlp.up.weight", (inner, h)),
                source(f"visual.blocks.{i}.mlp.down.weight", (h, v.ffn)),
            )
            for i in range(v.layers)
        ]
        self._mergers = [
            (
                source(f"visual.merger.{i}.0.weight", (wide, wide)),
                source(f"visual.merger.{i}.2.weight", (spec.hidden, wide)),
            )
            for i in range(v.mergers)
        ]
        #: layers after which a projection beside the last reads, evenly spread
        self._taps = [max(1, i * v.layers // v.mergers) for i in range(1, v.mergers)]

    @torch.no_grad()
    def encode(self, picture: Picture) -> torch.Tensor:
        """[projections, tokens, hidden of the language model]."""
        v = self._vision
        x = linear(self._draw(picture), self._embedding)
        if v.positions:
            places = torch.arange(len(x), device=self._device) * v.positions // len(x)
            x = x + self._positions[places]
        cos, sin = self._angles(picture.tokens)
        window = v.window**2
        full_every = v.layers // v.full_layers if v.full_layers else v.layers + 1
        found: dict[int, torch.Tensor] = {}  # by projection
        for i, layer in enumerate(self._layers):
            near = bool(window) and (i + 1) % full_every != 0
            x = x + self._attention(self._norm(x), layer, cos, sin, window if near else len(x))
            x = x + self._feed_forward(self._norm(x), layer)
            for number, tap in enumerate(self._taps, 1):
                if tap == i + 1:
                    found[number] = self._merged(x, number)
        found[0] = self._merged(x, 0)
        return torch.stack([found[i] for i in range(v.mergers)])

    def _draw(self, picture: Picture) -> torch.Tensor:
        """[patches, pixels], normal numbers; others on a device of another kind."""
        generator = torch.Generator(self._device).manual_seed(picture.name)
        shape = (picture.tokens * self._vision.merge**2, self._pixels)
        pixels = torch.randn(shape, generator=generator, device=self._device)
        return pixels.to(self._dtype)

    def _angles(self, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines [patches, 1, half a head] of rows and columns of a near square."""
        v = self._vision
        height = next(n for n in range(isqrt(tokens), 0, -1) if tokens % n == 0)
        token = torch.arange(tokens, device=self._device)
        inner = torch.arange(v.merge, device=self._device)
        width = tokens // height
        rows = (token // width * v.merge)[:, None, None] + inner[:, None]
        columns = (token % width * v.merge)[:, None, None] + inner
        shape = (tokens, v.merge, v.merge)
        both = torch.stack((rows.expand(shape), columns.expand(shape)), -1).view(-1, 2)
        quarter = v.hidden // v.heads // 4
        exponents = torch.arange(quarter, device=self._device) / quarter
        angles = (both[:, :, None] * ROPE_THETA**-exponents).flatten(1)[:, None]
        return angles.cos().to(self._dtype), angles.sin().to(self._dtype)

    def _attention(
        self,
        h: torch.Tensor,
        layer: TowerLayer,
        cos: torch.Tensor,
        sin: torch.Tensor,
        window: int,
    ) -> torch.Tensor:
        """Every patch over those of its own *window* patches."""
        q, k, v = linear(h, layer.qkv).view(len(h), 3, self._vision.heads, -1).unbind(1)
        q, k = _rotated(q, cos, sin), _rotated(k, cos, sin)
        whole = len(h) - len(h) % window
        parts = [_attended(q[:whole], k[:whole], v[:whole], window)] if whole else []
        if whole < len(h):
            parts.append(_attended(q[whole:], k[whole:], v[whole:], len(h) - whole))
        return linear(torch.cat(parts), layer.out)

    def _feed_forward(self, h: torch.Tensor, layer: TowerLayer) -> torch.Tensor:
        inner = linear(h, layer.up)
        if self._vision.gated:
            gate, up = inner.chunk(2, -1)
            return linear(silu(gate) * up, layer.down)
        return linear(gelu(inner), layer.down)

    def _norm(self, x: torch.Tensor) -> torch.Tensor:
        norm = rms_norm if self._vision.gated else layer_norm
        return norm(x, (x.shape[-1],))

    def _merged(self, x: torch.Tensor, number: int) -> torch.Tensor:
        """[tokens, hidden of the language model]."""
        first, second = self._mergers[number]
        squares = self._norm(x).view(-1, x.shape[-1] * self._vision.merge**2)
        return linear(gelu(linear(squares, first)), second)


def _attended(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, size: int) -> torch.Tensor:
    """[n, heads * width] of [n, heads, width], in runs of *size*."""
    q, k, v = (x.reshape(-1, size, *x.shape[1:]).transpose(1, 2) for x in (q, k, v))
    return scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(0, 1).flatten(1)


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """[n, heads, width], halves rotated against each other."""
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)
