"""Verification: an artifact against the PyTorch reference of the same (dequantized) weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open

from mobileloop.artifact import RUNTIME_OF_SUFFIX, ArtifactInfo
from mobileloop.checkpoints.checkpoint import Checkpoint
from mobileloop.errors import MobileloopError, library_errors
from mobileloop.packed import Fitted, PackedModel
from mobileloop.quant.fit import Text, Wanted, fit
from mobileloop.quant.records import unpack_record
from mobileloop.quant.schemes import QuantTensor
from mobileloop.reference.model import ReferenceModel, float_tensors
from mobileloop.runtimes.base import Session
from mobileloop.spec.capabilities import CAPABILITIES
from mobileloop.spec.config import ModelConfig
from mobileloop.tokenizer import Tokenizer


@dataclass(frozen=True)
class Limits:
    """What an artifact must keep to.

    Quantized artifacts differ from the reference by their 8-bit activations and float16 KV cache alone; unquantized
    ones by the order of float32 sums.
    """

    mean_kl: float
    top1_agreement: float


NEAR = 0.5  # of a tensor's norm; 4 bits and error feedback stay below a third
QUANTIZED_LIMITS = Limits(mean_kl=0.01, top1_agreement=0.96)
EXACT_LIMITS = Limits(mean_kl=1e-6, top1_agreement=0.96)


@dataclass(frozen=True)
class Comparison:
    """Artifact against reference over `tokens` positions; divergences in nats."""

    tokens: int
    mean_kl: float
    top1_agreement: float
    max_abs_logit_difference: float
    artifact_perplexity: float
    reference_perplexity: float

    def within(self, limits: Limits) -> bool:
        """Whether both limits hold."""
        return self.mean_kl < limits.mean_kl and self.top1_agreement > limits.top1_agreement


def verification_tokens(session: Session, count: int, text: str | None = None) -> list[int]:
    """`count` tokens of a text (the packaged one by default), or fixed random ones where there is no tokenizer.

    Raises:
        MobileloopError: where the text is too short.
    """
    spec = session.info.tokenizer
    if spec is None:
        generator = np.random.default_rng(0)
        return [int(token) for token in generator.integers(0, session.info.config.vocab_size, count)]
    if text is None:
        text = resources.files("mobileloop.data").joinpath("verify.txt").read_text(encoding="utf-8")
    tokens = Tokenizer(spec).encode(text)
    if len(tokens) < count:
        raise MobileloopError(f"the text has {len(tokens)} tokens where {count} were asked for; ask for fewer tokens.")
    return tokens[:count]


def check_same_source(session: Session, checkpoint: Checkpoint) -> None:
    """Raise MobileloopError where the artifact was made from other weights, or from another config beside them."""
    if session.info.source_sha256 != checkpoint.sha256:
        raise MobileloopError(
            f"{session.path} was exported from {session.info.source} (sha256 {session.info.source_sha256[:12]}), and "
            f"{checkpoint.source} is another file (sha256 {checkpoint.sha256[:12]}); give the source it was made from."
        )
    ours, theirs = session.info.config.model_dump(), checkpoint.config.model_dump()
    differing = [
        f"{name} ({ours[name]} in the artifact, {theirs[name]} in the source)"
        for name in ours
        if name not in ("name", "random_weights") and ours[name] != theirs[name]
    ]
    if differing:
        raise MobileloopError(
            f"{session.path} has another config than {checkpoint.source}, whose weights it was exported from: "
            f"{', '.join(differing)}; give the source as it was, or export it again."
        )


def compare(
    session: Session,
    checkpoint: Checkpoint,
    tokens: Sequence[int],
    progress: Callable[[str, float], None] = lambda step, done: None,
    text: Text | None = None,
) -> Comparison:
    """Run both over `tokens`, in windows of the artifact's context.

    Args:
        session: a fresh session; its loop count is used.
        checkpoint: the source; see `expected_weights`.
        tokens: at least two ids.
        progress: called with a step and the share done.
        text: the calibration text of the export, for artifacts that do not give their weights back; None is the
            packaged one.
    """
    weights = expected_weights(session, checkpoint, text, progress)
    reference = ReferenceModel(checkpoint.config, session.info.schedule, weights)
    window = min(session.info.context, 256)
    totals = np.zeros(4)
    largest = 0.0
    for start in range(0, len(tokens), window):
        piece = list(tokens[start : start + window])
        progress("reference", start / len(tokens))
        expected = reference.forward(torch.tensor([piece]), loops=session.requested_loops)[0]
        progress("artifact", (start + window / 2) / len(tokens))
        session.reset()
        got = torch.from_numpy(_both_phases(session, piece))
        for name, logits in ((str(session.path), got), (f"the reference of {checkpoint.source}", expected)):
            if not bool(torch.isfinite(logits).all()):
                raise MobileloopError(f"{name} gives logits that are not finite numbers; check the checkpoint.")
        largest = max(largest, float((expected - got).abs().max()))
        p, q = expected.double().log_softmax(-1), got.double().log_softmax(-1)
        targets = torch.tensor(tokens[start + 1 : start + 1 + len(piece)])
        scored = targets.shape[0]
        rows = torch.arange(scored)
        totals += [
            float((p.exp() * (p - q)).sum()),
            float((p.argmax(-1) == q.argmax(-1)).sum()),
            -float(q[rows, targets].sum()),
            -float(p[rows, targets].sum()),
        ]
    count, predicted = len(tokens), len(tokens) - 1
    divergence, agreed, artifact_loss, reference_loss = totals.tolist()  # plain floats: JSON knows no numpy
    return Comparison(
        tokens=count,
        mean_kl=max(0.0, divergence / count),
        top1_agreement=agreed / count,
        max_abs_logit_difference=largest,
        artifact_perplexity=_perplexity(artifact_loss / predicted),
        reference_perplexity=_perplexity(reference_loss / predicted),
    )


def expected_weights(
    session: Session,
    checkpoint: Checkpoint,
    text: Text | None = None,
    progress: Callable[[str, float], None] = lambda step, done: None,
) -> dict[str, NDArray[np.float32]]:
    """The weights that an artifact should compute with, as float32.

    Rounded weights are made again from the source. What was fitted to a calibration text is read from the records of an
    engine artifact, each matrix of which must be near the source's; other formats do not give it back, so that the
    calibration is done again.

    Raises:
        MobileloopError: where a matrix is not near, or the calibration gives other weights than the artifact's.
    """
    info = session.info
    if info.calibration is None:
        packed = PackedModel.from_checkpoint(checkpoint, info.quantization, info.schedule, group=info.group)
        return packed.dequantized()
    if Path(session.path).suffix == ".safetensors":
        stored = stored_weights(Path(session.path), info.config)
        check_near(str(session.path), checkpoint, stored)
        return stored
    fitted = fit_again(str(session.path), info, checkpoint, text or Text.packaged(), progress)
    return PackedModel.from_checkpoint(checkpoint, info.quantization, info.schedule, fitted=fitted).dequantized()


def fit_again(
    path: str,
    info: ArtifactInfo,
    checkpoint: Checkpoint,
    text: Text,
    progress: Callable[[str, float], None] = lambda step, done: None,
) -> Fitted:
    """Do an artifact's calibration again.

    Raises:
        MobileloopError: where the text is another one, or the weights are not the same to the bit.
    """
    said = info.calibration
    assert said is not None
    if text.sha256 != said.text_sha256:
        raise MobileloopError(
            f"{path} was calibrated with the text {said.text} (sha256 {said.text_sha256[:12]}), and {text.name} is "
            f"another one (sha256 {text.sha256[:12]}); give that text with --calibrate."
        )
    groups = CAPABILITIES[RUNTIME_OF_SUFFIX[Path(path).suffix]].groups
    wanted = Wanted(info.quantization, info.group, said.budget_bytes, groups)
    fitted = fit(checkpoint, info.schedule, wanted, text, said.loops, progress)
    if fitted.calibration.weights_sha256 != said.weights_sha256:
        raise MobileloopError(
            f"calibrating {checkpoint.source} again gives other weights than {path} has, as another processor, library "
            "or number of threads may; verify it where it was exported, or verify an engine artifact, which gives its "
            "weights back."
        )
    return fitted


def stored_weights(path: Path, config: ModelConfig) -> dict[str, NDArray[np.float32]]:
    """The weights in the records of an engine artifact that a session has opened, by the names of `tensor_shapes`."""
    found: dict[str, NDArray[np.float32]] = {}
    with library_errors(f"the tensors of {path}", "export it again"), safe_open(str(path), framework="np") as stored:
        for name in stored.keys():  # noqa: SIM118  (safe_open is no mapping)
            tensor = stored.get_tensor(name)
            if tensor.dtype != np.uint8:
                found[name] = tensor
                continue
            for role, part in unpack_record(tensor, f"the record {name} of {path}").items():
                whole = name if role == "matrix" else f"{name}.{role}"
                found[whole] = part.dequantize() if isinstance(part, QuantTensor) else part
    return {name: found[name].reshape(shape) for name, shape in config.tensor_shapes().items()}


def check_near(path: str, checkpoint: Checkpoint, stored: Mapping[str, NDArray[np.float32]]) -> None:
    """Raise MobileloopError where a stored tensor is no quantization of the source's: too far from it, as a whole."""
    for name, source in float_tensors(checkpoint).items():
        if name not in stored:
            continue
        away = float(np.linalg.norm(stored[name] - source))
        if not away <= NEAR * float(np.linalg.norm(source)):
            raise MobileloopError(
                f"{name} of {path} is not the source's: it differs by {away / float(np.linalg.norm(source) or 1):.0%} "
                "of its size, more than any quantization; export it again."
            )


def _perplexity(loss: float) -> float:
    """exp(loss), bounded where a float ends, since JSON has no infinity."""
    return math.exp(min(loss, 700.0))


def _both_phases(session: Session, tokens: Sequence[int]) -> NDArray[np.float32]:
    """Logits of all tokens by every path a session has, for a session that was just reset.

    The first half is run for all its logits, then again as the prefill that generation uses, whose one row replaces
    the last of them; the rest is decoded token by token behind that. Under full attention one call sees all of its
    tokens, so there is no other path with the same logits.
    """
    if not session.info.schedule.causal:
        return session.logits(tokens)
    half = max(1, len(tokens) // 2)
    whole = session.logits(tokens[:half])
    session.reset()
    prefilled = session.prefill(tokens[:half])[None]
    decoded = [session.decode(token)[None] for token in tokens[half:]]
    return np.concatenate([whole[:-1], prefilled, *decoded])
