"""Recorded vLLM cases: the engine-core loop around a `Replica`, step by step."""

from __future__ import annotations

from collections import deque
from typing import Any

from ...policies.eviction.lru import Lru
from ...policies.scheduling.order import LastAdmitted, LowestPriority, Priority
from ...policies.scheduling.vllm_v1 import VllmV1
from ...policies.types import MultiModalItem, Request, Segment
from ...sim.state.config import EngineLimits
from ...sim.state.content import Chains, Contents
from ...sim.state.kv.blocks import BlockPool
from ...sim.state.kv.face import KVPool
from ...sim.state.plan import StepPlan
from ...sim.state.queue import FifoQueue, OrderedQueue, WaitingQueue
from ...sim.state.replica import Replica
from ...sim.state.sequence import Sequence, Status
from .connector import RecordedConnector, Transfers

MAX_STEPS = 20_000


class VllmCase:
    """One case: its configuration and requests, played to the end by `play`.

    Args:
        case: a recording; only its ``config`` and ``requests`` are read.
        pool: the KV pool to use; None: a `BlockPool`, which knows block ids.
    """

    def __init__(self, case: dict[str, Any], pool: KVPool | None = None) -> None:
        self.config = config = case["config"]
        self.requests: list[dict[str, Any]] = case["requests"]
        self.block_size: int = config["block_size"]
        self.contents, self.chains = Contents(), Chains()
        self.connector = (
            RecordedConnector([r.get("kv") or {} for r in self.requests], self.block_size)
            if config.get("connector")
            else None
        )
        caching = bool(config["enable_prefix_caching"])
        self.pool = pool or BlockPool(
            config["num_gpu_blocks"] - 1, self.block_size, Lru(), caching=caching
        )
        self.records_blocks = bool(config.get("record_blocks"))
        self.records_evictions = self.records_blocks or bool(config.get("record_events"))
        if isinstance(self.pool, BlockPool) and self.records_evictions:
            self.pool.evicted_keys, self.pool.stored = [], []
        self.replica = Replica(
            _limits(config),
            self.pool,
            _scheduler(config),
            self._queue,
            connector=self.connector,
            accept=self._accepted,
        )
        self.replica.log_members = True
        self.sequences: dict[int, Sequence] = {}
        self.labels: dict[int, list[int]] = {}  # block key -> [index, last token]
        self.known_tables: dict[int, list[int]] = {}
        self.finished_at: dict[int, int] = {}
        self.stats = [0] * 6
        self.remote_stats = [0] * 4  # the last: lookups of preempted requests
        self.news = False  # something ended since the last schedule
        self.t = 0

    # ---- requests -------------------------------------------------------------------------------

    def _queue(self) -> WaitingQueue:
        if self.config["policy"] == "priority":
            order = Priority()
            return OrderedQueue(lambda seq: order.key(seq, 0), dynamic=False)
        return FifoQueue()

    def _accepted(self, seq: Sequence, drafts: int) -> int:
        """Accepted drafts, by the recording's fixed hash."""
        position = seq.known - seq.prompt_tokens
        mask = 0xFFFFFFFF
        x = self.config["accept_seed"] * 2654435761 + seq.id * 40503
        x = (x + position * 2246822519 + 12345) & mask
        x = ((x ^ x >> 15) * 2246822519) & mask
        x ^= x >> 13
        return int(x % (drafts + 1))

    def _segments(self, k: int) -> tuple[Segment, ...]:
        out = []
        for part in self.requests[k]["prompt"]:
            if part[0] == "s":
                out.append(Segment(self.contents.id("s", part[1]), part[2], part[3]))
            elif part[0] == "o":
                out.append(Segment(self.contents.id("o", part[1]), 0, part[2]))
            else:
                out += [Segment(self.contents.id("t", token), 0, 1) for token in part[1]]
        return tuple(segment for segment in out if segment.tokens)

    def _token(self, k: int, position: int) -> int:
        """The recording's token id at *position* of request k's prompt and answer."""
        for part in self.requests[k]["prompt"]:
            length = len(part[1]) if part[0] == "t" else part[-1]
            if position < length:
                if part[0] == "s":
                    return int(part[1] * 100_000 + part[2] + position)
                if part[0] == "o":
                    return int(10**9 + part[1] * 100_000 + position)
                return int(part[1][position])
            position -= length
        return 10**9 + k * 100_000 + position

    def _sequence(self, k: int) -> Sequence:
        spec = self.requests[k]
        prompt = self._segments(k)
        request = Request(
            id=k,
            arrival_ps=self.t * 10**6 + len(self.sequences),
            prompt=prompt,
            prompt_tokens=sum(segment.tokens for segment in prompt),
            max_tokens=spec["max_tokens"],
            output_content=self.contents.id("o", k),
            priority=spec.get("prio", 0),
            lora=str(spec["lora"]) if spec.get("lora") else "",
            salt=spec.get("salt") or "",
            items=tuple(
                MultiModalItem(self.contents.id("mm", name), offset, length)
                for name, offset, length in spec.get("mm", [])
            ),
        )
        chain = self.chains.chain(prompt, lora=request.lora, salt=request.salt, items=request.items)
        chain.append(request.output_content, 0, 0)
        seq = Sequence(request, spec["max_tokens"], chain, self.config["max_model_len"])
        if self.records_evictions:
            blocks = (seq.prompt_tokens + spec["max_tokens"]) // self.block_size
            for i, key in enumerate(chain.block_keys(0, blocks, self.block_size)):
                if key not in self.labels:
                    self.labels[key] = [i, self._token(k, (i + 1) * self.block_size - 1)]
        return seq

    def _due(self) -> list[int]:
        out = []
        for k, spec in enumerate(self.requests):
            if k in self.sequences:
                continue
            if "step" in spec:
                due = spec["step"] <= self.t
            else:
                after, delay = spec["after"]
                due = after in self.finished_at and self.finished_at[after] + delay <= self.t
            if due:
                out.append(k)
        return out

    # ---- the engine-core loop -------------------------------------------------------------------

    def play(self) -> list[dict[str, Any]]:
        """Every step in the recording's format."""
        replica, lag = self.replica, int(self.config["async_scheduling"])
        steps: list[dict[str, Any]] = []
        queue: deque[tuple[int, StepPlan, Transfers]] = deque()
        while self.t <= MAX_STEPS:
            record: dict[str, Any] = {"t": self.t}
            if self.connector is not None:
                self.connector.t = self.t
            self._arrive(record)
            pending = self._alive()
            if not pending and not queue:
                if len(self.sequences) == len(self.requests):
                    return steps
                if steps and "abort" in record:
                    steps.append(record)
                self.t += 1
                continue
            if pending:
                plan = replica.schedule(self.t)
                self.news = False
                self._log_schedule(record, plan)
                queue.append((self.t, plan, self._completed()))
                if lag and len(queue) < 2 and (plan.tokens or self._alive()):
                    steps.append(record)
                    self.t += 1
                    continue
            self._update(record, queue.popleft(), logs_index=bool(lag))
            if record.get("sched") or record.keys() & _WORTH_A_RECORD:
                steps.append(record)
            self.t += 1
        raise RuntimeError(f"the case does not end within {MAX_STEPS} steps")

    def _alive(self) -> bool:
        return self.replica.has_requests or self.news or bool(self.replica.sending)

    def _arrive(self, record: dict[str, Any]) -> None:
        for k in self._due():
            self.sequences[k] = seq = self._sequence(k)
            self.replica.submit(seq)
            record.setdefault("add", []).append(k)
        aborted = [k for k, spec in enumerate(self.requests) if spec.get("abort") == self.t]
        if any(k in self.sequences for k in aborted):
            record["abort"] = []
        for k in aborted:
            found = self.sequences.get(k)
            if found is not None and found.status is not Status.FINISHED:
                self.replica.abort(found)
                self.replica.finished.clear()
                self.finished_at[k] = self.t
                self.news = True
                record["abort"].append(k)

    def _log_schedule(self, record: dict[str, Any], plan: StepPlan) -> None:
        replica = self.replica
        record["sched"] = self._rows(plan)
        if plan.preempted:
            record["pre"] = [seq.id for seq in plan.preempted]
        if plan.encoder:
            record["enc"] = [[seq.id, items] for seq, items in plan.encoder]
        if plan.encoder_evicted:
            names = {self.contents.id("mm", item[0]): item[0] for item in self._items()}
            record["encfree"] = [names[identifier] for identifier in plan.encoder_evicted]
        record["run"] = [seq.id for seq in replica.running]
        for field, line in (("wait", replica.waiting), ("hold", replica.holding)):
            if line:
                record[field] = [seq.id for seq in line]
        record["free"] = self.pool.free
        for admission in plan.admissions:
            at = 3 if admission.resumed else 0
            for i, value in enumerate((1, admission.queried, admission.local)):
                self.stats[at + i] += value
            beyond = admission.queried - admission.local
            if self.connector is not None and beyond:
                row = (1, beyond, admission.remote.tokens, 0)
                for i, value in enumerate((0, 0, 0, 1) if admission.resumed else row):
                    self.remote_stats[i] += value
        if self.records_blocks:
            self._log_tables(record, plan)
        if self.connector is not None and self.connector.started:
            record["load"] = [[s.id, n, a] for s, n, a in self.connector.started]
            self.connector.started.clear()

    def _items(self) -> list[list[Any]]:
        return [item for spec in self.requests for item in spec.get("mm", [])]

    def _rows(self, plan: StepPlan) -> list[list[Any]]:
        rows: list[tuple[int, list[Any]]] = []
        for seq in plan.members or ():
            assert seq.base is not None
            rows.append((seq.run_number, [seq.id, plan.index - seq.base, 1, "c"]))
        for chunk in plan.chunks:
            kind = "c" if chunk.admitted is None else "r" if chunk.admitted else "n"
            row = [chunk.seq.id, chunk.start, chunk.tokens, kind]
            if self.config["num_spec_tokens"]:
                row.append(chunk.drafts)
            rows.append((chunk.seq.run_number, row))
        return [row for _, row in sorted(rows, key=lambda r: r[0])]

    def _log_tables(self, record: dict[str, Any], plan: StepPlan) -> None:
        admitted = {chunk.seq.id for chunk in plan.chunks if chunk.admitted is not None}
        for seq in plan.preempted:
            self.known_tables.pop(seq.id, None)
        changed = []
        for seq in self.replica.running:
            old = self.known_tables.get(seq.id, [])
            if seq.table == old:
                continue
            grown = bool(old) and seq.table[: len(old)] == old and seq.id not in admitted
            start = len(old) if grown else 0
            changed.append([seq.id, start, seq.table[start:]])
            self.known_tables[seq.id] = list(seq.table)
        if changed:
            record["blk"] = changed

    def _update(
        self, record: dict[str, Any], item: tuple[int, StepPlan, Transfers], *, logs_index: bool
    ) -> None:
        at, plan, (received, sent) = item
        replica = self.replica
        replica.emitted = []
        if plan.tokens:
            replica.finish(plan, self.t)
        if logs_index:
            record["upd"] = at
        self._log_outputs(record)
        ended: list[tuple[int, str]] = [(seq.id, "L") for seq in replica.finished]
        replica.finished.clear()
        for seq, bad_block in received:
            failed = bad_block is not None and bad_block < seq.blocks
            if failed and replica.limits.fail_on_load_error and seq.status is Status.LOADING:
                replica.abort(seq)
                ended.append((seq.id, "E"))
                replica.finished.clear()
            replica.received(seq, bad_block if failed else None)
        for seq in sent:
            replica.sent(seq)
        for k, _ in ended:
            self.finished_at[k] = self.t
            self.known_tables.pop(k, None)
            self.news = True
        if ended:
            record["fin"] = [list(end) for end in ended]
        if self.connector is not None and self.connector.handed_over:
            record["kvp"] = list(self.connector.handed_over)
            self.connector.handed_over.clear()
        for field, stats, width in (("pc", self.stats, 6), ("xpc", self.remote_stats, 3)):
            if any(stats[::3]) and (field == "xpc" or self.config["enable_prefix_caching"]):
                record[field] = stats[:width]
            stats[:] = [0] * len(stats)
        record["free2"] = self.pool.free
        if isinstance(self.pool, BlockPool) and self.records_evictions:
            self._log_pool(record, self.pool)

    def _log_outputs(self, record: dict[str, Any]) -> None:
        for seq, tokens, cached in self.replica.emitted:
            if self.config["num_spec_tokens"] and tokens != 1:
                record.setdefault("ntok", []).append([seq.id, tokens])
            if seq.record is None:
                seq.record = "seen"
                stored = min(seq.prompt_tokens, cached * self.block_size)
                created = max(0, stored - seq.hit_tokens - seq.external_tokens)
                record.setdefault("pf", []).append(
                    [seq.id, seq.hit_tokens, seq.external_tokens, created]
                )

    def _log_pool(self, record: dict[str, Any], pool: BlockPool) -> None:
        assert pool.evicted_keys is not None
        assert pool.stored is not None
        if pool.evicted_keys:
            record["evict"] = [list(self.labels[key]) for key in pool.evicted_keys]
            pool.evicted_keys.clear()
        if self.records_blocks:
            queue = pool.queue()
            record["fq"] = [block for block, _ in queue]
            record["fqc"] = "".join("1" if cached else "0" for _, cached in queue)
            if pool.stored:
                record["stored"] = [
                    [first, last - first, self._token(seq.id, last * self.block_size - 1)]
                    for seq, first, last in pool.stored
                ]
        pool.stored.clear()

    def _completed(self) -> Transfers:
        """Loads and sends that complete by now, in the order in which they began."""
        return self.connector.completed() if self.connector is not None else ([], [])


_WORTH_A_RECORD = {"fin", "pre", "add", "abort", "pc", "load", "upd"}


def _limits(config: dict[str, Any]) -> EngineLimits:
    return EngineLimits(
        kv_blocks=config["num_gpu_blocks"] - 1,
        block_size=config["block_size"],
        max_model_len=config["max_model_len"],
        max_num_batched_tokens=config["max_num_batched_tokens"],
        max_num_seqs=config["max_num_seqs"],
        prefix_caching=config["enable_prefix_caching"],
        async_scheduling=config["async_scheduling"],
        max_loras=config["max_loras"],
        num_spec_tokens=config["num_spec_tokens"],
        encoder_budget=config["encoder_budget"],
        encoder_cache_size=config["encoder_cache_size"],
        fail_on_load_error=(config.get("connector") or {}).get("failure_policy") == "fail",
    )


def _scheduler(config: dict[str, Any]) -> VllmV1:
    return VllmV1(
        chunked_prefill=config["enable_chunked_prefill"],
        long_prefill_token_threshold=config["long_prefill_token_threshold"],
        adaptive_long_prefill=config["long_prefill_token_threshold_adaptive"],
        max_num_active_seqs=config["max_num_active_seqs"],
        watermark=config["watermark"],
        reserve_full_isl=config["scheduler_reserve_full_isl"],
        prefill_schedule_interval=config["prefill_schedule_interval"],
        victim=LowestPriority() if config["policy"] == "priority" else LastAdmitted(),
    )
