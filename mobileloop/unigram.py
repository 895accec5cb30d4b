"""The best way to cut a text into the pieces of a unigram model, rounded as SentencePiece rounds.

Ways that consist of the same pieces in another order ("0" "00" and "00" "0") have the same score, and which one wins is
decided by how sums are rounded: SentencePiece keeps float32, the `tokenizers` library float64. So ids that should equal
SentencePiece's are found here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np

UNMATCHED = -1e6  # the score of pieces that no text becomes
_UNKNOWN_PENALTY = np.float32(10.0)


class Unigram:
    """A unigram model.

    Args:
        model: the `model` of the `tokenizers` library's JSON.
        user_defined: pieces whose scores do not count for that of the unknown piece.
    """

    def __init__(self, model: Mapping[str, Any], user_defined: Collection[str]) -> None:
        pieces: Sequence[tuple[str, float]] = model["vocab"]
        self._pieces = {piece: (n, score) for n, (piece, score) in enumerate(pieces) if score > UNMATCHED}
        self._longest = max(map(len, self._pieces), default=0)
        normal = (score for piece, score in pieces if score > UNMATCHED and piece not in user_defined)
        self._unknown: int = model["unk_id"]
        self._unknown_score = float(np.float32(min(normal, default=0.0)) - _UNKNOWN_PENALTY)
        self._bytes: list[int] | None = None
        if model.get("byte_fallback"):
            ids = {piece: n for n, (piece, _) in enumerate(pieces)}
            self._bytes = [ids[f"<0x{byte:02X}>"] for byte in range(256)]

    def encode(self, text: str) -> list[int]:
        """Ids of a text in its normal form."""
        ids: list[int] = []
        for unknown, run in groupby(self._path(text), key=lambda part: part[0] == self._unknown):
            if not unknown:
                ids += [number for number, _ in run]
            elif self._bytes is None:
                ids.append(self._unknown)  # one for the whole run
            else:
                ids += [self._bytes[byte] for _, part in run for byte in part.encode("utf-8")]
        return ids

    def _path(self, text: str) -> list[tuple[int, str]]:
        """The pieces of the best way, from the front."""
        size = len(text)
        best: list[tuple[float, int, int] | None] = [(0.0, 0, 0), *[None] * size]  # score, where it began, the piece
        for start in range(size):
            here = best[start]
            assert here is not None  # every character has a piece or is unknown
            single = False
            for end in range(start + 1, min(start + self._longest, size) + 1):
                found = self._pieces.get(text[start:end])
                if found is not None:
                    single |= end == start + 1
                    _improve(best, end, found[1] + here[0], start, found[0])
            if not single:
                _improve(best, start + 1, self._unknown_score + here[0], start, self._unknown)
        path = []
        end = size
        while end:
            last = best[end]
            assert last is not None
            path.append((last[2], text[last[1] : end]))
            end = last[1]
        return path[::-1]


def _improve(best: list[tuple[float, int, int] | None], end: int, score: float, start: int, piece: int) -> None:
    """Keep the better way, of equal ones the first."""
    held, score = best[end], float(np.float32(score))
    if held is None or score > held[0]:
        best[end] = (score, start, piece)
