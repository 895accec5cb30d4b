"""Measure the bandwidth ladder of this machine: every working set, thread count and cluster, warm and cold."""

from __future__ import annotations

import math
import re
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from mobileloop.errors import MobileloopError
from mobileloop.runtimes import native
from mobileloop.runtimes.topology import Topology, write_cpus
from mobileloop_bench.bandwidth.ceiling import MAX_BYTES, working_set_bytes
from mobileloop_bench.bandwidth.levels import APART, DRAM, Level, enough, find_levels
from mobileloop_bench.bandwidth.memory import LEAST_READ_BYTES, Memory, flush_instruction
from mobileloop_bench.machine.facts import Machine
from mobileloop_bench.machine.ladder import Ladder, Latency, Rung, State, Step
from mobileloop_bench.writing.units import counted, mebibytes

LEAST_BYTES = 16 << 10
SIZE_LIMITS = (4 << 10, 64 << 30)  # the engine's
COLD_BYTES = 256 << 20  # of cold reads and of chases: evicting or chaining more takes longer than the measurement
ROUNDS = 7  # samples of each rung, where the time allows
LATENCY_SAMPLES = 5
BEYOND = 4  # times every cache: a working set so large is read from memory
SHARES = {"warm": 0.6, "cold": 0.2, "latency": 0.2}  # of the time

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Place:
    """Where threads run: one each on `cpus`, or, without them, wherever the engine puts them."""

    threads: int
    cluster: int | None
    cpus: tuple[int, ...] | None
    reader_cpus: tuple[int, ...]  # whose caches they use, as far as that is known

    def __str__(self) -> str:
        where = "" if self.cpus is None else f" on cpus {write_cpus(self.cpus)}"
        return f"{counted(self.threads, 'thread')}{where}"


@dataclass(frozen=True)
class Sweep:
    """What is measured, in the order it is measured in."""

    places: tuple[Place, ...]
    sizes: tuple[int, ...]
    seconds: float
    cold: bool
    notes: tuple[str, ...]


def parse_sizes(text: str) -> list[int]:
    """`512K,2M,1G` as bytes, rising, repeats dropped.

    Raises:
        MobileloopError: where an entry is no size from 4K to 64G.
    """
    found = set()
    for entry in text.split(","):
        match = re.fullmatch(r"([0-9]{1,11})([KMG]?)", entry.strip(), re.ASCII | re.IGNORECASE)
        size = int(match[1]) << (10 * " KMG".index(match[2].upper() or " ")) if match else 0
        if not SIZE_LIMITS[0] <= size <= SIZE_LIMITS[1]:
            raise MobileloopError(
                f"--sizes '{text}' holds '{entry.strip()}', but sizes from 4K to 64G with commas between them were "
                "expected; write for example --sizes 512K,2M,256M."
            )
        found.add(size)
    return sorted(found)


def plan_sweep(
    machine: Machine,
    topology: Topology,
    threads: Sequence[int] | None = None,
    sizes: Sequence[int] | None = None,
    cpus: Sequence[int] | None = None,
    seconds: float = 60.0,
    cold: bool = True,
) -> Sweep:
    """Two sizes per octave from 16 KiB to what `working_set_bytes` says, by each thread count and cluster.

    Args:
        threads: None is one thread and all big cores, or all of `cpus`.
        cpus: the threads run there only, and clusters are not told apart.

    Raises:
        MobileloopError: for a size of more than half the memory.
    """
    notes = []
    if sizes is None:
        top = working_set_bytes(machine)
        steps = math.floor(2 * math.log2(top / LEAST_BYTES))
        sizes = sorted({*(round(LEAST_BYTES * 2 ** (i / 2) / 4096) * 4096 for i in range(steps + 1)), top})
        notes += _cap_notes(machine, top)
    if machine.memory_bytes and max(sizes) > machine.memory_bytes // 2:
        raise MobileloopError(
            f"a working set of {mebibytes(max(sizes))} is more than half of this machine's "
            f"{mebibytes(machine.memory_bytes)} of memory; choose a smaller --sizes."
        )
    places = tuple(_places(topology, threads, cpus))
    most = max(place.threads for place in places)
    if max(sizes) < most * LEAST_READ_BYTES:
        raise MobileloopError(
            f"no working set has {LEAST_READ_BYTES} bytes for each of {most} threads; choose a larger --sizes."
        )
    return Sweep(places, tuple(sizes), seconds, cold, tuple(notes))


def _cap_notes(machine: Machine, top: int) -> list[str]:
    cache = machine.last_level_cache_bytes()
    if cache is None:
        return [f"The size of the last-level cache is hidden; the largest working set is {mebibytes(top)}."]
    if top >= 4 * cache:
        return []
    why = (
        f"{mebibytes(MAX_BYTES)} is the most that is read in the time"
        if top == MAX_BYTES
        else "more would be over an eighth of the memory"
    )
    shared = " Virtual machines show the cache of a whole socket, of which they have a part." * bool(machine.hypervisor)
    return [
        f"The largest working set is {mebibytes(top)}, not four times the last-level cache of {mebibytes(cache)}: "
        f"{why}.{shared}"
    ]


def _places(topology: Topology, threads: Sequence[int] | None, cpus: Sequence[int] | None) -> Iterator[Place]:
    if cpus is not None:
        for count in threads or dict.fromkeys((1, len(cpus))):
            yield Place(count, None, tuple(cpus[:count]) if count <= len(cpus) else tuple(cpus), tuple(cpus[:count]))
        return
    cores = [_one_per_core(topology, cluster.cpus) for cluster in topology.clusters]
    big = [cpu for cluster, own in zip(topology.clusters, cores, strict=True) if cluster.big for cpu in own]
    for count in threads or dict.fromkeys((1, topology.default_threads or 1)):
        yield Place(count, None, None, tuple(big[:count]))
    if len(cores) > 1:
        for index, own in enumerate(cores):
            for count in threads or dict.fromkeys((1, len(own))):
                if count <= len(own):
                    yield Place(count, index, tuple(own[:count]), tuple(own[:count]))


def _one_per_core(topology: Topology, cpus: Sequence[int]) -> list[int]:
    cores = {cpu.cpu: tuple(cpu.core) or (cpu.cpu,) for cpu in topology.cpus}
    return list({cores.get(cpu, (cpu,)): cpu for cpu in reversed(cpus)}.values())[::-1]


def cache_sizes(topology: Topology, cpus: Sequence[int]) -> list[tuple[str, int]]:
    """Name and size of each level of data caches that these cpus have together, the innermost first."""
    sizes: dict[int, int] = {}
    for cache in topology.caches:
        if cache.kind != "instruction" and not set(cache.cpus).isdisjoint(cpus):
            sizes[cache.level] = sizes.get(cache.level, 0) + cache.size_bytes
    return [(f"L{level}", size) for level, size in sorted(sizes.items())]


def measure_ladder(sweep: Sweep, topology: Topology, progress: Progress = lambda what, done: None) -> Ladder:
    """Measure everything. Each place is measured whole before the next, each of its rungs once per round.

    After Ctrl-C the ladder holds the places that were whole.

    Raises:
        KeyboardInterrupt: where no place was whole.
    """
    flush = flush_instruction()
    ladder = Ladder(kernels=native.kernels(), huge_pages=True, notes=list(sweep.notes))
    if sweep.cold:
        ladder.cold_by = flush or "reading another buffer"
    work = _Work(sweep, progress, "flushed" if flush else "evicted")
    try:
        for place in sweep.places:
            ladder.rungs += work.rungs(place)
        for place in _first_of_each_cluster(sweep.places):
            ladder.latencies += work.latencies(place)
    except KeyboardInterrupt:
        if not ladder.rungs:
            raise
        ladder.interrupted = True
    known = {(rung.threads, rung.cluster) for rung in ladder.rungs}
    for place in sweep.places:
        if (place.threads, place.cluster) in known:
            ladder.steps += find_steps(
                ladder, place, cache_sizes(topology, place.reader_cpus), place not in work.partial
            )
    ladder.notes += [*_step_notes(sweep, ladder), *work.left_out(), *_disturbed(ladder)]
    return ladder


def _step_notes(sweep: Sweep, ladder: Ladder) -> list[str]:
    if enough(sweep.sizes):
        return []
    return [
        f"Too few sizes to find the levels: at least 6, no further apart than {2**APART:.1f} times on average, are "
        "needed; the table has the sizes that were read."
    ]


def _disturbed(ladder: Ladder) -> list[str]:
    found = [rung for rung in ladder.rungs if rung.disturbed]
    if not found:
        return []
    each = ", ".join(f"{counted(r.threads, 'thread')} {mebibytes(r.size_bytes)} {r.state}" for r in found[:8])
    more = f" and {len(found) - 8} more" if len(found) > 8 else ""
    return [f"Disturbed, their samples spread too widely: {each}{more}."]


def find_steps(ladder: Ladder, place: Place, caches: Sequence[tuple[str, int]], whole: bool = True) -> list[Step]:
    """The steps of one place from its warm rungs, with the latency of each level where a chase lay in it.

    Where sizes are too few, or not all of them were read (`whole`), it is DRAM alone, and that only where the largest
    working set is beyond every cache.
    """
    rungs = [
        (rung.size_bytes, rung.read_gbps)
        for rung in ladder.rungs
        if (rung.threads, rung.cluster, rung.state) == (place.threads, place.cluster, "warm")
    ]
    chases = [one for one in ladder.latencies if one.cluster == place.cluster and one.state == "warm"]
    steps, below = [], 0
    if whole and enough([size for size, _ in rungs]):
        levels = find_levels(rungs, caches)
    else:
        size, rate = max(rungs)
        levels = [Level(DRAM, None, rate)] if caches and size >= BEYOND * caches[-1][1] else []
    for level in levels:
        # One thread chases: it has its share of the level, which begins well behind the one before.
        most = math.inf if level.up_to_bytes is None else level.up_to_bytes / place.threads
        within = [one.ns for one in chases if 2 * below < one.size_bytes <= most]
        if level.up_to_bytes is None:
            within = within[-2:]  # the smaller ones still hit a cache now and then
        steps.append(
            Step(
                level=level.name,
                threads=place.threads,
                cluster=place.cluster,
                up_to_bytes=level.up_to_bytes,
                read_gbps=level.read_gbps,
                latency_ns=statistics.median(within) if within else None,
            )
        )
        below = level.up_to_bytes or below
    return steps


def _first_of_each_cluster(places: Sequence[Place]) -> list[Place]:
    return list({place.cluster: place for place in reversed(places)}.values())[::-1]


class _Work:
    """The measurement, with what it has taken of the time."""

    def __init__(self, sweep: Sweep, progress: Progress, cold_state: str) -> None:
        self._sweep, self._progress, self._cold_state = sweep, progress, cold_state
        self._start = time.monotonic()
        self._end = self._start + sweep.seconds
        self._late: list[str] = []
        self.partial: list[Place] = []  # not all of their warm sizes were read
        parts = {name: share for name, share in SHARES.items() if sweep.cold or name != "cold"}
        self._seconds = {name: sweep.seconds * share / sum(parts.values()) for name, share in parts.items()}

    def rungs(self, place: Place) -> list[Rung]:
        if self.partial and time.monotonic() > self._end:
            self._late.append(str(place))
            return []
        sizes = [size for size in self._sweep.sizes if size >= place.threads * LEAST_READ_BYTES]
        found = []
        with Memory(self._sweep.sizes[-1], place.threads, place.cpus) as memory:
            found += self._state(place, sizes, "warm", memory)
            if self._sweep.cold:
                found += self._state(place, [size for size in sizes if size <= COLD_BYTES][::2], "cold", memory)
        return found

    def _state(self, place: Place, sizes: Sequence[int], state: State, memory: Memory) -> list[Rung]:
        """Rounds over all sizes, downwards and upwards in turn, until the time is over; the largest comes first."""
        seconds = self._seconds[state] / len(self._sweep.places)
        each = seconds / (ROUNDS * max(len(sizes), 1)) / 2  # half for what comes with it: warming, evicting
        end = min(time.monotonic() + seconds, self._end)
        samples: dict[int, list[float]] = {size: [] for size in sizes}
        for turn in range(ROUNDS):
            for size in reversed(sizes) if turn % 2 == 0 else sizes:
                if time.monotonic() > end and (state == "cold" or samples[sizes[-1]]):
                    break
                self._tell(f"{place}, {mebibytes(size)}, {state}")
                native_state = "warm" if state == "warm" else self._cold_state
                samples[size].append(statistics.median(memory.read_gbps(size, each, native_state)))
        missing = [size for size, values in samples.items() if not values]
        if missing:
            self._late.append(f"{place} {state} up to {mebibytes(missing[-1])}")
            self.partial += [place] if state == "warm" else []
        return [
            Rung(
                size_bytes=size,
                threads=place.threads,
                cluster=place.cluster,
                state=state,
                read_gbps=statistics.median(values),
                samples_gbps=values,
            )
            for size, values in samples.items()
            if values
        ]

    def left_out(self) -> list[str]:
        """What the time did not suffice for."""
        return [f"The time was over before these were measured: {'; '.join(self._late)}."] if self._late else []

    def latencies(self, place: Place) -> list[Latency]:
        """By one thread on the first cpu of a place."""
        sizes = [size for size in self._sweep.sizes if size <= COLD_BYTES][::2]
        if not sizes:
            return []
        states: list[State] = ["warm", "cold"] if self._sweep.cold else ["warm"]
        clusters = len({one.cluster for one in self._sweep.places})
        each = self._seconds["latency"] / (clusters * len(sizes) * len(states) * LATENCY_SAMPLES) / 2
        found = []
        with Memory(sizes[-1], 1, place.cpus[:1] if place.cpus else None) as memory:
            for size in sizes:
                for state in states:
                    self._tell(f"latency, {mebibytes(size)}, {state}")
                    native_state = "warm" if state == "warm" else self._cold_state
                    samples: list[float] = []
                    while len(samples) < LATENCY_SAMPLES and time.monotonic() < self._end:
                        samples.append(statistics.median(memory.chase_ns(size, each, native_state)))
                    if not samples:
                        self._late.append(f"latency of {mebibytes(size)} {state}")
                        continue
                    found.append(
                        Latency(
                            size_bytes=size,
                            cluster=place.cluster,
                            state=state,
                            ns=statistics.median(samples),
                            samples_ns=samples,
                        )
                    )
        return found

    def _tell(self, what: str) -> None:
        self._progress(what, min((time.monotonic() - self._start) / self._sweep.seconds, 1.0))
