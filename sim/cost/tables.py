"""Step time from a profile: its tables added up, what it lacks filled from the roofline.

    kernels = operations by tokens (padded to the CUDA graph in pure decode) + attention
              + LM head and sampler by sampled rows, bitmask by those with a grammar + images
    exec    = in a graph: kernels * (1 + gap) + replay     else: max(kernels, launches * launch)
    step    = synchronous engine: exec + host              asynchronous: max(exec, host)
              where rows have a grammar the host fills their masks while the forward runs: these
              and what is launched take at least that, and sampling (the host, if asynchronous)
              + output, + the fixed price of leaving the graph where there is prefill
    (a host that is also the device, as a CPU is, works like that of a synchronous engine)

Everything is a pure function of the step's shape, in integer picoseconds.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from math import exp
from operator import add
from typing import TypeAlias

from ...policies.types import Picoseconds
from .attention import Term
from .base import EVEN, Contexts, DecodeLine, StepShape
from .grades import DATASHEET, GRADES, MEASURED, Split
from .lines import Batch, Curve, Grades, Rule
from .ops import OPS
from .overheads import Overheads
from .parts import Part, parts
from .prediction import PartTime, Prediction, level_sigma, predicted, sigma_of
from .profile import Host, Profile
from .roofline import Roofline
from .specs import GpuSpec, ModelSpec, Parallelism
from .stamps import other_kernels
from .uneven import matters
from .work import PS

#: decodes, how many of them have an adapter (0 where that changes nothing), how many a grammar
_Key: TypeAlias = tuple[int, int, int]


class TableCost:
    """`StepCost` of a profile.

    Args:
        async_scheduling: whether the engine hides its host work behind the GPU.
        factors: operation -> factor on its times ("host" too), to see what a result rests on.

    Raises:
        InputError: tables that contradict each other, or a model that cannot be split like that.
    """

    def __init__(
        self,
        profile: Profile,
        model: ModelSpec,
        gpu: GpuSpec,
        split: Parallelism | None = None,
        overheads: Overheads | None = None,
        *,
        async_scheduling: bool = True,
        factors: Mapping[str, float] | None = None,
    ) -> None:
        self.profile = profile
        split, over, factors = split or Parallelism(), overheads or Overheads(), factors or {}
        self._made_of = model, gpu, split, over
        self._roofline = Roofline(model, gpu, split, profile.dtype, profile.kv_dtype, over)
        self.parts = parts(profile, self._roofline, model, split, factors)
        stand_in = Host(step_s=over.host_step_s, sequence_s=over.host_sequence_s)
        self._host = profile.host or stand_in
        self._host_grade = DATASHEET if profile.host is None else MEASURED
        self._host_scale = PS * factors.get("host", 1.0)
        self._async = async_scheduling and self._host.overlaps
        self._sizes = sorted(profile.graphs.sizes) if profile.graphs else []
        launches = sum(part.launches for part in (*self.parts.tokens, *self.parts.samples))
        launches += self.parts.attention.launches
        host = self._host
        self._work_s = host.step_s, host.sequence_s, host.token_s
        self._output_ps = host.output_s * self._host_scale
        self._mixed_ps = host.mixed_step_s * self._host_scale
        self._launch_ps = launches * host.launch_s * self._host_scale
        self._tokens: dict[int, Grades] = {}
        self._samples: dict[int, Grades] = {}
        self._curves: dict[int, Curve] = {}
        self._batches: dict[_Key, Batch] = {}
        #: whether the profile says what uneven contexts add
        self.uneven = self.parts.attention.alphas is not None
        self._has_lora = self.parts.lora is not None
        lora = self.parts.lora.launches if self.parts.lora is not None else 0
        self._lora_launch_ps = lora * host.launch_s * self._host_scale
        self._exchange_factor = factors.get("all_reduce", 1.0)
        self._marginal_ps = self._marginal()

    @property
    def source(self) -> str:
        """The profile, whose it is, and what it lacks."""
        profile, stamp = self.profile, self.profile.stamp
        made = f"{stamp.origin}, {stamp.engine}" if stamp.engine else stamp.origin
        text = f"profile {profile.name} ({made})"
        if self.parts.filled:
            text += f"; filled from the roofline: {', '.join(self.parts.filled)}"
        return text

    @property
    def notes(self) -> list[str]:
        """What the reader of a run must know about the times."""
        found, lists = [*self.profile.notes, *other_kernels(self.profile.stamp)], self.parts
        if lists.filled:
            lacks = ", ".join(lists.filled)
            found.append(f"step times: the profile lacks {lacks}: from the datasheet roofline")
        if self.profile.host is None:
            found.append("step times: the profile lacks the host's work: the roofline's stands in")
        if lists.uncounted:
            found.append("step times: not counted: " + ", ".join(lists.uncounted))
        if lists.unused:
            found.append("step times: in the profile, in no step: " + ", ".join(lists.unused))
        return found

    # ---- what the engine asks -------------------------------------------------------------------

    def duration_ps(self, shape: StepShape) -> Picoseconds:
        """Time of the step.

        Raises:
            InputError: image tokens for a model that has no vision tower.
        """
        return self.timed(shape)[0]

    def timed(self, shape: StepShape) -> tuple[Picoseconds, Split]:
        """Time of a step, and how it is graded."""
        decodes, context, prefills, samples, images, contexts, adapted, structured = shape
        if not prefills and samples == decodes > 0 and not images:
            line = self.decode_line(decodes, context, contexts, adapted, structured)
            base, slope, _, doubt = line
            duration_ps, graded = base + slope * context, [0] * len(GRADES)
            assert doubt is not None
            doubt.add(1, duration_ps, graded)
            return duration_ps, tuple(graded)
        tokens = decodes
        for new, _ in prefills:
            tokens += new
        grades = self._kernels(shape, tokens)
        kernels = sum(grades)
        factor, replay, least, after = self._rule(shape, tokens)
        needed = factor * kernels + replay
        duration = (needed if needed > least else least) + after
        grades[self._host_grade] += duration - kernels
        if structured and (needed < least or not self._host.overlaps):
            guessed = min(duration - kernels, self._masks_ps(structured))
            grades[self._host_grade] -= guessed
            grades[DATASHEET] += guessed
        return round(duration) or 1, tuple(map(round, grades))

    def decode_line(
        self,
        decodes: int,
        context_tokens: int,
        contexts: Contexts = EVEN,
        adapted: int = 0,
        structured: int = 0,
    ) -> DecodeLine:
        """The line of *decodes* sequences at *context_tokens*: between two knots of the table."""
        key = decodes, adapted if self._has_lora else 0, structured
        batch = self._batches.get(key)
        if batch is None:
            batch = self._batches[key] = self._batch(key)
        shortest, longest = contexts
        if self.uneven and shortest < longest and decodes > 1:
            return batch.uneven_line(context_tokens, shortest, longest)
        return batch.line(context_tokens)

    def prefill_ps(self, tokens: int, context_tokens: int) -> Picoseconds:
        """What the tokens add to a step that is full anyway: operations and attention."""
        if not tokens:
            return 0
        attention = self.parts.attention.chunk(tokens, context_tokens)[0]
        return round(tokens * self._marginal_ps + attention)

    def joint_ps(self, tokens: int) -> Picoseconds:
        """Experts that data-parallel ranks share, and the exchange, which is the roofline's."""
        experts = self.parts.joint.at(tokens)[0] if self.parts.joint is not None else 0.0
        return round(experts + self._roofline.exchange_ps(tokens) * self._exchange_factor)

    def perturbed(self, draws: Mapping[str, float]) -> TableCost:
        """The same with the level of every operation off by its sigma times its family's draw.

        Args:
            draws: standard normal numbers by `ops.Family`, and for "host".
        """
        factors = {
            op: exp(level_sigma(self.profile, op) * draws[known.family])
            for op, known in OPS.items()
        }
        factors["host"] = exp(level_sigma(self.profile, "host") * draws["host"])
        model, gpu, split, over = self._made_of
        return TableCost(
            self.profile,
            model,
            gpu,
            split,
            over,
            async_scheduling=self._async,
            factors=factors,
        )

    # ---- for people -----------------------------------------------------------------------------

    def predict(self, shape: StepShape) -> Prediction:
        """The time of the step, part by part, and how far off it may be."""
        decodes, _, prefills, samples, images, _, adapted, structured = shape
        pure = not prefills and samples == decodes > 0 and not images
        tokens = self._padded(decodes) if pure else decodes + sum(new for new, _ in prefills)
        found: dict[str, tuple[float, int]] = {}
        for part in self.parts.tokens:
            found[part.op] = part.at(tokens)
        for part in self.parts.samples if samples else ():
            found[part.op] = part.at(samples)
        for image in images:
            ps, code = self.parts.image.at(image)
            found["image"] = ps + found.get("image", (0.0, 0))[0], code
        if adapted and self.parts.lora is not None:
            found["lora"] = self.parts.lora.at(adapted)
        if structured:
            found["bitmask"] = self.parts.bitmask.at(structured)
        for op, ps, grade in self._attention_terms(shape):
            before, worst = found.get(op, (0.0, 0))
            found[op] = before + ps, max(worst, grade)
        total = self.duration_ps(shape)
        found["host"] = total - sum(ps for ps, _ in found.values()), self._host_grade
        shares = {
            op: PartTime(ps / PS, GRADES[code], sigma_of(self.profile, op, GRADES[code]))
            for op, (ps, code) in found.items()
        }
        return predicted(total / PS, shares)

    # ---- a step's parts -------------------------------------------------------------------------

    def _kernels(self, shape: StepShape, tokens: int) -> Grades:
        """Picoseconds of all kernels by grade."""
        decodes, context, prefills, samples, images, contexts, adapted, structured = shape
        by_tokens = self._tokens.get(tokens) or self._of_tokens(tokens)
        by_samples = self._samples.get(samples) or self._of_samples(samples)
        found = list(map(add, by_tokens, by_samples))
        if prefills:
            terms = self.parts.attention.terms(prefills, decodes, context, contexts)
        else:
            terms = self._attention_terms(shape)
        for _, ps, grade in terms:
            found[grade] += ps
        if adapted and self.parts.lora is not None:
            ps, grade = self.parts.lora.at(adapted)
            found[grade] += ps
        if structured:
            ps, grade = self.parts.bitmask.at(structured)
            found[grade] += ps
        for image in images:
            ps, grade = self.parts.image.at(image)
            found[grade] += ps
        return found

    def _attention_terms(self, shape: StepShape) -> list[Term]:
        decodes, context, prefills, _, _, contexts, _, _ = shape
        attention = self.parts.attention
        if prefills:
            return attention.terms(prefills, decodes, context, contexts)
        if not decodes:
            return []
        ps, grade = attention.decode(decodes, context)
        if attention.alphas is not None and matters(decodes, contexts):
            alpha = attention.alphas.pure(decodes, context, contexts)
            most, _ = attention.decode(decodes, decodes * contexts[1])
            ps = max(0.0, ps + alpha * (most - ps))
        return [(attention.decode_op, ps, grade)]

    def _of_tokens(self, tokens: int) -> Grades:
        found = self._tokens.get(tokens)
        if found is None:
            found = self._tokens[tokens] = _summed(self.parts.tokens, tokens)
        return found

    def _of_samples(self, samples: int) -> Grades:
        found = self._samples.get(samples)
        if found is None:
            found = self._samples[samples] = _summed(self.parts.samples, samples)
        return found

    def _padded(self, decodes: int) -> int:
        """Rows of the graph that a decode batch runs in; the batch where none is so large."""
        i = bisect_left(self._sizes, decodes)
        return self._sizes[i] if i < len(self._sizes) else decodes

    def _rule(self, shape: StepShape, tokens: int) -> Rule:
        """How the host's work joins the kernels of a step."""
        decodes, _, prefills, samples, images, _, adapted, structured = shape
        scale = self._host_scale
        step_s, sequence_s, token_s = self._work_s
        work = step_s + sequence_s * (decodes + len(prefills)) + token_s * tokens
        work *= scale
        factor, replay, least, after = 1.0, 0.0, self._launch_ps, self._output_ps
        if adapted:
            least += self._lora_launch_ps
        if prefills:
            after += self._mixed_ps
        elif samples == decodes and not images and self._sizes and decodes <= self._sizes[-1]:
            assert self.profile.graphs is not None
            factor, replay = 1 + self.profile.graphs.gap, self.profile.graphs.replay_s * scale
            least = 0.0
        if structured:
            if self._host.overlaps:
                least += self._masks_ps(structured)
                if not self._async:  # and who waits for its tokens waits for what follows the masks
                    least += self.parts.bitmask.at(structured)[0]
            else:
                after += self._masks_ps(structured)
        if self._async:  # launching is the host's work as well: what it hides, it hides together
            return factor, replay, least + work, after
        return factor, replay, least, after + work

    def _marginal(self) -> float:
        """Picoseconds that one more token adds to a step of many, attention apart."""
        most = 2048
        return (sum(self._of_tokens(most)) - sum(self._of_tokens(most // 2))) / (most // 2)

    def _batch(self, key: _Key) -> Batch:
        """What the lines of *key* are made of."""
        decodes, adapted, structured = key
        curve = self._curves.get(decodes)
        if curve is None:
            curve = self._curves[decodes] = Curve(self.parts.attention, decodes)
        padded = self._padded(decodes)
        fixed = list(map(add, self._of_tokens(padded), self._of_samples(decodes)))
        if adapted and self.parts.lora is not None:
            ps, grade = self.parts.lora.at(adapted)
            fixed[grade] += ps
        if structured:
            ps, grade = self.parts.bitmask.at(structured)
            fixed[grade] += ps
        shape = StepShape(decodes, 0, (), decodes, adapted=adapted, structured=structured)
        rule, masks_ps = self._rule(shape, decodes), self._masks_ps(structured)
        return Batch(curve, rule, fixed, self._host_grade, masks_ps, not self._host.overlaps)

    def _masks_ps(self, rows: int) -> float:
        """Until the masks of *rows* rows are filled and on the GPU."""
        return self._roofline.masks_ps(rows) * self._host_scale / PS


def _summed(found: list[Part], count: int) -> Grades:
    grades = [0.0] * len(GRADES)
    if count:
        for part in found:
            ps, grade = part.at(count)
            grades[grade] += ps
    return grades
