"""Replicas behind a router, as the simulator's cluster decides, over real devices."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from typing import Any, NamedTuple, TypeAlias

from ...policies.errors import InputError
from ...policies.eviction.future import NextUse
from ...policies.types import Picoseconds, ReplicaId, Request, Routable
from ...sim.state.connector import Connector
from ...sim.state.content import Chain, Chains
from ...sim.state.journal import Journal, RequestRecord
from ...sim.state.kv.blocks import BlockPool
from ...sim.state.misses import MissExplainer
from ...sim.state.offload import OffloadConnector
from ...sim.state.plan import StepPlan
from ...sim.state.queue import waiting_line
from ...sim.state.records import GapHistogram
from ...sim.state.replica import Replica
from ...sim.state.sequence import Sequence
from ...sim.state.session import Call, CallResult
from ...sim.state.split import PullConnector, Splitter
from .carrier import Carrier, Fetcher
from .clock import Clock
from .config import ClusterLike, PoolLike
from .runner import StepRunner
from .server import Server
from .texts import Texts

Answer: TypeAlias = Callable[[CallResult], Any]
MakeRunner: TypeAlias = Callable[[PoolLike, ReplicaId], StepRunner]


class Seen(NamedTuple):
    """A replica as a router sees it (`policies.types.Routable`)."""

    id: ReplicaId
    waiting: int
    running: int
    kv_used: float
    taken_ps: Picoseconds
    clock: Clock | None

    @property
    def age_ps(self) -> Picoseconds:
        """How old the report is."""
        return 0 if self.clock is None else self.clock.now_ps - self.taken_ps


class Cluster:
    """Implements `policies.types.ClusterView` and `policies.disaggregation.base.Pools`.

    Args:
        texts: makes the tokens of a replica's requests.
        make_runner: a device for each replica.
        on_answer: called when a request has ended, before its client hears of it.
    """

    def __init__(
        self,
        config: ClusterLike,
        clock: Clock,
        journal: Journal,
        chains: Chains,
        future: NextUse | None,
        *,
        texts: Callable[[], Texts],
        make_runner: MakeRunner,
        on_answer: Callable[[], None],
    ) -> None:
        self.config, self.clock, self.journal = config, clock, journal
        self._chains, self._on_answer = chains, on_answer
        self.gaps = GapHistogram()
        self.servers: list[Server] = []
        self.offloads: list[OffloadConnector] = []
        self.carrier = Carrier(config.kv_link, clock, self.servers)
        self._splitter = Splitter(
            self.servers.__getitem__, lambda: clock.now_ps, self.carrier.carry
        )
        self._pool_of: list[PoolLike] = []
        self.mixed: list[ReplicaId] = []
        self.prefill: list[ReplicaId] = []
        self.decode: list[ReplicaId] = []
        for pool in config.pools:
            ids = {"both": self.mixed, "prefill": self.prefill, "decode": self.decode}[pool.role]
            for _ in range(pool.replicas):
                number = len(self.servers)
                ids.append(number)
                self._pool_of.append(pool)
                runner = make_runner(pool, number)
                self.servers.append(self._server(pool, number, runner, texts(), future))
        self._explainer = MissExplainer([pool.limits.block_size for pool in self._pool_of])
        self._answers: dict[int, Answer] = {}
        self._candidates: Seq[ReplicaId] = ()
        self._reports: list[Routable] = []
        self._chain: Chain | None = None

    def _server(
        self,
        pool: PoolLike,
        number: int,
        runner: StepRunner,
        texts: Texts,
        future: NextUse | None,
    ) -> Server:
        eviction, limits = pool.make_eviction(), pool.limits
        if eviction.promise.oracle and future is not None:
            eviction.attach(future)
        # ids of blocks are what tensors are indexed by, so never runs of blocks
        kv = BlockPool(limits.kv_blocks, limits.block_size, eviction, caching=limits.prefix_caching)
        connector: Connector | None = None
        if pool.role == "prefill":
            connector = self._splitter.source
        elif pool.role == "decode":
            connector = PullConnector(self._splitter, limits.block_size, pool.kv_bytes_per_token)
        elif pool.offload is not None:
            fetcher = Fetcher(pool.offload, self.clock, lambda: self.servers[number])
            block_bytes = limits.block_size * pool.kv_bytes_per_token
            connector = OffloadConnector(
                kv, pool.offload.blocks, block_bytes, fetcher.keep, fetcher.fetch
            )
            self.offloads.append(connector)
        replica = Replica(
            limits,
            kv,
            pool.make_scheduler(),
            lambda: waiting_line(pool.order, lambda: self.clock.now_ps),
            connector=connector,
            gaps=self.gaps,
        )
        return Server(
            self.clock,
            number,
            replica,
            pool.cost,
            runner,
            texts,
            on_end=lambda seq: self._ended(number, seq),
            on_admit=lambda plan: self._admitted(number, plan),
        )

    # ---- a request's way ------------------------------------------------------------------------

    def submit(self, call: Call, answer: Answer) -> None:
        """A call reaches the router; *answer* is called when it has ended."""
        request, chain = self._request(call)
        self.journal.arrived += 1
        self._chain = chain
        if not any(
            pool.model in ("", request.model) or not request.model for pool in self.config.pools
        ):
            self._refuse(request, f"no pool serves the model {request.model}", answer)
            return
        placement = self.config.disaggregation.place(request, self, self._route(request))
        pool = self._pool_of[placement.prefill]
        final = self._pool_of[placement.decode] if placement.decode is not None else pool
        for limit in (pool.limits.max_model_len, final.limits.max_model_len):
            if request.prompt_tokens >= limit:
                self._refuse(request, f"prompt over the context limit of {limit} tokens", answer)
                return
        self._answers[request.id] = answer
        if placement.decode is None:
            seq = Sequence(request, call.output_tokens, chain, pool.limits.max_model_len)
        else:
            seq = self._splitter.split(
                request, call.output_tokens, chain, placement, pool.limits, final.limits
            )
        seq.record = RequestRecord(request.arrival_ps)
        seq.record.prefill_replica = placement.prefill
        self.servers[placement.prefill].submit(seq)

    def _refuse(self, request: Request, reason: str, answer: Answer) -> None:
        self.journal.refused(request, self.clock.now_ps, reason)
        self._on_answer()
        answer(CallResult(False, reason, 0))

    def _request(self, call: Call) -> tuple[Request, Chain]:
        prompt_tokens = sum(segment.tokens for segment in call.prompt)
        if prompt_tokens < 1 or call.output_tokens < 1:
            raise InputError(
                f"a call needs at least one prompt token and one output token, "
                f"found {prompt_tokens} and {call.output_tokens}"
            )
        request = Request(
            id=self.journal.arrived,
            arrival_ps=self.clock.due_ps,
            prompt=call.prompt,
            prompt_tokens=prompt_tokens,
            max_tokens=call.max_tokens if call.max_tokens is not None else 1 << 40,
            output_content=call.output_content,
            session=call.session,
            turn=call.turn,
            priority=call.priority,
            tenant=call.tenant,
            kind=call.kind,
            model=call.model,
            lora=call.lora,
            salt=call.salt,
            items=call.items,
            tool_time_s=call.tool_time_s,
        )
        chain = self._chains.chain(
            call.prompt, model=call.model, lora=call.lora, salt=call.salt, items=call.items
        )
        chain.append(call.output_content, 0, 0)
        return request, chain

    def _admitted(self, number: int, plan: StepPlan) -> None:
        for seq, _, local, remote, resumed in plan.admissions:
            record = seq.record
            if resumed:
                continue
            if number == record.prefill_replica:
                record.hit_tokens, record.remote_tokens = local, remote.tokens
                cost, found = self._pool_of[number].cost.prefill_ps, local + remote.tokens
                record.misses = self._explainer.explain(number, seq, found, cost)
            else:
                record.remote_tokens = remote.tokens

    def _ended(self, number: int, seq: Sequence) -> None:
        record = seq.record
        if record.scheduled_ps < 0:
            record.scheduled_ps = seq.scheduled_ps
        record.preemptions += seq.preemptions
        record.recomputed += seq.recomputed
        self._explainer.computed(number, seq, seq.known - 1)
        if self._splitter.prefilled(seq):
            return
        self.journal.ended(seq, record, number, self.clock.now_ps)
        self._on_answer()
        answer = self._answers.pop(seq.id)
        answer(CallResult(True, "", seq.known - seq.prompt_tokens))

    @property
    def open_requests(self) -> int:
        """Requests taken and not answered yet."""
        return len(self._answers)

    # ---- what routers see -----------------------------------------------------------------------

    def _route(self, request: Request) -> Callable[[Seq[ReplicaId]], ReplicaId]:
        def route(candidates: Seq[ReplicaId]) -> ReplicaId:
            model = request.model
            self._candidates = [
                i for i in candidates if not model or self._pool_of[i].model in ("", model)
            ]
            chosen = self.config.routing.route(request, self)
            if chosen not in self._candidates:
                raise InputError(
                    f"the router chose replica {chosen}; it may choose {list(self._candidates)}"
                )
            return chosen

        return route

    @property
    def now(self) -> Picoseconds:
        """The time."""
        return self.clock.now_ps

    @property
    def replicas(self) -> list[Routable]:
        """The candidates for the request being routed, as they last reported."""
        if self.config.signal_age_ps:
            return [self._reports[i] for i in self._candidates]
        return [self._seen(i, None) for i in self._candidates]

    def keep_reports(self) -> None:
        """Let the router see all replicas as they are now, until the next call."""
        self._reports = [self._seen(i, self.clock) for i in range(len(self.servers))]

    def _seen(self, number: ReplicaId, clock: Clock | None) -> Routable:
        server = self.servers[number]
        replica = server.replica
        used = server.kv_now()[0] / replica.pool.total
        now = self.clock.now_ps
        return Seen(number, replica.waiting_count, len(replica.running), used, now, clock)

    def prefix_hit_tokens(self, replica: ReplicaId, request: Request) -> int:
        """Tokens of the prompt that the replica's index holds."""
        assert self._chain is not None
        pool = self.servers[replica].replica.pool
        probe = Sequence(request, 1, self._chain, request.prompt_tokens + 1)
        return pool.match(probe, request.prompt_tokens - 1).blocks * pool.block_size
