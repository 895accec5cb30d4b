"""Whether a figure is to be trusted: every rule, its limit, its code and its sentence. docs/measuring.md explains them.

A doubt that makes the median wrong, or leaves it unknown, is a reason, and a result with a reason is not valid. What
only widens the spread, or might have mattered and did not, is a note. Both are sentences of the form `name: figures`;
`code_of` tells the code of a sentence, of older documents and of the engine's own program too.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from mobileloop_bench.machine.facts import Machine
from mobileloop_bench.results.bootstrap import LEAST_ROUNDS, QUANTILES, as_rounds, median_interval
from mobileloop_bench.results.result import Result
from mobileloop_bench.writing.units import counted

MAX_HALF_WIDTH = 0.1  # of the median's interval, as a share of the median; it stands beside every figure
WIDE_SPREAD = 1.5  # p90 / p10
MAX_DRIFT = 1.2  # median of the last rounds over that of the first ones: a throttled or heated core
MIN_WARMING_CELSIUS = 10.0  # between first and last round, for a slow-down to be called throttling
MAX_CLOCK_CHANGE = 1.1  # highest over lowest frequency between rounds
MAX_OTHER_CORES = 0.25  # that other programs may take of the cores that our threads need
MAX_STOLEN_CORES = 0.05
MAX_INTERRUPTED = 0.3  # interruptions per sample; beyond, they reach the median
MAX_ABOVE_FAST = 1.25  # the median over the 5th percentile
MAX_SLOWDOWN = 1.15  # median step of arithmetic over the shortest of the run
MOST_SLOW_ROUNDS = 0.2  # beyond which a note says that some were
MAX_SWITCHES_PER_S = 50.0  # of each thread: two programs that share a core are switched 100 times and more


class Code(Enum):
    """A doubt; the value is how its sentence begins, followed by a colon and the figures where there are any."""

    SKIPPED = "skipped"
    INTERRUPTED = "interrupted"
    FAILED = "failed"
    EMULATED = "emulated"
    VIRTUAL = "virtual"
    FEW_ROUNDS = "too few samples"
    WIDE_INTERVAL = "interval too wide"
    WIDE_SPREAD = "wide spread"
    BEYOND_CORES = "threads beyond cores"
    PREEMPTED = "preempted"
    NOT_ALONE = "not alone"
    CORE_SHARED = "core shared"
    CPU_QUOTA = "cpu quota"
    UNLIKE_ROUNDS = "unlike rounds"
    THROTTLED = "throttled"
    CLOCK_CHANGED = "clock changed"
    DRIFT = "slowed down"
    HOT = "hot"

    def said(self, figures: str = "") -> str:
        """The sentence."""
        return f"{self.value}: {figures}" if figures else self.value


# How other writers begin: documents before this list, and the engine's own program.
_ALSO = (
    (r"\d+ threads on \d+ cores?", Code.BEYOND_CORES),
    (r"spread too wide|spread", Code.WIDE_SPREAD),
    (r"fewer than \d+ (repetitions|samples)", Code.FEW_ROUNDS),
)
# Doubts that the interval of a comparison accounts for; a figure with any other is not compared.
NOISE = frozenset(
    {
        Code.INTERRUPTED,
        Code.FEW_ROUNDS,
        Code.WIDE_INTERVAL,
        Code.WIDE_SPREAD,
        Code.PREEMPTED,
        Code.NOT_ALONE,
        Code.CORE_SHARED,
        Code.DRIFT,
    }
)


def code_of(sentence: str) -> Code | None:
    """What a reason or a note is about; None for one that this version does not know."""
    name = sentence.partition(":")[0]
    for pattern, code in _ALSO:
        if re.fullmatch(pattern, name):
            return code
    return next((code for code in Code if code.value == name), None)


@dataclass(frozen=True)
class Evidence:
    """What was seen beside the samples of one result.

    Attributes:
        machine: that ran.
        cpus: how many the threads could use; None for all of the machine's.
        interrupted: the run was stopped before its end.
        failure: why there are no more samples; None where nothing failed.
        switches_per_s: times that threads had to leave their core, all together; None where that is not told.
        fastest_ns: the shortest step of arithmetic of as many threads in the whole run (`Speed`).
        mhz, celsius: behind each round, None where the machine hides one.
    """

    machine: Machine = field(default_factory=Machine)
    cpus: int | None = None
    interrupted: bool = False
    failure: str | None = None
    switches_per_s: float | None = None
    fastest_ns: float | None = None
    mhz: Sequence[float | None] = ()
    celsius: Sequence[float | None] = ()


def judged(row: Result, evidence: Evidence) -> Result:
    """The result with its median's interval, its reasons and notes, valid where it has no reason."""
    interval = median_interval(row.samples_ms, row.samples_per_round or 1)
    known = {"median_low_ms": interval.low, "median_high_ms": interval.high} if interval else {}
    row = row.model_copy(update=known)
    reasons, notes = [*_run(row, evidence), *_median(row)], [*_spread(row)]
    if row.phase in ("prefill", "decode"):
        for fatal, sentence in (*_company(row, evidence), *_sharing(row, evidence), *_clocks(row, evidence)):
            (reasons if fatal else notes).append(sentence)
    return row.model_copy(update={"reasons": reasons, "notes": notes, "valid": not reasons})


def doubted(row: Result, reasons: Sequence[str]) -> Result:
    """The result with more reasons."""
    every = [*row.reasons, *reasons]
    return row.model_copy(update={"reasons": every, "valid": not every})


def _run(row: Result, evidence: Evidence) -> Iterator[str]:
    if evidence.interrupted:
        yield Code.INTERRUPTED.said()
    if evidence.failure is not None:
        yield Code.FAILED.said(evidence.failure)
    if evidence.machine.emulated:
        yield Code.EMULATED.said("the machine's instructions are simulated")
    cores, quota = _cores(evidence), evidence.machine.cpu_quota
    if cores and row.threads > cores:
        yield f"{row.threads} threads on {counted(cores, 'core')}"
    if quota is not None and row.threads > quota:
        yield Code.CPU_QUOTA.said(
            f"{counted(row.threads, 'thread')} where the container may use {quota:g} cores of time"
        )


def _cores(evidence: Evidence) -> int | None:
    return evidence.machine.cores_usable if evidence.cpus is None else evidence.cpus


def _median(row: Result) -> Iterator[str]:
    """What the figure rests on: rounds, and the interval that they leave."""
    rounds = row.repetitions or 0
    if rounds < LEAST_ROUNDS:
        yield Code.FEW_ROUNDS.said(f"of {counted(rounds, 'round')}, at least {LEAST_ROUNDS} needed")
    width = row.half_width
    if width is not None and width > MAX_HALF_WIDTH:
        yield Code.WIDE_INTERVAL.said(f"the median is known to ±{width:.0%}, beyond ±{MAX_HALF_WIDTH:.0%}")


def _spread(row: Result) -> Iterator[str]:
    if row.p10_ms and row.p90_ms and row.p90_ms > WIDE_SPREAD * row.p10_ms:
        yield Code.WIDE_SPREAD.said(f"p90 is {row.p90_ms / row.p10_ms:.2f} times p10")


def _company(row: Result, evidence: Evidence) -> Iterator[tuple[bool, str]]:
    """Who else used the cores; it matters where it reached the median, and only for who had to share."""
    reached = _reached(row, evidence)
    if row.stolen_cores is not None and row.stolen_cores > MAX_STOLEN_CORES:
        yield reached, Code.PREEMPTED.said(f"the hypervisor took {row.stolen_cores:.2f} cores")
    switches = (evidence.switches_per_s or 0) / row.threads
    if switches > MAX_SWITCHES_PER_S:
        yield reached, Code.PREEMPTED.said(f"each thread had to leave its core {switches:.0f} times a second")
    if row.other_cores is not None and row.other_cores > MAX_OTHER_CORES:
        cores = _cores(evidence)
        crowded = cores is None or row.other_cores > cores - row.threads + MAX_OTHER_CORES
        yield reached and crowded, Code.NOT_ALONE.said(f"other programs used {row.other_cores:.2f} cores")


def _reached(row: Result, evidence: Evidence) -> bool:
    """Whether interruptions reached the median, or nothing tells.

    A token that takes less than a time slice is interrupted or it is not: where few are, the median is of those that
    were not. Waking up late is no interruption that anyone counts, but it parts the median from the fast samples.
    """
    if evidence.switches_per_s is None or not row.samples_ms:
        return True
    interrupted = evidence.switches_per_s * statistics.fmean(row.samples_ms) / 1000
    fast, median = np.quantile(row.samples_ms, [QUANTILES["p5"], 0.5])
    return bool(interrupted > MAX_INTERRUPTED or median > MAX_ABOVE_FAST * fast)


def _sharing(row: Result, evidence: Evidence) -> Iterator[tuple[bool, str]]:
    """Whom no counter shows: arithmetic out of registers, which nothing of ours disturbs, took longer."""
    steps = sorted(one.step_ns for one in row.speeds if one)
    if not steps or evidence.fastest_ns is None:
        return
    times = statistics.median(steps) / evidence.fastest_ns
    slow = sum(step > MAX_SLOWDOWN * evidence.fastest_ns for step in steps)
    if times > MAX_SLOWDOWN:
        yield True, Code.CORE_SHARED.said(f"arithmetic took {times:.2f} times its shortest in this run")
    elif slow > MOST_SLOW_ROUNDS * len(steps):
        yield False, Code.CORE_SHARED.said(f"arithmetic took longer in {slow} of {counted(len(steps), 'round')}")


def _clocks(row: Result, evidence: Evidence) -> Iterator[tuple[bool, str]]:
    """A clock that fell while the times stayed is a note: the times did not depend on it.

    Throttled where a slow-down has a cause that the machine shows; else what is known is said.
    """
    mhz, celsius = _known(evidence.mhz), _known(evidence.celsius)
    drift = _drift(row) if row.phase == "decode" else None
    slower = drift is not None and drift[0] > MAX_DRIFT
    warming = celsius[-1] - celsius[0] if len(celsius) > 1 else 0.0
    if len(mhz) > 1 and mhz[0] > MAX_CLOCK_CHANGE * mhz[-1]:
        yield slower, Code.THROTTLED.said(f"the clock fell from {mhz[0]:.0f} to {mhz[-1]:.0f} MHz")
    elif drift is not None and slower and warming >= MIN_WARMING_CELSIUS:
        yield True, Code.THROTTLED.said(f"{drift[0]:.2f} times slower at the end, {warming:.0f} degrees warmer")
    elif mhz and max(mhz) > MAX_CLOCK_CHANGE * min(mhz):
        yield False, Code.CLOCK_CHANGED.said(f"from {min(mhz):.0f} to {max(mhz):.0f} MHz between rounds")
    if drift is not None and slower:
        last = "the last round" if drift[1] == 1 else f"the last {drift[1]} rounds"
        yield True, Code.DRIFT.said(f"{last} took {drift[0]:.2f} times the first")


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _drift(row: Result) -> tuple[float, int] | None:
    """The last rounds' median over that of as many first ones, and how many: a quarter, so that one is no trend."""
    times = as_rounds(row.samples_ms, row.samples_per_round or 1)
    count = max(1, len(times) // 4)
    if len(times) < 2:
        return None
    first, last = (statistics.median(part.ravel().tolist()) for part in (times[:count], times[-count:]))
    return (last / first, count) if first else None
