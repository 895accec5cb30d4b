"""Show an artifact's model, schedule and bytes per token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from mobileloop.console import say_facts


def info(
    file: Annotated[Path, typer.Argument(help="An artifact.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON document.")] = False,
) -> None:
    """Show an artifact's model, schedule, quantization and bytes per token.

    \b
    Examples:
      mobileloop info smollm2.safetensors
    """
    from mobileloop.artifact import runtime_of
    from mobileloop.runtimes import open_session

    session = open_session(file, threads=1)
    about = session.info
    session.close()
    if as_json:
        typer.echo(json.dumps(json.loads(about.model_dump_json(exclude={"tokenizer"}))))
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
    say_facts(rows.items())
