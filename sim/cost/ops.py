"""The operations of a step that a profile may have tables of, and what each is a function of."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

#: tokens: rows of the forward pass. sequences: rows that go through the LM head. decodes and
#: context_tokens: batch and MEAN KV tokens of a decoding sequence. chunk and prefix: new tokens of
#: a prompt and the KV tokens before them. experts: distinct ones that the tokens are routed to.
#: bytes: of one message.
Axis: TypeAlias = Literal[
    "tokens", "sequences", "decodes", "context_tokens", "chunk", "prefix", "experts", "bytes"
]

#: where an operation belongs: what it is filled from when a profile lacks it, and what it is shown
#: and perturbed as
Family: TypeAlias = Literal[
    "dense", "elementwise", "attention", "moe", "head", "collective", "image", "beside"
]


class Op(NamedTuple):
    """One operation.

    Attributes:
        axes: what its table may be a function of.
        family: "beside": only in steps of requests that ask for it, by an adapter or a grammar.
    """

    axes: tuple[tuple[Axis, ...], ...]
    family: Family


_TOKENS: tuple[tuple[Axis, ...], ...] = (("tokens",),)
_SEQUENCES: tuple[tuple[Axis, ...], ...] = (("sequences",),)
_BYTES: tuple[tuple[Axis, ...], ...] = (("bytes",),)

#: matrix products bear the names of `parameters.gemms`, with "_" for blanks
OPS: dict[str, Op] = {
    "embedding": Op(_TOKENS, "elementwise"),
    "norm": Op(_TOKENS, "elementwise"),
    "final_norm": Op(_TOKENS, "elementwise"),
    "qk_norm": Op(_TOKENS, "elementwise"),
    "rope": Op(_TOKENS, "elementwise"),  # with the write to the KV cache
    "act": Op(_TOKENS, "elementwise"),
    **{
        name: Op(_TOKENS, "dense")
        for name in (
            "qkv",
            "o",
            "gate_up",
            "down",
            "shared_gate_up",
            "shared_down",
            "qkv_a",
            "q_b",
            "kv_b",
            "indexer_qk",
            "indexer_q_b",
        )
    },
    "router": Op(_TOKENS, "dense"),
    "moe": Op((("tokens",), ("tokens", "experts")), "moe"),
    "decode_attention": Op((("decodes", "context_tokens"),), "attention"),
    "prefill_attention": Op((("chunk", "prefix"),), "attention"),
    "attention": Op((("chunk", "prefix", "decodes", "context_tokens"),), "attention"),
    "lm_head": Op(_SEQUENCES, "head"),
    "sampler": Op(_SEQUENCES, "head"),
    "all_reduce": Op(_BYTES, "collective"),
    "send": Op(_BYTES, "collective"),  # hidden states to the next pipeline stage
    "image": Op(_TOKENS, "image"),  # the vision tower, by encoder output tokens
    "lora": Op(_TOKENS, "beside"),
    "bitmask": Op(_SEQUENCES, "beside"),
}
