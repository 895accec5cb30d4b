"""The machine a figure was measured on, as validated plain data; what cannot be read is null, never guessed.

Everything comes from procfs and sysfs, so the same probe runs on a server, on a single-board computer and in
a phone's shell; each of those hides other files, hence so many nulls.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path

import mobileloop
from mobileloop.errors import MobileloopError
from mobileloop.runtimes import topology as topology_of
from mobileloop.runtimes.base import available_threads
from mobileloop.runtimes.topology import Topology, read_topology
from mobileloop_bench.machine.android import android_build, read_properties
from mobileloop_bench.machine.cores import core_names, soc_name
from mobileloop_bench.machine.facts import Cache, Cluster, Machine
from mobileloop_bench.machine.processor import cpu_id, cpu_name, emulated, hypervisor, instruction_sets
from mobileloop_bench.machine.sensors import (
    EnergyMeter,
    read_battery,
    read_frequencies,
    read_mhz,
    read_temperatures,
)
from mobileloop_bench.machine.sysfs import CPUS, ROOT, read_number, read_text

LIBRARIES = ("numpy", "onnxruntime", "executorch", "torch")


def probe(root: Path = ROOT) -> Machine:
    """This machine, now. `root` holds `proc`, `sys` and `etc`; tests give a folder of their own."""
    cpuinfo = read_text(root / "proc/cpuinfo") or ""
    topology = usable_topology(root)
    properties = read_properties(root)
    names = core_names(root, cpuinfo)
    clusters = _clusters(root, topology, names)
    return Machine(
        cpu=cpu_name(cpuinfo, root, names),
        cpu_id=cpu_id(cpuinfo),
        soc=soc_name(root, properties),
        architecture=platform.machine() or None,
        cores_usable=available_threads(),
        cores_physical=_physical_cores(topology),
        default_threads=topology.default_threads or None,
        clusters=clusters,
        caches=_caches(root, topology),
        instruction_sets=instruction_sets(cpuinfo),
        max_mhz=max((c.max_mhz for c in clusters if c.max_mhz is not None), default=None),
        current_mhz=max((c.current_mhz for c in clusters if c.current_mhz is not None), default=None),
        governor=", ".join(sorted({c.governor for c in clusters if c.governor is not None})) or None,
        memory_bytes=_memory(root, "MemTotal"),
        memory_available_bytes=_memory(root, "MemAvailable"),
        page_bytes=os.sysconf("SC_PAGE_SIZE"),
        kernel=platform.release() or None,
        os=_os_name(root),
        android=android_build(properties),
        temperatures_celsius=read_temperatures(root),
        battery=read_battery(root),
        energy_source=EnergyMeter(root).source,
        hypervisor=hypervisor(cpuinfo, root, properties),
        emulated=emulated(cpuinfo, platform.machine()),
        python=platform.python_version(),
        libraries=_libraries(),
        mobileloop=mobileloop.__version__,
        git_commit=_git_commit(Path(mobileloop.__file__).resolve().parent.parent),
        time=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def usable_topology(root: Path = ROOT) -> Topology:
    """The engine's reading; nothing where the engine was not built."""
    try:
        return read_topology(None if root == ROOT else root)
    except MobileloopError:
        return Topology(cpus=[], clusters=[], caches=[], default_threads=0)


# -- one reader per fact -------------------------------------------------------------------------------


def _physical_cores(topology: Topology) -> int | None:
    cores = {tuple(cpu.core) for cpu in topology.cpus}
    return len(cores) if cores and () not in cores else None


def _clusters(root: Path, topology: Topology, names: Mapping[int, str]) -> list[Cluster]:
    now = read_frequencies(root, [one.cpus for one in topology.clusters])
    return [
        Cluster(
            cpus=one.cpus,
            cores=one.cores or None,
            core=", ".join(sorted({names[cpu] for cpu in one.cpus if cpu in names})) or None,
            min_mhz=min((mhz for cpu in one.cpus if (mhz := read_mhz(root, cpu, "cpuinfo_min_freq"))), default=None),
            max_mhz=one.max_khz / 1000 or None,
            current_mhz=now.get(index),
            governor=_governor(root, one.cpus),
            capacity=one.capacity or None,
            big=one.big,
        )
        for index, one in enumerate(topology.clusters)
    ]


def _governor(root: Path, cpus: list[int]) -> str | None:
    found = {read_text(root / CPUS / f"cpu{cpu}/cpufreq/scaling_governor") for cpu in cpus} - {None}
    return ", ".join(sorted(str(name) for name in found)) or None


def _caches(root: Path, topology: Topology) -> list[Cache]:
    """Caches of the usable cpus, merged where all that is told of them is the same."""
    cluster_of = {cpu.cpu: cpu.cluster for cpu in topology.cpus}
    merged: Counter[tuple[int, str, int, int, int | None, int | None]] = Counter()
    for cache in topology.caches:
        users = [cpu for cpu in cache.cpus if cpu in cluster_of]
        clusters = {cluster_of[cpu] for cpu in users}
        cluster = clusters.pop() if len(clusters) == 1 else None
        merged[cache.level, cache.kind, cache.size_bytes, len(users), cluster, _ways(root, cache)] += 1
    return [
        Cache(level=level, kind=kind, size_bytes=size, instances=count, shared_by=shared_by, cluster=cluster, ways=ways)
        for (level, kind, size, shared_by, cluster, ways), count in sorted(merged.items(), key=lambda one: one[0][:4])
    ]


def _ways(root: Path, cache: topology_of.Cache) -> int | None:
    """Associativity, which the engine does not need and so does not read; 0 in sysfs means that it is not told."""
    for folder in sorted((root / CPUS / f"cpu{min(cache.cpus, default=0)}/cache").glob("index*")):
        kind = (read_text(folder / "type") or "").lower()
        if read_number(folder / "level") == cache.level and kind == cache.kind:
            return read_number(folder / "ways_of_associativity") or None
    return None


def _memory(root: Path, field: str) -> int | None:
    match = re.search(rf"^{field}:\s*(\d+) kB", read_text(root / "proc/meminfo") or "", re.M)
    return int(match[1]) * 1024 if match else None


def _os_name(root: Path) -> str | None:
    match = re.search(r'^PRETTY_NAME="?([^"\n]+)', read_text(root / "etc/os-release") or "", re.M)
    return match[1] if match else platform.system() or None


def _libraries() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _git_commit(folder: Path) -> str | None:
    if not (folder / ".git").exists():
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
