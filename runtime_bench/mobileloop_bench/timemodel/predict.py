"""The model of time: from bytes, the bandwidth ladder and the engine's costs to the time of one decoded token.

docs/model-of-time.md derives the formulas and says how well they hold. Nothing here was fitted to a model: what the
machine is like comes from its ladder and its costs, what the model is like from its shapes and its schedule.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from mobileloop.artifact import ArtifactInfo
from mobileloop.quant.schemes import QUANTIZATIONS, SCHEMES
from mobileloop.spec.config import ModelConfig
from mobileloop.spec.costs import TokenBytes, kv_vector_bytes
from mobileloop.spec.schedule import Application
from mobileloop_bench.machine.file import EngineCosts, MachineFile
from mobileloop_bench.results.prediction import Prediction, StagePrediction
from mobileloop_bench.timemodel.levels import Levels, Unknown, UnknownError

INT4 = "int4"
DEFAULT_PAGE_BYTES = 4096  # where a machine file does not say


@dataclass(frozen=True)
class Workload:
    """A model under a schedule and a quantization, as the model of time sees it.

    Attributes:
        token_bytes: its bytes per decoded token.
        quantization: the `--quantize` name, which says what the blocks and the head are made of.
    """

    token_bytes: TokenBytes
    quantization: str

    @classmethod
    def of(cls, info: ArtifactInfo) -> Workload:
        """An artifact."""
        return cls(info.token_bytes, info.quantization)


@dataclass
class _Parts:
    """What one stage adds up to, in us."""

    memory: float = 0.0
    compute: float = 0.0
    together: float = 0.0
    resident: str | None = None


def predict(
    workload: Workload,
    machine: MachineFile,
    threads: int,
    loops: int | None = None,
    depth: int = 0,
    cluster: int | None = None,
    unknown: Unknown = "refuse",
) -> Prediction:
    """The time of one decoded token behind `depth` others.

    Args:
        workload: what runs.
        machine: where; its ladder and costs are read.
        threads: that compute.
        loops: of the looped stages; None is each stage's own.
        depth: tokens in the KV cache.
        cluster: the cores that run; None where the ladder was measured anywhere.
        unknown: what a cache of unknown read bandwidth is taken as; see `Levels`.

    Raises:
        UnknownError: naming what the machine file lacks.
    """
    levels = Levels(machine, threads, cluster, unknown)
    costs = machine.costs or EngineCosts()
    notes = _left_out(costs, threads)
    page_bytes = machine.machine.page_bytes or DEFAULT_PAGE_BYTES
    return _Token(workload, levels, costs, threads, loops, depth, page_bytes, notes).prediction()


class _Token:
    """One token's walk through the schedule."""

    def __init__(
        self,
        workload: Workload,
        levels: Levels,
        costs: EngineCosts,
        threads: int,
        loops: int | None,
        depth: int,
        page_bytes: int,
        notes: list[str],
    ) -> None:
        self.bytes, self.levels, self.costs, self.threads = workload.token_bytes, levels, costs, threads
        self.loops, self.depth, self.page_bytes, self.notes = loops, depth, page_bytes, notes
        block_scheme, head_scheme = QUANTIZATIONS[workload.quantization]
        self.block_rate = self._rate(block_scheme)
        self.head_rate = self._rate(head_scheme)
        self.overlap = 1.0 if costs.overlap is None else costs.overlap
        self.applications = list(self.bytes.schedule.applications(loops))
        kv_bytes = self.bytes.kv(depth, loops)
        self.kv_per_application = kv_bytes / len(self.applications)
        self.home = self.bytes.unique() + kv_bytes  # what lies between a token and the next
        self.home_us_per_mb = levels.us_per_mb(self.home)
        self.turns, self.last = Counter[int](), dict[int, int]()  # of each block, in this token

    def prediction(self) -> Prediction:
        """All of it."""
        stages = [_Parts() for _ in self.bytes.schedule.stages]
        for index, application in enumerate(self.applications):
            self._apply(stages[application.stage], index, application)
        head = self._read(_Parts(), self.bytes.head_bytes, self.home_us_per_mb, self.head_rate)
        parts = [*stages, head]
        kv_us, overhead_us = self._attention_us(), self._overhead_us()
        memory, compute = (sum(getattr(part, name) for part in parts) for name in ("memory", "compute"))
        rest = kv_us + overhead_us
        return Prediction(
            ms=(sum(part.together for part in parts) + rest) / 1e3,
            stages=[*self._named(stages), _as_prediction(head, "head", 1)],
            kv_ms=kv_us / 1e3,
            overhead_ms=overhead_us / 1e3,
            streamed_ms=(max(memory, compute) + rest) / 1e3,
            notes=self.notes,
        )

    def _apply(self, parts: _Parts, index: int, application: Application) -> None:
        """One application; what is read again soon comes from where its reuse distance fits."""
        block, size = application.block, self.bytes.block_bytes[application.block]
        turn, earlier = self.turns[block], self.last.get(block)
        self.turns[block], self.last[block] = turn + 1, index
        us_per_mb = self.home_us_per_mb
        if earlier is not None:
            distance = self._distance(earlier, index)
            parts.resident = self.levels.level(distance)
            us_per_mb = self.levels.us_per_mb(distance)
            if turn == 1 and self.costs.reread_misses:
                lost = max(self.home_us_per_mb - self.levels.last_cache_us_per_mb(), 0.0)
                missed = us_per_mb + self.costs.reread_misses * self.levels.beyond_private(distance) * lost
                us_per_mb = min(missed, max(self.home_us_per_mb, us_per_mb))
        self._read(parts, size, us_per_mb, self.block_rate)

    def _distance(self, earlier: int, index: int) -> float:
        """Bytes touched from an application up to the next of the same block: its reuse distance."""
        between = {application.block for application in self.applications[earlier:index]}
        weights = sum(self.bytes.block_bytes[block] for block in between)
        return weights + (index - earlier) * self.kv_per_application

    def _read(self, parts: _Parts, size: int, us_per_mb: float, rate: float) -> _Parts:
        """Add one pass over `size` bytes: the longer of memory and arithmetic, and what the shorter does not hide."""
        memory, compute = size * us_per_mb / 1e6, size / rate / 1e3
        cached = size / (self.costs.resident_gbps * self.threads) / 1e3 if self.costs.resident_gbps else 0.0
        exposed = min(max(memory - cached, 0.0), compute)
        parts.memory += memory
        parts.compute += compute
        parts.together += max(memory, compute) + (1 - self.overlap) * exposed
        return parts

    def _rate(self, scheme: str) -> float:
        """GB/s of weights that all threads together consume, in the scheme's own bytes."""
        known = self.costs.compute_gbps if scheme == INT4 else self.costs.scheme_gbps.get(scheme)
        if known is None and self.costs.compute_gbps is not None and scheme != "none":
            known = self.costs.compute_gbps * _bytes_per_weight(scheme) / _bytes_per_weight(INT4)
            self.notes.append(f"arithmetic of {scheme} taken as that of int4, weight for weight")
        if known is None:
            raise UnknownError(f"the engine's compute rate of {scheme} weights (mobileloop bandwidth measures it)")
        return known * self.threads

    def _attention_us(self) -> float:
        """The busiest thread's query heads over every cached position, and bringing the pages of their KV heads."""
        config, threads = self.bytes.config, self.threads
        heads, kv_heads = busiest(config, threads)
        ns = (self.costs.attention_ns or 0.0) * config.head_dim / 64
        pages = kv_pages(config, self.depth, self.bytes.kv_bits, self.page_bytes) * kv_heads / config.num_kv_heads
        outside = self.levels.beyond_private(self.home)
        return len(self.applications) * (
            heads * (self.depth + 1) * ns / 1e3 + pages * outside * (self.costs.kv_page_us or 0.0)
        )

    def _overhead_us(self) -> float:
        regions = len(self.bytes.schedule.stages) + 1  # one more is the head's
        each = self.costs.application_us.get(self.threads, 0.0)
        around = self.costs.region_us.get(self.threads, 0.0)
        return (self.costs.token_us or 0.0) + regions * around + len(self.applications) * each

    def _named(self, stages: Sequence[_Parts]) -> list[StagePrediction]:
        """Stages as results name them."""
        pairs = zip(self.bytes.schedule.stages, stages, strict=True)
        return [_as_prediction(parts, _blocks(s.blocks), s.loops_for(self.loops)) for s, parts in pairs]


def kv_pages(config: ModelConfig, depth: int, kv_bits: int, page_bytes: int) -> float:
    """Pages that the keys and values of one application lie on: one run per head, which starts anywhere in a page."""
    run = (depth + 1) * kv_vector_bytes(config.head_dim, kv_bits)
    return 2 * config.num_kv_heads * (1 + (run - 1) / page_bytes)


def busiest(config: ModelConfig, threads: int) -> tuple[int, int]:
    """Query heads, and KV heads among them, of the thread that has most; the engine gives each a run of query heads."""
    group = config.num_heads // config.num_kv_heads
    ends = [config.num_heads * thread // threads for thread in range(threads + 1)]
    runs = [range(begin, end) for begin, end in itertools.pairwise(ends) if end > begin]
    return max(len(run) for run in runs), max(len({head // group for head in run}) for run in runs)


def _as_prediction(parts: _Parts, name: str, loops: int) -> StagePrediction:
    return StagePrediction(
        stage=name,
        loops=loops,
        resident=parts.resident,
        memory_ms=parts.memory / 1e3,
        compute_ms=parts.compute / 1e3,
        ms=parts.together / 1e3,
        bound="memory" if parts.memory > parts.compute else "compute",
    )


def _blocks(blocks: Sequence[int]) -> str:
    """`4`, `0-29`, or `1,0` where they do not follow each other."""
    if len(blocks) > 1 and list(blocks) == list(range(blocks[0], blocks[0] + len(blocks))):
        return f"{blocks[0]}-{blocks[-1]}"
    return ",".join(map(str, blocks))


def _bytes_per_weight(scheme: str, group: int = 32) -> float:
    return SCHEMES[scheme].bits / 8 + SCHEMES[scheme].group_bytes / group


def _left_out(costs: EngineCosts, threads: int) -> list[str]:
    """What is small and not known, and therefore not in the prediction."""
    lacks = {
        "an application beside its weights": threads not in costs.application_us,
        "a parallel region": threads not in costs.region_us,
        "a call": costs.token_us is None,
        "attention": costs.attention_ns is None,
        "bringing KV pages": costs.kv_page_us is None,
    }
    missing = [what for what, lacking in lacks.items() if lacking]
    notes = [f"what these cost is not known and left out: {', '.join(missing)}"] if missing else []
    if costs.overlap is None:
        notes.append("how far memory and arithmetic hide each other is not known; taken as wholly")
    return notes
