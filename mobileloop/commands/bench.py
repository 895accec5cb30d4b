"""`mobileloop bench`: the card, the measurement, a table, and one JSON document on the last line."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mobileloop.commands.options import Cpus, OnnxKernel, Stream, session_options

if TYPE_CHECKING:  # pydantic, numpy and rich stay out of `mobileloop --help`
    from rich.console import Console

    from mobileloop.runtimes.base import SessionOptions
    from mobileloop_bench.measure import Measurement
    from mobileloop_bench.plan import Plan
    from mobileloop_bench.results import Document

INTERRUPTED = 130  # what a shell reports for Ctrl-C


def bench(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Artifacts: .safetensors, .pte or .onnx.")],
    threads: Annotated[
        str | None,
        typer.Option(
            metavar="LIST", help="Thread counts, such as 1,2 (default: 1 and all big cores, or all of --cpus)."
        ),
    ] = None,
    loops: Annotated[
        str | None, typer.Option(metavar="LIST", help="Loop counts, such as 1,2,4 (default: each artifact's own).")
    ] = None,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Tokens of the prefill.")] = 128,
    decode_tokens: Annotated[int, typer.Option(min=1, help="Tokens decoded behind it, one by one.")] = 64,
    repetitions: Annotated[int, typer.Option(min=1, help="Rounds over all configurations; 5 make a valid result.")] = 5,
    json_out: Annotated[Path | None, typer.Option("--json", metavar="OUT", help="Also write the JSON here.")] = None,
    onnx_kernel: OnnxKernel = "auto",
    stream: Stream = "auto",
    cpus: Cpus = None,
) -> None:
    """Measure load, prefill, decode and memory of artifacts.

    A card with the bytes per token and the ceiling they set on this machine
    comes first. Then every combination of FILE, --threads and --loops runs
    once per round, in an order that rotates, and every raw sample is kept. A
    table follows; the last line is one JSON document with the same data.
    Ctrl-C keeps what was measured and marks it as not valid.

    \b
    Examples:
      mobileloop bench model.safetensors
      mobileloop bench model.safetensors --threads 1,2 --loops 1,2,4 --json bench.json
      mobileloop bench model.safetensors --threads 2,5 --cpus 3-7
      mobileloop bench model.safetensors model.pte model.onnx --repetitions 10 --json all.json
    """
    options = session_options(onnx_kernel, cpus, stream)
    document = measure_and_show(files, threads, loops, prompt_tokens, decode_tokens, repetitions, json_out, options)
    typer.echo(document.to_json())
    if document.interrupted:
        raise typer.Exit(INTERRUPTED)


def measure_and_show(
    files: list[Path],
    threads: str | None,
    loops: str | None,
    prompt_tokens: int,
    decode_tokens: int,
    repetitions: int,
    json_out: Path | None,
    options: SessionOptions,
) -> Document:
    """The command but for its last line: card, measurement, table and the file."""
    from rich.console import Console

    from mobileloop.artifact import check_output
    from mobileloop_bench.tables import print_results

    if json_out is not None:
        check_output(json_out)  # before the measurement, not after it
    console = Console(width=None if sys.stdout.isatty() else 160)
    plan = _plan(files, threads, loops, prompt_tokens, decode_tokens, repetitions, options)
    document = _run(console, plan)
    print_results(console, document)
    if json_out is not None:
        document.write(json_out)
    return document


def _plan(
    files: list[Path],
    threads: str | None,
    loops: str | None,
    prompt_tokens: int,
    decode_tokens: int,
    repetitions: int,
    options: SessionOptions,
) -> Plan:
    from mobileloop.runtimes.base import default_threads
    from mobileloop.runtimes.topology import check_cpus
    from mobileloop_bench.plan import Settings, make_plan, numbers, open_artifacts

    cpus = options.get("cpus")
    check_cpus(cpus)
    settings = Settings(
        threads=numbers(threads if threads is not None else f"1,{default_threads(cpus)}", "--threads"),
        loops=None if loops is None else numbers(loops, "--loops"),
        prompt_tokens=prompt_tokens,
        decode_tokens=decode_tokens,
        repetitions=repetitions,
        cpus=cpus if cpus is None else list(cpus),
    )
    return make_plan(open_artifacts(files, options), settings)


def _run(console: Console, plan: Plan) -> Document:
    from mobileloop_bench.bandwidth import measure_bandwidth
    from mobileloop_bench.card import print_card
    from mobileloop_bench.machine import probe
    from mobileloop_bench.memory import measure_memory
    from mobileloop_bench.rows import make_document

    machine = probe()
    bandwidth = measure_bandwidth(machine, plan.settings.threads, cpus=plan.settings.cpus)
    print_card(console, plan, machine, bandwidth)
    measurement = _measured(plan)
    memory = {} if measurement.interrupted else measure_memory(plan)
    return make_document(measurement, machine, bandwidth, memory, shlex.join(["mobileloop", *sys.argv[1:]]))


def _measured(plan: Plan) -> Measurement:
    """Measure with a progress bar on stderr that draws only between turns: a drawing thread would take a core."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from mobileloop_bench.measure import measure

    columns = (BarColumn(bar_width=20), MofNCompleteColumn(), TextColumn("{task.description}", markup=False))
    console = Console(stderr=True)
    quiet = not console.is_terminal
    with Progress(*columns, console=console, auto_refresh=False, transient=True, disable=quiet) as progress:
        task = progress.add_task("starting")

        def show(done: int, total: int, what: str) -> None:
            progress.update(task, completed=done, total=total, description=what)
            progress.refresh()

        return measure(plan, show)
