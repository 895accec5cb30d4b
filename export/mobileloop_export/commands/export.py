"""Export a checkpoint to the engine, ExecuTorch or ONNX."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mobileloop.commands.options import check_range
from mobileloop.console import progress_bar, say
from mobileloop.errors import MobileloopError

if TYPE_CHECKING:
    from mobileloop.artifact import ArtifactInfo
    from mobileloop.checkpoints.checkpoint import Checkpoint
    from mobileloop.spec.schedule import Schedule

DEFAULT_CONTEXT = 2048


class Target(str, Enum):
    """Artifact formats."""

    engine = "engine"
    executorch = "executorch"
    onnx = "onnx"


class Quantization(str, Enum):
    """Names of `--quantize`."""

    int4 = "int4"
    int4_symmetric = "int4-symmetric"
    int8 = "int8"
    none = "none"


class KvType(str, Enum):
    """Names of `--kv`."""

    int8 = "int8"
    float16 = "float16"
    float32 = "float32"


_KV_BITS = {KvType.int8: 8, KvType.float16: 16, KvType.float32: 32}


Source = Annotated[
    str,
    typer.Argument(
        help="A checkpoint folder, a .gguf file, a name on the Hugging Face hub (OWNER/NAME, OWNER/NAME@REVISION or "
        "OWNER/NAME:FILE.gguf), or a preset such as mobilellm-125m-ls (random weights)."
    ),
]
To = Annotated[Target, typer.Option("--to", help="The artifact's format.")]
Loops = Annotated[
    int | None, typer.Option("--loops", help="Apply every block this often in a row; also the run-time bound.")
]
ScheduleName = Annotated[
    str | None,
    typer.Option("--schedule", help="plain, immediate:N, all:N, range:A-B:N:DAMPING, or a JSON file."),
]
Quantize = Annotated[
    Quantization, typer.Option("--quantize", help="Weights of the blocks; embedding and head are int8 with int4.")
]
Kv = Annotated[
    KvType | None,
    typer.Option("--kv", help="The KV cache; float16 unless the weights are unquantized, then float32."),
]
Group = Annotated[
    int, typer.Option("--group", help="Inputs that share a scale: 32, 64 or 128, smaller where it does not divide.")
]
Context = Annotated[
    int | None,
    typer.Option("--context", help=f"Tokens the KV cache holds; {DEFAULT_CONTEXT} when the model has them."),
]
Calibrate = Annotated[
    str,
    typer.Option(
        "--calibrate",
        metavar="auto|packaged|none|FILE",
        help="The text that weights are fitted to: one that ships with the package, or a text file; none rounds. auto "
        "fits weights that become 4-bit in models of up to 200 million (some minutes).",
    ),
]
Budget = Annotated[
    str | None,
    typer.Option(
        "--budget",
        metavar="SIZE",
        help="What the weights may take, such as 70MB: bits and group of every matrix are chosen by what they cost.",
    ),
]
Price = Annotated[
    bool, typer.Option("--price/--no-price", help="Say how far packing moved the answers from the source's (seconds).")
]
Output = Annotated[Path | None, typer.Option("-o", "--output", help="The artifact to write.")]
WeightsOnlyBin = Annotated[
    bool,
    typer.Option(
        "--weights-only-bin",
        help="Read pytorch_model.bin where there is no safetensors file, in a process of its own that runs none of its "
        "code.",
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Of a preset's random weights.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")]


def export(
    source: Source,
    to: To = Target.engine,
    loops: Loops = None,
    schedule: ScheduleName = None,
    quantize: Quantize = Quantization.int4,
    kv: Kv = None,
    group: Group = 32,
    calibrate: Calibrate = "auto",
    budget: Budget = None,
    price: Price = True,
    context: Context = None,
    output: Output = None,
    weights_only_bin: WeightsOnlyBin = False,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Export SOURCE to an artifact that mobileloop, ExecuTorch or ONNX Runtime runs.

    A loop count costs no file size: each block is stored once. GGUF blocks are kept bit for bit where their number of
    bits is the one asked for. Weights that become 4-bit are fitted to a calibration text (docs/quantization.md).

    \b
    Examples:
      mobileloop export SmolLM2-135M-Instruct.Q4_1.gguf --to engine -o smollm2.safetensors
      mobileloop export ./MobileLLM-125M-layer-share --to onnx --quantize int8 -o ls.onnx
      mobileloop export SmolLM2-135M-Instruct.Q4_1.gguf --to executorch --schedule range:12-17:2:0.5 -o damped.pte
      mobileloop export SmolLM2-135M-Instruct.Q4_1.gguf --quantize int8 --group 64 --kv int8 -o small-cache.safetensors
      mobileloop export facebook/MobileLLM-125M-layer-share --weights-only-bin -o ls.safetensors
      mobileloop export ./SmolLM2-135M-Instruct --budget 70MB --calibrate my-texts.txt -o small.safetensors
      mobileloop export mobilellm-350m-ls --loops 4 --to engine -o random-350m.safetensors
    """
    from mobileloop.artifact import ArtifactInfo, check_replaced
    from mobileloop.checkpoints.load import load_checkpoint
    from mobileloop.files import check_output, utf8_path, written_whole
    from mobileloop.spec.capabilities import check_built
    from mobileloop.tokenizer import template_doubts
    from mobileloop_export.formats import FORMATS, exporter
    from mobileloop_export.weights import Ask, pack, parse_size

    suffix = FORMATS[to.value]
    if output is not None and output.suffix != suffix:
        raise MobileloopError(
            f"{output} does not end in {suffix}, the suffix of {to.value} artifacts; rename the output."
        )
    if output is not None:
        check_output(output, (source, calibrate))
        check_replaced(output)
        if to is not Target.engine:  # said before the work, not when the artifact is opened
            utf8_path(output, {"executorch": "ExecuTorch", "onnx": "onnxruntime"}[to.value])
    check_range("seed", seed, 0, 2**63 - 1)
    ask = Ask(quantize.value, group, calibrate, None if budget is None else parse_size(budget), price)
    if ask.budget_bytes is not None and (group != 32 or quantize is not Quantization.int4):
        raise MobileloopError("--budget chooses bits and groups itself; leave out --quantize and --group.")
    write = exporter(to.value)
    with progress_bar("read") as reading:
        reading("reading the source", 0.0)
        checkpoint = load_checkpoint(source, seed, weights_only_bin, reading)
    with progress_bar("export") as progress:
        chosen = _schedule(checkpoint, loops, schedule)
        check_built(chosen)
        progress("quantizing", 0.1)
        packed, notes = pack(checkpoint, chosen, to.value, ask, lambda step, done: progress(step, 0.1 + 0.6 * done))
        wanted = context if context is not None else min(DEFAULT_CONTEXT, checkpoint.config.max_position)
        kv = kv or (KvType.float32 if quantize is Quantization.none else KvType.float16)
        said = (*notes, *template_doubts(checkpoint.tokenizer), *_untrained(checkpoint, chosen))
        info = ArtifactInfo.describe(checkpoint, packed, wanted, _KV_BITS[kv], said)
        path = output or Path(f"{checkpoint.config.name}-{chosen.name.replace(':', '-')}-{quantize.value}{suffix}")
        check_output(path, (source, calibrate))
        check_replaced(path)
        with written_whole(path) as temporary:
            write(packed, info, temporary, lambda step, done: progress(step, 0.7 + 0.3 * done))
    _say(path, info, as_json)


def _schedule(checkpoint: Checkpoint, loops: int | None, schedule: str | None) -> Schedule:
    from mobileloop.spec.schedule import Schedule

    if loops is not None and schedule is not None:
        raise MobileloopError("--loops and --schedule both set the loop count; give one of them.")
    blocks = checkpoint.config.num_blocks
    if schedule is not None:
        return Schedule.parse(schedule, blocks)
    if loops is not None:
        return Schedule.parse(f"immediate:{loops}", blocks)  # also for 1: the same stages, so the same file size
    return checkpoint.schedule


def _untrained(checkpoint: Checkpoint, chosen: Schedule) -> list[str]:
    """A doubt about the text of a model that is applied more often than its checkpoint says."""
    own = checkpoint.schedule.default_loops
    damped = any(stage.damping < 1 for stage in chosen.stages)  # made to keep the text without training
    if checkpoint.config.random_weights or chosen.default_loops <= own or damped:
        return []
    times = "once" if own == 1 else f"{own} times"
    return [
        f"the checkpoint applies its blocks {times}; with {chosen.default_loops} loops the speed is real, but its text "
        f"is likely to mean nothing: run it with --loops {own} for text."
    ]


def _say(path: Path, info: ArtifactInfo, as_json: bool) -> None:
    from mobileloop.files import text_of

    size = path.stat().st_size
    if as_json:
        facts = {
            "artifact": text_of(path),
            "size_bytes": size,
            "weight_bytes": info.costs.weight_bytes,
            "unique_bytes": info.unique_bytes(),
            "executed_bytes": info.executed_bytes(),
            "schedule": info.schedule.name,
            "quantization": info.quantization,
            "context": info.context,
            "random_weights": info.config.random_weights,
            "calibration": None if info.calibration is None else info.calibration.model_dump(),
            "notes": list(info.notes),
        }
        typer.echo(json.dumps(facts))
        return
    say(
        f"{path}: {size / 1e6:.1f} MB, {info.quantization}, schedule {info.schedule.name}, context {info.context}; "
        f"a token reads {info.unique_bytes() / 1e6:.1f} MB unique and executes {info.executed_bytes() / 1e6:.1f} MB"
    )
    for note in info.notes:
        say(f"note: {note}")
