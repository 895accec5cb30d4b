"""The result for people: a table on the terminal, and the same in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mobileloop_bench.machine.card import machine_sentence
from mobileloop_bench.peers.document import Agreement, PeersDocument
from mobileloop_bench.peers.scoreboard import MAX_OTHER_CORES, MAX_STOLEN_CORES, Row, rows
from mobileloop_bench.writing.units import counted, figure

COLUMNS = ("figure", "over", "ours", "peer", "ratio", "p10-p90", "rounds", "target", "met")


def print_table(console: Console, document: PeersDocument) -> None:
    """Machine, correctness, figures and doubts."""
    for sentence in heading(document):
        console.print(escape(sentence), highlight=False)
    agreement = Table(title=f"The same text? Against {document.reference}", title_justify="left")
    for name in ("contestant", "loops", "tokens equal from the start", "text"):
        agreement.add_column(name, overflow="fold")
    for one in document.agreement:
        agreement.add_row(*[escape(cell) for cell in agreement_cells(one, document)])
    if document.agreement:
        console.print(agreement)
    table = Table(title=f"Medians over {counted(len(document.rounds), 'round')}", title_justify="left")
    for name in COLUMNS:
        table.add_column(name, overflow="fold", justify="left" if name in ("figure", "over", "met") else "right")
    for row in rows(document):
        table.add_row(*[escape(cell) for cell in cells(row)])
    console.print(table)
    for sentence in notes(document):
        console.print(escape(sentence), highlight=False)


def markdown(document: PeersDocument) -> str:
    """The same as Markdown."""
    lines = ["# mobileloop beside its peers", "", *heading(document), ""]
    if document.agreement:
        lines += [f"## The same text? Against {document.reference}", ""]
        lines += _markdown_table(
            ("contestant", "loops", "tokens equal from the start", "text"),
            [agreement_cells(one, document) for one in document.agreement],
        )
    lines += [f"## Medians over {counted(len(document.rounds), 'round')}", ""]
    lines += _markdown_table(COLUMNS, [cells(row) for row in rows(document)])
    return "\n".join([*lines, *(f"{sentence}  " for sentence in notes(document))]).rstrip() + "\n"


def _markdown_table(header: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    def line(row: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |"

    return [line(header), "|" + "---|" * len(header), *(line(row) for row in body), ""]


def heading(document: PeersDocument) -> list[str]:
    """Where and with what."""
    machine = document.machine
    kernels = document.versions.get("ours", {}).get("kernels", "unknown")
    made = machine.git_commit or "unknown"
    said = [
        machine_sentence(machine),
        f"Governor {machine.governor or 'unknown'}; mobileloop commit {made}, kernels {kernels}; {machine.time}.",
    ]
    for name, versions in document.versions.items():
        if name != "ours":
            listed = ", ".join(f"{what} {which}" for what, which in versions.items())
            said.append(f"{document.labels.get(name, name)}: {listed}.")
    return said


def agreement_cells(one: Agreement, document: PeersDocument) -> list[str]:
    """One continuation."""
    name = document.labels.get(one.contestant, one.contestant)
    if one.error:
        return [name, str(one.loops), "failed", one.error]
    return [name, str(one.loops), f"{one.same} of {len(one.tokens)}", " ".join(one.text.split())]


def cells(row: Row) -> list[str]:
    """One line of the table; a figure that is not there says why."""
    one = row.figure
    target = "" if one.target is None else f"{'≥' if one.higher else '≤'} {_plain(one.target, one.peer is not None)}"
    if row.ratio is None or row.low is None or row.high is None:
        return [one.label, one.peer_label, row.reason or "unknown", "", "", "", "0", target, ""]
    compared = one.peer is not None
    counted_rounds = str(row.rounds) + (f" ({row.disturbed} disturbed)" if row.disturbed else "")
    return [
        one.label,
        one.peer_label,
        figure(row.ours, one.unit),
        figure(row.peer, one.unit) if compared else "",
        _plain(row.ratio, compared),
        f"{_plain(row.low, compared)}-{_plain(row.high, compared)}",
        counted_rounds,
        target,
        {True: "yes", False: "no", None: ""}[row.met],
    ]


def _plain(value: float, ratio: bool) -> str:
    return f"{value:.2f}" if ratio else figure(value)


def notes(document: PeersDocument) -> list[str]:
    """What must be said beside the figures."""
    said = [
        "A ratio is the median of the rounds' own ratios. GB/s counts unique and KV bytes.",
        f"A round is disturbed where other programs took more than {MAX_OTHER_CORES} cores, or the hypervisor more "
        f"than {MAX_STOLEN_CORES}, while one of its two figures was measured; it is counted all the same.",
    ]
    worst = [sample.other_cores for one in document.rounds for sample in one.samples.values() if sample.other_cores]
    if worst:
        said.append(f"Other programs took {max(worst):.2f} cores at the worst.")
    failures = {
        f"{key}: {sample.error}"
        for one in document.rounds
        for key, sample in one.samples.items()
        if sample.error is not None
    }
    said += [f"Failed: {text}." for text in sorted(failures)]
    for name, reason in document.missing.items():
        said.append(f"{document.labels.get(name, name)}: {reason}.")
    if len(document.rounds) < document.rounds_wanted:
        said.append(f"Ended after {len(document.rounds)} of {document.rounds_wanted} rounds.")
    if document.machine.emulated:
        said.append("Emulated: no time here says anything about hardware.")
    return said
