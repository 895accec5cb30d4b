"""Choosing a token from logits; docs/random.md specifies it to the bit, and the standalone program does the same."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mobileloop.decode.random import uniform
from mobileloop.errors import MobileloopError

_NO_NUMBERS = (
    "the model's logits are no numbers, so no token can be drawn from them; its weights are damaged or too large for "
    "the artifact's types: try an export with --quantize none."
)


@dataclass
class Sampler:
    """Draws tokens; temperature 0 takes the most likely one.

    Attributes:
        temperature: divides the logits.
        top_k: keeps the likeliest tokens; 0 keeps all.
        top_p: of those, keeps the smallest set whose probability reaches this share of theirs.
        min_p: of those, keeps the tokens at least this share as likely as the likeliest.
        seed: makes a run repeatable.
        position: how many tokens were drawn before; the n-th token's random number depends on the seed and n alone.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    top_k: int = 0
    min_p: float = 0.0
    position: int = 0

    def pick(self, logits: NDArray[np.float32]) -> int:
        """A token id from logits [vocab].

        Raises:
            MobileloopError: where the logits are no numbers.
        """
        position = self.position
        self.position += 1
        if self.temperature <= 0:
            likeliest = int(logits.argmax())  # of logits with a NaN this is the NaN
            if not np.isfinite(logits[likeliest]):
                raise MobileloopError(_NO_NUMBERS)
            return likeliest
        drawn = uniform(self.seed, position)
        scaled = logits.astype(np.float64) / self.temperature
        with np.errstate(invalid="ignore"):
            likelihoods = np.exp(scaled - scaled.max())
        if not np.isfinite(likelihoods).all():
            raise MobileloopError(_NO_NUMBERS)
        order = np.argsort(-likelihoods, kind="stable")
        if self.top_k:
            order = order[: self.top_k]
        sums = np.cumsum(likelihoods[order])
        kept = len(order) if self.top_p >= 1 else 1 + int(np.searchsorted(sums, self.top_p * sums[-1]))
        kept = min(kept, len(order), int(np.count_nonzero(likelihoods[order] >= self.min_p)))
        return int(order[min(int(np.searchsorted(sums[:kept], drawn * sums[kept - 1], side="right")), kept - 1)])
