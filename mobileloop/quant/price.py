"""What quantization costs a model: the divergence of its answers from those of the source's own weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources

import numpy as np
import torch
from numpy.typing import NDArray

from mobileloop.checkpoints.checkpoint import Checkpoint
from mobileloop.errors import MobileloopError
from mobileloop.packed import PackedModel
from mobileloop.reference.model import ReferenceModel, float_tensors
from mobileloop.spec.config import ModelConfig
from mobileloop.spec.schedule import Schedule
from mobileloop.tokenizer import Tokenizer

MOST_TOKENS, LEAST_TOKENS = 256, 32
_MULTIPLICATIONS = 2e11  # some ten seconds of one core: what a price may cost
Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Price:
    """A divergence, in nats per token, over `tokens` of the packaged text."""

    mean_kl: float
    tokens: int


def affordable_tokens(config: ModelConfig, schedule: Schedule, loops: int | None = None) -> int:
    """Tokens of a text that both models run in bounded time; 0 where they are too few to mean anything."""
    block = sum(shape[0] * shape[1] for shape in config.block_tensors().values() if len(shape) == 2)
    token = block * len(list(schedule.applications(loops))) + config.vocab_size * config.hidden_size
    tokens = min(MOST_TOKENS, int(_MULTIPLICATIONS / (2 * token)))
    return tokens if tokens >= LEAST_TOKENS else 0


def price(
    checkpoint: Checkpoint,
    packed: PackedModel,
    loops: int | None = None,
    progress: Progress = lambda step, done: None,
) -> Price | None:
    """The price of a packed model, of its weights alone: both run in float32 by the reference, under its schedule.

    Args:
        checkpoint: the source, with a tokenizer.
        packed: what was made of it.
        loops: of the looped stages; None is their own count.
        progress: called with a step and the share done.

    Returns:
        None where the source has no tokenizer, or is so large that it would take too long.

    Raises:
        MobileloopError: where the tokenizer fails, or makes nothing of the text.
    """
    count = min(affordable_tokens(packed.config, packed.schedule, loops), packed.config.max_position)
    if checkpoint.tokenizer is None or count == 0:
        return None
    text = resources.files("mobileloop.data").joinpath("verify.txt").read_text(encoding="utf-8")
    known = packed.config.vocab_size  # some tokenizers know more tokens than their model
    tokens = [token for token in Tokenizer(checkpoint.tokenizer).encode(text) if token < known][:count]
    if not tokens:
        raise MobileloopError("the tokenizer makes no tokens of the packaged text.")
    progress("running the source", 0.0)
    truth = _answers(packed, float_tensors(checkpoint), tokens, loops)
    progress("running the artifact's weights", 0.5)
    found = _answers(packed, packed.dequantized(), tokens, loops)
    return Price(divergence(truth, found), len(tokens))


def divergence(truth: torch.Tensor, found: torch.Tensor) -> float:
    """The mean Kullback-Leibler divergence of log-probabilities [tokens, vocab], in nats; NaN where one is none."""
    mean = float((truth.exp() * (truth - found)).sum(-1).double().mean())
    return 0.0 if mean < 0 else mean


def _answers(
    packed: PackedModel, tensors: Mapping[str, NDArray[np.float32]], tokens: list[int], loops: int | None
) -> torch.Tensor:
    """Log-probabilities [tokens, vocab]."""
    logits = ReferenceModel(packed.config, packed.schedule, tensors).forward(torch.tensor([tokens]), loops=loops)[0]
    return logits.log_softmax(-1)
