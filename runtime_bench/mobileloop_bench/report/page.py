"""The report: one self-contained HTML page without script or a reference to anything outside it.

Beside it, a Markdown summary and every chart as a file of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined

import mobileloop
from mobileloop.errors import MobileloopError
from mobileloop.files import check_output, written_whole
from mobileloop.runtimes.topology import write_cpus
from mobileloop_bench.bandwidth.ceiling import bandwidth_sentence
from mobileloop_bench.machine.card import facts, machine_sentence
from mobileloop_bench.machine.facts import Cache, Machine
from mobileloop_bench.report.figures import figures
from mobileloop_bench.report.figures.drawing import NARROW, WIDE
from mobileloop_bench.report.figures.palette import DARK, LIGHT, css
from mobileloop_bench.report.markdown import markdown
from mobileloop_bench.report.tables import tables
from mobileloop_bench.report.verdict import verdict
from mobileloop_bench.results.document import Document, read_document
from mobileloop_bench.results.result import Result
from mobileloop_bench.writing.units import UNKNOWN, counted, figure, mebibytes

ChartFormat = Literal["svg", "png"]
PNG_SCALE = 2  # pixels per CSS pixel


def report(
    paths: Sequence[Path],
    html_path: Path | None,
    markdown_path: Path | None = None,
    charts_folder: Path | None = None,
    chart_format: ChartFormat = "svg",
) -> list[Path]:
    """Write what is asked for of one or several runs, whose figures stand side by side, never mixed.

    Returns:
        The files that were written.

    Raises:
        MobileloopError: for an input that is no result, or an output that cannot be written.
    """
    if not paths:
        raise MobileloopError("there is nothing to report; name at least one result of mobileloop bench --json.")
    for output in (html_path, markdown_path):
        if output is not None:
            check_output(Path(output), paths)
    if (
        html_path is not None
        and markdown_path is not None
        and Path(html_path).resolve() == Path(markdown_path).resolve()
    ):
        raise MobileloopError(f"the page and the summary are both to be {html_path}; name two files.")
    documents = [read_document(path) for path in paths]
    written = []
    if html_path is not None:
        written.append(_write(Path(html_path), page(documents).encode()))
    if markdown_path is not None:
        apart = _told_apart(documents)
        written.append(_write(Path(markdown_path), markdown(apart, notes(apart)).encode()))
    if charts_folder is not None:
        written += _write_charts(documents, Path(charts_folder), chart_format)
    return written


def _write(path: Path, content: bytes) -> Path:
    with written_whole(path) as temporary:
        temporary.write_bytes(content)
    return path


def _write_charts(documents: Sequence[Document], folder: Path, chart_format: ChartFormat) -> list[Path]:
    """Every panel of every chart, light, on a ground of its own, with its title and key inside."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MobileloopError(
            f"the folder {folder} cannot be made: {error.strerror}; choose another --charts."
        ) from None
    written = []
    for drawn in figures(_told_apart(documents))[0]:
        for stem, svg in drawn.files():
            content = svg.encode()
            if chart_format == "png":
                content = vl_convert.svg_to_png(svg, scale=PNG_SCALE)
            written.append(_write(folder / f"{stem}.{chart_format}", content))
    return written


def page(documents: Sequence[Document]) -> str:
    """The HTML of these runs."""
    documents = _told_apart(documents)
    drawn, missing = figures(documents)
    environment = Environment(
        loader=PackageLoader("mobileloop_bench.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("report.html.j2").render(
        verdict=verdict(documents),
        notes=notes(documents),
        figures=drawn,
        missing=missing,
        narrow=NARROW,
        wide=WIDE,
        light=css(LIGHT),
        dark=css(DARK),
        runs=[
            {
                "name": f"Run {number}" if len(documents) > 1 else "",
                "machine": machine_facts(document.machine),
                "bandwidth": bandwidth_sentence(document.bandwidth),
                "sentence": machine_sentence(document.machine),
                "time": document.machine.time,
                "tables": tables(document),
                "command": document.command,
                "sources": sources(document.results),
            }
            for number, document in enumerate(documents, start=1)
        ],
        version=mobileloop.__version__,
    )


def notes(documents: Sequence[Document]) -> list[str]:
    """What must be said before a figure is believed."""
    rows = [row for document in documents for row in document.results]
    said = []
    random = sorted({row.artifact for row in rows if row.random_weights})
    if random:
        said.append(f"Random weights: {', '.join(random)}. Timings are meaningful, the text is not.")
    said += dict.fromkeys(f"{row.artifact} ran on {row.details['path']}." for row in rows if "path" in row.details)
    said += dict.fromkeys(
        f"{row.artifact} with {counted(row.threads, 'thread')} ran on cpus {row.details['cpus']}."
        for row in rows
        if "cpus" in row.details and not row.skipped
    )
    skipped = list(dict.fromkeys(f"{row.artifact} with {counted(row.loops, 'loop')}" for row in rows if row.skipped))
    if skipped:
        said.append(f"Skipped: {', '.join(skipped)}. The table gives the reason.")
    if any(document.interrupted for document in documents):
        said.append("A run was interrupted; what it had measured by then is shown.")
    said += dict.fromkeys(note for document in documents if document.ladder for note in document.ladder.notes)
    if any(document.machine.emulated for document in documents):
        said.append("A run was emulated: its times say nothing about the hardware.")
    taken = dict.fromkeys(one.taken_from for document in documents for one in document.bandwidth if one.taken_from)
    said += [f"The read bandwidth was not measured in this run; it is from {one}." for one in taken]
    if any(one.beyond_last_level_cache is False for document in documents for one in document.bandwidth):
        said.append("The read bandwidth was measured inside the last-level cache, so it is not DRAM's.")
    return said


def machine_facts(machine: Machine) -> list[tuple[str, str]]:
    """The machine as (name, value) pairs in reading order."""
    clusters = "; ".join(
        f"cpus {write_cpus(cluster.cpus)} up to {figure(cluster.max_mhz, 'MHz')}"
        + (" (not big)" if cluster.big is False else "")
        for cluster in machine.clusters
    )
    told = [
        *facts(machine),
        ("clusters", clusters),
        ("caches", "; ".join(_cache(cache) for cache in machine.caches)),
        ("frequency now", figure(machine.current_mhz, "MHz", digits=4)),
        ("governor", machine.governor),
        ("Python", machine.python),
        ("libraries", ", ".join(f"{name} {version}" for name, version in machine.libraries.items())),
        ("mobileloop", ", commit ".join(text for text in (machine.mobileloop, machine.git_commit) if text)),
        ("time", machine.time),
    ]
    return [(name[0].upper() + name[1:], value or UNKNOWN) for name, value in told]


def sources(results: Sequence[Result]) -> list[tuple[str, str, str]]:
    """(artifact, source checkpoint, its SHA-256) of every artifact."""
    found = {row.artifact: (row.artifact, row.source or UNKNOWN, row.source_sha256 or UNKNOWN) for row in results}
    return list(found.values())


def _cache(cache: Cache) -> str:
    kind = {"instruction": "i", "data": "d"}.get(cache.kind, "")
    shared = f", shared by {cache.shared_by}" if cache.shared_by > 1 else ""
    return f"L{cache.level}{kind} {cache.instances} x {mebibytes(cache.size_bytes)}{shared}"


def _told_apart(documents: Sequence[Document]) -> list[Document]:
    """With several runs, every artifact's name says its run: times of two runs must not form one line."""
    if len(documents) == 1:
        return list(documents)
    return [
        document.model_copy(
            update={
                "results": [
                    row.model_copy(update={"artifact": f"{row.artifact} (run {number})"}) for row in document.results
                ]
            }
        )
        for number, document in enumerate(documents, start=1)
    ]
