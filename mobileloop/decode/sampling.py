"""Choosing a token from logits."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass
class Sampler:
    """Temperature and nucleus sampling; temperature 0 takes the most likely token.

    Attributes:
        temperature: divides the logits.
        top_p: keeps the smallest set of tokens whose probability reaches it.
        seed: makes a run repeatable.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    _random: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self._random = np.random.default_rng(self.seed)

    def pick(self, logits: NDArray[np.float32]) -> int:
        """A token id from logits [vocab]."""
        if self.temperature <= 0:
            return int(logits.argmax())
        scaled = logits.astype(np.float64) / self.temperature
        probabilities = np.exp(scaled - scaled.max())
        probabilities /= probabilities.sum()
        order = np.argsort(-probabilities, kind="stable")
        before = np.cumsum(probabilities[order]) - probabilities[order]
        kept = order[before < self.top_p] if self.top_p < 1 else order
        weights = probabilities[kept] / probabilities[kept].sum()
        return int(self._random.choice(kept, p=weights))
