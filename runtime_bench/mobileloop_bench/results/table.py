"""The results as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mobileloop_bench.results.document import Document
from mobileloop_bench.results.result import Result
from mobileloop_bench.writing.units import beside, counted, figure, megabytes

ARTIFACT_WIDTH = 34


def print_results(console: Console, document: Document) -> None:
    """One line per configuration; no tokens/s without its GB/s, and no figure without its doubts."""
    table = Table(title="Measured", title_justify="left")
    widest = max((len(_name(row)) for row in document.results), default=0)
    table.add_column("artifact", overflow="fold", min_width=min(widest, ARTIFACT_WIDTH))
    swept = [
        name
        for name, usual in (("stream", None), ("depth", 0), ("sequences", 1), ("busy", 0))
        if _varies(document, name, usual)
    ]
    for name in swept:
        table.add_column(name, justify="right")
    for name in ("loops", "threads", "size", "anonymous", "load ms", "prefill tok/s", "decode tok/s", "GB/s"):
        table.add_column(name, justify="right")
    for name in ("of ceiling", "loop tax"):
        table.add_column(name, justify="right")
    table.add_column("valid", overflow="fold")
    phases: dict[str, Result] = {}
    for row in document.results:  # the decode of a configuration is the last of its phases
        phases[row.phase] = row
        if row.phase == "decode":
            if not row.skipped:
                varied = [str(getattr(row, name)) for name in swept]
                table.add_row(*_cells(row, phases.get("first_token"), phases.get("prefill"), varied))
            phases = {}
    console.print(table)
    for row in document.results:
        if row.skipped and row.phase == "decode":
            console.print(escape(f"{place_of(row)}: {'; '.join(row.reasons)}."), highlight=False)
    if document.settings and document.settings.ended:
        console.print(f"Ended: {document.settings.ended}.", highlight=False)
    console.print(
        "GB/s is (unique + KV bytes) / decode time; anonymous is private memory added in a process of its own.",
        highlight=False,
    )


def short_reasons(reasons: Sequence[str]) -> list[str]:
    """The reasons' names alone, each once; the JSON and the report have them in full."""
    return list(dict.fromkeys(reason.partition(":")[0] for reason in reasons))


def share(value: float | None) -> str:
    """A ratio as a percentage, or unknown."""
    return figure(None) if value is None else f"{100 * value:.0f}%"


def _name(row: Result) -> str:
    return f"{row.peer.name}: {row.artifact}" if row.peer else row.artifact


def place_of(row: Result) -> str:
    """The configuration of a result in words."""
    parts = [_name(row), counted(row.loops, "loop"), counted(row.threads, "thread")]
    parts += [f"depth {row.depth}"] if row.depth else []
    parts += [counted(row.sequences, "sequence")] if row.sequences > 1 else []
    parts += [beside(row.busy)] if row.busy else []
    return ", ".join(parts)


def _varies(document: Document, name: str, usual: object) -> bool:
    """Whether a field needs a column: it is not the same, or not the usual, everywhere."""
    values = {getattr(row, name) for row in document.results if row.phase == "decode"}
    return len(values - {None}) > 1 or (usual is not None and bool(values - {usual}))


def _cells(decode: Result, load: Result | None, prefill: Result | None, varied: Sequence[str]) -> list[str]:
    memory = decode.memory.delta_anonymous_bytes if decode.memory else None
    tax = "unknown" if decode.loop_tax is None else f"{decode.loop_tax:.2f}"
    return [
        escape(_name(decode)),
        *varied,
        str(decode.loops),
        str(decode.threads),
        megabytes(decode.size_on_disk_bytes),
        megabytes(memory),
        figure(load.median_ms if load else None),
        figure(prefill.tokens_per_s if prefill else None),
        figure(decode.tokens_per_s),
        figure(decode.read_gbps),
        share(decode.ceiling_share),
        tax,
        "yes" if decode.valid else escape("no: " + ", ".join(short_reasons(decode.reasons))),
    ]
