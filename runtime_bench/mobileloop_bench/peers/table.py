"""A document of the recipe for people: a table on the terminal, and the same in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from mobileloop.console import print_text
from mobileloop_bench.machine.card import machine_sentence
from mobileloop_bench.peers.scoreboard import Row, failures, rows
from mobileloop_bench.results.agreement import Continuation
from mobileloop_bench.results.document import Document
from mobileloop_bench.writing.markdown import markdown_table
from mobileloop_bench.writing.table import Column, Table, print_table
from mobileloop_bench.writing.units import figure

COLUMNS = ("figure", "over", "ours", "other", "ratio (p10-p90)", "rounds", "target", "doubts")
SAID = ("who", "blocks", "equal", "text")
LEFT = (*COLUMNS[:2], "doubts", *SAID[:2], "text")


def print_scoreboard(console: Console, document: Document) -> None:
    """Correctness, figures and doubts."""
    if document.agreement:
        said = Table(f"The same text? Against {document.agreement.reference}", _columns(SAID))
        said.rows = [_said(one) for one in document.agreement.continuations]
        print_table(console, said)
    table = Table("Medians over the rounds", _columns(COLUMNS))
    for row in rows(document):
        told = cells(row)
        doubts = table.notes.mark(row.doubts)
        table.rows.append([*told[:2], *_fitting(told[2], table), *told[3:-1], doubts])
    print_table(console, table)
    print_text(console, *notes(document))


def _columns(names: Sequence[str]) -> list[Column]:
    return [Column(name, left=name in LEFT, name=name in ("figure", "who")) for name in names]


def _fitting(text: str, table: Table) -> list[str]:
    """A reason in the place of a figure is a note: a sentence would make the column as wide."""
    return [text if text[:1].isdigit() else f"none {table.notes.mark([text])}"]


def markdown(document: Document) -> str:
    """Machine, correctness, figures and doubts."""
    lines = [*(f"{sentence}  " for sentence in heading(document)), ""]
    if document.agreement:
        lines += [f'The prompt "{document.agreement.prompt}", continued; equal to {document.agreement.reference}:', ""]
        lines += [*markdown_table(SAID, [_said(one) for one in document.agreement.continuations]), ""]
    lines += [*markdown_table(COLUMNS, [cells(row) for row in rows(document)]), ""]
    return "\n".join([*lines, *(f"{sentence}  " for sentence in notes(document))]).rstrip() + "\n"


def heading(document: Document) -> list[str]:
    """Where and with what."""
    machine = document.machine
    kernels = next((row.details["kernels"] for row in document.results if "kernels" in row.details), "unknown")
    made = machine.git_commit or "unknown"
    said = [
        machine_sentence(machine),
        f"Governor {machine.governor or 'unknown'}; mobileloop commit {made}, kernels {kernels}; {machine.time}.",
    ]
    for row in document.results:
        if row.peer and row.peer.version:
            said.append(f"{row.peer.name} {row.peer.version}: {row.peer.flags}.")
    return list(dict.fromkeys(said))


def _said(one: Continuation) -> list[str]:
    if one.error:
        return [one.runtime, one.repetition, "failed", one.error]
    return [one.runtime, one.repetition, f"{one.same} of {len(one.tokens)}", " ".join(one.text.split())]


def cells(row: Row) -> list[str]:
    """One line of the table; a figure that is not there says why."""
    one = row.figure
    compared = one.compared
    target = "" if one.target is None else f"{'≥' if one.higher else '≤'} {_plain(one.target, compared)}"
    if row.ratio is None or row.low is None or row.high is None:
        return [one.label, one.over, row.reason or "unknown", "", "", "0", target, ""]
    spread = f"{_plain(row.ratio, compared)} ({_plain(row.low, compared)}-{_plain(row.high, compared)})"
    return [
        one.label,
        one.over,
        figure(row.ours, one.unit),
        figure(row.other, one.unit) if compared else "",
        spread if compared or row.rounds > 1 else "",
        str(row.rounds),
        target + {True: ", met", False: ", missed", None: ""}[row.met],
        ", ".join(row.doubts),
    ]


def _plain(value: float, ratio: bool) -> str:
    return f"{value:.2f}" if ratio else figure(value)


def notes(document: Document) -> list[str]:
    """What must be said beside the figures."""
    said = ["A ratio is the median of the rounds' own ratios. GB/s counts unique and KV bytes."]
    said += [f"{text}." for text in failures(document)]
    skipped = {
        f"{row.peer.name}: {reason}" for row in document.results if row.peer and row.skipped for reason in row.reasons
    }
    said += [f"{text}." for text in sorted(skipped)]
    if document.settings and document.settings.ended:
        said.append(f"Ended: {document.settings.ended}.")
    if document.machine.emulated:
        said.append("Emulated: no time here says anything about hardware.")
    return said
