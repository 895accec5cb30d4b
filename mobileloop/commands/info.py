"""`mobileloop info`: what an artifact says about itself, or what the engine sees of this machine's processor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mobileloop.errors import MobileloopError


def info(
    file: Annotated[Path | None, typer.Argument(help="An artifact.")] = None,
    machine: Annotated[
        bool, typer.Option("--machine", help="Show this machine's cores and caches instead, and which cores are big.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON document.")] = False,
) -> None:
    """Show an artifact's model, schedule, quantization and bytes per token; or this machine's cores.

    \b
    Examples:
      mobileloop info smollm2.safetensors
      mobileloop info --machine
    """
    if machine == (file is not None):
        raise MobileloopError("info shows one thing at a time; name an artifact, or give --machine alone.")
    if file is None:
        _show_machine(as_json)
    else:
        _show_artifact(file, as_json)


def _show_machine(as_json: bool) -> None:
    from mobileloop.runtimes.base import default_threads
    from mobileloop.runtimes.topology import read_topology, write_cpus

    topology = read_topology()
    if as_json:
        typer.echo(topology.model_dump_json())
        return
    rows = [("cpus", "cores", "capacity", "max MHz", "own cache", "shared cache", "shared with cpus", "big")]
    by_number = {cpu.cpu: cpu for cpu in topology.cpus}
    for cluster in topology.clusters:
        first = by_number[cluster.cpus[0]]
        sharers = dict.fromkeys(write_cpus(by_number[cpu].shared_with) for cpu in cluster.cpus)
        rows.append(
            (
                write_cpus(cluster.cpus),
                str(cluster.cores),
                str(cluster.capacity or "unknown"),
                f"{cluster.max_khz / 1000:.0f}" if cluster.max_khz else "unknown",
                _size(first.private_cache_bytes),
                _size(first.shared_cache_bytes),
                " and ".join(sharers) or "unknown",
                "yes" if cluster.big else "no",
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    threads = default_threads()
    typer.echo(f"By default {threads} thread{'' if threads == 1 else 's'}.")


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:,.4g} MiB" if size_bytes else "unknown"


def _show_artifact(file: Path, as_json: bool) -> None:
    from mobileloop.artifact import runtime_of
    from mobileloop.runtimes import open_session

    session = open_session(file, threads=1)
    about = session.info
    session.close()
    if as_json:
        typer.echo(about.model_dump_json(exclude={"tokenizer"}))
        return
    config, loops = about.config, about.schedule.default_loops
    last = about.context - 1
    rows = {
        "artifact": f"{file} ({runtime_of(file)}, format {about.format_version}, {file.stat().st_size / 1e6:.1f} MB)",
        "model": f"{config.name}, {config.num_blocks} blocks of hidden {config.hidden_size}, {config.num_heads} heads, "
        f"{config.num_kv_heads} KV heads, {config.num_parameters() / 1e6:.1f}M weights",
        "weights": "random" if config.random_weights else f"{about.source}, sha256 {about.source_sha256[:16]}",
        "quantization": about.quantization,
        "schedule": f"{about.schedule.name}: {loops} loops, up to {about.schedule.max_loops} at run time",
        "context": f"{about.context} tokens, KV cache {about.kv_capacity_bytes() / 1e6:.1f} MB when full",
        "bytes per token": f"unique {about.unique_bytes() / 1e6:.1f} MB, "
        f"executed {about.executed_bytes() / 1e6:.1f} MB, "
        f"KV up to {about.kv_bytes(last) / 1e6:.1f} MB, activations {about.activation_bytes() / 1e6:.1f} MB",
        "tokenizer": "carried" if about.tokenizer else "none",
    }
    for name, value in rows.items():
        typer.echo(f"{name + ':':<17}{value}")
