"""Is the looped stage resident? Which cache it fits, and whether its repeats were read faster than memory can be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mobileloop_bench.bandwidth.ceiling import Bandwidth
from mobileloop_bench.machine.facts import Machine, cache_bytes
from mobileloop_bench.machine.ladder import Ladder
from mobileloop_bench.results.document import Document
from mobileloop_bench.results.result import Result
from mobileloop_bench.writing.units import counted, figure, megabytes

MARGIN = 1.05  # a repeat must beat the read bandwidth by more than the noise of both
INVALID = "the times are not valid results"


@dataclass(frozen=True)
class Residency:
    """What is known of one looped row.

    Attributes:
        stage_bytes: what must fit.
        level: the smallest that holds it (`L2`, ..., `DRAM`); None where no cache size is known.
        measured: whether the ladder told the level; else the nominal sizes of the caches did.
        repeat_gbps: bytes that the loops behind the first one read, over the time they added.
        ceiling_gbps: the largest read bandwidth measured of up to as many threads.
        doubt: why the times or the read bandwidth prove nothing; None where they do.
    """

    stage_bytes: int | None
    level: str | None
    measured: bool
    repeat_gbps: float | None
    ceiling_gbps: float | None
    doubt: str | None = None

    @property
    def proved(self) -> bool | None:
        """Whether the repeats were read faster than memory can be; None where that is in doubt or was not measured."""
        if self.doubt or self.repeat_gbps is None or not self.ceiling_gbps:
            return None
        return self.repeat_gbps > MARGIN * self.ceiling_gbps

    def sentence(self) -> str:
        """For the verdict; empty where nothing is known."""
        if self.level == "DRAM":
            return self.fits()
        if self.doubt:
            return f"whether {self.claim()} cannot be told: {self.doubt}"
        if self.proved is None:
            return self.fits()
        rate = figure(self.repeat_gbps, "GB/s")
        if not self.proved:
            where = f" although the block fits {self.level}" if self.level else ""
            return f"its repeats are read at {rate}, no faster than memory{where}"
        if self.level and self.measured:
            return f"the block is resident in {self.level}: its repeats are read at {rate}"
        where = f" ({self.level}, {self._by()})" if self.level else ""
        return f"the block is resident in a cache{where}: its repeats are read at {rate}"

    def fits(self) -> str:
        """What is known whatever the times are worth: which cache holds the block; empty where no size is known."""
        size = f" ({megabytes(self.stage_bytes)})" if self.stage_bytes is not None else ""
        if self.level == "DRAM":
            return f"the block{size} fits no cache"
        return f"the block{size} fits {self.level}, {self._by()}" if self.level else ""

    def claim(self) -> str:
        """What is to be proved."""
        size = f" ({megabytes(self.stage_bytes)})" if self.stage_bytes is not None else ""
        return f"the block{size} is resident in a cache"

    def _by(self) -> str:
        return "as measured" if self.measured else "by its nominal size"


def residency(row: Result, document: Document) -> Residency:
    """What `document` says of `row`, a decode row with more than one loop."""
    level, measured = None, False
    if row.stage_bytes is not None:
        level = ladder_level(document.ladder, row.stage_bytes, row.threads)
        measured = level is not None
        level = level or nominal_level(document.machine, row.stage_bytes, row.threads)
    ceiling = max([one.read_gbps for one in _ceilings(row, document) if one.read_gbps], default=row.ceiling_gbps)
    once = with_one_loop(row, document.results)
    found = doubt(row, document) or (doubt(once, document) if once else None)
    return Residency(row.stage_bytes, level, measured, _repeat_gbps(row, once), ceiling, found)


def doubt(row: Result, document: Document) -> str | None:
    """Why `row` and the read bandwidth it is held against say nothing of caches; None where they do."""
    if not row.valid:
        return INVALID
    ceilings = [one for one in _ceilings(row, document) if one.read_gbps]
    best = max(ceilings, key=lambda one: one.read_gbps or 0.0, default=None)
    if best is None or not row.ceiling_gbps or (best.read_gbps or 0.0) <= MARGIN * row.ceiling_gbps:
        return None
    return (
        f"the read bandwidth of {counted(row.threads, 'thread')}, {figure(row.ceiling_gbps, 'GB/s')}, was measured "
        f"below that of {best.threads}, {figure(best.read_gbps, 'GB/s')}"
    )


def _ceilings(row: Result, document: Document) -> list[Bandwidth]:
    """Of up to as many threads: more threads never read less, but where something disturbed them."""
    return [one for one in document.bandwidth if one.threads <= row.threads]


def ladder_level(ladder: Ladder | None, size_bytes: int, threads: int) -> str | None:
    """The first step that holds `size_bytes`, of the first cluster with steps for as many threads."""
    clusters = dict.fromkeys(step.cluster for step in ladder.steps if step.threads == threads) if ladder else {}
    if not ladder or not clusters:
        return None
    steps = ladder.steps_of(threads, None if None in clusters else next(iter(clusters)))
    return next((step.level for step in steps if size_bytes <= (step.up_to_bytes or float("inf"))), None)


def nominal_level(machine: Machine, size_bytes: int, threads: int) -> str | None:
    """The level that holds `size_bytes` by the sizes that the system tells; None where it tells none."""
    held = cache_bytes(machine, threads)
    return next((level for level, size in held.items() if size_bytes <= size), "DRAM" if held else None)


def with_one_loop(row: Result, rows: Sequence[Result]) -> Result | None:
    """The decode row of `row`'s configuration with one loop."""

    def key(one: Result) -> tuple[str, str, int, int, int, int]:
        return one.artifact, one.runtime, one.threads, one.depth, one.sequences, one.busy

    once = (r for r in rows if r.loops == 1 and r.phase == "decode" and r.median_ms is not None)
    return next((r for r in once if key(r) == key(row)), None)


def _repeat_gbps(row: Result, once: Result | None) -> float | None:
    if not once or row.executed_bytes is None or once.executed_bytes is None:
        return None
    if row.median_ms is None or once.median_ms is None or row.median_ms <= once.median_ms:
        return None
    return (row.executed_bytes - once.executed_bytes) / ((row.median_ms - once.median_ms) * 1e6)
