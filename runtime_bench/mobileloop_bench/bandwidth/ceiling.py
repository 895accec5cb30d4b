"""The read bandwidth of this machine: the ceiling that every decode figure is compared with."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, FiniteFloat

from mobileloop.errors import MobileloopError
from mobileloop.runtimes.topology import confined
from mobileloop_bench.bandwidth import memory
from mobileloop_bench.machine.facts import Machine
from mobileloop_bench.machine.ladder import Ladder
from mobileloop_bench.writing.units import counted, figure, mebibytes

MIB = 1 << 20
MIN_BYTES, MAX_BYTES = 256 * MIB, 1024 * MIB
REPEATS, SECONDS = 3, 0.3


class Bandwidth(BaseModel):
    """Bytes per second that `threads` threads read from a working set of `size_bytes`.

    Attributes:
        read_gbps: the best of the repeats, in 1e9 bytes per second; a ceiling is the best the machine showed.
            Null where it could not be measured, `reason` says why.
        beyond_last_level_cache: whether the working set is larger than the last-level cache, so that the
            figure is DRAM's; null where that cache's size is unknown. On a server whose cache is shared with
            other tenants the true share is smaller than what sysfs claims.
        taken_from: the machine file that told it and when that was measured; null where this run measured it.
    """

    model_config = ConfigDict(extra="allow")

    threads: int
    size_bytes: int
    read_gbps: FiniteFloat | None = None
    median_gbps: FiniteFloat | None = None
    samples_gbps: list[FiniteFloat] = []
    beyond_last_level_cache: bool | None = None
    reason: str | None = None
    taken_from: str | None = None


def working_set_bytes(machine: Machine) -> int:
    """Four last-level caches, at least 256 MiB, at most 1 GiB and at most an eighth of the memory."""
    size = min(max(4 * (machine.last_level_cache_bytes() or 0), MIN_BYTES), MAX_BYTES)
    if machine.memory_bytes:
        size = min(size, machine.memory_bytes // 8)
    return size // MIB * MIB or MIB


def measure_bandwidth(
    machine: Machine, thread_counts: Sequence[int], seconds: float = SECONDS, cpus: Sequence[int] | None = None
) -> list[Bandwidth]:
    """Measure every thread count `REPEATS` times, `seconds` each, in turn so that a disturbance hits all alike.

    With `cpus`, the threads read from those.
    """
    size, cache = working_set_bytes(machine), machine.last_level_cache_bytes()
    beyond = size > cache if cache else None
    samples: dict[int, list[float]] = {threads: [] for threads in thread_counts}
    reason = None
    try:
        with confined(cpus):
            for _ in range(REPEATS):
                for threads, values in samples.items():
                    values.append(memory.read_bandwidth(threads, size, seconds))
    except MobileloopError as error:
        reason = f"the engine's bandwidth test did not run: {error}"
    return [
        Bandwidth(
            threads=threads,
            size_bytes=size,
            read_gbps=max(values, default=None),
            median_gbps=statistics.median(values) if values else None,
            samples_gbps=values,
            beyond_last_level_cache=beyond,
            reason=None if values else reason,
        )
        for threads, values in samples.items()
    ]


def ceiling_gbps(bandwidth: Sequence[Bandwidth], threads: int) -> float | None:
    """The measured read bandwidth of `threads` threads, or None."""
    return next((one.read_gbps for one in bandwidth if one.threads == threads), None)


def bandwidth_of(ladder: Ladder, thread_counts: Sequence[int]) -> list[Bandwidth]:
    """The DRAM steps of a ladder as ceilings; thread counts that it lacks are left out.

    A ladder of several clusters and none for threads that run anywhere gives that of its first cluster, the strongest.
    """
    found = []
    for threads in thread_counts:
        steps = [step for step in ladder.steps if step.threads == threads and step.up_to_bytes is None]
        if steps:
            step = min(steps, key=lambda one: -1 if one.cluster is None else one.cluster)
            sizes = [rung.size_bytes for rung in ladder.rungs if rung.threads == threads]
            one = Bandwidth(threads=threads, size_bytes=max(sizes, default=0), read_gbps=step.read_gbps)
            found.append(one.model_copy(update={"beyond_last_level_cache": True}))
    return found


def bandwidth_sentence(bandwidth: Sequence[Bandwidth]) -> str:
    """The measured read bandwidth by thread count, and what it is the bandwidth of."""
    if not bandwidth:
        return "Read bandwidth: unknown."
    sources = list(dict.fromkeys(one.taken_from for one in bandwidth))
    if len(sources) > 1:
        return " ".join(bandwidth_sentence([one for one in bandwidth if one.taken_from == own]) for own in sources)
    each = ", ".join(f"{counted(one.threads, 'thread')} {figure(one.read_gbps, 'GB/s')}" for one in bandwidth)
    first = bandwidth[0]
    where = {True: "beyond", False: "NOT beyond", None: "perhaps not beyond"}[first.beyond_last_level_cache]
    size = mebibytes(first.size_bytes)
    origin = f" from {sources[0]}" if sources[0] else ""
    text = f"Read bandwidth{origin}: {each} (working set {size}, {where} the last-level cache)."
    return text + (f" Unknown because {first.reason}." if first.reason else "")
