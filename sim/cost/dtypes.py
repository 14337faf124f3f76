"""Number formats of weights and of the KV cache: bytes, and which arithmetic they use."""

from __future__ import annotations

from typing import NamedTuple

from ...policies.errors import UnknownNameError

#: Bytes of a bf16 or fp16 number: activations, norms, embeddings and the LM head.
HALF_BYTES = 2


class WeightFormat(NamedTuple):
    """How the weight matrices of a model are stored.

    Attributes:
        name: as users type it.
        bytes_per_weight: scales included.
        compute: the arithmetic of the matrix products, where the GPU has it: "bf16", "fp8", "int8"
            or "fp4". A GPU without it computes in bf16 (weight-only quantisation).
        experts_only: attention and dense layers stay in bf16, as in gpt-oss.
        pad_to: kernels store the width of an expert rounded up to a multiple of this.
    """

    name: str
    bytes_per_weight: float
    compute: str
    experts_only: bool = False
    pad_to: int = 1


_FORMATS = {
    "bf16": WeightFormat("bf16", 2.0, "bf16"),
    "fp8": WeightFormat("fp8", 1.0, "fp8"),
    "int8": WeightFormat("int8", 1.0, "int8"),
    # one fp16 scale and one 4-bit zero point for 128 weights (AWQ, GPTQ)
    "int4": WeightFormat("int4", 0.5 + 2.5 / 128, "bf16"),
    # one fp8 scale for 16 weights
    "nvfp4": WeightFormat("nvfp4", 0.5 + 1 / 16, "fp4"),
    # One 8-bit scale for 32 weights. Padding: vLLM 0.11 on an H100 reports 13.47 and 64.38 GiB for
    # gpt-oss-20b and -120b (github:llm-d/llm-d-benchmark config_explorer); 2880 -> 3072 gives both.
    "mxfp4": WeightFormat("mxfp4", 0.5 + 1 / 32, "bf16", experts_only=True, pad_to=256),
}
_FORMAT_ALIASES = {
    "bfloat16": "bf16",
    "fp16": "bf16",
    "float16": "bf16",
    "half": "bf16",
    "fp8_e4m3": "fp8",
    "w8a8": "int8",
    "w4a16": "int4",
    "awq": "int4",
    "gptq": "int4",
    "fp4": "nvfp4",
}
_KV_BYTES = {
    "auto": 2,
    "bf16": 2,
    "bfloat16": 2,
    "fp16": 2,
    "float16": 2,
    "half": 2,
    "fp8": 1,
    "fp8_e4m3": 1,
    "fp8_e5m2": 1,
    "int8": 1,
}


def weight_format(dtype: str) -> WeightFormat:
    """The format called *dtype*, e.g. "bf16", "fp8", "int4" (or "awq"), "mxfp4".

    Raises:
        UnknownNameError: no format bears the name.
    """
    found = _FORMATS.get(_FORMAT_ALIASES.get(dtype, dtype))
    if found is None:
        raise UnknownNameError("dtype", dtype, ["auto", *_FORMATS, *_FORMAT_ALIASES], where="dtype")
    return found


def kv_element_bytes(kv_dtype: str) -> int:
    """Bytes of one number in the KV cache; "auto" is bf16, as in vLLM.

    Raises:
        UnknownNameError: no KV format bears the name.
    """
    found = _KV_BYTES.get(kv_dtype)
    if found is None:
        raise UnknownNameError("KV dtype", kv_dtype, _KV_BYTES, where="kv_dtype")
    return found
