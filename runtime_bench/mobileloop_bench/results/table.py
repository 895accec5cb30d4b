"""The results as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from mobileloop.console import print_text
from mobileloop_bench.results.document import Document
from mobileloop_bench.results.result import Result
from mobileloop_bench.writing.table import Column, Table, print_table
from mobileloop_bench.writing.units import beside, counted, figure, megabytes

_SWEPT = (("stream", None), ("depth", 0), ("sequences", 1), ("busy", 0))  # with the value that needs no column
_FIGURES = ("private", "load ms", "prefill tok/s", "decode tok/s", "GB/s", "of ceiling", "loop tax")


def print_results(console: Console, document: Document) -> None:
    """One line per configuration; no tokens/s without its GB/s, and no figure without its doubts."""
    swept = [name for name, usual in _SWEPT if _varies(document, name, usual)]
    columns = [Column("artifact", left=True, name=True)]
    columns += [Column(name, context=True) for name in (*swept, "loops", "threads", "size")]
    columns += [*map(Column, _FIGURES), Column("valid", left=True)]
    table = Table("Measured", columns)
    phases: dict[str, Result] = {}
    for row in document.results:  # the decode of a configuration is the last of its phases
        phases[row.phase] = row
        if row.phase == "decode":
            if not row.skipped:
                varied = [str(getattr(row, name)) for name in swept]
                doubts = table.notes.mark(short_reasons([*row.reasons, *row.notes]))
                valid = f"{'yes' if row.valid else 'no'} {doubts}".rstrip()
                table.rows.append([*_cells(row, phases.get("first_token"), phases.get("prefill"), varied), valid])
            phases = {}
    print_table(console, table)
    for row in document.results:
        if row.skipped and row.phase == "decode":
            print_text(console, f"{place_of(row)}: {'; '.join(row.reasons)}.")
    if document.settings and document.settings.ended:
        print_text(console, f"Ended: {document.settings.ended}.")
    print_text(
        console,
        "GB/s is (unique + KV bytes) / decode time; ± is half of the 95% interval of that time; private is anonymous "
        "memory added in a process of its own.",
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
        _name(decode),
        *varied,
        str(decode.loops),
        str(decode.threads),
        megabytes(decode.size_on_disk_bytes),
        megabytes(memory),
        figure(load.median_ms if load else None),
        figure(prefill.tokens_per_s if prefill else None),
        figure(decode.tokens_per_s) + ("" if decode.half_width is None else f" ±{decode.half_width:.1%}"),
        figure(decode.read_gbps),
        share(decode.ceiling_share),
        tax,
    ]
