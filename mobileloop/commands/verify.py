"""Compare an artifact with the PyTorch model of the same weights."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mobileloop.commands.options import Cpus, Loops, OnnxKernel, Threads, check_range, session_options
from mobileloop.console import progress_bar, say
from mobileloop.errors import MobileloopError

if TYPE_CHECKING:
    from mobileloop.runtimes.base import Session
    from mobileloop.verify import Comparison, Limits

Artifact = Annotated[Path, typer.Argument(help="An artifact.")]
Against = Annotated[str, typer.Option("--against", help="The source it was exported from.")]
Tokens = Annotated[int, typer.Option("--tokens", help="Tokens of the text that ships with the package.")]
MaxKl = Annotated[float | None, typer.Option("--max-kl", help="Limit of the mean KL divergence, in nats.")]
MinTop1 = Annotated[float | None, typer.Option("--min-top1", help="Limit of the top-1 agreement, 0 to 1.")]
WeightsOnlyBin = Annotated[
    bool, typer.Option("--weights-only-bin", help="Read pytorch_model.bin where the source has no safetensors file.")
]
Seed = Annotated[int, typer.Option("--seed", help="Of a preset's random weights.")]
Calibrate = Annotated[
    Path | None,
    typer.Option("--calibrate", metavar="FILE", help="The export's calibration text, for .pte and .onnx artifacts."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")]


def verify(
    file: Artifact,
    against: Against,
    tokens: Tokens = 512,
    max_kl: MaxKl = None,
    min_top1: MinTop1 = None,
    loops: Loops = None,
    threads: Threads = 0,
    cpus: Cpus = None,
    onnx_kernel: OnnxKernel = "auto",
    weights_only_bin: WeightsOnlyBin = False,
    seed: Seed = 0,
    calibrate: Calibrate = None,
    as_json: AsJson = False,
) -> None:
    """Compare an artifact with the PyTorch model of the same (dequantized) weights.

    Exit code 0 within the limits (quantized: mean KL below 0.01 and top-1 above 96%; unquantized: KL below 1e-6),
    1 beyond them, 2 where the comparison could not be made.

    \b
    Examples:
      mobileloop verify smollm2.safetensors --against SmolLM2-135M-Instruct.Q4_1.gguf
      mobileloop verify looped.pte --against SmolLM2-135M-Instruct.Q4_1.gguf --loops 2 --json
    """
    check_range("tokens", tokens, 2, 1 << 20)
    check_range("seed", seed, 0, 2**63 - 1)
    if max_kl is not None:
        check_range("max-kl", max_kl, 0, 1000)
    if min_top1 is not None:
        check_range("min-top1", min_top1, 0, 1)
    try:
        import torch  # noqa: F401
    except ImportError:
        raise MobileloopError("verify needs PyTorch; install it with: pip install '.[torch]'.") from None
    from mobileloop.checkpoints.load import load_checkpoint
    from mobileloop.files import read_text, text_of
    from mobileloop.quant.fit import Text
    from mobileloop.runtimes import open_session
    from mobileloop.verify import (
        EXACT_LIMITS,
        QUANTIZED_LIMITS,
        Limits,
        check_same_source,
        compare,
        verification_tokens,
    )

    session = open_session(file, threads=threads, loops=loops, **session_options([file], onnx_kernel, cpus))
    with progress_bar("read") as reading:
        reading("reading the source", 0.0)
        checkpoint = load_checkpoint(against, seed, weights_only_bin, reading)
    with progress_bar("verify") as progress:
        check_same_source(session, checkpoint)
        text = None if calibrate is None else Text(text_of(calibrate.name), read_text(calibrate))
        result = compare(session, checkpoint, verification_tokens(session, tokens), progress, text)
    base = EXACT_LIMITS if session.info.quantization == "none" else QUANTIZED_LIMITS
    limits = Limits(base.mean_kl if max_kl is None else max_kl, base.top1_agreement if min_top1 is None else min_top1)
    _say(file, session, result, limits, as_json)
    raise typer.Exit(0 if result.within(limits) else 1)


def _say(file: Path, session: Session, result: Comparison, limits: Limits, as_json: bool) -> None:
    from mobileloop.files import text_of

    passed = result.within(limits)
    if as_json:
        facts = {
            "artifact": text_of(file),
            "runtime": session.runtime,
            "details": session.details(),
            "loops": session.loops,
        }
        typer.echo(json.dumps({**facts, "passed": passed, **asdict(result), "limits": asdict(limits)}))
        return
    say(
        f"{'pass' if passed else 'FAIL'}: {file} ({session.title()}, {session.loops} loops) "
        f"over {result.tokens} tokens: "
        f"mean KL {result.mean_kl:.2e} (limit {limits.mean_kl:g}), top-1 {result.top1_agreement:.2%} "
        f"(limit {limits.top1_agreement:.0%}), largest logit difference {result.max_abs_logit_difference:.3g}, "
        f"perplexity {result.artifact_perplexity:.3f} against {result.reference_perplexity:.3f}"
    )
