"""Which cache level a working set is read from, and how fast."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mobileloop.errors import MobileloopError
from mobileloop_bench.machine.facts import Machine, cache_bytes
from mobileloop_bench.machine.file import MachineFile
from mobileloop_bench.machine.ladder import Ladder
from mobileloop_bench.writing.units import counted

Unknown = Literal["refuse", "fast", "slow"]


class UnknownError(MobileloopError):
    """The machine file lacks what a prediction needs; the sentence names it."""


@dataclass(frozen=True)
class _Level:
    """A cache, or DRAM: the largest working set of all threads it holds, and what 1e6 bytes take from it."""

    name: str
    up_to_bytes: float
    us_per_mb: float | None


class Levels:
    """What a working set is read at by so many threads, and which level that is.

    The ladder says both where it was measured. A cache that the machine lists and the ladder lacks holds what fits, at
    a rate that is not known: `unknown` refuses to predict from it, or takes it as `fast` as nothing could be, or as
    `slow` as DRAM, so that the two bound the truth.

    Raises:
        UnknownError: where the rate of DRAM is not known for these threads.
    """

    def __init__(
        self, machine: MachineFile, threads: int, cluster: int | None = None, unknown: Unknown = "refuse"
    ) -> None:
        ladder, self._threads = machine.ladder or Ladder(), threads
        steps = ladder.steps_of(threads, cluster)
        dram = next((step for step in steps if step.up_to_bytes is None), None)
        if dram is None:
            raise UnknownError(f"the read bandwidth of DRAM with {counted(threads, 'thread')}")
        measured = [
            (rung.size_bytes, rung.read_gbps)
            for rung in ladder.rungs
            if rung.threads == threads and rung.cluster == cluster and rung.state == "warm"
        ]
        self._rungs = sorted(measured)
        slow = 1e3 / dram.read_gbps
        known = [_Level(s.level, s.up_to_bytes, 1e3 / s.read_gbps) for s in steps if s.up_to_bytes is not None]
        rate = {"refuse": None, "fast": 0.0, "slow": slow}[unknown]
        beyond = [] if measured else _unmeasured(machine.machine, threads, known, rate)
        self._levels = [*known, *beyond, _Level(dram.level, math.inf, slow)]

    def level(self, working_set: float) -> str:
        """The level that a working set, read again and again, is read from."""
        return self._level(working_set).name

    def us_per_mb(self, working_set: float) -> float:
        """Time to read 1e6 bytes of it. Between two measured sizes the time, not the rate, is interpolated over the
        logarithm of the size: what a cache that is too small still holds shortens the time in proportion.

        Raises:
            UnknownError: for a working set in a cache whose rate is not known.
        """
        rungs = self._rungs
        if not rungs:
            return self._known(self._level(working_set))
        above = next((i for i, (size, _) in enumerate(rungs) if size >= working_set), len(rungs))
        if above in (0, len(rungs)):
            return 1e3 / rungs[min(above, len(rungs) - 1)][1]
        (small, fast), (large, slow) = rungs[above - 1], rungs[above]
        share = math.log(working_set / small) / math.log(large / small)
        return 1e3 * ((1 - share) / fast + share / slow)

    def beyond_private(self, working_set: float) -> float:
        """Share of a working set that comes from the last-level cache or from beyond it, 0 to 1."""
        caches, level = self._levels[:-1], self._level(working_set)
        if level is self._levels[-1]:
            return 1.0
        if len(caches) < 2 or level in caches[:-2]:
            return 0.0
        private, shared = (self._known(cache) for cache in caches[-2:])
        if shared <= private:
            return float(level is caches[-1])
        return min(max((self.us_per_mb(working_set) - private) / (shared - private), 0.0), 1.0)

    def last_cache_us_per_mb(self) -> float:
        """Time to read 1e6 bytes that the last-level cache holds; of DRAM where there is no cache."""
        return self._known(self._levels[-2] if len(self._levels) > 1 else self._levels[-1])

    def _level(self, working_set: float) -> _Level:
        return next(level for level in self._levels if working_set <= level.up_to_bytes)

    def _known(self, level: _Level) -> float:
        if level.us_per_mb is None:
            raise UnknownError(f"the read bandwidth of {level.name} with {counted(self._threads, 'thread')}")
        return level.us_per_mb


def _unmeasured(machine: Machine, threads: int, known: Sequence[_Level], rate: float | None) -> list[_Level]:
    """Caches beyond the known ones that the machine lists; a machine without a word of caches has one of any size."""
    listed = cache_bytes(machine, threads)
    if not listed and not known:
        return [_Level("a cache", math.inf, rate)]
    largest, names = max((level.up_to_bytes for level in known), default=0.0), {level.name for level in known}
    return [_Level(name, size, rate) for name, size in listed.items() if size > largest and name not in names]
