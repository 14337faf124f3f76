"""Step time from datasheets: every operation is bound by arithmetic or by memory, and they add up.

The labelled last resort where nothing was measured. What it counts: the matrix products, attention
over the context (linear in decode, causal in prefill), element-wise work, the LM head on the rows
that sample, the vision tower, all-reduce of tensor parallelism, hops of pipeline parallelism, masks
of structured output, and fixed overheads. What it does not: padding to CUDA-graph sizes, wave
quantisation, expert imbalance, overlap of anything with anything, but for the host's filling masks
while the GPU computes (vLLM, SGLang). A duration is the latency through all pipeline stages.
"""

from __future__ import annotations

from functools import partial

from ...policies.errors import InputError
from ...policies.types import Picoseconds
from . import parameters
from .base import EVEN, Contexts, DecodeLine, StepShape
from .grades import DATASHEET, GRADES, LineDoubt, Split
from .overheads import Overheads
from .specs import GpuSpec, ModelSpec, Parallelism
from .vision import image_rate
from .work import PS, attention_rates, gemm_rates, head_rate

UNBOUNDED = 1 << 62  #: `DecodeLine.until` of a line that never ends


class Roofline:
    """`StepCost` computed from a GPU's datasheet.

    Args:
        dtype: weight format; "auto" is the one the model is published in.
        kv_dtype: "auto" is bf16.

    Raises:
        InputError: the model cannot be split like that, or an unknown dtype.
    """

    uneven = False

    def __init__(
        self,
        model: ModelSpec,
        gpu: GpuSpec,
        parallelism: Parallelism | None = None,
        dtype: str = "auto",
        kv_dtype: str = "auto",
        overheads: Overheads | None = None,
    ) -> None:
        split = parallelism or Parallelism()
        over = overheads or Overheads()
        model.check(split)
        form = model.format(dtype)
        self._source = (
            f"datasheet roofline: {model.name} {form.name} on {gpu.name}, tp {split.tp} "
            f"pp {split.pp} (GPU data: {gpu.confidence} confidence; not calibrated)"
        )
        self._model_name = model.name
        gemms = gemm_rates(model, gpu, split, form, over)
        self._named = {g.op: g.picoseconds() for g in gemms if not g.is_expert}
        self._dense = list(self._named.values())
        self._routed = [g.picoseconds() for g in gemms if g.is_expert]
        self._experts, self._top_k = model.experts, model.top_k
        self._copies = next((g.copies for g in gemms if g.is_expert), 0)
        self._ranks = split.dp
        self._exchange_ps = tuple(s * PS for s in over.exchange_s(model, gpu, split))
        self._head = head_rate(model, gpu, split.tp, over).picoseconds()
        self._image = image_rate(model, gpu, split.tp, over)
        self.communication = {
            op: (fixed * PS, token * PS)
            for op, (fixed, token) in over.communication_s(model, gpu, split).items()
        }
        fixed = sum(fixed for fixed, _ in self.communication.values())
        rate = over.elementwise_bytes * gpu.memory_bytes_per_s
        self.elementwise = {
            op: moved / rate * PS
            for op, moved in parameters.elementwise_bytes(model, split.tp).items()
        }
        self._token = sum(self.elementwise.values()) + sum(
            token for _, token in self.communication.values()
        )
        self._forward = fixed + model.layers * over.layer_launch_s * PS
        self._host_ps = max(1, round(over.host_step_s * PS))
        self._sequence_ps = round(over.host_sequence_s * PS)
        rates = attention_rates(model, gpu, split.tp, kv_dtype, over)
        self._limit = rates.limit
        self._full_ps = round(rates.decode_full_s * PS)
        self._limited_ps = round(rates.decode_limited_s * PS)
        self._pair, self._near_pair = rates.pair_full_s * PS, rates.pair_limited_s * PS
        self._key, self._near_key = rates.key_full_s * PS, rates.key_limited_s * PS
        self._expand = rates.expand_s * PS
        self._masks = partial(over.masks_s, vocab=model.vocab, gpu=gpu)
        self._apply_masks = partial(over.apply_masks_s, vocab=model.vocab, gpu=gpu)
        self._masked_lines: dict[tuple[int, int], list[DecodeLine]] = {}
        marginal = sum(max(flops, rows) for flops, _, rows in self._dense + self._routed)
        self._marginal_token_ps = round(marginal + self._token)
        self._tokens_ps: dict[int, int] = {0: 0}
        self._heads_ps: dict[int, int] = {0: 0}
        self._lines: dict[int, tuple[DecodeLine, DecodeLine]] = {}

    @property
    def source(self) -> str:
        """Model, GPU and split, and how far the GPU's figures are to be trusted."""
        return self._source

    def decode_line(
        self,
        decodes: int,
        context_tokens: int,
        contexts: Contexts = EVEN,
        adapted: int = 0,
        structured: int = 0,
    ) -> DecodeLine:
        """The line of *decodes* sequences at *context_tokens*.

        Sliding windows and sparse attention read min(context / decodes, window) tokens a sequence:
        the mean stands for all, so the line breaks once, where it reaches the window, and with
        masks once more, where the kernels take longer than filling these.
        """
        if structured:
            masked = self._masked_lines.get((decodes, structured))
            if masked is None:
                masked = self._masked_lines[decodes, structured] = self._mask(decodes, structured)
            return next(line for line in masked if context_tokens < line.until)
        lines = self._lines.get(decodes)
        if lines is None:
            lines = self._lines[decodes] = self._decode_lines(decodes)
        below, above = lines
        return below if context_tokens < below.until else above

    def duration_ps(self, shape: StepShape) -> Picoseconds:
        """Time of the step: the operations of all its tokens, then overheads.

        Raises:
            InputError: image tokens for a model that has no vision tower.
        """
        decodes, context, prefills, samples, images, _, _, structured = shape
        if not prefills and samples == decodes > 0 and not images:
            base, slope, _, _ = self.decode_line(decodes, context, structured=structured)
            return base + slope * context
        tokens = decodes
        total = host = self._host_ps + self._sequence_ps * (decodes + len(prefills))
        for new, before in prefills:
            tokens += new
            total += self.chunk_ps(new, before)
        total += self._full_ps * context
        if self._limited_ps:
            total += self._limited_ps * min(context, decodes * self._limit)
        for image in images:
            total += self.image_ps(image)
        total += self._forward_ps(tokens) + self.sampling_ps(samples)
        if structured:
            total = max(total, host + self.masks_ps(structured)) + self.bitmask_ps(structured)
        return total

    def timed(self, shape: StepShape) -> tuple[Picoseconds, Split]:
        """`duration_ps`, all of it from a datasheet."""
        duration_ps = self.duration_ps(shape)
        return duration_ps, _all_datasheet(duration_ps)

    def prefill_ps(self, tokens: int, context_tokens: int) -> Picoseconds:
        """What the tokens add to a step whose weights are read anyway: products and attention."""
        return tokens * self._marginal_token_ps + self.chunk_ps(tokens, context_tokens)

    def _decode_lines(self, decodes: int) -> tuple[DecodeLine, DecodeLine]:
        base = self._host_ps + self._sequence_ps * decodes
        base += self._forward_ps(decodes) + self.sampling_ps(decodes)
        if not self._limited_ps:
            line = DecodeLine(base, self._full_ps, UNBOUNDED, _doubt(base))
            return line, line
        edge = decodes * self._limit
        below = DecodeLine(base, self._full_ps + self._limited_ps, edge, _doubt(base))
        base += self._limited_ps * edge
        return below, DecodeLine(base, self._full_ps, UNBOUNDED, _doubt(base))

    def _mask(self, decodes: int, structured: int) -> list[DecodeLine]:
        """The lines where the host fills masks during the forward, and sampling waits for them."""
        least = self._host_ps + self._sequence_ps * decodes + self.masks_ps(structured)
        apply_ps, start, found = self.bitmask_ps(structured), 0, []
        for base, slope, until, _ in self._decode_lines(decodes):
            if start < until:
                cut = min(until, -((base - least) // slope)) if slope else until * (base < least)
                if cut > start:
                    flat = least + apply_ps
                    found.append(DecodeLine(flat, 0, cut, _doubt(flat)))
                if cut < until:
                    found.append(DecodeLine(base + apply_ps, slope, until, _doubt(base + apply_ps)))
            start = until
        return found

    def masks_ps(self, rows: int) -> int:
        """Until the masks of *rows* rows are filled and on the GPU; it computes meanwhile."""
        return round(self._masks(rows) * PS)

    def bitmask_ps(self, rows: int) -> int:
        """Applying them to the logits."""
        return round(self._apply_masks(rows) * PS)

    def _forward_ps(self, tokens: int) -> int:
        """All that depends on the number of tokens alone; 0 for none."""
        found = self._tokens_ps.get(tokens)
        if found is None:
            total = self._forward + tokens * self._token
            for arithmetic, weights, rows in self._dense:
                total += max(tokens * arithmetic, weights + tokens * rows)
            if self._ranks == 1:
                total += self.experts_ps(tokens)
            found = self._tokens_ps[tokens] = round(total)
        return found

    def joint_ps(self, tokens: int) -> Picoseconds:
        """Experts on the tokens of all ranks, gathered before and scattered after every layer.

        Expert imbalance and padding the ranks to equal batches are left out.
        """
        return round(self.experts_ps(tokens) + self.exchange_ps(tokens))

    def exchange_ps(self, tokens: int) -> float:
        """Gathering *tokens* tokens of all ranks and scattering them, in all layers."""
        fixed, per_token = self._exchange_ps
        return fixed + tokens * per_token

    def token_op_ps(self, op: str, tokens: int) -> float:
        """The matrix product or element-wise operation *op* on *tokens* tokens, in all layers."""
        if op in self.elementwise:
            return tokens * self.elementwise[op]
        arithmetic, weights, rows = self._named[op]
        return max(tokens * arithmetic, weights + tokens * rows)

    @property
    def products(self) -> list[str]:
        """Names of the matrix products of the layers, experts apart."""
        return list(self._named)

    @property
    def decode_attention(self) -> tuple[int, int, int]:
        """(ps per token of context, ps per token of it within the limit, the limit; 0: none)."""
        return self._full_ps, self._limited_ps, self._limit

    def experts_ps(self, tokens: int) -> float:
        """Routed experts on one GPU, for the *tokens* that all of their GPUs serve."""
        if not self._routed:
            return 0.0
        read = self.distinct_experts(tokens)
        return sum(
            max(tokens * arithmetic, read * weights + tokens * rows)
            for arithmetic, weights, rows in self._routed
        )

    def distinct_experts(self, tokens: int) -> float:
        """Expected experts of one GPU that *tokens* tokens hit, each choosing top_k uniformly."""
        missed: float = (1 - self._top_k / self._experts) ** tokens
        return self._copies * (1 - missed)

    def sampling_ps(self, samples: int) -> int:
        """The LM head on *samples* rows; 0 for none."""
        found = self._heads_ps.get(samples)
        if found is None:
            arithmetic, weights, rows = self._head
            time = max(samples * arithmetic, weights + samples * rows)
            found = self._heads_ps[samples] = round(time)
        return found

    def image_ps(self, image_tokens: int) -> int:
        """The vision tower on an image of *image_tokens* tokens.

        Raises:
            InputError: the model has none.
        """
        if self._image is None:
            raise InputError(
                f"{self._model_name} has no vision tower, and the workload has images",
                where="model",
                help="choose a model with one, or a `vision:` section in a model file of your own",
            )
        return round(self._image.seconds(image_tokens) * PS)

    def chunk_ps(self, new: int, before: int) -> int:
        """Attention of a causal chunk of *new* tokens after *before*, over all layers."""
        end = before + new
        pairs = new * before + (new * (new + 1) >> 1)
        time = pairs * self._pair
        reading = end * self._key
        if reading > time:
            time = reading
        if self._limit:
            time += self._near(new, before, pairs)
        return round(time + before * self._expand)

    def _near(self, new: int, before: int, pairs: int) -> float:
        """Attention of the chunk where each query reads the last `limit` tokens at most."""
        reach = self._limit
        if before >= reach:
            pairs = new * reach
        elif before + new > reach:
            rising = reach - before
            pairs = rising * before + (rising * (rising + 1) >> 1) + (new - rising) * reach
        return max(pairs * self._near_pair, min(before + new, reach + new) * self._near_key)


def _doubt(base_ps: int) -> LineDoubt:
    return LineDoubt(_all_datasheet(base_ps), DATASHEET)


def _all_datasheet(ps: int) -> Split:
    return tuple([ps if i == DATASHEET else 0 for i in range(len(GRADES))])
