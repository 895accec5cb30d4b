"""Keep results of many machines in a local store; query them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated

import typer

from mobileloop.console import open_console, say
from mobileloop.errors import MobileloopError
from mobileloop.files import text_of

if TYPE_CHECKING:  # duckdb stays out of `mobileloop --help`
    from mobileloop_bench.results.exports import Table
    from mobileloop_bench.results.store import Filter, Store

results = typer.Typer(
    name="results",
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Keep results of many machines in a local store; query and export them.\n\n\b\nExamples:\n"
    "  mobileloop results add phone.json laptop.json\n"
    "  mobileloop results list\n"
    "  mobileloop results query --model 'smol*' --phase decode --loops 1,2\n"
    "  mobileloop results export decode.csv --phase decode --valid",
)

StorePath = Annotated[
    Path | None,
    typer.Option("--store", metavar="FILE", help="Default: $XDG_DATA_HOME/mobileloop/results.duckdb."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Run = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, or the start of it.")]
Model = Annotated[str | None, typer.Option(metavar="GLOB", help="Models, such as 'smol*'.")]
Artifact = Annotated[str | None, typer.Option(metavar="GLOB", help="Artifacts, such as '*.pte'.")]
MachineName = Annotated[str | None, typer.Option("--machine", metavar="GLOB", help="Processors, such as '*xeon*'.")]
Runtime = Annotated[str | None, typer.Option(metavar="GLOB", help="Runtimes, such as engine.")]
Loops = Annotated[str | None, typer.Option(metavar="LIST", help="Loop counts, such as 1,2.")]
Threads = Annotated[str | None, typer.Option(metavar="LIST", help="Thread counts, such as 1,2.")]
PhaseName = Annotated[str | None, typer.Option("--phase", metavar="load|first_token|prefill|decode")]
Since = Annotated[str | None, typer.Option(metavar="DATE", help="Runs from this date on, such as 2026-11-01.")]
Valid = Annotated[bool, typer.Option("--valid", help="Only results that are valid.")]
Sql = Annotated[
    str | None,
    typer.Option(metavar="SELECT", help="A query of your own over measurements, results and runs, read-only."),
]
SHOWN = "run, artifact, cpu, loops, threads, phase, depth, median_ms, tokens_per_s, read_gbps, loop_tax, valid, reasons"


@results.command()
def add(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Results of mobileloop bench --json.")],
    store: StorePath = None,
    as_json: Json = False,
) -> None:
    """Take result files into the store.

    A run that the store knows is replaced by its newer state, never doubled.
    Files are checked before the first one is taken.

    \b
    Examples:
      mobileloop results add bench.json
      mobileloop results add phones/*.json --store lab.duckdb
    """
    from mobileloop_bench.results.document import read_document

    documents = [read_document(path) for path in files]
    told = []
    with _opened(store, write=True) as opened:
        from mobileloop_bench.results.store import run_id

        for path, document in zip(files, documents, strict=True):
            told.append({"file": text_of(path), "run": run_id(document), "state": opened.add(document)})
    if as_json:
        typer.echo(json.dumps(told))
        return
    words = {"added": "added", "replaced": "replaced its earlier state", "kept": "is older than what the store has"}
    for one in told:
        say(f"{one['run']}  {one['file']}: {words[one['state']]}")


@results.command(name="list")
def list_runs(store: StorePath = None, as_json: Json = False) -> None:
    """List the runs of the store.

    \b
    Example:
      mobileloop results list
    """
    with _opened(store) as opened:
        _print(opened.runs(), as_json)


@results.command()
def show(run: Run, store: StorePath = None, as_json: Json = False) -> None:
    """Show one run; --json prints all of it, for mobileloop report.

    \b
    Examples:
      mobileloop results show 3f2a
      mobileloop results show 3f2a --json > bench.json
    """
    from mobileloop_bench.results.table import print_results

    with _opened(store) as opened:
        document = opened.document(run)
    if as_json:
        typer.echo(document.to_json())
        return
    say(f"{document.machine.cpu or 'unknown'}, {document.machine.time or 'unknown'}")
    print_results(open_console(), document)


@results.command()
def query(
    model: Model = None,
    artifact: Artifact = None,
    machine: MachineName = None,
    runtime: Runtime = None,
    loops: Loops = None,
    threads: Threads = None,
    phase: PhaseName = None,
    since: Since = None,
    valid: Valid = False,
    sql: Sql = None,
    store: StorePath = None,
    as_json: Json = False,
) -> None:
    """Show the results that pass every filter, or what --sql selects.

    \b
    Examples:
      mobileloop results query --machine '*snapdragon*' --phase decode --valid
      mobileloop results query --sql "SELECT cpu, loops, min(median_ms) FROM measurements GROUP BY ALL"
      mobileloop results query --sql "SELECT run, unnest(samples_ms) AS ms FROM results" --json
    """
    wanted = _filter(model, artifact, machine, runtime, loops, threads, phase, since, valid)
    with _opened(store) as opened:
        _print(_selected(opened, wanted, sql, SHOWN), as_json)


@results.command()
def export(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The file: .csv, .parquet or .md.")],
    form: Annotated[str | None, typer.Option("--format", metavar="csv|parquet|markdown")] = None,
    model: Model = None,
    artifact: Artifact = None,
    machine: MachineName = None,
    runtime: Runtime = None,
    loops: Loops = None,
    threads: Threads = None,
    phase: PhaseName = None,
    since: Since = None,
    valid: Valid = False,
    sql: Sql = None,
    store: StorePath = None,
) -> None:
    """Write results as CSV, Parquet or Markdown.

    Parquet has the raw samples as a list column.

    \b
    Examples:
      mobileloop results export decode.csv --phase decode
      mobileloop results export all.parquet
      mobileloop results export table.md --sql "SELECT artifact, loops, median_ms FROM measurements"
    """
    wanted = _filter(model, artifact, machine, runtime, loops, threads, phase, since, valid)
    with _opened(store) as opened:
        from mobileloop.files import check_output
        from mobileloop_bench.results import exports

        check_output(out, (opened.path,))
        chosen = exports.export_format(out, form)
        table = _selected(opened, wanted, sql, SHOWN if chosen == "markdown" else "*")
    exports.export(table, out, chosen)
    say(f"Wrote {out}, {len(table.rows)} rows")


@results.command()
def remove(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Ids of runs, or the start of them.")],
    store: StorePath = None,
) -> None:
    """Remove runs from the store.

    \b
    Example:
      mobileloop results remove 3f2a
    """
    with _opened(store, write=True) as opened:
        for run in [opened.find(run) for run in runs]:
            typer.echo(f"Removed {opened.remove(run)}")


@results.command()
def schema(document: Annotated[str, typer.Argument(metavar="bench|machine", help="Of which file.")] = "bench") -> None:
    """Print the JSON Schema of a result file or of a machine file.

    \b
    Example:
      mobileloop results schema bench > mobileloop.bench-2.json
    """
    from mobileloop_bench.results.schema import DOCUMENTS, schema_text

    if document not in DOCUMENTS:
        raise MobileloopError(f"there is no schema of '{document}'; choose one of {', '.join(DOCUMENTS)}.")
    typer.echo(schema_text(DOCUMENTS[document]), nl=False)


def _module() -> ModuleType:
    """The store, which needs a package of an extra."""
    try:
        from mobileloop_bench.results import store
    except ImportError as error:
        raise MobileloopError(
            f"the store needs a package that is not installed ({error.name}); run pip install '.[bench]'."
        ) from None
    return store


@contextmanager
def _opened(path: Path | None, write: bool = False) -> Iterator[Store]:
    store = _module()
    with store.opened(path or store.default_path(), write) as opened:
        yield opened


def _filter(
    model: str | None,
    artifact: str | None,
    machine: str | None,
    runtime: str | None,
    loops: str | None,
    threads: str | None,
    phase: str | None,
    since: str | None,
    valid: bool,
) -> Filter:
    globs = {"model": model, "artifact": artifact, "cpu": machine, "runtime": runtime}
    wanted: Filter = _module().Filter.parse(globs, {"loops": loops, "threads": threads}, phase, since, valid)
    return wanted


def _selected(store: Store, wanted: Filter, sql: str | None, columns: str) -> Table:
    if sql is None:
        return store.measurements(wanted, columns)
    if wanted != type(wanted)():
        raise MobileloopError("--sql and the filters exclude each other; put the conditions into the query.")
    return store.sql(sql)


def _print(table: Table, as_json: bool) -> None:
    from mobileloop_bench.results.exports import screen
    from mobileloop_bench.writing.table import print_table

    if as_json:
        typer.echo(json.dumps(table.dicts(), default=str))
    elif not table.rows:
        typer.echo("0 results")
    else:
        print_table(open_console(), screen(table))
