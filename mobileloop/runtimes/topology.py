"""The processor as the engine reads it from sysfs: kinds of cores, caches, and lists of cpus as people write them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel

from mobileloop.errors import MobileloopError
from mobileloop.runtimes import native

MAX_CPUS = 1024  # the engine's bound


class Cpu(BaseModel):
    """What the system schedules on; a core with SMT is several. What sysfs hides is 0 or empty.

    Attributes:
        cluster: place in `Topology.clusters`.
        capacity: of the scheduler; 1024 is the strongest of the machine.
        core: cpus of the same core, this one among them.
        private_cache_bytes: the largest data cache that no other core uses.
        shared_cache_bytes: the last level, where other cores use it too.
        shared_with: the cpus that share that one, this one among them.
    """

    cpu: int
    cluster: int
    capacity: int
    max_khz: int
    core: list[int]
    private_cache_bytes: int
    shared_cache_bytes: int
    shared_with: list[int]


class Cluster(BaseModel):
    """Cores of one kind: of the same capacity and highest frequency."""

    cpus: list[int]
    cores: int
    capacity: int
    max_khz: int
    big: bool

    def title(self) -> str:
        """What kind of cores these are, in a few words."""
        cores = f"{self.cores} core{'s' if self.cores > 1 else ''}"
        speed = f" up to {self.max_khz / 1000:.0f} MHz" if self.max_khz else ""
        return f"{cores}{speed}, {'big' if self.big else 'not big'}"


class Cache(BaseModel):
    """One cache; `cpus` share it, those among them that this process may not use too."""

    level: int
    kind: str
    size_bytes: int
    cpus: list[int]


class Topology(BaseModel):
    """The cpus that this process may run on; clusters from the strongest down.

    Attributes:
        cpu_quota: cores' worth of time that the control groups of a container allow; None for all there is.
    """

    cpus: list[Cpu]
    clusters: list[Cluster]
    caches: list[Cache]
    default_threads: int
    cpu_quota: float | None = None


def read_topology(root: Path | None = None) -> Topology:
    """This machine, or, under `root`, the one whose `sys` lies there.

    Raises:
        MobileloopError: where the engine was not built.
    """
    return Topology.model_validate_json(native.topology_json(root))


def parse_cpus(text: str) -> list[int]:
    """`4-7,2` as [4, 5, 6, 7, 2].

    Raises:
        MobileloopError: where an entry is no cpu number or range, or a cpu is listed twice.
    """
    cpus: list[int] = []
    for entry in text.split(","):
        match = re.fullmatch(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", entry.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last < MAX_CPUS:
            raise MobileloopError(
                f"--cpus '{text}' holds '{entry.strip()}', but numbers of cpus below {MAX_CPUS} or rising ranges of "
                "them were expected, with commas between; write for example --cpus 4-7,2."
            )
        cpus += range(first, last + 1)
    if len(set(cpus)) < len(cpus):
        raise MobileloopError(f"--cpus '{text}' lists a cpu twice; list each once.")
    return cpus


def write_cpus(cpus: Sequence[int]) -> str:
    """[4, 5, 6, 7, 2] as `4-7,2`."""
    runs: list[list[int]] = []
    for cpu in cpus:
        if runs and cpu == runs[-1][1] + 1:
            runs[-1][1] = cpu
        else:
            runs.append([cpu, cpu])
    return ",".join(f"{first}-{last}" if last > first else f"{first}" for first, last in runs)


def check_cpus(cpus: Sequence[int] | None) -> None:
    """Raise MobileloopError where this process may not run on a cpu, or cannot choose any."""
    if cpus is None:
        return
    if not hasattr(os, "sched_getaffinity"):
        raise MobileloopError("threads cannot be bound to cpus on this system; leave the list of cpus out.")
    allowed = os.sched_getaffinity(0)
    refused = [cpu for cpu in cpus if cpu not in allowed]
    if not cpus or refused:
        what = f"cpus {write_cpus(refused)} do" if len(refused) > 1 else f"cpu {write_cpus(refused)} does"
        said = f"{what} not exist, or this process may not run there" if cpus else "the list of cpus is empty"
        raise MobileloopError(f"{said}; it may run on cpus {write_cpus(sorted(allowed))}.")


@contextmanager
def confined(cpus: Sequence[int] | None) -> Iterator[None]:
    """Keep the calling thread, and threads that it starts meanwhile, to these cpus; None leaves it alone."""
    if cpus is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
