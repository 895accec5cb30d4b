"""Measure load, prefill, decode and memory of artifacts."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mobileloop.commands.options import Cpus, OnnxKernel, check_range, session_options
from mobileloop.console import INTERRUPTED, open_console, say
from mobileloop.errors import MobileloopError
from mobileloop.files import text_of

if TYPE_CHECKING:  # pydantic, numpy and rich stay out of `mobileloop --help`
    from mobileloop.runtimes.base import SessionOptions
    from mobileloop_bench.results.document import Document
    from mobileloop_bench.results.settings import Settings


Files = Annotated[list[Path] | None, typer.Argument(metavar="FILE...", help="Artifacts: .safetensors, .pte or .onnx.")]
Threads = Annotated[
    str | None,
    typer.Option(metavar="LIST", help="Thread counts, such as 1,2 (default: 1 and all big cores, or all of --cpus)."),
]
Loops = Annotated[
    str | None, typer.Option(metavar="LIST", help="Loop counts, such as 1,2,4 (default: each artifact's own).")
]
Stream = Annotated[
    str,
    typer.Option(
        metavar="LIST",
        help="How engine artifacts bring the next blocks towards the cache: auto, off, prefetch, core:N.",
    ),
]
Depth = Annotated[str, typer.Option(metavar="LIST", help="Tokens in the KV cache before the prompt, such as 0,512.")]
Batch = Annotated[
    str, typer.Option(metavar="LIST", help="Sequences over the same weights, such as 1,4 (engine artifacts).")
]
PromptTokens = Annotated[int, typer.Option(min=1, help="Tokens of the prefill.")]
DecodeTokens = Annotated[int, typer.Option(min=1, help="Tokens decoded behind it, one by one.")]
Repetitions = Annotated[int, typer.Option(min=1, help="Rounds over all configurations; 5 make a valid result.")]
UntilStable = Annotated[
    bool,
    typer.Option("--until-stable", help="Go on until every decode median is known to 2%, or 20 times as long."),
]
DAY_S = 86_400
TimeBudget = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", min=1, help="Of the whole run: as many rounds as fit."),
]
Cooldown = Annotated[float, typer.Option(metavar="SECONDS", min=0, help="Pause between two rounds.")]
Machine = Annotated[
    Path | None,
    typer.Option(metavar="M.json", help="This machine's file: its ladder is taken and no bandwidth measured."),
]
JsonOut = Annotated[
    Path | None,
    typer.Option("--json", metavar="OUT", help="Also write the JSON here, from the start of the run on."),
]
Peer = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Also measure llama.cpp, onnxruntime-genai or executorch; may be repeated."),
]
Source = Annotated[
    Path | None,
    typer.Option(metavar="GGUF", help="What FILE was exported from, for --peer; not needed beside FILE."),
]
Recipe = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="A fixed comparison in the place of FILE: peers (docs/peers.md)."),
]
Markdown = Annotated[
    Path | None, typer.Option("--markdown", metavar="OUT", help="The table of --recipe as Markdown, too.")
]


def bench(
    files: Files = None,
    threads: Threads = None,
    loops: Loops = None,
    stream: Stream = "auto",
    depth: Depth = "0",
    batch: Batch = "1",
    prompt_tokens: PromptTokens = 128,
    decode_tokens: DecodeTokens = 64,
    repetitions: Repetitions = 5,
    until_stable: UntilStable = False,
    time_budget: TimeBudget = None,
    cooldown: Cooldown = 0,
    machine: Machine = None,
    json_out: JsonOut = None,
    peer: Peer = None,
    source: Source = None,
    recipe: Recipe = None,
    markdown: Markdown = None,
    onnx_kernel: OnnxKernel = "auto",
    cpus: Cpus = None,
) -> None:
    """Measure load, prefill, decode and memory of artifacts.

    A card with the bytes per token and the ceiling they set on this machine
    comes first. Then every combination of FILE, --threads, --loops, --stream,
    --depth and --batch runs once per round, in an order that rotates, and
    every raw sample is kept. A table follows; --json OUT keeps all of it, and
    in a pipe the last line is the same JSON document. Ctrl-C keeps what was
    measured and marks it as not valid; a run killed at any moment leaves what
    --json has so far.

    \b
    Examples:
      mobileloop bench model.safetensors
      mobileloop bench model.safetensors --threads 1,2 --loops 1,2,4 --json bench.json
      mobileloop bench model.safetensors --stream off,prefetch,core:1 --depth 0,512
      mobileloop bench model.safetensors --threads 2 --until-stable --time-budget 60
      mobileloop bench model.safetensors --threads 2,5 --cpus 3-7 --cooldown 30
      mobileloop bench model.safetensors model.pte model.onnx --repetitions 10 --json all.json
      mobileloop bench model.safetensors --peer llama.cpp --peer executorch --source model.gguf
      mobileloop bench --recipe peers --repetitions 11 --json peers.json --markdown peers.md
    """
    from mobileloop_bench.results.settings import Settings

    check_range("--cooldown", cooldown, 0, DAY_S)
    if time_budget is not None:
        check_range("--time-budget", time_budget, 1, DAY_S)
    files = files or []
    options = session_options(files, onnx_kernel, cpus)
    rounds: dict[str, Any] = {
        "repetitions": repetitions,
        "until_stable": until_stable,
        "time_budget_s": time_budget,
        "cooldown_s": cooldown,
        "prompt_tokens": prompt_tokens,
        "decode_tokens": decode_tokens,
    }
    chosen = (threads, loops, stream, depth, batch, source, onnx_kernel)
    _check_recipe(recipe, bool(files), chosen, markdown)
    if recipe is not None:
        outputs = (json_out, markdown)
        document = _recipe(recipe, peer or (), {**rounds, "cpus": options.get("cpus")}, outputs, options, machine)
    else:
        settings = Settings.parse(threads, loops, stream, depth, batch, options.get("cpus"), **rounds)
        document = measure_and_show(files, settings, json_out, options, machine, peer or (), source)
    say_document(document, json_out)
    if document.interrupted:
        raise typer.Exit(INTERRUPTED)


def _check_recipe(recipe: str | None, files: bool, chosen: tuple[object, ...], markdown: Path | None) -> None:
    """Raise MobileloopError where options of a recipe and of artifacts are mixed."""
    if recipe is not None:
        if files or chosen != (None, None, "auto", "0", "1", None, "auto"):
            raise MobileloopError(
                f"--recipe {recipe} says itself what is measured; leave out FILE, --threads, --loops, --stream, "
                "--depth, --batch, --source and --onnx-kernel."
            )
    elif not files:
        raise MobileloopError("there is nothing to measure; name at least one artifact, or --recipe peers.")
    elif markdown is not None:
        raise MobileloopError("--markdown is the table of --recipe; make one of any result with mobileloop report.")


def say_document(document: Document, out: Path | None) -> None:
    """The document in one line where another program reads it; on a terminal only where it is."""
    if not sys.stdout.isatty():
        typer.echo(document.to_json())
    elif out is not None:
        say(f"Wrote {out}")
    else:
        say("Nothing was written; --json OUT keeps every sample.")


def measure_and_show(
    files: list[Path],
    settings: Settings,
    json_out: Path | None,
    options: SessionOptions | None = None,
    machine: Path | None = None,
    peers: Sequence[str] = (),
    source: Path | None = None,
) -> Document:
    """The command but for what it says of its JSON: card, measurement, table and the file."""
    from mobileloop.files import check_output
    from mobileloop_bench.machine.file import MachineFile
    from mobileloop_bench.measure.plan import make_plan, open_artifacts
    from mobileloop_bench.measure.probes import Probes
    from mobileloop_bench.measure.run import run_bench
    from mobileloop_bench.peers.plan import with_peers
    from mobileloop_bench.results.table import print_results

    if json_out is not None:
        check_output(json_out, (*files, machine, source))  # before the measurement, not after it
    if source is not None and not peers:
        raise MobileloopError("--source is the checkpoint for --peer; name a peer too.")
    machine_file = None if machine is None else MachineFile.read(machine)
    probes = Probes()  # before any thread of a session
    plan = make_plan(open_artifacts(files, options), settings)
    if peers:
        plan = with_peers(plan, peers, source)
    console = open_console()
    command = text_of(shlex.join(["mobileloop", *sys.argv[1:]]))
    document = run_bench(console, plan, probes, json_out, command, machine_file)
    print_results(console, document)
    return document


def _recipe(
    name: str,
    peers: Sequence[str],
    rounds: Mapping[str, Any],
    outputs: tuple[Path | None, Path | None],
    options: SessionOptions,
    machine: Path | None,
) -> Document:
    """A fixed comparison: does everybody say the same, the measurement, its own table; `outputs` are JSON, Markdown."""
    from mobileloop.files import check_output, written_whole
    from mobileloop_bench.machine.file import MachineFile
    from mobileloop_bench.machine.probe import probe
    from mobileloop_bench.measure.probes import Probes
    from mobileloop_bench.measure.resume import earlier
    from mobileloop_bench.measure.run import run_bench
    from mobileloop_bench.peers import agreement, llama, recipe, table
    from mobileloop_bench.peers.builds import Store, default_folder
    from mobileloop_bench.writing.units import counted

    def tell(text: str) -> None:
        say(text, err=True)

    recipe.check_name(name)
    for output in outputs:
        if output is not None:
            check_output(output, (machine,))
    json_out, markdown = outputs
    machine_file = None if machine is None else MachineFile.read(machine)
    probes, store = Probes(), Store(default_folder())
    plan = recipe.recipe_plan(peers, recipe.settings_of(**rounds), store, tell, options)
    before = earlier(json_out, plan, probe(), name)
    if before is not None:
        tell(f"going on behind {counted(before.rounds, 'round')} of {json_out}")
    agreed = agreement.check(plan, llama.gguf(store), tell)
    console = open_console()
    command = text_of(shlex.join(["mobileloop", *sys.argv[1:]]))
    document = run_bench(console, plan, probes, json_out, command, machine_file, before, recipe=name, agreement=agreed)
    table.print_scoreboard(console, document)
    if markdown is not None:
        with written_whole(markdown) as temporary:
            temporary.write_text(table.markdown(document), encoding="utf-8")
    return document
