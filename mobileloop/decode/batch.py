"""Several answers to one prompt in one batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mobileloop.decode.generate import Decoder
from mobileloop.decode.sampling import Sampler


class BatchDecoder(Decoder, Protocol):
    """The part of an engine session that several answers to one prompt need."""

    def fork(self, source: int, target: int) -> None:
        """Make `target` a copy of sequence `source`."""

    def run(self, sequences: Sequence[int], tokens: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Logits [sequences, vocab] of the last tokens."""


@dataclass
class Samples:
    """Several answers to one prompt.

    Attributes:
        prompt_tokens: length of the prompt.
        tokens: generated ids of every answer, end tokens left out.
        prefill_ms: of the whole prompt, which ran once.
        decode_ms: of every decode step.
        step_rows: answers that each decode step went on with.
        ended: whether each answer came to its end token.
    """

    prompt_tokens: int
    tokens: list[list[int]]
    prefill_ms: float = 0.0
    decode_ms: list[float] = field(default_factory=list)
    step_rows: list[int] = field(default_factory=list)
    ended: list[bool] = field(default_factory=list)

    @property
    def prefill_tokens_per_s(self) -> float:
        """Prompt tokens per second."""
        return 1e3 * self.prompt_tokens / self.prefill_ms

    @property
    def decode_tokens_per_s(self) -> float | None:
        """Decoded tokens of all answers per second of decoding; None where nothing was decoded."""
        return 1e3 * sum(self.step_rows) / sum(self.decode_ms) if self.decode_ms else None

    @property
    def steps_per_s(self) -> float | None:
        """Passes over the weights per second of decoding: one for a token of every answer that goes on."""
        return 1e3 * len(self.decode_ms) / sum(self.decode_ms) if self.decode_ms else None

    @property
    def lengths(self) -> list[int]:
        """Generated tokens of every answer."""
        return [len(tokens) for tokens in self.tokens]


def generate_samples(
    session: BatchDecoder,
    prompt: Sequence[int],
    max_tokens: int,
    samplers: Sequence[Sampler],
    is_end: Callable[[int], bool],
) -> Samples:
    """Generate one answer per sampler in sequences 0, 1, ...: the prompt runs once, then all decode in one batch.

    An answer that ends leaves the batch. Each is the answer that `generate` gives with the same sampler.
    """
    result = Samples(len(prompt), [[] for _ in samplers], ended=[False] * len(samplers))
    start = time.perf_counter()
    first = session.prefill(prompt)
    result.prefill_ms = 1e3 * (time.perf_counter() - start)
    for sequence in range(1, len(samplers)):
        session.fork(0, sequence)
    logits = dict.fromkeys(range(len(samplers)), first)
    while logits:
        going = []
        for sequence, row in logits.items():
            token = samplers[sequence].pick(row)
            if is_end(token):
                result.ended[sequence] = True
            else:
                result.tokens[sequence].append(token)
                if len(result.tokens[sequence]) < max_tokens:
                    going.append(sequence)
        if not going:
            break
        start = time.perf_counter()
        rows = session.run(going, [[result.tokens[sequence][-1]] for sequence in going])
        result.decode_ms.append(1e3 * (time.perf_counter() - start))
        result.step_rows.append(len(going))
        logits = dict(zip(going, rows, strict=True))
    return result
