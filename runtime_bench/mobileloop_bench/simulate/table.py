"""Simulated traffic on the screen."""

from __future__ import annotations

from rich.console import Console

from mobileloop.console import print_text
from mobileloop_bench.simulate.traffic import Simulation, verdict
from mobileloop_bench.writing.table import Column, Table, print_table
from mobileloop_bench.writing.units import mebibytes, megabytes

_BYTES = ("unique", "executed", "KV", "DRAM", "of unique")


def print_simulation(console: Console, simulation: Simulation) -> None:
    """The table, what it shows, and what it rests on."""
    about = [Column(name, context=True) for name in ("threads", "loops", "last level", "resident by size")]
    title = f"Simulated DRAM traffic per token: {simulation.artifact} on {simulation.machine}"
    table = Table(title, [*about, *map(Column, _BYTES)])
    for row in simulation.traffic:
        resident = {True: "yes", False: "no", None: "-"}[row.resident]
        sizes = map(megabytes, (row.unique_bytes, row.executed_bytes, row.kv_bytes, row.dram_bytes))
        level = f"{row.level}, {mebibytes(row.level_bytes)}"
        share = f"{row.dram_bytes / row.unique_bytes:.2f}"
        table.rows.append([str(row.threads), str(row.loops), level, resident, *sizes, share])
    print_table(console, table)
    assumed = f" Assumed: {', '.join(simulation.assumptions)}." if simulation.assumptions else ""
    note = f"{simulation.note[0].upper()}{simulation.note[1:]}; {simulation.simulator}.{assumed}"
    print_text(console, verdict(simulation), note)
