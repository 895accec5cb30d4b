"""`python -m mobileloop_bench.peers`: build the peers, check them, run them beside us, print the table."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from typer.core import TyperCommand

from mobileloop.errors import MobileloopError
from mobileloop.files import check_output, file_sha256
from mobileloop_bench.machine.probe import probe
from mobileloop_bench.peers import agreement, llama
from mobileloop_bench.peers.builds import Store, default_folder
from mobileloop_bench.peers.contestant import Cell, Contestant, Settings
from mobileloop_bench.peers.contestants import contestants
from mobileloop_bench.peers.document import PeersDocument, resumed
from mobileloop_bench.peers.rounds import run_rounds
from mobileloop_bench.peers.table import markdown, print_table

INTERRUPTED = 130
OURS = "ours"
ON_REQUEST = "executorch"


class _Command(TyperCommand):
    """Says a user's mistake in one sentence, exit code 2; Ctrl-C is exit code 130."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except MobileloopError as error:
            _say(f"bench-peers: {error}")
            raise typer.Exit(error.exit_code) from None
        except (KeyboardInterrupt, typer.Abort):
            _say("\nbench-peers: interrupted.")
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command(cls=_Command)
def bench_peers(
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; every contestant runs once in each.")] = 11,
    json_out: Annotated[
        Path | None, typer.Option("--json", metavar="OUT", help="The raw samples; an unfinished run is continued.")
    ] = None,
    markdown_out: Annotated[Path | None, typer.Option("--markdown", metavar="OUT", help="The table, too.")] = None,
    only: Annotated[str | None, typer.Option(metavar="LIST", help="Peers by name, such as llama-avx2,genai.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="3 rounds of one repetition: a smoke test.")] = False,
    cache: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Where peers are built and kept.")] = None,
    source: Annotated[
        Path | None, typer.Option(metavar="GGUF", help="SmolLM2-135M-Instruct.Q4_1.gguf, where you have it.")
    ] = None,
    build: Annotated[bool, typer.Option("--build/--no-build", help="Fetch and build peers that are missing.")] = True,
    build_executorch: Annotated[
        bool, typer.Option("--build-executorch", help="Also export with ExecuTorch's export_llm: half an hour.")
    ] = False,
    build_only: Annotated[bool, typer.Option("--build-only", help="Build and stop.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew where OUT holds an unfinished run.")] = False,
) -> None:
    """Measure mobileloop beside llama.cpp, onnxruntime-genai and ExecuTorch.

    Peers are built once, from PyPI, into a cache folder (--cache, or
    MOBILELOOP_PEERS_CACHE). Then all of them run the same model at the same
    precision in interleaved rounds. Ctrl-C keeps the finished rounds; the same
    command goes on from there.

    \b
    Examples:
      python -m mobileloop_bench.peers --json peers.json --markdown peers.md
      python -m mobileloop_bench.peers --quick --only llama-avx2
      python -m mobileloop_bench.peers --build-executorch --build-only
    """
    store = Store(cache or default_folder())
    path = json_out or store.folder / "results" / "peers.json"
    if json_out is None:
        path.parent.mkdir(parents=True, exist_ok=True)
    for output in (path, markdown_out):
        if output is not None:
            check_output(output)
    everybody = _chosen(only)
    if build or build_only or build_executorch:
        _build(store, everybody, build_executorch, source)
    present = [one for one in everybody if one.missing(store) is None]
    for one in present:
        one.prepare(store, _say)
    if build_only:
        for one in everybody:
            _say(f"{one.label}: {one.missing(store) or 'ready'}")
        return
    if not any(one.name == OURS for one in present):
        raise MobileloopError(f"there is nothing to measure: {everybody[-1].missing(store)}.")
    settings = Settings(repeats=1) if quick else Settings()
    document = _document(store, everybody, present, settings)
    wanted = 3 if quick else rounds
    if not fresh:
        document = resumed(document, path, wanted)
    document.rounds_wanted = wanted
    if not document.agreement:
        document.reference, document.agreement = agreement.check(store, present, settings, _say)
    _measure(document, [cell for one in present for cell in one.cells(store, settings)], path)
    document.write(path)
    if markdown_out is not None:
        markdown_out.write_text(markdown(document), encoding="utf-8")
    print_table(Console(width=None if sys.stdout.isatty() else 190), document)
    _say(f"raw samples: {path}")
    if document.interrupted:
        raise typer.Exit(INTERRUPTED)


def _chosen(only: str | None) -> list[Contestant]:
    """The contestants asked for; ours always takes part."""
    everybody = contestants()
    if only is None:
        return everybody
    wanted = {name.strip() for name in only.split(",") if name.strip()}
    unknown = wanted - {one.name for one in everybody}
    if unknown:
        names = ", ".join(one.name for one in everybody if one.name != OURS)
        raise MobileloopError(f"--only names {', '.join(sorted(unknown))}, but the peers are {names}.")
    return [one for one in everybody if one.name in wanted or one.name == OURS]


def _build(store: Store, everybody: list[Contestant], executorch: bool, source: Path | None) -> None:
    """Build what is missing; a peer that cannot be built is left out with its reason, unless it makes the model."""
    if source is not None and not llama.source(store).is_file():
        if not source.is_file():
            raise MobileloopError(f"{source} does not exist; leave --source out to have the model fetched.")
        llama.source(store).write_bytes(source.read_bytes())
    first = llama.Llama(llama.variants()[0])
    if first.missing(store):
        first.build(store, _say)
    for one in everybody:
        if one.missing(store) and (one.name != ON_REQUEST or executorch):
            try:
                one.build(store, _say)
            except MobileloopError as error:
                _say(f"{one.label} was not built: {error}")


def _document(
    store: Store, everybody: list[Contestant], present: list[Contestant], settings: Settings
) -> PeersDocument:
    absent = {one.name: reason for one in everybody if (reason := one.missing(store)) is not None}
    return PeersDocument(
        machine=probe(),
        settings=settings,
        labels={one.name: one.label for one in everybody},
        versions={one.name: one.versions(store) for one in present},
        missing=absent,
        unavailable={f"{one.name}/{cell}": why for one in present for cell, why in one.unavailable().items()},
        sources={llama.gguf(store).name: file_sha256(llama.gguf(store))},
        command=shlex.join(["python", "-m", "mobileloop_bench.peers", *sys.argv[1:]]),
    )


def _measure(document: PeersDocument, cells: list[Cell], path: Path) -> None:
    """Run with a bar on stderr that draws only between cells: a drawing thread would take a core."""
    console = Console(stderr=True)
    columns = (BarColumn(bar_width=20), MofNCompleteColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=console, auto_refresh=False, disable=not console.is_terminal) as progress:
        task = progress.add_task("starting")

        def show(done: int, total: int, what: str) -> None:
            progress.update(task, completed=done, total=total, description=what)
            progress.refresh()

        def save(finished: PeersDocument) -> None:
            finished.write(path)
            if progress.disable:  # a log gets one line per round instead of the bar
                _say(f"{len(finished.rounds)} of {finished.rounds_wanted} rounds")

        run_rounds(document, cells, save, show)


def _say(text: str) -> None:
    typer.echo(text, err=True)


if __name__ == "__main__":
    app()
