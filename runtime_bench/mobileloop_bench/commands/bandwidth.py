"""Measure what this machine reads per second, by working set."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mobileloop.commands.options import Cpus, check_range
from mobileloop.console import INTERRUPTED, progress_bar

if TYPE_CHECKING:  # pydantic and rich stay out of `mobileloop --help`
    from rich.console import Console
    from rich.table import Table

    from mobileloop_bench.machine.file import EngineCosts
    from mobileloop_bench.machine.ladder import Ladder

COSTS_SHARE = 0.2  # of the time


def bandwidth(
    threads: Annotated[
        str | None,
        typer.Option(
            metavar="LIST", help="Thread counts, such as 1,2 (default: 1 and all big cores, or all of --cpus)."
        ),
    ] = None,
    sizes: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Working sets, such as 512K,2M,256M (default: two per octave from 16K to four times the last-level "
            "cache, at least 256M and at most 1G or an eighth of the memory).",
        ),
    ] = None,
    time_budget: Annotated[
        float, typer.Option(metavar="SECONDS", help="About how long to measure, costs included.")
    ] = 55.0,
    cpus: Cpus = None,
    cold: Annotated[
        bool, typer.Option("--cold/--no-cold", help="Also measure with the working set evicted before every pass.")
    ] = True,
    costs: Annotated[
        bool,
        typer.Option(
            "--costs/--no-costs",
            help="Also measure what the engine's own work costs, for mobileloop plan: a fifth of the time.",
        ),
    ] = True,
    json_out: Annotated[
        Path | None, typer.Option("--json", metavar="OUT", help="Write the machine and its ladder here.")
    ] = None,
) -> None:
    """Measure what this machine reads per second from every working-set size.

    The knees, where the rate falls for good, are its caches. Every thread
    count is measured, and every cluster where there are several; then the
    latency of one load by pointer chase, and what the engine's own work costs,
    which mobileloop plan needs too. Ctrl-C keeps what was measured once a
    thread count is complete.

    \b
    Examples:
      mobileloop bandwidth
      mobileloop bandwidth --threads 1,2,4 --json machine.json
      mobileloop bandwidth --cpus 4-7 --sizes 16K,32K,64K,256K,512K,1M,4M,64M,128M,256M --no-cold --no-costs
    """
    from rich.console import Console

    from mobileloop.files import check_output
    from mobileloop.runtimes.topology import check_cpus, parse_cpus, read_topology
    from mobileloop_bench.bandwidth.sweep import measure_ladder, parse_sizes, plan_sweep
    from mobileloop_bench.machine.card import machine_sentence, this_machine
    from mobileloop_bench.writing.lists import numbers

    check_range("--time-budget", time_budget, 1, 3600)
    if json_out is not None:
        check_output(json_out)  # before the measurement, not after it
    listed = None if cpus is None else parse_cpus(cpus)
    check_cpus(listed)
    end = time.monotonic() + time_budget
    made, topology = this_machine(), read_topology()
    sweep = plan_sweep(
        made.machine,
        topology,
        None if threads is None else numbers(threads, "--threads"),
        None if sizes is None else parse_sizes(sizes),
        listed,
        time_budget * (1 - COSTS_SHARE) if costs else time_budget,
        cold,
    )
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(machine_sentence(made.machine), highlight=False, markup=False)
    with progress_bar("bandwidth") as progress:
        ladder = made.ladder = measure_ladder(sweep, topology, progress)
    console.print(_table(ladder) if ladder.steps else _rungs(ladder))
    for note in _notes(ladder):
        console.print(note, highlight=False, markup=False)
    if json_out is not None:
        made.write(json_out)
    if ladder.interrupted:
        raise typer.Exit(INTERRUPTED)
    if costs:
        made.costs = _costs(console, ladder, listed, end - time.monotonic())
        if json_out is not None:
            made.write(json_out)


def _costs(console: Console, ladder: Ladder, cpus: list[int] | None, seconds: float) -> EngineCosts | None:
    from mobileloop.runtimes.topology import confined
    from mobileloop_bench.timemodel.calibrate import measure_costs
    from mobileloop_bench.writing.units import figure

    with progress_bar("costs of the engine") as progress, confined(cpus):
        costs = measure_costs(sorted({rung.threads for rung in ladder.rungs}), progress, seconds)
    if costs is None:
        console.print("The time was over before the engine's costs were measured; give a longer --time-budget.")
        return None
    rate = figure(costs.compute_gbps, "GB/s")
    console.print(f"A thread consumes {rate} of resident int4 weights ({costs.kernels}).", highlight=False)
    return costs


def _table(ladder: Ladder) -> Table:
    from rich.table import Table

    from mobileloop_bench.writing.units import figure, mebibytes

    table = Table(title="Read bandwidth and latency", title_justify="left")
    for name in ("threads", "cluster", "level", "up to", "GB/s", "ns per load"):
        table.add_column(name, justify="left" if name == "level" else "right")
    for step in ladder.steps:
        table.add_row(
            str(step.threads),
            "any" if step.cluster is None else str(step.cluster),
            step.level,
            "" if step.up_to_bytes is None else mebibytes(step.up_to_bytes),
            figure(step.read_gbps),
            figure(step.latency_ns),
            end_section=step.up_to_bytes is None,
        )
    return table


def _rungs(ladder: Ladder) -> Table:
    """Where no level could be told."""
    from rich.table import Table

    from mobileloop_bench.writing.units import figure, mebibytes

    table = Table(title="Read bandwidth by working set", title_justify="left")
    for name in ("threads", "cluster", "size", "GB/s"):
        table.add_column(name, justify="right")
    for rung in ladder.rungs:
        if rung.state == "warm":
            cluster = "any" if rung.cluster is None else str(rung.cluster)
            said = figure(rung.read_gbps) + (" disturbed" if rung.disturbed else "")
            table.add_row(str(rung.threads), cluster, mebibytes(rung.size_bytes), said)
    return table


def _notes(ladder: Ladder) -> list[str]:
    from mobileloop_bench.writing.units import counted, figure, mebibytes

    said = [
        f"GB/s is 1e9 bytes per second of all threads together; 'up to' is their whole working set. "
        f"Loads of the kernel set {ladder.kernels}."
    ]
    cold = [rung for rung in ladder.rungs if rung.state == "cold" and not rung.disturbed]
    for threads, cluster in dict.fromkeys((rung.threads, rung.cluster) for rung in cold):
        own = [rung for rung in cold if (rung.threads, rung.cluster) == (threads, cluster)]
        picked = [own[i] for i in sorted({0, len(own) // 2, len(own) - 1})]
        where = "" if cluster is None else f" of cluster {cluster}"
        each = ", ".join(f"{mebibytes(rung.size_bytes)} {figure(rung.read_gbps, 'GB/s')}" for rung in picked)
        said.append(f"Cold, {counted(threads, 'thread')}{where}, evicted by {ladder.cold_by}: {each}.")
    return said + ladder.notes
