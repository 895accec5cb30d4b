"""Random numbers by their place, not by their turn: Philox4x32-10 over seed, position and draw (docs/random.md).

A counter-based generator has no state: the number at a place is the same whoever asks, in whatever order, in Python, in
the engine and in an ONNX graph. (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011,
section 3.3.)
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
MASK = 0xFFFFFFFF
SAMPLING = 0  # the stream that tokens are drawn from; that of noise is 1 + the application's index


def philox(counter: NDArray[np.uint64], seed: int) -> NDArray[np.uint32]:
    """Four words for every counter.

    Args:
        counter: [..., 4], each word below 2^32.
        seed: the key, 64 bits, its low word first.

    Returns:
        [..., 4] uint32.
    """
    first, second, third, fourth = (counter[..., word] for word in range(4))
    key = [seed & MASK, seed >> 32 & MASK]
    for _ in range(ROUNDS):
        low, high = first * np.uint64(MULTIPLIERS[0]), third * np.uint64(MULTIPLIERS[1])
        first, second, third, fourth = (
            high >> np.uint64(32) ^ second ^ np.uint64(key[0]),
            high & np.uint64(MASK),
            low >> np.uint64(32) ^ fourth ^ np.uint64(key[1]),
            low & np.uint64(MASK),
        )
        key = [(word + step) & MASK for word, step in zip(key, KEY_STEPS, strict=True)]
    return np.stack([first, second, third, fourth], axis=-1).astype(np.uint32)


def words(seed: int, position: int, draws: Any, stream: int = SAMPLING) -> NDArray[np.uint32]:
    """The four words of each draw: `draws` is a number or an array of numbers; [..., 4] uint32."""
    draws = np.asarray(draws, dtype=np.uint64)
    counter = np.empty((*draws.shape, 4), dtype=np.uint64)
    counter[..., 0] = draws
    counter[..., 1], counter[..., 2], counter[..., 3] = position & MASK, position >> 32 & MASK, stream
    return philox(counter, seed)


def unit(low: NDArray[np.uint32], high: NDArray[np.uint32]) -> NDArray[np.float64]:
    """Two words as a number in [0, 1): the upper 53 of their 64 bits, times 2^-53."""
    whole: NDArray[np.uint64] = (high.astype(np.uint64) << np.uint64(32) | low) >> np.uint64(11)
    return whole.astype(np.float64) * 2.0**-53


def uniform(seed: int, position: int, draw: int = 0, stream: int = SAMPLING) -> float:
    """A number in [0, 1), from the first two words of a draw."""
    drawn = words(seed, position, draw, stream)
    return float(unit(drawn[..., 0], drawn[..., 1]))


def normal(seed: int, position: int, count: int, stream: int) -> NDArray[np.float32]:
    """`count` standard normal numbers by Box and Muller, two of each draw, computed in double: [count] float32."""
    drawn = words(seed, position, np.arange(-(-count // 2)), stream)
    radius = np.sqrt(-2 * np.log(1 - unit(drawn[..., 0], drawn[..., 1])))
    angle = 2 * np.pi * unit(drawn[..., 2], drawn[..., 3])
    pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
    return pairs.reshape(-1)[:count].astype(np.float32)
