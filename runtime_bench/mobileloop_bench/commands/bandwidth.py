"""Measure what this machine reads per second, by working set."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mobileloop.commands.options import Cpus, check_range
from mobileloop.console import INTERRUPTED, open_console, print_text, progress_bar

if TYPE_CHECKING:  # pydantic and rich stay out of `mobileloop --help`
    from rich.console import Console

    from mobileloop_bench.machine.file import EngineCosts
    from mobileloop_bench.machine.ladder import Ladder

COSTS_SHARE = 0.2  # of the time


Threads = Annotated[
    str | None,
    typer.Option(metavar="LIST", help="Thread counts, such as 1,2 (default: 1 and all big cores, or all of --cpus)."),
]
Sizes = Annotated[
    str | None,
    typer.Option(
        metavar="LIST",
        help="Working sets, such as 512K,2M,256M (default: two per octave from 16K to four times the last-level "
        "cache, at least 256M and at most 1G or an eighth of the memory).",
    ),
]
TimeBudget = Annotated[float, typer.Option(metavar="SECONDS", help="About how long to measure, costs included.")]
Cold = Annotated[
    bool, typer.Option("--cold/--no-cold", help="Also measure with the working set evicted before every pass.")
]
Costs = Annotated[
    bool,
    typer.Option(
        "--costs/--no-costs",
        help="Also measure what the engine's own work costs, for mobileloop plan: a fifth of the time.",
    ),
]
JsonOut = Annotated[Path | None, typer.Option("--json", metavar="OUT", help="Write the machine and its ladder here.")]


def bandwidth(
    threads: Threads = None,
    sizes: Sizes = None,
    time_budget: TimeBudget = 55.0,
    cpus: Cpus = None,
    cold: Cold = True,
    costs: Costs = True,
    json_out: JsonOut = None,
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
    from mobileloop.files import check_output
    from mobileloop.runtimes.topology import check_cpus, parse_cpus, read_topology
    from mobileloop_bench.bandwidth.sweep import measure_ladder, parse_sizes, plan_sweep
    from mobileloop_bench.bandwidth.table import print_ladder
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
    console = open_console()
    print_text(console, machine_sentence(made.machine))
    with progress_bar("bandwidth") as progress:
        ladder = made.ladder = measure_ladder(sweep, topology, progress)
    print_ladder(console, ladder)
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
        print_text(console, "The time was over before the engine's costs were measured; give a longer --time-budget.")
        return None
    rate = figure(costs.compute_gbps, "GB/s")
    print_text(console, f"A thread consumes {rate} of resident int4 weights ({costs.kernels}).")
    return costs
