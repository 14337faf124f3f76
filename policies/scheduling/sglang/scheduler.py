"""SGLang's scheduler loop."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, get_args

from ...errors import UnknownNameError
from ...registry import scheduling
from ...types import Promise, SequenceView
from ..base import Found, Handle, ReplicaView, Step
from .adder import Addition, Demand, PrefillAdder, Verdict
from .order import MOST_MATCHED, TOUCH_EVERY, LineOrder, Name, Waiting, reserved_chunk
from .ratio import RETRACT_STEPS, NewTokenRatio


@scheduling("sglang")
@dataclass(slots=True)
class Sglang:
    """A step is a prefill of waiting requests, or else a decode of the batch (SGLang 0.5.23).

    Order of the line and admission decide as recorded from the real scheduler (`infersim
    conform`); the loop around them and retraction are from reading `managers/scheduler.py`
    and `managers/schedule_batch.py`.

    Attributes:
        schedule_policy: the order of the line before each prefill.
        chunked_prefill_size: prompt tokens of a prefill, above which a prompt is cut; None: never.
        max_prefill_tokens: prompt tokens of a prefill; without chunks the first is let through.
        schedule_conservativeness: scales the share of answers that is set aside.
        enable_mixed_chunk: prefills carry the batch's decodes along.
        enable_priority_scheduling: fcfs and lof look at `priority` first.
        schedule_low_priority_values_first: small values of `priority` go first, as everywhere in
            this simulator; SGLang's own default is the other way.
        prefill_max_requests: requests of a prefill; None: no limit.
        ignore_eos: clients say that answers have their full length, as benchmarks do.
        random_seed: of the order "random".
    """

    schedule_policy: Name = "fcfs"
    chunked_prefill_size: int | None = 8192
    max_prefill_tokens: int = 16384
    schedule_conservativeness: float = 1.0
    enable_mixed_chunk: bool = False
    enable_priority_scheduling: bool = False
    schedule_low_priority_values_first: bool = True
    prefill_max_requests: int | None = None
    ignore_eos: bool = False
    random_seed: int = 0

    promise: ClassVar[Promise] = Promise(repeats=True)
    budgets: ClassVar[bool] = True  #: no other budget of tokens holds than its own

    _ratio: NewTokenRatio = field(init=False, repr=False, compare=False)
    _order: LineOrder | None = field(default=None, init=False, repr=False, compare=False)
    _line: dict[int, Waiting] = field(default_factory=dict, init=False, repr=False, compare=False)
    _chunked: Handle = field(default=None, init=False, repr=False, compare=False)
    _full: bool = field(
        default=False, init=False, repr=False, compare=False
    )  # SGLang's batch_is_full
    _batch: int = field(
        default=0, init=False, repr=False, compare=False
    )  # running, after the last schedule
    _places: dict[int, int] = field(default_factory=dict, init=False, repr=False, compare=False)
    _others: int = field(
        default=0, init=False, repr=False, compare=False
    )  # steps that were no decode
    _computed: int = field(default=0, init=False, repr=False, compare=False)
    _passes: int = field(default=0, init=False, repr=False, compare=False)
    _stable: bool = field(default=False, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.schedule_policy not in get_args(Name):
            raise UnknownNameError("schedule_policy", self.schedule_policy, get_args(Name))
        for name in ("chunked_prefill_size", "max_prefill_tokens", "prefill_max_requests"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, found {value}")
        if not 0 < self.schedule_conservativeness < float("inf"):
            raise ValueError(
                f"schedule_conservativeness must be above 0, found {self.schedule_conservativeness}"
            )
        self._ratio = NewTokenRatio(self.schedule_conservativeness)

    # ---- the loop -------------------------------------------------------------------------------

    def schedule(self, view: ReplicaView, step: Step) -> None:
        """Plan one step."""
        self._stable = False
        self._look(view)
        if not view.running and not view.waiting_count:
            self._ratio.idle(self._decodes(view))
        elif self._prefill(view, step):
            self._others += 1
        else:
            self._decode(view, step)
        self._batch = len(view.running)

    def repeats(self, view: ReplicaView) -> bool:
        """A decode repeats while nobody waits, or the batch is full until someone leaves it."""
        return self._stable and (self._full or not view.waiting_count)

    def _look(self, view: ReplicaView) -> None:
        """What happened since the last step."""
        running = view.running
        if len(running) < self._batch or not running:
            self._full = False
        chunked = self._chunked
        if chunked is not None and (chunked not in running or not chunked.is_chunk):
            self._chunked = None

    def _decodes(self, view: ReplicaView) -> int:
        """Decode steps so far."""
        return view.executed_steps - self._others

    # ---- prefill --------------------------------------------------------------------------------

    def _prefill(self, view: ReplicaView, step: Step) -> bool:
        """Whether there is one."""
        chunked = self._chunked
        if chunked is not None:
            step.index(chunked)
        elif self._full or not view.waiting_count:
            return False
        elif len(view.running) >= view.max_num_seqs:
            self._full = True
            return False
        line = self._sorted(view, step)
        decoding = [seq for seq in view.running if seq is not chunked]
        adder = self._adder(view, decoding)
        chosen: list[tuple[Handle, Addition]] = []
        more = None
        if chunked is not None:
            more = self._go_on(view, chunked, adder)
            chosen += [(chunked, more)] if more.tokens else []
        self._admit(view, step, adder, line, chosen, cut=more is not None and more.chunked)
        if not chosen:
            return False
        self._carry_out(view, step, chosen)
        return True

    def _adder(self, view: ReplicaView, decoding: list[SequenceView]) -> PrefillAdder:
        size = view.block_size
        return PrefillAdder(
            size,
            lambda: view.free_blocks * size,
            [self._demand(view, seq) for seq in decoding],
            ratio=self._ratio.after(self._decodes(view)),
            input_tokens=self.max_prefill_tokens,
            chunk_tokens=self.chunked_prefill_size,
            decodes=len(decoding) if self._mixes else 0,
            most=self.prefill_max_requests,
            one_chunked=self._chunked is not None or self._shortest_first,
        )

    @property
    def _mixes(self) -> bool:
        return self.enable_mixed_chunk and self.chunked_prefill_size is not None

    @property
    def _shortest_first(self) -> bool:
        return self.schedule_policy == "shortest-prefill-first"

    def _demand(
        self, view: ReplicaView, seq: SequenceView, prefix: int = 0, idle: int = 0
    ) -> Demand:
        known, prompt = seq.known_tokens, seq.request.prompt_tokens
        return Demand(known, prefix, _most_new(view, seq), known - prompt, self.ignore_eos, idle)

    def _go_on(self, view: ReplicaView, chunked: Handle, adder: PrefillAdder) -> Addition:
        """The next chunk of the prompt that was cut last."""
        done, size, limit = chunked.computed_tokens, view.block_size, None
        if self._shortest_first:
            left = chunked.known_tokens - done
            limit = reserved_chunk(self._line.values(), left, adder.chunk_left or 0, size)
        more = adder.go_on(self._demand(view, chunked, done), limit)
        # SGLang stops with an error where KV cannot hold the chunk; here it is cut, or waits
        room = view.free_blocks * size - done % -size
        if more.tokens <= room:
            return more
        return Addition(room // size * size, True, Verdict.NO_TOKEN)

    def _admit(
        self,
        view: ReplicaView,
        step: Step,
        adder: PrefillAdder,
        line: list[Handle],
        chosen: list[tuple[Handle, Addition]],
        *,
        cut: bool,
    ) -> None:
        """Go through the line until a budget is spent; whoever is admitted is held."""
        places = view.max_num_seqs - len(view.running)
        line.sort(key=lambda seq: not step.owns(seq))  # their KV came from elsewhere
        for seq in line:
            if adder.verdict() is Verdict.OTHER:
                return
            if not step.ready(seq):
                continue
            if sum(one is not self._chunked for one, _ in chosen) >= places:
                self._full = True
            if self._full:
                return
            prefix = step.visit(seq)
            if prefix is None:
                continue
            verdict = self._add(view, step, adder, seq, prefix, chosen, cut)
            if verdict is Verdict.NO_TOKEN:
                self._full = bool(chosen or view.running)
            if verdict is not Verdict.CONTINUE:
                return

    def _add(
        self,
        view: ReplicaView,
        step: Step,
        adder: PrefillAdder,
        seq: Handle,
        prefix: Found,
        chosen: list[tuple[Handle, Addition]],
        cut: bool,
    ) -> Verdict:
        demand = self._demand(view, seq, prefix.tokens, prefix.idle)
        if prefix.asynchronous:  # its KV comes from elsewhere: no part of SGLang's arithmetic
            whole = demand._replace(prefix=0, idle=0)
            if not adder.outlives(whole) or not step.load(seq, whole=True, watermark=0.0):
                return Verdict.NO_TOKEN
            adder.expect(whole)
            return adder.verdict()
        if step.owns(seq):
            return self._add_owner(step, adder, seq, demand, chosen, cut)
        added = adder.add(
            demand, partial(step.hold, seq), has_chunked=cut, cached=view.prefix_caching
        )
        if added.tokens:
            chosen.append((seq, added))
        return added.verdict

    def _add_owner(
        self,
        step: Step,
        adder: PrefillAdder,
        seq: Handle,
        demand: Demand,
        chosen: list[tuple[Handle, Addition]],
        cut: bool,
    ) -> Verdict:
        """A request whose KV came from elsewhere, or failed to: it has blocks for its prompt."""
        left = demand.known - demand.prefix
        if left <= 1:  # nothing to prefill
            step.hold(seq)
            adder.expect(demand)
            chosen.append((seq, Addition(left, False, Verdict.CONTINUE)))
            return adder.verdict()
        if cut or any(one.chunked for _, one in chosen):
            return Verdict.OTHER  # this one may have to be cut, and one at a time is
        step.hold(seq)
        added = adder.go_on(demand)
        chosen.append((seq, added))
        return added.verdict

    def _carry_out(
        self,
        view: ReplicaView,
        step: Step,
        chosen: list[tuple[Handle, Addition]],
    ) -> None:
        size = view.block_size
        tokens = sum(one.tokens for _, one in chosen)
        self._computed += tokens
        requests, blocks = step.decodes() if self._mixes else (0, 0)
        # SGLang makes room for a page more per request than it takes, unless pages are tokens
        step.make_room(tokens if size == 1 else -(-tokens // size) + len(chosen))
        was, self._chunked = self._chunked, None
        for seq, one in chosen:
            step.encodable(seq, seq.computed_tokens, one.tokens)
            if seq is was:
                step.take(seq, one.tokens)
            else:
                step.start(seq, one.tokens)
                self._line.pop(seq.request.id, None)
            if one.chunked:
                self._chunked = seq
        mixed = False
        if requests:
            step.make_room(blocks)
            if blocks <= view.free_blocks:
                mixed = True
                self._take_decodes(view, step, requests, {seq for seq, _ in chosen})
        self._join([seq for seq, one in chosen if not one.chunked], view, mixed)

    def _join(self, seqs: list[Handle], view: ReplicaView, mixed: bool) -> None:
        """Note the order of the batch: a mixed step puts those that join before the others."""
        places = self._places
        if len(places) > 2 * len(view.running) + 64:
            places = {seq.request.id: 0 for seq in view.running}
            self._places = {i: at for i, at in self._places.items() if i in places}
            places = self._places
        if mixed:
            first = min(places.values(), default=0) - len(seqs)
        else:
            first = max(places.values(), default=0) + 1
        for at, seq in enumerate(seqs, first):
            places[seq.request.id] = at

    # ---- the line -------------------------------------------------------------------------------

    def _sorted(self, view: ReplicaView, step: Step) -> list[Handle]:
        """The waiting requests in the order of the policy, which they keep until it sorts again."""
        if self._order is None:
            self._order = LineOrder(
                self.schedule_policy,
                cached=view.prefix_caching,
                priorities=self.enable_priority_scheduling,
                low_first=self.schedule_low_priority_values_first,
                seed=self.random_seed,
            )
        order = self._order
        if order.keeps_line:
            handles = list(view.line)
        else:
            line = self._known_line(view)
            keys = [_routing_key(seq) for seq in view.running]
            order.sort(line, step, running_keys=keys, computed_tokens=self._computed)
            self._line = {one.handle.request.id: one for one in line}
            handles = [one.handle for one in line]
        if not order.cache_aware and handles:
            if self._passes % TOUCH_EVERY == 0:
                for seq in reversed(handles[:MOST_MATCHED]):
                    step.touch(seq)
            self._passes += 1
        return handles

    def _known_line(self, view: ReplicaView) -> list[Waiting]:
        """Those who waited before, in the order they were left in, then those who came since."""
        present = {seq.request.id: seq for seq in view.line}
        line = [one for i, one in self._line.items() if present.pop(i, None) is one.handle]
        for seq in present.values():
            request = seq.request
            line.append(
                Waiting(
                    seq,
                    request.id,
                    request.prompt_tokens,
                    seq.known_tokens,
                    _most_new(view, seq),
                    request.priority,
                    seq.queued_ps,
                    _routing_key(seq),
                    self._computed,
                )
            )
        return line

    # ---- decode ---------------------------------------------------------------------------------

    def _decode(self, view: ReplicaView, step: Step) -> None:
        ends = any(not seq.is_chunk and not step.wanted(seq) for seq in view.prefilling)
        requests, blocks = step.decodes()
        if ends or not requests:
            self._full = False
        if not requests:
            return
        step.make_room(blocks)
        short = blocks > view.free_blocks
        if short:
            if ends or not self._retract(view, step):
                return  # those that end free their KV with this step
            requests, _ = step.decodes()
            if not requests:
                return
        self._take_decodes(view, step, requests)
        self._stable = not ends and not short

    def _take_decodes(
        self, view: ReplicaView, step: Step, requests: int, skip: Collection[Handle] = ()
    ) -> None:
        """Everyone decodes a token; SGLang makes room for a page each before every such step."""
        step.make_room(requests, each_decode=True)
        rest = view.prefilling if step.take_decodes(last_gives_way=True) else view.running
        for seq in list(rest):
            if seq in skip or seq.is_chunk or not step.wanted(seq):
                continue
            step.take(seq, 1)

    def _retract(self, view: ReplicaView, step: Step) -> bool:
        """Take KV from those with the shortest answers until the others' next tokens fit."""
        size, self._full = view.block_size, False
        batch = [seq for seq in view.running if not seq.is_chunk]
        batch.sort(key=lambda seq: self._places.get(seq.request.id, 0))
        batch.sort(key=_progress, reverse=True)
        blocks = view.free_blocks + 1
        while blocks > view.free_blocks:
            if len(batch) == 1 and self._chunked is not None:
                loser, self._chunked = self._chunked, None
            else:
                loser = batch.pop()
            if not step.preempt(loser, to_back=True):
                return False
            step.make_room(-(-len(batch) * RETRACT_STEPS // size))
            _, blocks = step.decodes()
            step.make_room(blocks)
        answered = sum(seq.known_tokens - seq.request.prompt_tokens for seq in batch)
        allowed = sum(_most_new(view, seq) for seq in batch)
        self._ratio.retracted(answered, allowed, len(batch), self._decodes(view) + 1)
        return True


def _most_new(view: ReplicaView, seq: SequenceView) -> int:
    """The longest answer that a request may get."""
    return min(seq.request.max_tokens, view.max_model_len - seq.request.prompt_tokens)


def _progress(seq: SequenceView) -> tuple[int, int]:
    prompt = seq.request.prompt_tokens
    return seq.known_tokens - prompt, -prompt


def _routing_key(seq: SequenceView) -> str:
    """SGLang's routing_key: requests of one session go together."""
    return f"session {seq.request.session}" if seq.request.session >= 0 else ""
