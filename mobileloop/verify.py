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
from mobileloop.packed import Choice, Fitted, PackedModel, Tensor, keeps
from mobileloop.quant.fit import Text, Wanted, fit, weights_sha256
from mobileloop.quant.records import unpack_record
from mobileloop.quant.schemes import SCHEMES, QuantTensor
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


# How far a fitted row may be from the source's, in steps of plain rounding, whose own error is 0.3 of them. What
# feedback moves from loud inputs to silent ones ends, with 16 codes, where they do: 1.1 steps at most in trials with
# moments of every kind. With 255 codes there is room: 6.3 steps, and a negated matrix is 14 steps and more away.
NEAR_STEPS = {"int4": 2.0, "int4-symmetric": 2.0, "int8": 12.0}
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
        _check_finite(str(session.path), got)
        _check_finite(f"the reference of {checkpoint.source}", expected)
        largest = max(largest, float((expected - got).abs().max()))
        totals += _sums(expected, got, tokens[start + 1 : start + 1 + len(piece)])
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


def _check_finite(what: str, logits: torch.Tensor) -> None:
    """Raise MobileloopError where logits are no numbers."""
    if not bool(torch.isfinite(logits).all()):
        raise MobileloopError(f"{what} gives logits that are not finite numbers; check the checkpoint.")


def _sums(expected: torch.Tensor, got: torch.Tensor, following: Sequence[int]) -> list[float]:
    """Over one window of logits [tokens, vocab]: divergence, tokens agreed on, the losses of what follows in both."""
    p, q = expected.double().log_softmax(-1), got.double().log_softmax(-1)
    targets = torch.tensor(following)
    rows = torch.arange(targets.shape[0])
    return [
        float((p.exp() * (p - q)).sum()),
        float((p.argmax(-1) == q.argmax(-1)).sum()),
        -float(q[rows, targets].sum()),
        -float(p[rows, targets].sum()),
    ]


def expected_weights(
    session: Session,
    checkpoint: Checkpoint,
    text: Text | None = None,
    progress: Callable[[str, float], None] = lambda step, done: None,
) -> dict[str, NDArray[np.float32]]:
    """The weights that an artifact should compute with, as float32.

    What an export keeps or rounds is made again from the source. What was fitted to a calibration text is read from
    the records of an engine artifact and checked (`check_stored`); other formats do not give it back, so that the
    calibration is done again.

    Raises:
        MobileloopError: where stored weights are not those that were fitted, or the calibration gives other ones.
    """
    info = session.info
    if info.calibration is None:
        packed = PackedModel.from_checkpoint(checkpoint, info.quantization, info.schedule, group=info.group)
        return packed.dequantized()
    if Path(session.path).suffix == ".safetensors":
        stored = stored_tensors(Path(session.path), checkpoint.config)
        made = check_stored(str(session.path), checkpoint, stored, info.calibration.weights_sha256)
        fixed = {name: tensor for name, tensor in float_tensors(checkpoint).items() if name in stored}
        return {**fixed, **{name: tensor.dequantize() for name, tensor in made.items()}}
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


def stored_tensors(path: Path, config: ModelConfig) -> dict[str, Tensor]:
    """The tensors in an engine artifact that a session has opened, by the names of `tensor_shapes`.

    Raises:
        MobileloopError: where the file has other tensors than the config asks for.
    """
    found: dict[str, Tensor] = {}
    with library_errors(f"the tensors of {path}", "export it again"), safe_open(str(path), framework="np") as stored:
        for name in stored.keys():  # noqa: SIM118  (safe_open is no mapping)
            tensor = stored.get_tensor(name)
            if tensor.dtype != np.uint8:
                found[name] = tensor
                continue
            for role, part in unpack_record(tensor, f"the record {name} of {path}").items():
                found[name if role == "matrix" else f"{name}.{role}"] = part
    shapes = config.tensor_shapes()
    for name, shape in shapes.items():
        if name not in found or tuple(found[name].shape) != shape:
            raise MobileloopError(f"{path} has no tensor {name} of shape {list(shape)}; export it again.")
    return {name: found[name] for name in shapes}


def check_stored(
    path: str, checkpoint: Checkpoint, stored: Mapping[str, Tensor], fitted_sha256: str
) -> dict[str, QuantTensor]:
    """The fitted matrices among an artifact's tensors, after all of them were held against the source.

    Norms and kept matrices are the source's bit for bit. The fitted matrices have the hash that the export noted, and
    each is near the source's, row by row.

    Raises:
        MobileloopError: for the first tensor that is none of this.
    """
    made: dict[str, QuantTensor] = {}
    for name, tensor in stored.items():
        source = checkpoint.tensors[name]
        if isinstance(tensor, QuantTensor) and not keeps(source, Choice(tensor.scheme, tensor.group)):
            made[name] = tensor
        elif not _same_bits(tensor, source):
            raise MobileloopError(
                f"{name} of {path} is not the source's, which an export takes over bit for bit; export it again."
            )
    for name, tensor in made.items():
        _check_near(f"{name} of {path}", checkpoint.tensors[name], tensor)
    if weights_sha256(made) != fitted_sha256:
        raise MobileloopError(
            f"the fitted weights of {path} are not those that were exported: their sha256 is "
            f"{weights_sha256(made)[:12]}, and its metadata say {fitted_sha256[:12]}; export it again."
        )
    return made


def _same_bits(tensor: Tensor, source: Tensor) -> bool:
    """Whether a stored norm or kept matrix is the source's."""
    if isinstance(tensor, QuantTensor) and isinstance(source, QuantTensor):
        return weights_sha256({"": tensor}) == weights_sha256({"": source})
    return _floats(tensor).tobytes() == _floats(source).tobytes()


def _check_near(what: str, source: Tensor, fitted: QuantTensor) -> None:
    """Raise MobileloopError where a row of a fitted matrix is too far from the source's to be a quantization of it.

    The measure is the step of plain rounding, from the source alone: the artifact's own scales are what is checked.
    """
    weights = _floats(source)
    if fitted.scheme not in NEAR_STEPS:
        raise MobileloopError(f"{what} is neither the source's nor fitted: it is not quantized; export it again.")
    plain = SCHEMES[fitted.scheme].quantize(weights, fitted.group)
    assert plain.scale is not None
    steps = np.sqrt(fitted.group * np.square(plain.scale.astype(np.float32)).sum(axis=1))
    allowed = NEAR_STEPS[fitted.scheme] * (steps + np.linalg.norm(plain.dequantize() - weights, axis=1))
    away = np.linalg.norm(fitted.dequantize() - weights, axis=1)
    far = np.flatnonzero(~(away <= allowed))
    if far.size:
        raise MobileloopError(
            f"{what} is not the source's: row {far[0]} differs by {away[far[0]]:.3g}, where fitting stays below "
            f"{allowed[far[0]]:.3g}; export it again."
        )


def _floats(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.dequantize() if isinstance(tensor, QuantTensor) else tensor.astype(np.float32, copy=False)


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
