"""Count the DRAM traffic of a token on simulated caches."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mobileloop.commands.options import check_range
from mobileloop.console import progress_bar
from mobileloop.errors import MobileloopError
from mobileloop_bench.commands.options import complete_machines

if TYPE_CHECKING:
    from mobileloop_bench.simulate.traffic import Simulation


def simulate(
    file: Annotated[Path, typer.Argument(help="An engine artifact (.safetensors).")],
    machine: Annotated[
        str,
        typer.Option(
            "--machine",
            metavar="NAME|FILE",
            help="The machine whose caches are simulated.",
            autocompletion=complete_machines,
        ),
    ],
    loops: Annotated[str | None, typer.Option(metavar="LIST", help="Loop counts (default: 1 and the most).")] = None,
    threads: Annotated[str, typer.Option(metavar="LIST", help="Thread counts; one thread is one core.")] = "1",
    simulator: Annotated[
        str,
        typer.Option(
            metavar="auto|qemu|cachegrind",
            help="The aarch64 engine on QEMU, or this host's engine under valgrind (one thread).",
        ),
    ] = "auto",
    context: Annotated[int, typer.Option(help="Tokens in the KV cache before the one that is counted.")] = 16,
    json_out: Annotated[Path | None, typer.Option("--json", metavar="OUT", help="Also write the JSON here.")] = None,
) -> None:
    """Count the DRAM traffic of one decoded token on simulated caches.

    The sizes come from a machine file, the traffic from a cache simulator that
    follows every load of the real engine. It proves whether loops re-read the
    block from cache. It is no time, and no such machine takes part. It needs a
    checkout, a compiler, and QEMU or valgrind (docs/arm.md).

    \b
    Examples:
      mobileloop simulate model.safetensors --machine raspberry-pi-5 --loops 1,2,4
      mobileloop simulate model.safetensors --machine my-phone.json --threads 1,4 --json traffic.json
    """
    from mobileloop.artifact import runtime_of
    from mobileloop.files import check_output
    from mobileloop.runtimes.engine import read_info
    from mobileloop_bench.machine.file import load
    from mobileloop_bench.simulate.traffic import MOST_TOKENS, open_simulator
    from mobileloop_bench.simulate.traffic import simulate as run
    from mobileloop_bench.writing.lists import numbers

    if runtime_of(file) != "engine":
        raise MobileloopError(f"{file} is no engine artifact; export with --to engine to simulate it.")
    if json_out is not None:
        check_output(json_out, (file, machine))
    found = load(machine)
    info = read_info(file)
    check_range("--context", context, 0, info.context - MOST_TOKENS)
    most = info.schedule.max_loops
    asked = numbers(loops, "--loops") if loops is not None else sorted({1, most})
    counts = numbers(threads, "--threads")
    with progress_bar("simulating") as progress:
        progress("building", 0.0)
        simulation = run(file.resolve(), info, found, open_simulator(simulator), asked, counts, context, progress)
    _show(simulation)
    if json_out is not None:
        simulation.write(json_out)


def _show(simulation: Simulation) -> None:
    from rich.console import Console
    from rich.table import Table

    from mobileloop_bench.simulate.traffic import verdict
    from mobileloop_bench.writing.units import mebibytes, megabytes

    console = Console(width=None if sys.stdout.isatty() else 160)
    table = Table(title=f"Simulated DRAM traffic per token: {simulation.artifact} on {simulation.machine}")
    for name in ("threads", "loops", "last level", "resident by size", "unique", "executed", "KV", "DRAM", "of unique"):
        table.add_column(name, justify="right")
    for row in simulation.traffic:
        table.add_row(
            str(row.threads),
            str(row.loops),
            f"{row.level}, {mebibytes(row.level_bytes)}",
            {True: "yes", False: "no", None: "-"}[row.resident],
            *map(megabytes, (row.unique_bytes, row.executed_bytes, row.kv_bytes, row.dram_bytes)),
            f"{row.dram_bytes / row.unique_bytes:.2f}",
        )
    console.print(table)
    console.print(verdict(simulation), highlight=False)
    assumed = f" Assumed: {', '.join(simulation.assumptions)}." if simulation.assumptions else ""
    console.print(
        f"{simulation.note[0].upper()}{simulation.note[1:]}; {simulation.simulator}.{assumed}", highlight=False
    )
