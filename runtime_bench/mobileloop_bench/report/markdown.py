"""The report as a few lines of Markdown, for a pull request."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mobileloop_bench.bandwidth.ceiling import bandwidth_sentence
from mobileloop_bench.machine.card import machine_sentence
from mobileloop_bench.report.figures.naming import Names
from mobileloop_bench.report.tables import validity
from mobileloop_bench.report.verdict import verdict
from mobileloop_bench.results.document import Document, decode_rows
from mobileloop_bench.results.table import share
from mobileloop_bench.writing.markdown import markdown_table
from mobileloop_bench.writing.units import figure, megabytes

HEADERS = ("configuration", "tokens/s", "median ms", "p99 ms", "GB/s", "of ceiling", "loop tax", "anonymous", "valid")


def markdown(documents: Sequence[Document], notes: Sequence[str]) -> str:
    """Verdict, whether it can be trusted, the decode rows, the machines and the commands."""
    said = verdict(documents)
    rows = decode_rows(documents)
    names = Names(rows)
    lines = [f"**{_plain(said.sentence)}** {_plain(said.trust)}", ""]
    lines += [f"> {_plain(note)}" for note in notes] + ([""] if notes else [])
    told = []
    for row in rows:
        memory = row.memory.delta_anonymous_bytes if row.memory else None
        cells = (
            names.full_name(row),
            figure(row.tokens_per_s),
            figure(row.median_ms),
            figure(row.p99_ms),
            figure(row.read_gbps),
            share(row.ceiling_share),
            figure(row.loop_tax),
            megabytes(memory),
            validity(row),
        )
        told.append([_plain(cell) for cell in cells])
    lines += markdown_table(HEADERS, told, right=range(1, len(HEADERS) - 1)) if told else []
    for number, document in enumerate(documents, start=1):
        run = f"Run {number}: " if len(documents) > 1 else ""
        facts = [machine_sentence(document.machine), bandwidth_sentence(document.bandwidth)]
        commit = document.machine.git_commit
        facts += [f"mobileloop {document.machine.mobileloop or 'unknown'}" + (f", commit {commit}." if commit else ".")]
        lines += ["", _plain(run + " ".join(facts))]
        lines += ["", "```", *_code(document.command or "the command was not recorded"), "```"]
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """Text from a result file, which must not become markup or a mention."""
    text = re.sub(r"\s+", " ", text)
    return re.sub(r"([\\`*_\[\]<>~#@])", r"\\\1", text)


def _code(text: str) -> list[str]:
    """Lines that cannot end their block."""
    return [line.replace("```", "'''") for line in text.splitlines()]
