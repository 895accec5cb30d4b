"""What tokenizers of SentencePiece models share, from whatever file they come: merges by scores, and the decoder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tokenizers import decoders, models


def bpe_model(
    vocabulary: Mapping[str, int], scores: Sequence[float], mergeable: Iterable[int], unknown: str, byte_fallback: bool
) -> models.BPE:
    """BPE whose merges are all the ways in which a piece consists of two others, the best scores first.

    Args:
        vocabulary: ids by piece.
        scores: by id.
        mergeable: ids of the pieces that merges may make or take.
        unknown: the unknown piece.
        byte_fallback: whether characters without a piece become byte pieces.
    """
    allowed = set(mergeable)
    parts = {piece for piece, index in vocabulary.items() if index in allowed}
    merges = []
    for piece in parts:
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in parts and right in parts:
                merges.append((-scores[vocabulary[piece]], vocabulary[left], vocabulary[right], (left, right)))
    merges.sort(key=lambda merge: merge[:3])
    pairs = [merge[3] for merge in merges]
    return models.BPE(
        vocab=dict(vocabulary), merges=pairs, unk_token=unknown, fuse_unk=True, byte_fallback=byte_fallback
    )


def spm_decoder(add_space: bool, escape: bool = True, renamed: Mapping[str, str] | None = None) -> decoders.Decoder:
    """The decoder of such a tokenizer.

    Args:
        add_space: whether the text began with a space that is not part of it.
        escape: whether spaces are written as U+2581.
        renamed: tokens that stand for another text.
    """
    steps: list[decoders.Decoder] = [decoders.Replace(token, text) for token, text in (renamed or {}).items()]
    if escape:
        steps.append(decoders.Replace("▁", " "))
    steps += [decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if add_space else steps)
