"""The report: one self-contained HTML page, no script and no reference to anything outside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

import mobileloop
from mobileloop.artifact import written_whole
from mobileloop.errors import MobileloopError
from mobileloop.runtimes.topology import write_cpus
from mobileloop_bench.figures import figures
from mobileloop_bench.machine import Cache, Machine
from mobileloop_bench.results import Document, Result, read_document
from mobileloop_bench.tables import share
from mobileloop_bench.verdict import verdict
from mobileloop_bench.words import UNKNOWN, bandwidth_sentence, counted, figure, mebibytes, megabytes


def report(paths: Sequence[Path], html_path: Path) -> None:
    """Write the page of one or several runs; figures of different runs stand side by side, never mixed.

    Raises:
        MobileloopError: for an input that is no result, or an output that cannot be written.
    """
    if not paths:
        raise MobileloopError("there is nothing to report; name at least one result of mobileloop bench --json.")
    html = page([read_document(path) for path in paths])
    with written_whole(Path(html_path)) as temporary:
        temporary.write_text(html, encoding="utf-8")


def page(documents: Sequence[Document]) -> str:
    """The HTML of these runs."""
    documents = _told_apart(documents)
    environment = Environment(
        loader=PackageLoader("mobileloop_bench"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters.update(figure=figure, megabytes=megabytes, share=share)
    return environment.get_template("report.html.j2").render(
        verdict=verdict(documents),
        notes=notes(documents),
        figures=figures(documents),
        runs=[
            {
                "name": f"Run {number}" if len(documents) > 1 else "",
                "machine": machine_facts(document.machine),
                "bandwidth": bandwidth_sentence(document.bandwidth),
                "results": document.results,
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
    if any(document.machine.emulated for document in documents):
        said.append("A run was emulated: its times say nothing about the hardware.")
    if any(one.beyond_last_level_cache is False for document in documents for one in document.bandwidth):
        said.append("The read bandwidth was measured inside the last-level cache, so it is not DRAM's.")
    return said


def machine_facts(machine: Machine) -> list[tuple[str, str]]:
    """The machine as (name, value) pairs in reading order."""
    cores = f"{machine.cores_usable or UNKNOWN} usable, {machine.cores_physical or UNKNOWN} physical"
    clusters = "; ".join(
        f"cpus {write_cpus(cluster.cpus)} up to {figure(cluster.max_mhz, 'MHz')}"
        + (" (not big)" if cluster.big is False else "")
        for cluster in machine.clusters
    )
    yes_no = {True: "yes", False: "no", None: UNKNOWN}
    facts: list[tuple[str, str | None]] = [
        ("Processor", machine.cpu),
        ("Architecture", machine.architecture),
        ("Cores", cores),
        ("Clusters", clusters),
        ("Caches", "; ".join(_cache(cache) for cache in machine.caches)),
        ("Instruction sets", ", ".join(machine.instruction_sets) if machine.instruction_sets else None),
        ("Frequency now", figure(machine.current_mhz, "MHz", digits=4)),
        ("Governor", machine.governor),
        ("Memory", mebibytes(machine.memory_bytes)),
        ("Page size", mebibytes(machine.page_bytes)),
        ("System", ", kernel ".join(text for text in (machine.os, machine.kernel) if text)),
        ("Under a hypervisor", yes_no[machine.hypervisor]),
        ("Emulated", yes_no[machine.emulated]),
        ("Python", machine.python),
        ("Libraries", ", ".join(f"{name} {version}" for name, version in machine.libraries.items())),
        ("mobileloop", ", commit ".join(text for text in (machine.mobileloop, machine.git_commit) if text)),
        ("Time", machine.time),
    ]
    return [(name, value or UNKNOWN) for name, value in facts]


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
