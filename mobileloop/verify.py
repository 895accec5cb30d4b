"""Verification: an artifact against the PyTorch reference of the same (dequantized) weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources

import numpy as np
import torch
from numpy.typing import NDArray

from mobileloop.checkpoints.checkpoint import Checkpoint
from mobileloop.errors import MobileloopError
from mobileloop.packed import PackedModel
from mobileloop.reference.model import ReferenceModel
from mobileloop.runtimes.base import Session
from mobileloop.tokenizer import Tokenizer


@dataclass(frozen=True)
class Limits:
    """What an artifact must keep to.

    Quantized artifacts differ from the reference by their 8-bit activations and float16 KV cache alone; unquantized
    ones by the order of float32 sums.
    """

    mean_kl: float
    top1_agreement: float


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
    """Raise MobileloopError where the artifact was made from other weights."""
    if session.info.source_sha256 != checkpoint.sha256:
        raise MobileloopError(
            f"{session.path} was exported from {session.info.source} (sha256 {session.info.source_sha256[:12]}), and "
            f"{checkpoint.source} is another file (sha256 {checkpoint.sha256[:12]}); give the source it was made from."
        )


def compare(
    session: Session,
    checkpoint: Checkpoint,
    tokens: Sequence[int],
    progress: Callable[[str, float], None] = lambda step, done: None,
) -> Comparison:
    """Run both over `tokens`, in windows of the artifact's context.

    Args:
        session: a fresh session; its loop count is used.
        checkpoint: the source; it is quantized again as the artifact says.
        tokens: at least two ids.
        progress: called with a step and the share done.
    """
    info = session.info
    packed = PackedModel.from_checkpoint(checkpoint, info.quantization, info.schedule, group=info.group)
    reference = ReferenceModel(packed.config, info.schedule, packed.dequantized())
    window = min(info.context, 256)
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
