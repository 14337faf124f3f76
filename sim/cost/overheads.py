"""How far from its datasheet a GPU runs, and what a step costs beside its kernels."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import ceil

from ...policies.errors import InputError
from .dtypes import HALF_BYTES
from .specs import GpuSpec, ModelSpec, Parallelism

SERIAL_MASKS = 128  #: vLLM fills up to so many masks of a step one after the other
MASK_BATCH = 16  #: and more of them in batches of this size, by several threads
LOGIT_BYTES = 4  #: logits are masked in fp32


@dataclass(frozen=True)
class Overheads:
    """Efficiencies (share of the datasheet) and fixed times, each overridable by the user.

    Sources: [T] fitted by eye to published H100 kernel tables (aiconfigurator 0.12, vLLM 0.24,
    NCCL 2.29) and checked on RTX 4090 and RTX PRO 6000 ones (LLMServingSim 2, vLLM 0.19);
    [B] BLIS, fitted end to end on 15 H100 runs of vLLM; [A] assumed.

    Attributes:
        gemm_flops: dense products, of peak arithmetic [T: H100 .73-.84, RTX 4090 .95-.99].
        gemm_bytes: dense products, of memory bandwidth [T: H100 .65-.87, RTX 4090 .91-.95].
        moe_flops, moe_bytes: grouped products of experts [T: RTX PRO 6000 .48-.57, .75-.84].
        prefill_flops: attention of a chunk [T: H100 .35-.65, RTX 4090 .62-.84].
        decode_flops: attention of single tokens, where arithmetic binds it (MLA) [A].
        attention_bytes: reading the KV cache [T: H100 .84-.93 above 100 MB, RTX 4090 .83-.92].
        elementwise_bytes: norms, rotary embedding, activation [T: RTX 4090 .9-1.1].
        link_bytes: all-reduce, of link bandwidth [T: H100 .71-.99 at 1 GB].
        pcie_bytes: the same where GPUs of a node have PCIe only [T: from 1 MB to 1 GB between two
            that reach each other: L40S .48-.63, RTX PRO 6000 .41-.60. By way of the host's memory
            .24; four and eight .05-.66, as the host is built].
        layer_launch_s: floor of all kernels of a layer [B; T gives 4 x 3.2 + 11.7 + 4 x 2.5 us].
        host_step_s: scheduling and preparing a step, what is not hidden behind the GPU [B].
        host_sequence_s: the same and sampling, for each sequence of it [B].
        all_reduce_launch_s, hop_s: an all-reduce costs a launch and 2 (tp - 1) hops [T].
        network_hop_s: a hop that leaves the node [A].
        bitmask_fill_s: the host finds what a grammar allows next, for each row that it masks
            [llguidance 1.9, README: about 50 us of one core for JSON schemas and 128k tokens].
        bitmask_threads: that share more than 128 rows, 16 at a time; 0: as many as the engine has,
            8 in vLLM (v1/structured_output/__init__.py, where the host has 16 cores or more), 1
            elsewhere. That they do not slow each other down is assumed.
    """

    gemm_flops: float = 0.8
    gemm_bytes: float = 0.85
    moe_flops: float = 0.5
    moe_bytes: float = 0.8
    prefill_flops: float = 0.6
    decode_flops: float = 0.6
    attention_bytes: float = 0.9
    elementwise_bytes: float = 0.9
    link_bytes: float = 0.75
    pcie_bytes: float = 0.6
    layer_launch_s: float = 32e-6
    host_step_s: float = 126e-6
    host_sequence_s: float = 4e-6
    all_reduce_launch_s: float = 4.5e-6
    hop_s: float = 0.8e-6
    network_hop_s: float = 5e-6
    bitmask_fill_s: float = 50e-6
    bitmask_threads: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            may_be_0 = field.name.endswith("_s") or field.name == "bitmask_threads"
            if not 0 <= value < float("inf") or (value == 0 and not may_be_0):
                least = "be finite and not negative" if may_be_0 else "be finite and above 0"
                raise InputError(f"{field.name} must {least}, found {value}", where="overheads")

    def communication_s(
        self, model: ModelSpec, gpu: GpuSpec, split: Parallelism
    ) -> dict[str, tuple[float, float]]:
        """Operation -> (fixed seconds, seconds per token) of all its messages of a forward pass.

        Tensor parallelism ("all_reduce"): a ring all-reduce of the hidden states after attention
        and after the feed-forward of every layer. Pipeline parallelism ("send"): one message
        between stages. A group of more GPUs than a node has is as slow as its network.
        """
        token_bytes = model.hidden * HALF_BYTES
        found = {}
        if split.tp > 1:
            hop, rate = self.link(gpu, split.tp)
            steps = 2 * (split.tp - 1)
            reduces = 2 * model.layers
            found["all_reduce"] = (
                reduces * (self.all_reduce_launch_s + steps * hop),
                reduces * steps / split.tp * token_bytes / rate,
            )
        if split.pp > 1:
            hop, rate = self.link(gpu, split.tp * split.pp)
            found["send"] = (split.pp - 1) * hop, (split.pp - 1) * token_bytes / rate
        return found

    def exchange_s(self, model: ModelSpec, gpu: GpuSpec, split: Parallelism) -> tuple[float, float]:
        """(fixed seconds, seconds per token of all ranks) of sharing experts among ranks.

        Before the experts of every layer a ring all-gather of hidden states over the GPUs that
        share them, after them a reduce-scatter (vLLM's `allgather_reducescatter`).
        """
        if split.dp == 1:
            return 0.0, 0.0
        hop, rate = self.link(gpu, split.expert_gpus)
        steps, messages = split.dp - 1, 2 * model.moe_layers
        fixed = messages * (self.all_reduce_launch_s + steps * hop)
        return fixed, messages * steps / split.dp * model.hidden * HALF_BYTES / rate

    def masks_s(self, rows: int, vocab: int, gpu: GpuSpec) -> float:
        """Until the masks of *rows* rows are filled on the host and copied to each GPU."""
        in_turn = rows
        if self.bitmask_threads > 1 and rows > SERIAL_MASKS:
            in_turn = min(rows, MASK_BATCH * ceil(ceil(rows / MASK_BATCH) / self.bitmask_threads))
        rate = gpu.pcie_bytes_per_s
        return in_turn * self.bitmask_fill_s + (rows * vocab / 8 / rate if rate else 0.0)

    def apply_masks_s(self, rows: int, vocab: int, gpu: GpuSpec) -> float:
        """Forbidding nearly all tokens in *rows* rows: a bit read and a logit written a token."""
        moved = rows * vocab * (LOGIT_BYTES + 1 / 8)
        return moved / (self.elementwise_bytes * gpu.memory_bytes_per_s)

    def link(self, gpu: GpuSpec, gpus: int) -> tuple[float, float]:
        """(seconds of a hop, bytes/s and GPU) of a group that is as slow as its slowest link."""
        if gpus > gpu.node_gpus:
            return self.network_hop_s, self.link_bytes * gpu.nic_bytes_per_s
        has_own = gpu.scaleup_bytes_per_s > gpu.pcie_bytes_per_s
        share = self.link_bytes if has_own else self.pcie_bytes
        return self.hop_s, share * gpu.scaleup_bytes_per_s
