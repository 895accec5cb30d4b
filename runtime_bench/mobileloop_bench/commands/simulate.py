"""Count the DRAM traffic of a token on simulated caches."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mobileloop.commands.options import check_range
from mobileloop.console import open_console, progress_bar
from mobileloop.errors import MobileloopError
from mobileloop_bench.commands.options import complete_machines

EngineFile = Annotated[Path, typer.Argument(help="An engine artifact (.safetensors).")]
Machine = Annotated[
    str,
    typer.Option(
        "--machine",
        metavar="NAME|FILE",
        help="The machine whose caches are simulated.",
        autocompletion=complete_machines,
    ),
]
Loops = Annotated[str | None, typer.Option(metavar="LIST", help="Loop counts (default: 1 and the most).")]
Threads = Annotated[str, typer.Option(metavar="LIST", help="Thread counts; one thread is one core.")]
Simulator = Annotated[
    str,
    typer.Option(
        metavar="auto|qemu|cachegrind",
        help="The aarch64 engine on QEMU, or this host's engine under valgrind (one thread).",
    ),
]
Context = Annotated[int, typer.Option(help="Tokens in the KV cache before the one that is counted.")]
JsonOut = Annotated[Path | None, typer.Option("--json", metavar="OUT", help="Also write the JSON here.")]


def simulate(
    file: EngineFile,
    machine: Machine,
    loops: Loops = None,
    threads: Threads = "1",
    simulator: Simulator = "auto",
    context: Context = 16,
    json_out: JsonOut = None,
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
    from mobileloop_bench.simulate.table import print_simulation
    from mobileloop_bench.simulate.traffic import MOST_TOKENS, check_cores, open_simulator
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
    check_cores(simulator, counts)
    with progress_bar("simulating") as progress:
        progress("building", 0.0)
        simulation = run(file.resolve(), info, found, open_simulator(simulator), asked, counts, context, progress)
    print_simulation(open_console(), simulation)
    if json_out is not None:
        simulation.write(json_out)
