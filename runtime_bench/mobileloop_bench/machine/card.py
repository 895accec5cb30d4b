"""A machine on the screen: what is known of it, what is not, and where published figures are from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import Console

from mobileloop.console import fact_lines, filled, print_lines, print_text
from mobileloop.runtimes.topology import write_cpus
from mobileloop_bench.machine.facts import Machine
from mobileloop_bench.machine.file import MachineFile
from mobileloop_bench.machine.probe import probe, usable_topology
from mobileloop_bench.machine.sensors import Battery
from mobileloop_bench.writing.table import Column, Table, print_table
from mobileloop_bench.writing.units import UNKNOWN, counted, figure, mebibytes

FACTS = 18  # columns of a fact's name


def this_machine() -> MachineFile:
    """The machine that runs this, as a machine file without a ladder."""
    machine = probe()
    device = machine.android.device if machine.android else None
    return MachineFile(
        name=device or machine.cpu or machine.soc or "this machine", machine=machine, topology=usable_topology()
    )


def print_machine(console: Console, file: MachineFile) -> None:
    """Facts, clusters, caches, the ladder and the engine's costs where there are any, and the sources."""
    print_text(console, file.name, style="bold")
    told = facts(file.machine)
    told.append((UNKNOWN, ", ".join(name for name, value in told if not value)))
    print_lines(console, fact_lines([(name, value) for name, value in told if value], console.width, FACTS))
    for table in (_clusters(file.machine), _caches(file), _steps(file)):
        if table.rows:
            print_table(console, table)
    if file.costs:
        kind = "estimated" if file.costs.estimated else "measured"
        rate = figure(file.costs.compute_gbps, "GB/s")
        print_text(
            console,
            f"Engine: one thread consumes {rate} of resident int4 weights ({file.costs.kernels or UNKNOWN}, {kind}).",
        )
    if file.sources:
        print_text(console, "Sources", style="bold")
        for text, paths in _grouped_sources(file):
            print_lines(console, filled(f"  {', '.join(paths)}: {text}", console.width, "    "))


def facts(machine: Machine) -> list[tuple[str, str | None]]:
    """What a machine is, as (name, value) pairs in reading order; None or nothing where it is unknown."""
    android = machine.android
    told: list[tuple[str, str | None]] = [
        ("processor", machine.cpu),
        ("identity", machine.cpu_id),
        ("chip", machine.soc),
        ("architecture", machine.architecture),
        ("cores", _cores(machine)),
        ("instruction sets", None if machine.instruction_sets is None else ", ".join(machine.instruction_sets)),
        ("memory", _memory(machine)),
        ("page size", mebibytes(machine.page_bytes) if machine.page_bytes else None),
        ("system", ", ".join(filter(None, (machine.os, machine.kernel and f"kernel {machine.kernel}")))),
        ("hypervisor", _yes(machine.hypervisor)),
        ("emulated", _yes(machine.emulated)),
        ("temperatures", ", ".join(f"{zone} {c:.1f} °C" for zone, c in machine.temperatures_celsius.items())),
        ("battery", _battery(machine.battery) if machine.battery else None),
        ("energy from", machine.energy_source),
    ]
    if android:
        build = (
            f"Android {android.release or UNKNOWN}, API level {_whole(android.api_level)}, "
            f"security patch {android.security_patch or UNKNOWN}"
        )
        told += [("device", android.device), ("build", build), ("fingerprint", android.fingerprint)]
    if machine.system_cache_bytes:
        told.append(("system cache", f"{mebibytes(machine.system_cache_bytes)}, shared with the rest of the chip"))
    return told


def _cores(machine: Machine) -> str:
    told = [
        counted(count, noun)
        for count, noun in ((machine.cores_usable, "usable cpu"), (machine.cores_physical, "physical core"))
        if count is not None
    ]
    if machine.cpu_quota is not None:
        told.append(f"a quota of {machine.cpu_quota:g} cores' time")
    if machine.default_threads is not None:
        told.append(f"by default {counted(machine.default_threads, 'thread')}")
    return ", ".join(told)


def _memory(machine: Machine) -> str:
    told = [] if machine.memory_type is None else [machine.memory_type]
    if machine.memory_bytes is not None:
        told.append(f"{machine.memory_bytes / 2**30:.1f} GiB")
    if machine.memory_available_bytes is not None:
        told.append(f"{machine.memory_available_bytes / 2**30:.1f} GiB free")
    if machine.memory_peak_gbps is not None:
        told.append(f"peak {figure(machine.memory_peak_gbps, 'GB/s')} in theory")
    return ", ".join(told)


def _battery(battery: Battery) -> str:
    level = UNKNOWN if battery.level_percent is None else f"{battery.level_percent}%"
    told = [level, battery.status or UNKNOWN, figure(battery.current_ma, "mA"), figure(battery.voltage_v, "V")]
    return ", ".join(told)


def _whole(value: int | None) -> str:
    return UNKNOWN if value is None else str(value)


def _yes(value: bool | None) -> str | None:
    return None if value is None else "yes" if value else "no"


def _table(title: str, left: Iterable[str], right: Iterable[str]) -> Table:
    return Table(title, [*(Column(name, left=True) for name in left), *map(Column, right)])


def _clusters(machine: Machine) -> Table:
    numbers = ("cores", "capacity", "min MHz", "max MHz", "MHz now")
    table = _table("Clusters, the strongest first", ("cpus", "core", "big", "governor"), numbers)
    for one in machine.clusters:
        mhz = (figure(mhz, digits=4) for mhz in (one.min_mhz, one.max_mhz, one.current_mhz))
        about = (write_cpus(one.cpus), one.core or UNKNOWN, _yes(one.big) or UNKNOWN, one.governor or UNKNOWN)
        table.rows.append([*about, _whole(one.cores), _whole(one.capacity), *mhz])
    return table


def _caches(file: MachineFile) -> Table:
    table = _table("Caches", ("level", "kind", "of cpus"), ("size", "how many", "cpus on each", "ways"))
    for one in file.machine.caches:
        clusters = file.machine.clusters
        owners = [clusters[one.cluster]] if one.cluster is not None else clusters
        cpus = write_cpus(sorted(cpu for cluster in owners for cpu in cluster.cpus))
        numbers = (mebibytes(one.size_bytes), str(one.instances), str(one.shared_by), _whole(one.ways))
        table.rows.append([f"L{one.level}", one.kind, cpus, *numbers])
    return table


def _steps(file: MachineFile) -> Table:
    table = _table("Bandwidth ladder", ("level",), ("threads", "up to", "GB/s", "latency ns"))
    for step in file.ladder.steps if file.ladder else []:
        size = "" if step.up_to_bytes is None else mebibytes(step.up_to_bytes)
        table.rows.append([step.level, str(step.threads), size, figure(step.read_gbps), figure(step.latency_ns)])
    return table


def _grouped_sources(file: MachineFile) -> Iterator[tuple[str, list[str]]]:
    """Every source once, with all the paths it holds for."""
    grouped: dict[str, list[str]] = {}
    for path, text in file.sources.items():
        grouped.setdefault(text, []).append(path)
    return iter(grouped.items())


def machine_sentence(machine: Machine) -> str:
    """One line naming the processor, its cores and its last-level cache."""
    cores = counted(machine.cores_usable, "usable core") if machine.cores_usable else "usable cores unknown"
    cache = mebibytes(machine.last_level_cache_bytes())
    return f"{machine.cpu or 'Processor unknown'}, {cores}, last-level cache {cache}."
