"""DRAM traffic of one decoded token on the caches of a machine, by a cache simulator: no time, and no such machine.

A block that is resident leaves memory once per token however often it is applied; one that is not, once per
application. This is where that promise is checked for caches that nobody here owns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from mobileloop.artifact import ArtifactInfo
from mobileloop.errors import MobileloopError
from mobileloop_bench.machine.facts import Cache as MachineCache
from mobileloop_bench.machine.file import MachineFile
from mobileloop_bench.simulate.cachegrind import Cachegrind
from mobileloop_bench.simulate.caches import LINE_BYTES, Cache, is_resident
from mobileloop_bench.simulate.qemu import ENGINE, Emulator
from mobileloop_bench.writing.documents import VersionedDocument

FOLDER = ENGINE.parents[1] / "build" / "simulate"
WAYS = {1: 4, 2: 8, 3: 16}  # assumed where a machine file does not tell
L1_BYTES = 64 << 10
PREFIX = 16
MOST_TOKENS = 2  # that a simulator decodes behind the prefix
SIMULATORS = ("qemu", "cachegrind")
NOTE = "simulated: a cache simulator's count for these sizes; no time, no prefetcher, and no such machine took part"


@dataclass(frozen=True)
class Hierarchy:
    """The caches to simulate, the nearest first, and what had to be assumed about them.

    `memory_side` is the level whose misses go to DRAM.
    """

    l1: Cache
    l2: Cache | None
    last: Cache | None
    assumptions: tuple[str, ...] = ()

    @property
    def memory_side(self) -> tuple[str, Cache]:
        """Name and cache of the last level there is."""
        return next((name, cache) for name, cache in (("L3", self.last), ("L2", self.l2), ("L1", self.l1)) if cache)


def hierarchy_of(file: MachineFile) -> Hierarchy:
    """The data caches of a machine's big cores; of several kinds at one level, the largest.

    Raises:
        MobileloopError: where the file knows neither an L2 nor an L3.
    """
    assumed: list[str] = []
    found = {level: _largest(file.machine.caches, level, assumed) for level in (1, 2, 3)}
    if not (found[2] or found[3]):
        raise MobileloopError(
            f"the machine '{file.name}' names no L2 and no L3, so there is nothing to simulate; add the sizes to its "
            "machine.caches."
        )
    beyond = sorted({cache.level for cache in file.machine.caches if cache.level > 3})
    assumed += [f"L{level} is left out" for level in beyond]
    l1, l2, last = (_simulated(found[level], assumed) for level in (1, 2, 3))
    if not l1:
        assumed.append(f"L1 of {L1_BYTES >> 10} KiB in {WAYS[1]} ways")
    return Hierarchy(
        l1 or Cache(L1_BYTES, WAYS[1]), l2, last and Cache(last.size_bytes, last.ways, None), tuple(assumed)
    )


def _largest(caches: Sequence[MachineCache], level: int, assumed: list[str]) -> MachineCache | None:
    kinds = [cache for cache in caches if cache.level == level and cache.kind != "instruction"]
    if len(kinds) > 1:
        assumed.append(f"the largest of {len(kinds)} kinds of L{level}")
    return max(kinds, key=lambda cache: cache.size_bytes, default=None)


def _simulated(cache: MachineCache | None, assumed: list[str]) -> Cache | None:
    if cache is None:
        return None
    ways: int | None = getattr(cache, "ways", None)
    if ways is None:
        ways = WAYS[cache.level]
        assumed.append(f"L{cache.level} in {ways} ways")
    return Cache(cache.size_bytes, ways, cache.shared_by)


class Traffic(BaseModel):
    """DRAM traffic of one decoded token, warm.

    Attributes:
        level: whose misses these are: the last one there is.
        resident: whether what a loop re-reads fits that level, by size; null where nothing is read again.
        lines: missed lines of 64 bytes by kind: `weights`, `kv`, `other`; `all` where the simulator tells none apart.
        dram_bytes: 64 times all of them.
        predicted_weight_bytes: executed bytes where they are not resident, else unique bytes.
    """

    model_config = ConfigDict(extra="allow")

    threads: int = Field(ge=1)
    loops: int = Field(ge=1)
    level: str
    level_bytes: int
    resident: bool | None
    lines: dict[str, int]
    dram_bytes: int
    unique_bytes: int
    executed_bytes: int
    kv_bytes: int
    predicted_weight_bytes: int


class Simulation(VersionedDocument):
    """What `mobileloop simulate` found; never a measurement."""

    NAME: ClassVar[str] = "mobileloop.simulation"
    VERSION: ClassVar[int] = 1
    ORIGIN: ClassVar[str] = "mobileloop simulate --json"

    simulated: Literal[True] = True
    note: str = NOTE
    artifact: str
    model: str
    machine: str
    simulator: str
    assumptions: list[str]
    traffic: list[Traffic]


class Simulator(Protocol):
    """Counts the lines that one decoded token misses in the last level."""

    def described(self) -> str:
        """What the figures come from."""

    def token(self, artifact: Path, loops: int, threads: int, prefix: int, caches: Hierarchy) -> Mapping[str, int]:
        """Missed lines by kind."""

    def stream(self, size_bytes: int, passes: int, caches: Hierarchy) -> int:
        """Missed lines of `passes` passes over a buffer, in order, after a first one that is not counted."""


class QemuSimulator:
    """The aarch64 engine on QEMU under our plugin; every thread is a core."""

    def __init__(self, folder: Path) -> None:
        self._emulator = Emulator(folder)

    def described(self) -> str:
        return f"{self._emulator.described()['emulator']}, aarch64 build"

    def token(self, artifact: Path, loops: int, threads: int, prefix: int, caches: Hierarchy) -> Mapping[str, int]:
        return self._lines("decode", artifact, loops, threads, 1, prefix, caches=caches)

    def stream(self, size_bytes: int, passes: int, caches: Hierarchy) -> int:
        more, once = (self._lines("stream", size_bytes, n, caches=caches)["weights"] for n in (passes + 1, 1))
        return more - once

    def _lines(self, *arguments: str | int | Path, caches: Hierarchy) -> Mapping[str, int]:
        counts = self._emulator.count(*arguments, l1=caches.l1, l2=caches.l2, last=caches.last)
        return counts.misses[{"L3": "last", "L2": "l2", "L1": "l1"}[caches.memory_side[0]]]


class CachegrindSimulator:
    """The host's engine under valgrind: one core, whose L1 and last level are simulated."""

    def __init__(self, folder: Path) -> None:
        self._cachegrind = Cachegrind(folder)

    def described(self) -> str:
        return self._cachegrind.described()

    def token(self, artifact: Path, loops: int, threads: int, prefix: int, caches: Hierarchy) -> Mapping[str, int]:
        check_cores("cachegrind", [threads])
        return {"all": self._cachegrind.token_lines(artifact, loops, caches.l1, caches.memory_side[1], prefix)}

    def stream(self, size_bytes: int, passes: int, caches: Hierarchy) -> int:
        return self._cachegrind.stream_lines(size_bytes, passes, caches.l1, caches.memory_side[1])


def check_cores(simulator: str, threads: Sequence[int]) -> None:
    """Raise MobileloopError where a simulator has fewer cores than are asked for."""
    if simulator == "cachegrind" and max(threads) > 1:
        raise MobileloopError("cachegrind simulates one core; use --threads 1, or --simulator qemu for more threads.")


def open_simulator(name: str, folder: Path = FOLDER) -> Simulator:
    """The simulator of that name; `auto` takes the first whose tools are there.

    Raises:
        MobileloopError: for an unknown name, or where no tool is there, with what each of them lacks.
    """
    made: Mapping[str, type[QemuSimulator] | type[CachegrindSimulator]] = {
        "qemu": QemuSimulator,
        "cachegrind": CachegrindSimulator,
    }
    if name != "auto":
        if name not in made:
            raise MobileloopError(f"the simulator '{name}' is not known; choose auto, {', '.join(SIMULATORS)}.")
        return made[name](folder)
    lacking = []
    for simulator in SIMULATORS:
        try:
            return made[simulator](folder)
        except MobileloopError as error:
            lacking.append(f"{simulator}: {str(error).rstrip('.')}")
    raise MobileloopError(f"no cache simulator is there ({'; '.join(lacking)}).")


def simulate(
    artifact: Path,
    info: ArtifactInfo,
    file: MachineFile,
    simulator: Simulator,
    loops: Sequence[int],
    threads: Sequence[int],
    prefix: int = PREFIX,
    progress: Callable[[str, float], None] = lambda step, share: None,
) -> Simulation:
    """DRAM traffic of one decoded token behind `prefix` others, for every thread count and loop count.

    Raises:
        MobileloopError: where the artifact does not run as often, a cache is missing or the simulator fails.
    """
    caches = hierarchy_of(file)
    for number in loops:
        info.schedule.check_loops(number)
    cases = [(count, number) for count in threads for number in loops]
    found = []
    for done, (count, number) in enumerate(cases):
        progress(f"{number} loops, {count} threads", done / len(cases))
        lines = simulator.token(artifact, number, count, prefix, caches)
        found.append(_traffic(info, caches, count, number, lines, prefix))
    return Simulation(
        artifact=artifact.name,
        model=info.config.name,
        machine=file.name,
        simulator=simulator.described(),
        assumptions=list(caches.assumptions),
        traffic=found,
    )


def _traffic(
    info: ArtifactInfo, caches: Hierarchy, threads: int, loops: int, lines: Mapping[str, int], prefix: int
) -> Traffic:
    level, cache = caches.memory_side
    resident = is_resident(info, cache, threads) if loops > 1 else None
    unique, executed = info.unique_bytes(), info.executed_bytes(loops)
    return Traffic(
        threads=threads,
        loops=loops,
        level=level,
        level_bytes=cache.size_bytes,
        resident=resident,
        lines=dict(lines),
        dram_bytes=LINE_BYTES * sum(lines.values()),
        unique_bytes=unique,
        executed_bytes=executed,
        kv_bytes=info.kv_bytes(prefix + 1, loops),
        predicted_weight_bytes=executed if resident is False else unique,
    )


def verdict(simulation: Simulation) -> str:
    """One sentence: whether more loops cost DRAM traffic on that machine."""
    rows = simulation.traffic
    one = {row.threads: row for row in rows if row.loops == 1}
    more = [(row, one[row.threads]) for row in rows if row.loops > 1 and row.threads in one]
    if not more:
        return "With a single loop count nothing can be said of loops; add --loops 1,2,4."
    row, first = max(more, key=lambda pair: (pair[0].loops, pair[0].dram_bytes / pair[1].dram_bytes))
    change = row.dram_bytes / first.dram_bytes - 1
    extra_weights = row.executed_bytes - row.unique_bytes
    share = (row.dram_bytes - first.dram_bytes - (row.kv_bytes - first.kv_bytes)) / extra_weights
    where = f"on the simulated caches of {simulation.machine}"
    if share < 0.1:
        return f"{row.loops} loops add {100 * change:.1f}% of DRAM traffic {where}: the block is resident."
    return (
        f"{row.loops} loops add {100 * change:.0f}% of DRAM traffic {where}: "
        f"{100 * min(share, 1):.0f}% of the re-read weights come from DRAM again."
    )
