"""Show an artifact, or what an export of a source would take in."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mobileloop.console import progress_bar, say_facts

if TYPE_CHECKING:
    from mobileloop.artifact import ArtifactInfo
    from mobileloop.checkpoints.checkpoint import Checkpoint
    from mobileloop.spec.config import ModelConfig
    from mobileloop.spec.tokenizer import TokenizerSpec

Subject = Annotated[
    str, typer.Argument(metavar="FILE", help="An artifact, or a source that `mobileloop export` takes.")
]


def info(
    file: Subject,
    weights_only_bin: Annotated[
        bool, typer.Option("--weights-only-bin", help="Read pytorch_model.bin where a source has no safetensors file.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON document.")] = False,
) -> None:
    """Show an artifact, or what an export of a source would take in: the model, its schedule, its tokenizer and every
    note, without exporting. A source is a checkpoint folder, a GGUF file, a name on the hub or a preset.

    \b
    Examples:
      mobileloop info smollm2.safetensors
      mobileloop info ./SmolLM2-135M-Instruct
      mobileloop info SmolLM2-135M-Instruct.Q4_1.gguf --json
    """
    from mobileloop.artifact import RUNTIME_OF_SUFFIX
    from mobileloop.checkpoints.load import load_checkpoint
    from mobileloop.runtimes import open_session

    path = Path(file)
    if path.suffix in RUNTIME_OF_SUFFIX and not path.is_dir():
        session = open_session(path, threads=1)
        about = session.info
        session.close()
        if as_json:
            typer.echo(json.dumps(json.loads(about.model_dump_json(exclude={"tokenizer"}))))
        else:
            _say_artifact(path, about)
        return
    with progress_bar("info") as progress:
        progress("reading the source", 0.0)
        checkpoint = load_checkpoint(file, 0, weights_only_bin, progress)
    if as_json:
        typer.echo(json.dumps(_source_facts(checkpoint)))
    else:
        _say_source(checkpoint)


def _model_line(config: ModelConfig) -> str:
    return (
        f"{config.name}, {config.num_blocks} blocks of hidden {config.hidden_size}, {config.num_heads} heads, "
        f"{config.num_kv_heads} KV heads, {config.num_parameters() / 1e6:.1f}M weights"
    )


def _say_artifact(file: Path, about: ArtifactInfo) -> None:
    from mobileloop.artifact import runtime_of

    config, loops = about.config, about.schedule.default_loops
    last = about.context - 1
    rows = {
        "artifact": f"{file} ({runtime_of(file)}, format {about.format_version}, {file.stat().st_size / 1e6:.1f} MB)",
        "model": _model_line(config),
        "weights": "random" if config.random_weights else f"{about.source}, sha256 {about.source_sha256[:16]}",
        "quantization": about.quantization,
        "schedule": f"{about.schedule.name}: {loops} loops, up to {about.schedule.max_loops} at run time",
        "context": f"{about.context} tokens, KV cache {about.kv_capacity_bytes() / 1e6:.1f} MB when full",
        "bytes per token": f"unique {about.unique_bytes() / 1e6:.1f} MB, "
        f"executed {about.executed_bytes() / 1e6:.1f} MB, "
        f"KV up to {about.kv_bytes(last) / 1e6:.1f} MB, activations {about.activation_bytes() / 1e6:.1f} MB",
        "tokenizer": "carried" if about.tokenizer else "none",
    }
    say_facts([*rows.items(), *(("note", note) for note in about.notes)])


def _weights(checkpoint: Checkpoint) -> dict[str, int]:
    """How many matrices the source holds in which numbers."""
    from mobileloop.quant.schemes import QuantTensor

    matrices = (one for one in checkpoint.tensors.values() if len(one.shape) == 2)
    return dict(Counter(one.scheme if isinstance(one, QuantTensor) else "float" for one in matrices))


def _say_source(checkpoint: Checkpoint) -> None:
    config, schedule = checkpoint.config, checkpoint.schedule
    held = ", ".join(f"{count} matrices {scheme}" for scheme, count in _weights(checkpoint).items())
    random = "random" if config.random_weights else f"{held}; sha256 {checkpoint.sha256[:16]}"
    rows = {
        "source": checkpoint.source,
        "model": _model_line(config),
        "weights": random,
        "head": "the embedding" if config.tie_embeddings else "of its own",
        "schedule": f"{schedule.name}: {schedule.default_loops} loops",
        "context": f"up to {config.max_position} tokens",
        "tokenizer": _tokenizer_line(checkpoint.tokenizer),
    }
    say_facts([*rows.items(), *(("note", note) for note in _notes(checkpoint))])


def _notes(checkpoint: Checkpoint) -> list[str]:
    from mobileloop.tokenizer import template_doubts

    return [*checkpoint.notes, *template_doubts(checkpoint.tokenizer)]


def _tokenizer_line(spec: TokenizerSpec | None) -> str:
    if spec is None:
        return "none"
    from mobileloop.tokenizer import Tokenizer

    raw = Tokenizer(spec).raw
    ends = ", ".join(f"{raw.id_to_token(one)} ({one})" for one in spec.eos_ids) or "nothing"
    first = raw.encode("").tokens
    put = first[0] if first else raw.id_to_token(spec.bos_id) if spec.add_bos and spec.bos_id is not None else None
    begin = "puts no begin token" if put is None else f"begins with {put}"
    template = "a chat template" if spec.chat_template else "no chat template"
    return f"{raw.get_vocab_size()} tokens, {begin}, a turn ends with {ends}, {template}"


def _source_facts(checkpoint: Checkpoint) -> dict[str, object]:
    spec = checkpoint.tokenizer
    return {
        "source": checkpoint.source,
        "source_sha256": checkpoint.sha256,
        "config": checkpoint.config.model_dump(mode="json"),
        "schedule": checkpoint.schedule.model_dump(mode="json"),
        "matrices": _weights(checkpoint),
        "tokenizer": None if spec is None else spec.model_dump(mode="json", exclude={"json_text", "chat_template"}),
        "chat_template": None if spec is None else spec.chat_template,
        "notes": _notes(checkpoint),
    }
