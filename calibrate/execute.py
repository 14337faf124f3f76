"""A scenario on the executor: pools to models and devices, runs to records."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ..policies.errors import InputError
from ..scenarios import build
from ..sim.cost.stamps import other_versions
from ..sim.engine.config import Effort
from ..sim.engine.foresight import foresee, oracle_pool
from ..sim.state.content import Chains
from ..sim.state.records import CellRecords
from ..sim.state.steps import StepLog
from .executor.pace import pace_ps

if TYPE_CHECKING:
    from ..policies.types import Picoseconds, ReplicaId
    from ..scenarios.grid import Cell
    from ..scenarios.pools import Pool
    from ..sim.state.config import OffloadLimits, PoolConfig
    from .executor.kv import KVCache
    from .executor.model import Model
    from .executor.runner import StepRunner
    from .executor.tier import TierStore
    from .executor.tower import Tower

GB = 1e9
GRAPHS_UP_TO = 256  #: sequences in the largest batch that has a CUDA graph
WARM_UP_TOKENS = 512  #: of the longest chunk before the clock starts, on a CPU
INSTALL = "pip install 'infersim[gpu]', or torch alone for --backend torch"


@dataclass(frozen=True, slots=True)
class Options:
    """How a scenario is executed.

    Attributes:
        clock: virtual takes the time of steps from the cost model, wall is the real one.
        backend: of the operations; triton on a CPU is the interpreter, for tiny models only.
        weights: folder of a checkpoint; None: random ones from the scenario's seed.
        graphs: decode steps are CUDA graphs, where backend and device have them.
    """

    clock: Literal["virtual", "wall"] = "virtual"
    backend: Literal["torch", "triton"] = "torch"
    device: Literal["cpu", "cuda"] = "cpu"
    weights: Path | None = None
    graphs: bool = True


class Execution(NamedTuple):
    """A cell's records and what it cost.

    Attributes:
        device_s: real time that the devices computed.
        copying_s: real time that moving KV and embeddings from replica to replica took.
        answers: per replica: request id -> position -> the token that the model sampled for it.
    """

    records: CellRecords
    effort: Effort
    device_s: float
    copying_s: float
    answers: list[dict[int, dict[int, int]]]


def check_installed(options: Options) -> None:
    """Refuse what cannot run here, before anything is loaded.

    Raises:
        InputError: torch or triton is missing, or the device.
    """
    if find_spec("torch") is None:
        raise InputError("infersim execute needs torch, which is not installed", help=INSTALL)
    if options.backend == "triton":
        if find_spec("triton") is None:
            raise InputError("--backend triton needs triton, which is not installed", help=INSTALL)
        if options.device == "cpu":
            os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported
    if options.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise InputError(
                "there is no CUDA device here", where="--device", help="--device cpu computes too"
            )


def execute_cell(
    cell: Cell,
    folders: Sequence[Path],
    options: Options,
    told: Callable[[float, int, float], None] = lambda now_s, ended, share: None,
) -> Execution:
    """Execute one cell from start to end.

    Args:
        told: progress: seconds on the run's clock, requests that ended, the share done.

    Raises:
        InfersimError: whatever stops it.
    """
    from .executor.clock import VirtualClock, WallClock
    from .executor.host import DeviceRun
    from .executor.texts import Texts

    made = build.assemble(cell, folders)
    devices = Devices(made.pools, cell.scenario.seed, options)
    seer, seen = oracle_pool(made.config), None
    if seer is not None:
        chains = Chains()
        future, arrivals = foresee(made.config, seer, made.workload, chains)
        seen = (chains, arrivals, future)
    expected = made.workload.expected_requests
    if made.limits.requests is not None:
        expected = min(made.limits.requests, expected or made.limits.requests)

    def progress(now_ps: Picoseconds, ended: int) -> None:
        told(now_ps / 1e12, ended, min(1.0, ended / expected) if expected else float("nan"))

    log = StepLog(measured=True, pace_ps=devices.pace_ps)
    host = DeviceRun(
        made.config,
        made.workload,
        made.limits,
        VirtualClock() if options.clock == "virtual" else WallClock(),
        texts=lambda: Texts(devices.vocab, made.contents, sees=devices.sees),
        make_runner=devices.runner,
        log=log,
        told=progress,
        seen=seen,
    )
    gc.collect()
    gc.freeze()  # going through all that was ever imported holds a step up for a tenth of a second
    begun = perf_counter()
    try:
        played = host.play()
    finally:
        gc.unfreeze()
    wall_s = perf_counter() - begun
    records = made.records(played, log)
    source = f"measured: {devices.said}"
    if options.clock == "virtual":
        source = f"{records.cost_source} (virtual clock; computed by {devices.said})"
    records = replace(records, cost_source=source, notes=[*records.notes, *devices.notes])
    effort = Effort(steps=played.totals["steps"], wall_s=wall_s)
    times = (played.device_ps / 1e12, played.copying_ps / 1e12)
    return Execution(records, effort, *times, played.answers)


class Devices:
    """Models and KV caches of the pools of a scenario, all on one device.

    Raises:
        InputError: a pool is none for one device, or they do not fit on it together.
    """

    def __init__(self, pools: Sequence[Pool], seed: int, options: Options) -> None:
        import torch

        self._options, self._seed = options, seed
        self._pools = {pool.spec.name: pool for pool in pools}
        self._models: dict[str, tuple[Model, Tower | None]] = {}
        self._device = torch.device(options.device)
        cuda = options.device == "cuda"
        self._dtype = torch.bfloat16 if cuda else torch.float32
        for pool in pools:
            _check(pool)
        self._check_memory()
        self.vocab = min(pool.model.vocab for pool in pools)
        #: whether every model has a vision tower; none is read from a checkpoint
        self.sees = options.weights is None and all(pool.model.vision for pool in pools)
        name = torch.cuda.get_device_name() if cuda else "the CPU"
        self.said = f"infersim's executor, {options.backend} on {name}, torch {torch.__version__}"
        drawn = "weights drawn from the seed" if options.weights is None else "given weights"
        self.notes = [
            f"executed: {drawn}, {str(self._dtype).removeprefix('torch.')}; texts are token ids "
            "that only their names decide, answers too, whatever the model samples",
            *_other_versions(pools, name if cuda else ""),
        ]
        if self.sees:
            self.notes.append(
                "executed: images are drawn from their names, and encoded; their positions in a "
                "prompt are counted one by one"
            )
        several = sum(pool.spec.replicas for pool in pools) > 1
        self._apart = several and options.clock == "wall"
        alone = options.clock == "wall" and not cuda and not several
        self.pace_ps = pace_ps if alone else None
        if self._apart and any(pool.spec.offload is not None for pool in pools):
            raise InputError(
                "on a real clock only a single replica keeps KV in host memory",
                where="cluster.offload",
                help="--clock virtual takes any number",
            )
        if self._apart and cuda:
            raise InputError(
                "on a GPU a real clock needs one replica: others would wait for the one device",
                where="cluster.replicas",
                help="--clock virtual takes any number, --device cpu a process for each",
            )

    def runner(self, config: PoolConfig, number: ReplicaId) -> StepRunner:
        """A device for replica *number*: its own KV, the model shared with its pool."""
        from .executor.kv import KVCache
        from .executor.runner import Runner

        pool, limits = self._pools[config.name], config.limits
        model, tower = self._model(pool)
        cache = KVCache(
            pool.model,
            limits.kv_blocks,
            limits.block_size,
            dtype=self._dtype,
            device=self._device,
        )
        tokens = min(limits.max_num_batched_tokens, limits.max_model_len)
        if self._options.device == "cpu":
            tokens = min(tokens, WARM_UP_TOKENS)
        if pool.spec.role == "encode":
            tokens = 1  # it computes no prompts
        if self._apart:
            from .executor.worker import WorkerRunner

            return WorkerRunner(model, cache, self._device, warm_up=tokens, tower=tower)
        tier = self._store(cache, config.offload, "cluster.offload.blocks")
        swap = self._store(cache, config.swap, "cluster.swap.space_gib")
        graphs = self._options.graphs and model.ops.graphs and self._options.device == "cuda"
        most = min(limits.max_num_seqs, GRAPHS_UP_TO) if graphs else 0
        runner = Runner(model, cache, self._device, graphs=most, tier=tier, swap=swap, tower=tower)
        if self._options.clock == "wall":
            runner.warm_up(tokens)
        return runner

    def _store(self, cache: KVCache, limits: OffloadLimits | None, where: str) -> TierStore | None:
        """Host memory for KV, where there is to be some."""
        from .executor.tier import TierStore

        if limits is None:
            return None
        size, free = TierStore.size_bytes(cache, limits.blocks), free_bytes("cpu")
        if size > free:
            raise InputError(
                f"{size / GB:.1f} GB of KV in host memory; {free / GB:.1f} GB are free", where=where
            )
        return TierStore(cache, limits.blocks, self._device)

    def _model(self, pool: Pool) -> tuple[Model, Tower | None]:
        from .executor import weights
        from .executor.model import Model
        from .executor.tower import Tower

        found = self._models.get(pool.model.name)
        if found is None:
            source: weights.Source
            if self._options.weights is None:
                source = weights.Random(self._seed, self._dtype, self._device)
            else:
                source = weights.Checkpoint(self._options.weights, self._dtype, self._device)
            served = [p for p in self._pools.values() if p.spec.role != "encode"]
            positions = max(p.capacity.max_model_len for p in served)
            model = Model(pool.model, self._ops(), source, positions, self._device)
            tower = None
            if pool.model.vision is not None and self._options.weights is None:
                tower = Tower(pool.model, source, self._dtype, self._device)
            found = self._models[pool.model.name] = model, tower
        return found

    def _ops(self) -> Any:
        if self._options.backend == "triton":
            from .executor.triton_ops import TritonOps

            return TritonOps()
        from .executor.ops import TorchOps

        return TorchOps()

    def _check_memory(self) -> None:
        from .executor.kv import KVCache

        pools = list(self._pools.values())
        models = {pool.model.name: pool.model for pool in pools}
        parameters = sum(m.parameters + m.vision_parameters for m in models.values())
        weights = parameters * self._dtype.itemsize
        kv = sum(
            pool.spec.replicas
            * KVCache.size_bytes(
                pool.model, pool.capacity.blocks, pool.spec.block_size, self._dtype
            )
            for pool in pools
        )
        free = free_bytes(self._options.device)
        if weights + kv > free:
            raise InputError(
                f"{weights / GB:.1f} GB of weights and {kv / GB:.1f} GB of KV do not fit in the "
                f"{free / GB:.1f} GB that are free on the device",
                where="cluster",
                help="a smaller model, or fewer blocks: --set cluster.kv_blocks=1000",
            )


def _other_versions(pools: Sequence[Pool], device: str) -> list[str]:
    """Where profiles were measured with other software, or on another GPU, than computes here."""
    import torch

    here = {"torch": str(torch.__version__), "device": device}
    if device:
        with suppress(metadata.PackageNotFoundError):
            here["triton"] = metadata.version("triton")
    stamps = [pool.profile.stamp for pool in pools if pool.profile is not None]
    known = {name: version for name, version in here.items() if version}
    return list(dict.fromkeys(note for stamp in stamps for note in other_versions(stamp, known)))


def _check(pool: Pool) -> None:
    """Refuse what does not run on one device in its own number format."""
    from .executor.model import check

    spec = pool.spec
    check(pool.model)
    if spec.tp * spec.pp > 1:
        raise InputError(
            f"the executor computes on one device, found tp {spec.tp} pp {spec.pp}",
            where="cluster",
        )
    if pool.model.format(spec.dtype).name != "bf16":
        raise InputError(
            f"the executor computes in bf16, and in fp32 on a CPU; {pool.model.name} is "
            f"{pool.model.format(spec.dtype).name} here",
            where="cluster.dtype",
            help="--set cluster.dtype=bf16",
        )
    if spec.kv_dtype not in ("auto", "bf16", "bfloat16"):
        raise InputError(
            f"the executor keeps KV in bf16, and in fp32 on a CPU; found {spec.kv_dtype}",
            where="cluster.kv_dtype",
            help="--set cluster.kv_dtype=auto",
        )


def free_bytes(device: str) -> int:
    """Memory that is free on *device* ("cpu" or "cuda")."""
    if device == "cuda":
        import torch

        gc.collect()  # the last run's model hangs in cycles of its replicas
        torch.cuda.empty_cache()  # else what torch keeps of it for later counts as taken
        return int(torch.cuda.mem_get_info()[0])
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 1 << 62  # it cannot be known
