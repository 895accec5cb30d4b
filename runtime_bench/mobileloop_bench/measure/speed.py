"""How fast the cores compute and read at this moment, by two short fixed loops beside every turn.

A core that computes for us may share its parts with another hardware thread, of a neighbour that no counter shows us:
the same instructions then take up to twice as long, while reads from memory hardly change. A phone that throttles looks
the same. docs/measuring.md says what is concluded.
"""

from __future__ import annotations

from collections.abc import Sequence

from mobileloop.errors import MobileloopError
from mobileloop_bench.bandwidth.memory import Memory
from mobileloop_bench.results.speed import Speed

ARITHMETIC_S = 0.002
READ_S = 0.002
READ_BYTES = 8 << 20  # of each thread: more than a core's own caches hold


class SpeedMeter:
    """Readings with as many threads as a turn has, on the same cpus; None where the engine's library is missing."""

    def __init__(self) -> None:
        self._memory: dict[tuple[int, tuple[int, ...]], Memory | None] = {}

    def read(self, threads: int, cpus: Sequence[int] | None) -> Speed | None:
        """Takes a few milliseconds. The slowest thread decides, as it does for a token."""
        key = threads, tuple(cpus or ())
        if key not in self._memory:
            try:
                self._memory[key] = Memory(threads * READ_BYTES, *key)
            except MobileloopError:
                self._memory[key] = None
        memory = self._memory[key]
        if memory is None:
            return None
        step_ns = max(memory.arithmetic_ns(ARITHMETIC_S))
        return Speed(step_ns=step_ns, read_gbps=max(memory.read_gbps(threads * READ_BYTES, READ_S)))

    def close(self) -> None:
        """Give all threads and memory back."""
        while self._memory:
            memory = self._memory.popitem()[1]
            if memory is not None:
                memory.close()
