"""Sampling and generation over any session, with the timings a user wants to see."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mobileloop.decode.sampling import Sampler


class Decoder(Protocol):
    """The part of a session that generation needs."""

    def prefill(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Logits of the last token."""

    def decode(self, token: int) -> NDArray[np.float32]:
        """Logits of one token."""


@dataclass
class Generation:
    """What was generated and how long it took.

    Attributes:
        tokens: generated ids, an end token left out.
        prompt_tokens: length of the prompt.
        prefill_ms: of the whole prompt; also the time to the first token.
        decode_ms: of every decoded token.
        ended: whether each answer came to its end token: of one.
    """

    prompt_tokens: int
    tokens: list[int] = field(default_factory=list)
    prefill_ms: float = 0.0
    decode_ms: list[float] = field(default_factory=list)
    ended: list[bool] = field(default_factory=lambda: [False])

    @property
    def prefill_tokens_per_s(self) -> float:
        """Prompt tokens per second."""
        return 1e3 * self.prompt_tokens / self.prefill_ms

    @property
    def decode_tokens_per_s(self) -> float | None:
        """Tokens per second by the median decode time; None where nothing was decoded."""
        return 1e3 / float(np.median(self.decode_ms)) if self.decode_ms else None

    @property
    def steps_per_s(self) -> float | None:
        """Passes over the weights per second of decoding: one for each token."""
        return self.decode_tokens_per_s

    @property
    def lengths(self) -> list[int]:
        """Generated tokens of every answer: of one."""
        return [len(self.tokens)]


def generate(
    session: Decoder,
    prompt: Sequence[int],
    max_tokens: int,
    sampler: Sampler,
    is_end: Callable[[int], bool],
    on_token: Callable[[int], None],
) -> Generation:
    """Generate until an end token or `max_tokens`; `on_token` is called with each token as it comes."""
    result = Generation(prompt_tokens=len(prompt))
    start = time.perf_counter()
    logits = session.prefill(prompt)
    result.prefill_ms = 1e3 * (time.perf_counter() - start)
    while True:
        token = sampler.pick(logits)
        if is_end(token):
            result.ended = [True]
            return result
        result.tokens.append(token)
        on_token(token)
        if len(result.tokens) >= max_tokens:
            return result
        start = time.perf_counter()
        logits = session.decode(token)
        result.decode_ms.append(1e3 * (time.perf_counter() - start))
