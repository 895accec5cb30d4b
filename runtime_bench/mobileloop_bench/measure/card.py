"""The card: what a token must cost, printed before anything is timed."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from mobileloop.console import print_text
from mobileloop.runtimes.topology import write_cpus
from mobileloop_bench.bandwidth.ceiling import Bandwidth, bandwidth_sentence, ceiling_gbps
from mobileloop_bench.machine.card import machine_sentence
from mobileloop_bench.machine.facts import Machine
from mobileloop_bench.measure.memory import memory_key
from mobileloop_bench.measure.plan import Artifact, Configuration, Plan, kv_bytes
from mobileloop_bench.measure.session_runner import SLOW_DOWN, slow_down
from mobileloop_bench.writing.table import Column, Table, print_table
from mobileloop_bench.writing.units import UNKNOWN, counted, figure, megabytes


def print_card(console: Console, plan: Plan, machine: Machine, bandwidth: Sequence[Bandwidth]) -> None:
    """Bytes per token of every artifact and loop count, and the tokens/s that the bandwidth allows.

    The ceiling is read bandwidth / (unique + KV bytes): it grants that every block is resident while it is
    applied again, so no schedule can beat it from DRAM.
    """
    print_text(console, machine_sentence(machine), bandwidth_sentence(bandwidth))
    if plan.settings.cpus is not None:
        print_text(console, f"Threads run on cpus {write_cpus(plan.settings.cpus)}.")
    print_table(console, _table(plan, bandwidth))
    print_text(console, *notes(plan.artifacts, machine), *peer_notes(plan))
    if share := slow_down():
        print_text(console, f"{SLOW_DOWN} is set: engine sessions are slowed down by {share:.0%}.")


def notes(artifacts: Sequence[Artifact], machine: Machine) -> list[str]:
    """What must be said beside the figures."""
    said = []
    random = [artifact.label for artifact in artifacts if artifact.info.config.random_weights]
    if random:
        said.append(f"Random weights: {', '.join(random)}. Timings are meaningful, the text is not.")
    said += [f"{a.label} runs on {a.details['path']}." for a in artifacts if "path" in a.details]
    cache = machine.last_level_cache_bytes() or 0
    fits = [artifact.label for artifact in artifacts if artifact.info.unique_bytes() < cache]
    if fits:
        said.append(
            f"Unique bytes that fit the last-level cache: {', '.join(fits)}. "
            "Decode may beat the ceiling of the read bandwidth."
        )
    return said


def peer_notes(plan: Plan) -> list[str]:
    """Which weights each peer runs, and in which version."""
    told = [f"{one.peer} ({one.entry.version}) runs {one.label}." for one in plan.configurations if one.entry]
    return list(dict.fromkeys(told))


def _table(plan: Plan, bandwidth: Sequence[Bandwidth]) -> Table:
    columns = [Column("artifact", left=True, name=True)]
    columns += [Column(name, left=True, context=True) for name in ("format", "quantization", "schedule")]
    columns += [Column(name, context=True) for name in (*plan.settings.swept(), "loops", "size on disk", "unique")]
    columns += [Column(name) for name in ("executed", "KV", "activations")]
    columns += [Column(f"ceiling tok/s, {counted(threads, 'thread')}") for threads in plan.settings.threads]
    table = Table("Bytes per decoded token and the ceiling they set", columns)
    seen = set()
    for one in plan.configurations:
        if one.peer is None and memory_key(one) not in seen:
            seen.add(memory_key(one))
            table.rows.append(_cells(one, plan, bandwidth))
    return table


def _cells(one: Configuration, plan: Plan, bandwidth: Sequence[Bandwidth]) -> list[str]:
    artifact, info, settings = one.artifact, one.artifact.info, plan.settings
    kv = kv_bytes(one, "decode", settings) or 0
    cells = [
        artifact.label,
        artifact.runtime,
        info.quantization,
        info.schedule.name,
        *(str({"depth": one.depth, "batch": one.sequences}[name]) for name in settings.swept()),
        str(one.loops),
        megabytes(artifact.size_on_disk_bytes),
        megabytes(info.unique_bytes()),
        megabytes(info.executed_bytes(one.loops)),
        megabytes(kv),
        megabytes(one.sequences * info.activation_bytes(one.loops)),
    ]
    for threads in settings.threads:
        ceiling = ceiling_gbps(bandwidth, threads)
        cells.append(figure(one.sequences * ceiling * 1e9 / (info.unique_bytes() + kv)) if ceiling else UNKNOWN)
    return cells
