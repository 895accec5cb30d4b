"""The model of time: from bytes, the bandwidth ladder and the engine's costs to the time of one decoded token.

docs/model-of-time.md derives the formulas and says how well they hold. Nothing here was fitted to a model: what the
machine is like comes from its ladder and its costs, what the model is like from its shapes and its schedule.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mobileloop.artifact import ArtifactInfo
from mobileloop.costs import TokenBytes
from mobileloop.errors import MobileloopError
from mobileloop.quant.schemes import QUANTIZATIONS, SCHEMES
from mobileloop_bench.ladder import Ladder, Step
from mobileloop_bench.machinefile import EngineCosts, MachineFile
from mobileloop_bench.prediction import Prediction, StagePrediction
from mobileloop_bench.words import counted

INT4 = "int4"


class UnknownError(MobileloopError):
    """The machine file lacks what a prediction needs; the sentence names it."""


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


class Levels:
    """The ladder of one thread count: what a working set is read at, and which level that is.

    Raises:
        UnknownError: where the machine file has no ladder for these threads.
    """

    def __init__(self, ladder: Ladder | None, threads: int, cluster: int | None = None) -> None:
        self._steps: list[Step] = ladder.steps_of(threads, cluster) if ladder else []
        if not self._steps:
            where = "" if cluster is None else f" of cluster {cluster}"
            raise UnknownError(f"the read bandwidth of {counted(threads, 'thread')}{where}")
        if self._steps[-1].up_to_bytes is not None:
            raise UnknownError(f"the read bandwidth of DRAM with {counted(threads, 'thread')}")
        rungs = [
            (rung.size_bytes, rung.read_gbps)
            for rung in (ladder.rungs if ladder else [])
            if rung.threads == threads and rung.cluster == cluster and rung.state == "warm"
        ]
        self._rungs = sorted(rungs)

    def level(self, working_set: float) -> str:
        """The level that a working set, read again and again, is read from."""
        return self._step(working_set).level

    def us_per_mb(self, working_set: float) -> float:
        """Time to read 1e6 bytes of it. Between two measured sizes the time, not the rate, is interpolated over the
        logarithm of the size: what a cache that is too small still holds shortens the time in proportion.
        """
        rungs = self._rungs
        if not rungs:
            return 1e3 / self._step(working_set).read_gbps
        above = next((i for i, (size, _) in enumerate(rungs) if size >= working_set), len(rungs))
        if above in (0, len(rungs)):
            return 1e3 / rungs[min(above, len(rungs) - 1)][1]
        (low, slow), (high, fast) = rungs[above - 1], rungs[above]
        share = math.log(working_set / low) / math.log(high / low)
        return 1e3 * ((1 - share) / slow + share / fast)

    def beyond_private(self, working_set: float) -> float:
        """Share of a working set that comes from the last-level cache or from beyond it, 0 to 1."""
        caches = [step for step in self._steps if step.up_to_bytes is not None]
        if len(caches) < 2:
            return 1.0 if self._step(working_set) is not self._steps[0] else 0.0
        private, shared = (1e3 / step.read_gbps for step in caches[-2:])
        if shared <= private:
            return 1.0
        return min(max((self.us_per_mb(working_set) - private) / (shared - private), 0.0), 1.0)

    def last_cache_us_per_mb(self) -> float:
        """Time to read 1e6 bytes that the last-level cache holds; of DRAM where there is no cache."""
        caches = [step for step in self._steps if step.up_to_bytes is not None]
        return 1e3 / (caches or self._steps)[-1].read_gbps

    def _step(self, working_set: float) -> Step:
        return next((s for s in self._steps if s.up_to_bytes is None or working_set <= s.up_to_bytes), self._steps[-1])


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
) -> Prediction:
    """The time of one decoded token behind `depth` others.

    Args:
        workload: what runs.
        machine: where; its ladder and costs are read.
        threads: that compute.
        loops: of the looped stages; None is each stage's own.
        depth: tokens in the KV cache.
        cluster: the cores that run; None where the ladder was measured anywhere.

    Raises:
        UnknownError: naming what the machine file lacks.
    """
    levels = Levels(machine.ladder, threads, cluster)
    costs = machine.costs or EngineCosts()
    notes = _left_out(costs, threads)
    return _Token(workload, levels, costs, threads, loops, depth, notes).prediction()


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
        notes: list[str],
    ) -> None:
        self.bytes, self.levels, self.costs, self.threads = workload.token_bytes, levels, costs, threads
        self.loops, self.depth, self.notes = loops, depth, notes
        block_scheme, head_scheme = QUANTIZATIONS[workload.quantization]
        self.block_rate = self._rate(block_scheme)
        self.head_rate = self._rate(head_scheme)
        self.overlap = 1.0 if costs.overlap is None else costs.overlap
        self.applications = list(self.bytes.schedule.applications(loops))
        self.kv_per_application = self.bytes.kv(depth, loops) / len(self.applications)
        self.home = self.bytes.unique() + self.bytes.kv(depth, loops)  # what lies between a token and the next

    def prediction(self) -> Prediction:
        """All of it."""
        stages = [self._stage(number) for number in range(len(self.bytes.schedule.stages))]
        head = self._read(_Parts(), self.bytes.head_bytes, self.levels.us_per_mb(self.home), self.head_rate)
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

    def _stage(self, number: int) -> _Parts:
        """Every application of a stage; what is re-read soon is read from where its reuse distance fits."""
        parts = _Parts()
        for index, application in enumerate(self.applications):
            if application.stage != number:
                continue
            size = self.bytes.block_bytes[application.block]
            earlier = [i for i in range(index) if self.applications[i].block == application.block]
            if not earlier:
                self._read(parts, size, self.levels.us_per_mb(self.home), self.block_rate)
                continue
            distance = self._distance(earlier[-1], index)
            parts.resident = self.levels.level(distance)
            us_per_mb = self.levels.us_per_mb(distance)
            if len(earlier) == 1:
                lost = max(self.levels.us_per_mb(self.home) - self.levels.last_cache_us_per_mb(), 0.0)
                us_per_mb += (self.costs.reread_misses or 0.0) * self.levels.beyond_private(distance) * lost
                us_per_mb = min(us_per_mb, max(self.levels.us_per_mb(self.home), self.levels.us_per_mb(distance)))
            self._read(parts, size, us_per_mb, self.block_rate)
        return parts

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
            raise UnknownError(f"the engine's compute rate of {scheme} weights")
        return known * self.threads

    def _attention_us(self) -> float:
        """The busiest thread's query heads over every cached position, and bringing the KV bytes."""
        config = self.bytes.config
        heads = -(-config.num_heads // self.threads)
        ns = (self.costs.attention_ns or 0.0) * config.head_dim / 64
        compute = len(self.applications) * heads * (self.depth + 1) * ns / 1e3
        memory = self.bytes.kv(self.depth, self.loops) * self.levels.us_per_mb(self.home) / 1e6
        return max(compute, memory) + (1 - self.overlap) * min(compute, memory)

    def _overhead_us(self) -> float:
        regions = len(self.bytes.schedule.stages) + 1  # one more is the head's
        each = self.costs.application_us.get(self.threads, 0.0)
        around = self.costs.region_us.get(self.threads, 0.0)
        return (self.costs.token_us or 0.0) + regions * around + len(self.applications) * each

    def _named(self, stages: Sequence[_Parts]) -> list[StagePrediction]:
        """Stages as results name them; those of one loop count and level that follow each other as one."""
        named: list[StagePrediction] = []
        schedule = self.bytes.schedule.stages
        for stage, parts in zip(schedule, stages, strict=True):
            named.append(_as_prediction(parts, _blocks(stage.blocks), stage.loops_for(self.loops)))
        return named


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
    missing = {
        "the cost of an application beside its weights": threads not in costs.application_us,
        "the cost of a parallel region": threads not in costs.region_us,
        "the cost of a call": costs.token_us is None,
        "the cost of attention": costs.attention_ns is None,
    }
    notes = [f"{what} is not known and left out" for what, lacks in missing.items() if lacks]
    if costs.overlap is None:
        notes.append("how far memory and arithmetic hide each other is not known; taken as wholly")
    return notes
