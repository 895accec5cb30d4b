"""The engine's C interface through ctypes; every failure becomes a MobileloopError with the engine's sentence."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from mobileloop.errors import MobileloopError
from mobileloop.runtimes.abi import ABI_VERSION, declare

LIBRARY = "libmobileloop_engine.so"
MAX_SAMPLES = 4096  # of one measurement of memory
LEAST_READ_BYTES = 512  # of a working set, for each thread

MEMORY_STATES = {"warm": 0, "flushed": 1, "evicted": 2}  # ml_memory_state


def library_folder() -> Path:
    """Where the built libraries lie: MOBILELOOP_LIBRARY_DIR, or beside the installed package.

    Raises:
        MobileloopError: where they were not built.
    """
    override = os.environ.get("MOBILELOOP_LIBRARY_DIR")
    if override:
        candidates = [Path(override)]
    else:
        import mobileloop

        # An editable install keeps built files in site-packages, so the package has more than one folder.
        candidates = [Path(folder) / "lib" for folder in mobileloop.__path__] + _installed_folders()
    for folder in candidates:
        if (folder / LIBRARY).is_file():
            return folder
    raise MobileloopError(f"the engine library {LIBRARY} was not built; reinstall with: pip install mobileloop.")


def _installed_folders() -> list[Path]:
    import sysconfig

    return [Path(sysconfig.get_path(kind)) / "mobileloop" / "lib" for kind in ("platlib", "purelib")]


@cache
def library() -> ctypes.CDLL:
    """The loaded engine.

    Raises:
        MobileloopError: where it is missing, or its ABI is another version's.
    """
    path = library_folder() / LIBRARY
    try:
        # Global symbols: the ExecuTorch operator library resolves the same engine.
        engine = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise MobileloopError(f"the engine library cannot be loaded ({error}); reinstall mobileloop.") from None
    foreign = MobileloopError("the engine library belongs to another version of mobileloop; reinstall mobileloop.")
    try:
        if engine.ml_abi_version() != ABI_VERSION:
            raise foreign
        declare(engine)
    except AttributeError:  # a function that this version has and that one lacks
        raise foreign from None
    return engine


def check(status: int) -> None:
    """Raise MobileloopError with the engine's sentence where a call failed."""
    if status != 0:
        message = library().ml_last_error().decode("utf-8", "replace")
        raise MobileloopError(f"{message}.")


def kernels() -> str:
    """The kernel set in use, "scalar" or "avx2"."""
    return str(library().ml_kernels().decode())


def available_kernels() -> list[str]:
    """Kernel sets this processor can run, best first."""
    return str(library().ml_available_kernels().decode()).split(",")


def use_kernels(name: str) -> None:
    """Choose the kernel set of sessions opened from here on.

    Raises:
        MobileloopError: where this processor cannot run it.
    """
    check(library().ml_use_kernels(name.encode()))


def default_threads() -> int:
    """Threads that suit this machine: its big cores that this thread may run on, SMT siblings counted once."""
    return int(library().ml_default_threads())


def topology_json(root: Path | None = None) -> str:
    """The processor as `ml_topology_json` writes it.

    Args:
        root: None is this machine; else a folder that holds another machine's `sys`.
    """
    place, needed, size = (None if root is None else os.fsencode(root)), ctypes.c_uint64(), 0
    buffer = None
    while True:  # the cpus that may be used can change between two calls
        check(library().ml_topology_json(place, buffer, size, ctypes.byref(needed)))
        if buffer is not None:
            return str(buffer.value.decode())
        size = needed.value + 4096
        buffer = ctypes.create_string_buffer(size)


def cpu_array(cpus: Sequence[int]) -> ctypes.Array[ctypes.c_uint32]:
    """Cpu numbers as the engine takes them."""
    return (ctypes.c_uint32 * len(cpus))(*cpus)


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
        self._handle = ctypes.c_void_p()
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

    def _samples(self, measure: Callable[..., int], size_bytes: int, seconds: float, state: str) -> list[float]:
        samples, count = (ctypes.c_double * MAX_SAMPLES)(), ctypes.c_uint32()
        check(
            measure(self._handle, size_bytes, MEMORY_STATES[state], seconds, samples, MAX_SAMPLES, ctypes.byref(count))
        )
        return samples[: count.value]
