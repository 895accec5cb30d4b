"""Say what a machine runs within a time per token, predicted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mobileloop.commands.options import check_range
from mobileloop.console import open_console
from mobileloop.errors import MobileloopError
from mobileloop_bench.commands.options import complete_machines

if TYPE_CHECKING:  # pydantic, numpy and rich stay out of `mobileloop --help`
    from mobileloop_bench.timemodel.budget import Option

NOTHING_FITS = 1
LOOPS = "1,2,4,8"
QUANTIZATIONS = "int4,int8"


def _complete_presets(incomplete: str) -> list[str]:
    from mobileloop.families.registry import preset_names

    return [name for name in preset_names() if name.startswith(incomplete)]


Source = Annotated[
    str, typer.Argument(help="A preset such as mobilellm-125m, or an artifact.", autocompletion=_complete_presets)
]
Machine = Annotated[
    list[str],
    typer.Option(
        "--machine",
        metavar="FILE|NAME",
        help="A machine file, or the name of one that is shipped.",
        autocompletion=complete_machines,
    ),
]
Budget = Annotated[list[str], typer.Option("--budget", metavar="TIME", help="Per token: 15ms, 0.02s or 60tok/s.")]
Threads = Annotated[
    str | None, typer.Option(metavar="LIST", help="Thread counts (default: all that the machine file knows).")
]
Loops = Annotated[
    str | None,
    typer.Option(metavar="LIST", help=f"Loop counts (default: {LOOPS} of a preset, an artifact's own count)."),
]
Quantize = Annotated[
    str | None, typer.Option(metavar="LIST", help=f"Of a preset, such as {QUANTIZATIONS}, the default.")
]
ContextDepth = Annotated[int, typer.Option(help="Tokens in the KV cache before the one that is predicted.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the plan as one JSON document.")]


def plan(
    source: Source,
    machine: Machine,
    budget: Budget,
    threads: Threads = None,
    loops: Loops = None,
    quantize: Quantize = None,
    context_depth: ContextDepth = 128,
    as_json: AsJson = False,
) -> None:
    """Say what a machine runs within a time per token, and how deep a model may be there.

    The table has every choice with the cache that its repeats are read from and
    its predicted time. Nothing is measured: the model of time (docs/model-of-time.md) predicts from the
    bytes of the model and from the bandwidth and costs in the machine file. A preset
    applies every block in a row so often. Exit code 1 where nothing fits.

    \b
    Examples:
      mobileloop plan mobilellm-125m --machine this.json --budget 15ms
      mobileloop plan mobilellm-350m --machine snapdragon-8-gen-3 --budget 30tok/s --loops 1,2,4
      mobileloop plan smollm2.safetensors --machine this.json --budget 10ms --threads 2 --json
    """
    from mobileloop_bench.machine.file import load
    from mobileloop_bench.timemodel.budget import make_budget_plan, parse_budget, thread_counts
    from mobileloop_bench.timemodel.table import print_budget_plan
    from mobileloop_bench.writing.lists import numbers

    for option, values in (("--machine", machine), ("--budget", budget)):
        if len(values) > 1:
            raise MobileloopError(f"{option} is given {len(values)} times; plan takes one, so run it once for each.")
    budget_ms = parse_budget(budget[0])
    where = load(machine[0])
    if where.ladder is None:
        raise MobileloopError(
            f"the machine file {machine[0]} has no bandwidth ladder; make one there with "
            "mobileloop bandwidth --json M.json."
        )
    options, name, context = _options(source, loops, quantize)
    check_range("--context-depth", context_depth, 0, context - 1)
    counts = numbers(threads, "--threads") if threads is not None else thread_counts(where)
    cores = where.machine.cores_usable or sum(len(cluster.cpus) for cluster in where.machine.clusters)
    if cores and max(counts) > cores:
        raise MobileloopError(f"--threads {max(counts)} is more than the {cores} cores of {where.name}; ask for fewer.")
    made = make_budget_plan(name, options, where, budget_ms, counts, context_depth)
    if as_json:
        typer.echo(json.dumps(json.loads(made.model_dump_json())))
    else:
        print_budget_plan(open_console(), made)
    if made.deepest is None:
        raise typer.Exit(NOTHING_FITS)


def _options(source: str, loops: str | None, quantize: str | None) -> tuple[list[Option], str, int]:
    """What is to be predicted, the model's name, and the tokens it can hold."""
    from mobileloop.families.registry import preset, preset_names
    from mobileloop.quant.schemes import QUANTIZATIONS as KNOWN
    from mobileloop.runtimes import open_session
    from mobileloop_bench.timemodel.budget import artifact_options, preset_options
    from mobileloop_bench.writing.lists import numbers

    if source in preset_names():
        wanted = [entry.strip() for entry in (QUANTIZATIONS if quantize is None else quantize).split(",")]
        for entry in wanted:
            if entry not in KNOWN:
                raise MobileloopError(
                    f"--quantize '{entry}' is not known; choose among {', '.join(KNOWN)}, with commas between them."
                )
        return (
            preset_options(source, numbers(LOOPS if loops is None else loops, "--loops"), wanted),
            source,
            preset(source)[0].max_position,
        )
    if not Path(source).suffix and not Path(source).exists():
        raise MobileloopError(
            f"'{source}' is neither an artifact nor a preset; presets are {', '.join(preset_names())}."
        )
    if quantize is not None:
        raise MobileloopError(f"{source} is quantized already; --quantize is for presets.")
    session = open_session(Path(source), threads=1)
    info = session.info
    session.close()
    counts = None if loops is None else numbers(loops, "--loops")
    for count in counts or ():
        info.schedule.check_loops(count)
    return artifact_options(info, counts), info.config.name, info.context
