"""The engine's reads of plain memory: how fast a working set is read, and how long a chase through it takes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

from mobileloop.runtimes.native import check, cpu_array, library

MAX_SAMPLES = 4096  # of one measurement of memory


LEAST_READ_BYTES = 512  # of a working set, for each thread


MEMORY_STATES = {"warm": 0, "flushed": 1, "evicted": 2}  # ml_memory_state


def read_bandwidth(threads: int, size_bytes: int, seconds: float) -> float:
    """Median read bandwidth in GB/s (10^9 bytes per second).

    Args:
        threads: each reads its own part of the buffer.
        size_bytes: of the whole buffer; what level of memory is measured follows from it.
        seconds: about how long to measure.

    Raises:
        MobileloopError: for arguments out of bounds.
    """
    gbps = ctypes.c_double()
    check(library().ml_read_bandwidth(threads, size_bytes, seconds, ctypes.byref(gbps)))
    return gbps.value


def flush_instruction() -> str | None:
    """The instruction that evicts a line from every cache of the processor, or None where there is none."""
    return str(library().ml_flush_instruction().decode()) or None


class Memory:
    """Memory that threads read, to measure how fast; `close` or a `with` block gives it back.

    Args:
        max_bytes: of the largest working set.
        threads: each reads its own part of a working set.
        cpus: as many as threads: thread i on the i-th alone; else every thread on any of them.
        huge_pages: ask the system for them, or for none; it need not follow.

    Raises:
        MobileloopError: for arguments out of bounds, or a cpu that does not exist or is not allowed.
    """

    def __init__(
        self, max_bytes: int, threads: int, cpus: Sequence[int] | None = None, huge_pages: bool = True
    ) -> None:
        self._handle, self._threads = ctypes.c_void_p(), threads
        listed = cpu_array(cpus or ())
        check(
            library().ml_memory_create(max_bytes, threads, listed, len(listed), huge_pages, ctypes.byref(self._handle))
        )

    def __enter__(self) -> Memory:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the memory and the threads back; a second time does nothing."""
        library().ml_memory_destroy(self._handle)
        self._handle = ctypes.c_void_p()

    def read_gbps(self, size_bytes: int, seconds: float, state: str = "warm") -> list[float]:
        """Samples of the read bandwidth of a working set, in 1e9 bytes per second.

        Args:
            size_bytes: of all threads together.
            seconds: about how long to measure; there is one sample at least.
            state: before every pass all that fits is in the caches (`warm`), or every line was flushed by an
                instruction (`flushed`), or another buffer was read (`evicted`).

        Raises:
            MobileloopError: for arguments out of bounds, or where the processor cannot flush.
        """
        return self._samples(library().ml_memory_read, size_bytes, seconds, state)

    def chase_ns(self, size_bytes: int, seconds: float, state: str = "warm") -> list[float]:
        """Samples of the nanoseconds of one load that depends on the load before, by one thread; as `read_gbps`."""
        return self._samples(library().ml_memory_chase, size_bytes, seconds, state)

    def arithmetic_ns(self, seconds: float) -> list[float]:
        """Nanoseconds of a step of a fixed loop of arithmetic, by thread, all at once: how fast the cores compute now.

        Raises:
            MobileloopError: for a time out of bounds.
        """
        found = (ctypes.c_double * self._threads)()
        check(library().ml_memory_arithmetic(self._handle, seconds, found, self._threads))
        return list(found)

    def _samples(self, measure: Callable[..., int], size_bytes: int, seconds: float, state: str) -> list[float]:
        samples, count = (ctypes.c_double * MAX_SAMPLES)(), ctypes.c_uint32()
        check(
            measure(self._handle, size_bytes, MEMORY_STATES[state], seconds, samples, MAX_SAMPLES, ctypes.byref(count))
        )
        return samples[: count.value]
