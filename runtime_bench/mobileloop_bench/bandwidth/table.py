"""A ladder on the screen: the steps of each thread count, or its rungs where no level could be told."""

from __future__ import annotations

from rich.console import Console

from mobileloop.console import print_text
from mobileloop_bench.machine.ladder import Ladder
from mobileloop_bench.writing.table import Column, Table, print_table
from mobileloop_bench.writing.units import counted, figure, mebibytes


def print_ladder(console: Console, ladder: Ladder) -> None:
    """The table, what the cold passes read, and the ladder's own notes."""
    print_table(console, _steps(ladder) if ladder.steps else _rungs(ladder))
    print_text(console, *_notes(ladder))


def _steps(ladder: Ladder) -> Table:
    columns = [Column("threads", context=True), Column("cluster", context=True), Column("level", left=True)]
    table = Table("Read bandwidth and latency", [*columns, *map(Column, ("up to", "GB/s", "ns per load"))])
    for step in ladder.steps:
        cluster = "any" if step.cluster is None else str(step.cluster)
        size = "" if step.up_to_bytes is None else mebibytes(step.up_to_bytes)
        table.rows.append(
            [str(step.threads), cluster, step.level, size, figure(step.read_gbps), figure(step.latency_ns)]
        )
    return table


def _rungs(ladder: Ladder) -> Table:
    columns = [Column("threads", context=True), Column("cluster", context=True), Column("size"), Column("GB/s")]
    table = Table("Read bandwidth by working set", columns)
    for rung in ladder.rungs:
        if rung.state == "warm":
            cluster = "any" if rung.cluster is None else str(rung.cluster)
            said = figure(rung.read_gbps) + (" disturbed" if rung.disturbed else "")
            table.rows.append([str(rung.threads), cluster, mebibytes(rung.size_bytes), said])
    return table


def _notes(ladder: Ladder) -> list[str]:
    said = [
        f"GB/s is 1e9 bytes per second of all threads together; 'up to' is their whole working set. "
        f"Loads of the kernel set {ladder.kernels}."
    ]
    cold = [rung for rung in ladder.rungs if rung.state == "cold" and not rung.disturbed]
    for threads, cluster in dict.fromkeys((rung.threads, rung.cluster) for rung in cold):
        own = [rung for rung in cold if (rung.threads, rung.cluster) == (threads, cluster)]
        picked = [own[i] for i in sorted({0, len(own) // 2, len(own) - 1})]
        where = "" if cluster is None else f" of cluster {cluster}"
        each = ", ".join(f"{mebibytes(rung.size_bytes)} {figure(rung.read_gbps, 'GB/s')}" for rung in picked)
        said.append(f"Cold, {counted(threads, 'thread')}{where}, evicted by {ladder.cold_by}: {each}.")
    return said + ladder.notes
