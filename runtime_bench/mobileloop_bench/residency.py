"""Is the looped stage resident? Which cache it fits, and whether its repeats were read faster than memory can be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mobileloop_bench.ladder import Ladder
from mobileloop_bench.machine import Machine
from mobileloop_bench.results import Document, Result
from mobileloop_bench.words import figure, megabytes

MARGIN = 1.05  # a repeat must beat the read bandwidth by more than the noise of both


@dataclass(frozen=True)
class Residency:
    """What is known of one looped row.

    Attributes:
        stage_bytes: what must fit.
        level: the smallest that holds it (`L2`, ..., `DRAM`); None where no cache size is known.
        measured: whether the ladder told the level; else the nominal sizes of the caches did.
        repeat_gbps: bytes that the loops behind the first one read, over the time they added.
        ceiling_gbps: the measured read bandwidth.
    """

    stage_bytes: int | None
    level: str | None
    measured: bool
    repeat_gbps: float | None
    ceiling_gbps: float | None

    @property
    def proved(self) -> bool | None:
        """Whether the repeats were read faster than memory can be; None where that was not measured."""
        if self.repeat_gbps is None or not self.ceiling_gbps:
            return None
        return self.repeat_gbps > MARGIN * self.ceiling_gbps

    def sentence(self) -> str:
        """For the verdict; empty where nothing is known."""
        size = f" ({megabytes(self.stage_bytes)})" if self.stage_bytes is not None else ""
        if self.level == "DRAM":
            return f"the block{size} fits no cache"
        if self.proved is None:
            return f"the block{size} fits {self.level}, {self._by()}" if self.level else ""
        rate = figure(self.repeat_gbps, "GB/s")
        if not self.proved:
            where = f" although the block fits {self.level}" if self.level else ""
            return f"its repeats are read at {rate}, no faster than memory{where}"
        if self.level and self.measured:
            return f"the block is resident in {self.level}: its repeats are read at {rate}"
        where = f" ({self.level}, {self._by()})" if self.level else ""
        return f"the block is resident in a cache{where}: its repeats are read at {rate}"

    def _by(self) -> str:
        return "as measured" if self.measured else "by its nominal size"


def residency(row: Result, document: Document) -> Residency:
    """What `document` says of `row`, a decode row with more than one loop."""
    level, measured = None, False
    if row.stage_bytes is not None:
        level = ladder_level(document.ladder, row.stage_bytes, row.threads)
        measured = level is not None
        level = level or nominal_level(document.machine, row.stage_bytes, row.threads)
    return Residency(row.stage_bytes, level, measured, _repeat_gbps(row, document.results), row.ceiling_gbps)


def ladder_level(ladder: Ladder | None, size_bytes: int, threads: int) -> str | None:
    """The first step that holds `size_bytes`, of the first cluster with steps for as many threads."""
    clusters = dict.fromkeys(step.cluster for step in ladder.steps if step.threads == threads) if ladder else {}
    if not ladder or not clusters:
        return None
    steps = ladder.steps_of(threads, None if None in clusters else next(iter(clusters)))
    return next((step.level for step in steps if size_bytes <= (step.up_to_bytes or float("inf"))), None)


def nominal_level(machine: Machine, size_bytes: int, threads: int) -> str | None:
    """By the sizes that the system tells: each thread brings its own core's caches."""
    data = sorted((cache for cache in machine.caches if cache.kind != "instruction"), key=lambda cache: cache.level)
    for cache in data:
        share = cache.size_bytes * (min(threads, cache.instances) if cache.shared_by == 1 else 1)
        if size_bytes <= share:
            return f"L{cache.level}"
    return "DRAM" if data else None


def _repeat_gbps(row: Result, rows: Sequence[Result]) -> float | None:
    key = _configuration(row)
    once = next((r for r in rows if r.loops == 1 and r.phase == "decode" and _configuration(r) == key), None)
    if not once or row.executed_bytes is None or once.executed_bytes is None:
        return None
    if row.median_ms is None or once.median_ms is None or row.median_ms <= once.median_ms:
        return None
    return (row.executed_bytes - once.executed_bytes) / ((row.median_ms - once.median_ms) * 1e6)


def _configuration(row: Result) -> tuple[str, str, int, int, int]:
    return row.artifact, row.runtime, row.threads, row.depth, row.sequences
