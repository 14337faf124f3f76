"""What a step is made of: for every operation a table of the profile, or the roofline's part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from .attention import Attention, MixedAttention, SeparateAttention
from .dtypes import HALF_BYTES
from .grades import DATASHEET
from .grids import Line, Slices, Value, decode_slices, rows_of
from .grids import prefill_slices as _prefill_slices
from .mixed import Mixed
from .ops import OPS, Family
from .profile import Profile, Table
from .roofline import Roofline
from .specs import ModelSpec, Parallelism
from .uneven import Alphas


class Part(NamedTuple):
    """An operation as a function of one number: tokens, or sampled rows.

    Attributes:
        launches: kernels of it in a step.
        at: the number -> picoseconds of all launches, and the grade.
    """

    op: str
    family: Family
    launches: int
    at: Callable[[int], Value]


class Parts(NamedTuple):
    """Everything in a step but the host's work.

    Attributes:
        tokens: operations on every row of the forward pass.
        samples: operations on the rows that sample.
        joint: routed experts that data-parallel ranks share, by the tokens of all; None: the
            replica is one rank.
        lora: adapters, by the tokens that have one; None: the profile has no table of them.
        bitmask: structured output, by the rows that have a grammar.
        image: the vision tower; None: the model has none, or the roofline's says what is wrong.
        filled: operations that come from the roofline.
        uncounted: operations that neither has.
        unused: operations of the profile that no step of this engine has.
    """

    tokens: list[Part]
    samples: list[Part]
    joint: Part | None
    lora: Part | None
    bitmask: Part
    image: Part
    attention: Attention
    filled: list[str]
    uncounted: list[str]
    unused: list[str]


def parts(
    profile: Profile,
    roofline: Roofline,
    model: ModelSpec,
    split: Parallelism,
    factors: Mapping[str, float],
) -> Parts:
    """The parts of a step of *model*.

    Args:
        factors: operation -> factor on its times, for what a result rests on.

    Raises:
        InputError: a mixed attention table without pure decode or pure prefill.
    """
    return _Builder(profile, roofline, model, split, factors).build()


class _Builder:
    def __init__(
        self,
        profile: Profile,
        roofline: Roofline,
        model: ModelSpec,
        split: Parallelism,
        factors: Mapping[str, float],
    ) -> None:
        self._tables = {table.op: table for table in profile.tables}
        self._mixed = profile.attention == "mixed"
        self._alphas = Alphas(profile.uneven) if profile.uneven else None
        self._roofline, self._model, self._split = roofline, model, split
        self._ep = profile.ep
        self._factors = factors
        self._filled: list[str] = []
        self._uncounted: list[str] = []

    def build(self) -> Parts:
        """The parts; what is left of the tables is in no step."""
        tokens = self._token_parts()
        samples = [self._samples("lm_head"), self._samples("sampler")]
        found = Parts(
            tokens,
            [part for part in samples if part is not None],
            self._experts() if self._ranks_share else None,
            self._table("lora"),
            self._table("bitmask") or self._roofline_bitmask(),
            self._image(),
            self._attention(),
            self._filled,
            self._uncounted,
            [],
        )
        return found._replace(unused=self._superfluous(found))

    def _superfluous(self, found: Parts) -> list[str]:
        used = {part.op for part in (*found.tokens, *found.samples, found.image)}
        used |= {"moe"} if self._moe_table is not None else set()
        used |= {"attention", "decode_attention", "prefill_attention"}
        return [op for op in self._tables if op not in used and OPS[op].family != "beside"]

    @property
    def _ranks_share(self) -> bool:
        return bool(self._model.experts) and self._split.dp > 1

    @property
    def _moe_table(self) -> Table | None:
        """The table of the experts, if it is of a GPU that holds as much of them as these do."""
        found, split = self._tables.get("moe"), self._split
        if split.dp > 1 and not (split.expert_parallel and self._ep == split.expert_gpus):
            return None  # a profile says how whole experts are shared, not slices by ranks
        return found

    def _factor(self, op: str) -> float:
        return self._factors.get(op, 1.0)

    # ---- by tokens ------------------------------------------------------------------------------

    def _token_parts(self) -> list[Part]:
        model = self._model
        found: list[Part | None] = [self._counted(op) for op in ("embedding", "final_norm")]
        if model.qk_norm:
            found.append(self._counted("qk_norm"))
        own_experts = bool(model.experts) and self._split.dp == 1
        wanted = [*self._roofline.elementwise, *self._roofline.products]
        left_out = {"moe"}
        if self._moe_table is not None and "router" not in self._tables:
            left_out.add("router")  # a table of the experts is of the whole block
        found += [self._table(op) or self._fill(op) for op in wanted if op not in left_out]
        if own_experts:
            found.append(self._experts())
        found += [self._messages(op) for op in self._roofline.communication]
        return [part for part in found if part is not None]

    def _counted(self, op: str) -> Part | None:
        """An operation that the roofline leaves out."""
        part = self._table(op)
        if part is None:
            self._uncounted.append(op)
        return part

    def _table(self, op: str) -> Part | None:
        table = self._tables.get(op)
        if table is None:
            return None
        return Part(op, OPS[op].family, table.times, self._line(table).at)

    def _line(self, table: Table) -> Line:
        rows = rows_of(table, self._factor(table.op))
        return Line((at[0], value, code) for at, value, code in rows)

    def _fill(self, op: str) -> Part:
        self._filled.append(op)
        ps, factor = self._roofline.token_op_ps, self._factor(op)
        times = self._model.layers * (2 if op == "norm" else 1)
        return Part(op, OPS[op].family, times, lambda m: (ps(op, m) * factor, DATASHEET))

    def _experts(self) -> Part:
        table, roofline, factor = self._moe_table, self._roofline, self._factor("moe")
        if table is None:
            other = f" (its table is of ep {self._ep})" if "moe" in self._tables else ""
            self._filled.append("moe" + other)
            if self._ranks_share:
                experts = roofline.experts_ps
                return Part("moe", "moe", 0, lambda m: (experts(m) * factor, DATASHEET))
            own = roofline.elementwise["moe"]
            return Part(
                "moe",
                "moe",
                2 * self._model.moe_layers,
                lambda m: ((roofline.experts_ps(m) + m * own) * factor, DATASHEET),
            )
        if len(table.by) == 1:
            return Part("moe", "moe", table.times, self._line(table).at)
        slices = Slices(rows_of(table, factor), free=True)
        distinct = roofline.distinct_experts
        return Part("moe", "moe", table.times, lambda m: slices.at(m, distinct(m)))

    def _messages(self, op: str) -> Part:
        """Collectives: a table by bytes, or the α–β model of `Overheads`."""
        table, factor = self._tables.get(op), self._factor(op)
        if table is not None:
            line, token_bytes = self._line(table), self._model.hidden * HALF_BYTES
            return Part(op, "collective", table.times, lambda m: line.at(m * token_bytes))
        self._filled.append(op)
        fixed, token = self._roofline.communication[op]
        times = 2 * self._model.layers if op == "all_reduce" else self._split.pp - 1
        return Part(op, "collective", times, lambda m: ((fixed + m * token) * factor, DATASHEET))

    # ---- by sampled rows, and images ------------------------------------------------------------

    def _samples(self, op: str) -> Part | None:
        found = self._table(op)
        if found is not None or op == "sampler":
            if found is None:
                self._uncounted.append(op)
            return found
        self._filled.append(op)
        ps, factor = self._roofline.sampling_ps, self._factor(op)
        return Part(op, "head", 1, lambda rows: (ps(rows) * factor, DATASHEET))

    def _roofline_bitmask(self) -> Part:
        ps, factor = self._roofline.bitmask_ps, self._factor("bitmask")
        return Part("bitmask", "beside", 1, lambda rows: (ps(rows) * factor, DATASHEET))

    def _image(self) -> Part:
        found = self._table("image")
        if found is not None:
            return found
        if self._model.vision is not None:
            self._filled.append("image")
        ps, factor = self._roofline.image_ps, self._factor("image")
        return Part("image", "image", 1, lambda tokens: (ps(tokens) * factor, DATASHEET))

    # ---- attention ------------------------------------------------------------------------------

    def _attention(self) -> Attention:
        layers = self._model.layers
        if self._mixed and "attention" in self._tables:
            table = self._tables["attention"]
            mixed = Mixed(rows_of(table, self._factor("attention")))
            return MixedAttention(mixed, table.times, self._alphas)
        slices = self._slices("decode_attention")
        prefill = self._slices("prefill_attention")
        return SeparateAttention(
            slices,
            prefill,
            self._roofline,
            layers,
            (self._factor("decode_attention"), self._factor("prefill_attention")),
        )

    def _slices(self, op: str) -> Slices | None:
        table = self._tables.get(op)
        if table is None:
            self._filled.append(op)
            return None
        rows = rows_of(table, self._factor(op))
        return decode_slices(rows) if op == "decode_attention" else _prefill_slices(rows)
