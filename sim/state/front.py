"""Between clients and replicas, the same in every host: requests are placed, served, answered."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from functools import partial
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from ...policies.disaggregation.base import Placement
from ...policies.errors import InputError
from ...policies.types import Picoseconds, ReplicaId, Request, Routable
from .config import ClusterConfig, PoolConfig
from .content import Chain, Chains
from .encoding import CarryEmbeddings, Encoder, Encodings
from .grammars import Grammars
from .journal import Journal, RequestRecord
from .misses import MissExplainer
from .offload import OffloadConnector
from .plan import StepPlan
from .records import GapHistogram
from .replica import Replica
from .reports import Live, LiveEncoder, Report
from .roles import Roles
from .sequence import Sequence
from .session import Call, CallResult
from .split import Carry, Later, Splitter

Answer: TypeAlias = Callable[[CallResult], Any]


class Timed(Protocol):
    """A host's clock."""

    @property
    def now_ps(self) -> Picoseconds:
        """The time."""

    @property
    def due_ps(self) -> Picoseconds:
        """When what happens now was to happen: a real clock is late."""


class Served(Protocol):
    """A replica in its host."""

    number: ReplicaId
    replica: Replica

    def submit(self, seq: Sequence) -> None:
        """A request arrives."""

    def tell(self, message: Callable[[], None]) -> None:
        """Do *message* to the replica at the next decision."""

    def kv_now(self) -> tuple[int, int]:
        """(blocks held, blocks idle but cached)."""

    def catch_up(self) -> None:
        """Let the replica's pool be as the step under way has it."""


S = TypeVar("S", bound=Served)


class Front(Generic[S]):
    """Replicas behind a router.

    Implements `policies.types.ClusterView` and `policies.disaggregation.base.Pools`: what routers
    and placements see. A host subclasses it and calls `open` with its replicas.

    Args:
        carry: moves the KV of split requests.
        on_answer: called when a request has ended, before its client hears of it.
        later: calls back during steps; None: it cannot, and takes no overlap and no grammars.
        carry_embeddings: moves the embeddings of images, and needs *later*; None where the host
            has no encoders.
    """

    def __init__(
        self,
        config: ClusterConfig,
        clock: Timed,
        journal: Journal,
        chains: Chains,
        carry: Carry,
        on_answer: Callable[[], None],
        later: Later | None = None,
        carry_embeddings: CarryEmbeddings | None = None,
    ) -> None:
        self.config, self.journal, self.chains = config, journal, chains
        self._time, self._on_answer = clock, on_answer
        self.gaps = GapHistogram()
        self.servers: list[S] = []
        self.offloads: list[OffloadConnector] = []
        self._splitter = Splitter(
            self.servers.__getitem__,
            lambda: clock.now_ps,
            carry,
            config.kv_link,
            config.link_rng,
            later,
        )
        self.encoders: dict[ReplicaId, Encoder] = {}
        self._encodings: Encodings | None = None
        if carry_embeddings is not None:
            assert later is not None
            soon = partial(_soon, clock, later)
            self._encodings = Encodings(
                self.encoders,
                self.servers.__getitem__,
                lambda: clock.now_ps,
                carry_embeddings,
                soon,
                config.embedding_link,
                config.embedding_rng,
            )
        self._pool_of: list[PoolConfig] = []
        self.roles = Roles(config.disaggregation)
        self._splitter.released = self._over
        self._grammars = Grammars(self.servers.__getitem__, lambda: clock.now_ps, later)
        self._splitter.serve = self._grammars.serve
        self._answers: dict[int, Answer] = {}
        self._candidates: Seq[ReplicaId] = ()
        self._live: list[Routable] = []
        self._reports: list[Routable] = []
        self._chain: Chain | None = None

    def join(self, pool: PoolConfig, servers: Seq[S]) -> None:
        """The schedulers of one replica of *pool*, numbered in order."""
        if self.roles.change and len(servers) > 1:
            raise InputError(
                f"{len(servers)} ranks of pool {pool.name} step together and cannot change roles "
                "apart",
                where="policies.disaggregation",
            )
        for server in servers:
            self.roles.of[pool.role].append(server.number)
            self._pool_of.append(pool)
            self.servers.append(server)
            self._live.append(Live(server))

    def join_encoder(self, pool: PoolConfig, encoder: Encoder) -> None:
        """An encoder of *pool*; encoders come, and are numbered, after all replicas."""
        self.roles.of[pool.role].append(encoder.number)
        self._pool_of.append(pool)
        self.encoders[encoder.number] = encoder
        self._live.append(LiveEncoder(encoder))

    def open(self) -> None:
        """All replicas have joined."""
        sizes = [pool.limits.block_size for pool in self._pool_of[: len(self.servers)]]
        self._explainer = MissExplainer(sizes)

    # ---- a request's way ------------------------------------------------------------------------

    def submit(self, call: Call, answer: Answer) -> None:
        """A call reaches the router; *answer* is called when it has ended."""
        request, chain = self._request(call)
        self.journal.arrived += 1
        self._chain = chain
        if request.model and not any(p.model in ("", request.model) for p in self.config.pools):
            self._refuse(request, f"no pool serves the model {request.model}", answer)
            return
        if self.roles.change:
            self.roles.rebalance(self._time.now_ps, self)
        placement = self.config.disaggregation.place(request, self, self._route(request))
        prefill, decode, _, encode = placement
        if decode is None:
            reason = _refusal(request, self._pool_of[prefill])
            reason = reason or self.servers[prefill].replica.refuses(request)
        else:
            reason = self._refused_split(request, prefill, decode)
        if encode:
            self._check_encoders(request, encode)
        if reason:
            self._refuse(request, reason, answer)
            return
        self._answers[request.id] = answer
        self.roles.placed(placement)
        record = RequestRecord(request.arrival_ps)
        record.prefill_replica = prefill
        if not encode:
            self._compute(request, call.output_tokens, chain, placement, record)
            return
        assert self._encodings is not None
        self._encodings.begin(
            request,
            placement,
            self._pool_of[prefill].embedding_bytes_per_token,
            record,
            partial(self._compute, request, call.output_tokens, chain, placement, record),
        )

    def _compute(
        self,
        request: Request,
        output_tokens: int,
        chain: Chain,
        placement: Placement,
        record: RequestRecord,
    ) -> None:
        """A request goes to the replicas that it was placed on."""
        pool = self._pool_of[placement.prefill]
        if placement.decode is not None:
            final = self._pool_of[placement.decode]
            self._splitter.split(request, output_tokens, chain, placement, pool, final, record)
            return
        seq = Sequence(request, output_tokens, chain, pool.limits.max_model_len)
        seq.record = record
        self._grammars.serve(placement.prefill, seq)

    def _refused_split(self, request: Request, prefill: ReplicaId, decode: ReplicaId) -> str:
        """Why two replicas can never serve a request between them; "" if they can."""
        if self.config.kv_link is None:
            raise InputError("a split request needs a link for its KV", where="links.kv")
        return (
            _refusal(request, self._pool_of[prefill])
            or _refusal(request, self._pool_of[decode])
            or self.servers[prefill].replica.refuses(request)
            or self.servers[decode].replica.refuses(request)
        )

    def _check_encoders(self, request: Request, encode: tuple[ReplicaId | None, ...]) -> None:
        """What a placement with encoders needs must be there."""
        if self.config.embedding_link is None:
            raise InputError("encoders need a link for embeddings", where="links.embeddings")
        if len(encode) != len(request.items):
            raise InputError(
                f"the policy names {len(encode)} encoders for {len(request.items)} images",
                where="policies.disaggregation",
            )

    def _refuse(self, request: Request, reason: str, answer: Answer) -> None:
        self.journal.refused(request, self._time.now_ps, reason)
        self._on_answer()
        answer(CallResult(False, reason, 0))

    def _request(self, call: Call) -> tuple[Request, Chain]:
        prompt_tokens = sum([segment.tokens for segment in call.prompt])
        if prompt_tokens < 1 or call.output_tokens < 1:
            raise InputError(
                f"a call needs at least one prompt token and one output token, "
                f"found {prompt_tokens} and {call.output_tokens}"
            )
        request = Request(
            self.journal.arrived,
            self._time.due_ps,
            call.prompt,
            prompt_tokens,
            call.max_tokens if call.max_tokens is not None else 1 << 40,
            call.output_content,
            *call[4:],  # from the session on, the fields are the same
        )
        chain = self.chains.chain(
            call.prompt, model=call.model, lora=call.lora, salt=call.salt, items=call.items
        )
        chain.append(call.output_content, 0, 0)
        return request, chain

    def admitted(self, number: ReplicaId, plan: StepPlan) -> None:
        """Replica *number* has begun a step that admits requests, or starts to fetch their KV."""
        for seq, _, local, remote, resumed in plan.admissions:
            record = seq.record
            if resumed:
                continue
            if remote.tokens:
                record.remote_tokens = remote.tokens
            if number == record.prefill_replica:
                record.hit_tokens = local
                cost, found = self._pool_of[number].cost.prefill_ps, local + remote.tokens
                record.misses = self._explainer.explain(number, seq, found, cost)

    def ended(self, number: ReplicaId, seq: Sequence) -> None:
        """A request has ended on replica *number*: its prefill, or all of it."""
        record = seq.record
        if record.scheduled_ps < 0:
            record.scheduled_ps = seq.scheduled_ps
        record.preemptions += seq.preemptions
        record.recomputed += seq.recomputed
        record.swapped_bytes += seq.swapped_bytes
        self._explainer.computed(number, seq, seq.known - 1)
        if self._splitter.prefilled(seq):
            return
        self.journal.ended(seq, record, number, self._time.now_ps)
        self._over(number)
        self._on_answer()
        answer = self._answers.pop(seq.id)
        answer(CallResult(True, "", seq.known - seq.prompt_tokens))

    def _over(self, number: ReplicaId) -> None:
        """What replica *number* did for a request is over."""
        self.roles.served(number)
        if self.roles.change:
            self.roles.rebalance(self._time.now_ps, self)

    @property
    def travel_totals(self) -> dict[str, int]:
        """Totals of a run with encoders, grammars, failing transfers or changing roles."""
        totals, link = {}, self.config.kv_link
        if link is not None and link.failure:
            totals["failed_transfers"] = self._splitter.failed_transfers
        if self.roles.change:
            totals["role_switches"] = self.roles.switched
        if self.encoders:
            replicas = [encoder.replica for encoder in self.encoders.values()]
            totals["encoded_tokens"] = sum(replica.encoded_tokens for replica in replicas)
            totals["encoder_hit_tokens"] = sum(replica.hit_tokens for replica in replicas)
        if self._encodings is not None and self._encodings.failed_transfers:
            totals["failed_embeddings"] = self._encodings.failed_transfers
        if self._grammars.compiled:
            totals["compiled_grammars"] = self._grammars.compiled
        return totals

    @property
    def preparing(self) -> bool:
        """Whether prompts wait for embeddings or grammars, and stand in no replica's line."""
        encoding = self._encodings is not None and self._encodings.open > 0
        return encoding or self._grammars.apart > 0

    @property
    def open_requests(self) -> int:
        """Requests taken and not answered yet."""
        return len(self._answers)

    # ---- what routers see -----------------------------------------------------------------------

    def _route(self, request: Request) -> Callable[[Seq[ReplicaId]], ReplicaId]:
        def route(candidates: Seq[ReplicaId]) -> ReplicaId:
            model = request.model
            self._candidates = candidates
            if model:
                served = ("", model)
                self._candidates = [i for i in candidates if self._pool_of[i].model in served]
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
    def mixed(self) -> Seq[ReplicaId]:
        """Replicas that prefill and decode."""
        return self.roles.of["both"]

    @property
    def prefill(self) -> Seq[ReplicaId]:
        """Replicas that prefill."""
        return self.roles.of["prefill"]

    @property
    def decode(self) -> Seq[ReplicaId]:
        """Replicas that decode."""
        return self.roles.of["decode"]

    @property
    def encode(self) -> Seq[ReplicaId]:
        """Replicas that encode images and nothing else."""
        return self.roles.of["encode"]

    @property
    def now(self) -> Picoseconds:
        """The time."""
        return self._time.now_ps

    @property
    def replicas(self) -> list[Routable]:
        """The candidates for the request being routed, as they last reported."""
        seen = self._reports if self.config.signal_age_ps else self._live
        return [seen[i] for i in self._candidates]

    def load(self, replica: ReplicaId) -> Routable:
        """What *replica* last reported."""
        return (self._reports if self.config.signal_age_ps else self._live)[replica]

    def keep_reports(self) -> None:
        """Let the router see all replicas as they are now, until the next call."""
        now = self._time.now_ps
        self._reports = [
            Report(
                live.id,
                live.waiting,
                live.arriving,
                live.running,
                live.kv_used,
                now,
                self._time,
            )
            for live in self._live
        ]

    def prefix_hit_tokens(self, replica: ReplicaId, request: Request) -> int:
        """Tokens of the prompt that the replica's index holds (routers follow KV events).

        Of an encoder: tokens of its images whose output it holds.
        """
        assert self._chain is not None
        if replica in self.encoders:
            cache = self.encoders[replica].replica.cache
            return sum(item.tokens for item in request.items if cache.has(item.identifier))
        server = self.servers[replica]
        server.catch_up()
        pool = server.replica.pool
        probe = Sequence(request, 1, self._chain, request.prompt_tokens + 1)
        return pool.match(probe, request.prompt_tokens - 1).blocks * pool.block_size


def _soon(clock: Timed, later: Later, call: Callable[[], None]) -> None:
    """At this instant, when what happens now is over."""
    later(clock.now_ps, call)


def _refusal(request: Request, pool: PoolConfig) -> str:
    limit = pool.limits.max_model_len
    if request.prompt_tokens >= limit:
        return f"prompt over the context limit of {limit} tokens"
    return ""
