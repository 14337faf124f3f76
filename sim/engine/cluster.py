"""The cluster: requests come in, are placed, served and answered."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from typing import Any, TypeAlias, TypeVar

from ...policies.errors import InputError
from ...policies.eviction.future import NextUse
from ...policies.types import Picoseconds, ReplicaId, Request, Routable
from ..state.config import OffloadLimits
from ..state.connector import Connector
from ..state.content import Chain, Chains
from ..state.journal import Journal, RequestRecord
from ..state.kv.blocks import BlockPool
from ..state.kv.build import make_pool
from ..state.kv.face import KVPool
from ..state.link import FifoLink
from ..state.misses import MissExplainer
from ..state.offload import Load, OffloadConnector
from ..state.plan import StepPlan
from ..state.queue import waiting_line
from ..state.records import GapHistogram
from ..state.replica import Replica
from ..state.sequence import Sequence
from ..state.session import Call, CallResult
from ..state.split import Pull, PullConnector, Splitter
from .clock import ARRIVAL, Clock
from .config import ClusterConfig, Effort, PoolConfig
from .lockstep import Lockstep, Rank
from .reports import Live, Report
from .server import Server

Answer: TypeAlias = Callable[[CallResult], Any]
S = TypeVar("S", bound=Server)


class Cluster:
    """Replicas behind a router.

    Implements `policies.types.ClusterView` and `policies.disaggregation.base.Pools`: what routers
    and placements see.
    """

    def __init__(
        self,
        config: ClusterConfig,
        clock: Clock,
        journal: Journal,
        effort: Effort,
        chains: Chains,
        future: NextUse | None,
        *,
        leap: bool,
        on_answer: Callable[[], None],
    ) -> None:
        self.config, self.clock, self.journal, self._effort = config, clock, journal, effort
        self._on_answer = on_answer
        self.chains, self._future = chains, future
        self.gaps = GapHistogram()
        self.servers: list[Server] = []
        self.offloads: list[OffloadConnector] = []
        self._pool_of: list[PoolConfig] = []
        self.mixed: list[ReplicaId] = []
        self.prefill: list[ReplicaId] = []
        self.decode: list[ReplicaId] = []
        link = config.kv_link
        #: what carries KV between pools
        self.link = FifoLink(link.latency_ps, link.bytes_per_s) if link is not None else None
        self._splitter = Splitter(self.servers.__getitem__, lambda: clock.now_ps, self._carry)
        for pool in config.pools:
            ids = {"both": self.mixed, "prefill": self.prefill, "decode": self.decode}[pool.role]
            for _ in range(pool.replicas):
                numbers = range(len(self.servers), len(self.servers) + pool.ranks)
                ids.extend(numbers)
                self._pool_of += [pool] * pool.ranks
                if pool.ranks == 1:
                    self.servers.append(self._server(Server, pool, numbers[0], leap))
                else:
                    ranks = [self._server(Rank, pool, number, leap) for number in numbers]
                    Lockstep(clock, ranks, effort, leap=leap)
                    self.servers += ranks
        self._explainer = MissExplainer([pool.limits.block_size for pool in self._pool_of])
        self._answers: dict[int, Answer] = {}
        self._candidates: Seq[ReplicaId] = ()
        self._live: list[Routable] = [Live(server) for server in self.servers]
        self._reports: list[Routable] = []
        self._chain: Chain | None = None

    def _server(self, kind: type[S], pool: PoolConfig, number: int, leap: bool) -> S:
        eviction = pool.make_eviction()
        if eviction.promise.oracle and self._future is not None:
            eviction.attach(self._future)
        kv = make_pool(pool.limits, eviction, runs=pool.offload is None)
        connector: Connector | None = None
        if pool.role == "prefill":
            connector = self._splitter.source
        elif pool.role == "decode":
            connector = PullConnector(
                self._splitter, pool.limits.block_size, pool.kv_bytes_per_token
            )
        elif pool.offload is not None:
            connector = self._offload(pool, pool.offload, number, kv)
        replica = Replica(
            pool.limits,
            kv,
            pool.make_scheduler(),
            lambda: waiting_line(pool.order, lambda: self.clock.now_ps),
            connector=connector,
            gaps=self.gaps,
        )
        return kind(
            self.clock,
            number,
            replica,
            pool.cost,
            self._effort,
            leap=leap,
            on_end=lambda seq: self._ended(number, seq),
            on_admit=lambda plan: self._admitted(number, plan),
        )

    def _offload(
        self, pool: PoolConfig, tier: OffloadLimits, number: int, kv: KVPool
    ) -> OffloadConnector:
        assert isinstance(kv, BlockPool)
        link = FifoLink(tier.latency_ps, tier.bytes_per_s)

        def fetch(load: Load, here: Callable[[], None]) -> None:
            begun, record = self.clock.now_ps, load.target.record

            def arrived(_: object) -> None:
                record.transfer_bytes += load.size_bytes
                record.transfer_ps += self.clock.now_ps - begun
                self.servers[number].tell(here)

            self.clock.at(link.send(begun, load.size_bytes), ARRIVAL, arrived)

        block_bytes = pool.limits.block_size * pool.kv_bytes_per_token
        found = OffloadConnector(kv, tier.blocks, block_bytes, lambda moves: None, fetch)
        self.offloads.append(found)
        return found

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
        reason = _refusal(request, pool) or _refusal(request, final)
        if reason:
            self._refuse(request, reason, answer)
            return
        self._answers[request.id] = answer
        record = RequestRecord(request.arrival_ps)
        record.prefill_replica = placement.prefill
        if placement.decode is None:
            seq = Sequence(request, call.output_tokens, chain, pool.limits.max_model_len)
        else:
            if self.link is None:
                raise InputError("a split request needs a link for its KV", where="links.kv")
            seq = self._splitter.split(
                request, call.output_tokens, chain, placement, pool.limits, final.limits
            )
        seq.record = record
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
            arrival_ps=self.clock.now_ps,
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
        chain = self.chains.chain(
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
        self._finish(number, seq)

    def _finish(self, number: int, seq: Sequence) -> None:
        self.journal.ended(seq, seq.record, number, self.clock.now_ps)
        self._on_answer()
        answer = self._answers.pop(seq.id)
        answer(CallResult(True, "", seq.known - seq.prompt_tokens))

    @property
    def open_requests(self) -> int:
        """Requests taken and not answered yet."""
        return len(self._answers)

    def _carry(self, pull: Pull, arrived: Callable[[], None]) -> None:
        assert self.link is not None
        arrival = self.link.send(self.clock.now_ps, pull.size_bytes)
        self.clock.at(arrival, ARRIVAL, lambda _: arrived())

    # ---- what routers see -----------------------------------------------------------------------

    def _route(self, request: Request) -> Callable[[Seq[ReplicaId]], ReplicaId]:
        def route(candidates: Seq[ReplicaId]) -> ReplicaId:
            model = request.model
            self._candidates = [
                i for i in candidates if not model or self._pool_of[i].model in ("", model)
            ]
            if not self._candidates:
                raise InputError(
                    f"the model {model} is served, but not by every kind of pool that a request "
                    "needs",
                    where="cluster.pools",
                )
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
        seen = self._reports if self.config.signal_age_ps else self._live
        return [seen[i] for i in self._candidates]

    def keep_reports(self) -> None:
        """Let the router see all replicas as they are now, until the next call."""
        now = self.clock.now_ps
        self._reports = [
            Report(live.id, live.waiting, live.running, live.kv_used, now, self.clock)
            for live in self._live
        ]

    def prefix_hit_tokens(self, replica: ReplicaId, request: Request) -> int:
        """Tokens of the prompt that the replica's index holds (routers follow KV events)."""
        assert self._chain is not None
        server = self.servers[replica]
        server.catch_up()
        pool = server.replica.pool
        probe = Sequence(request, 1, self._chain, request.prompt_tokens + 1)
        return pool.match(probe, request.prompt_tokens - 1).blocks * pool.block_size


def _refusal(request: Request, pool: PoolConfig) -> str:
    limit = pool.limits.max_model_len
    if request.prompt_tokens >= limit:
        return f"prompt over the context limit of {limit} tokens"
    return ""
