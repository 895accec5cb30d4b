"""A SentencePiece `tokenizer.model` as the `tokenizers` library's JSON, with ids equal to SentencePiece's own.

Two forms. Where a BPE model has no rules for texts beside the space in front (Llama, MobileLLM), the JSON has a
normalizer, and every reader of it is exact. Where it has rules, removes spaces or has user-defined pieces, and for
unigram models, the JSON takes texts that are in their normal form already, and `sentencepiece_form` says which that is.
"""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer, models, normalizers

from mobileloop.checkpoints.sentencepiece_model import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    SentencePieceModel,
    read_model,
)
from mobileloop.checkpoints.spm_parts import bpe_model, spm_decoder
from mobileloop.errors import library_errors
from mobileloop.spec.tokenizer import SentencePieceForm
from mobileloop.unigram import UNMATCHED

# Stands at the beginning of a text until it is known whether a token or text begins there (private use).
_BEGIN = "\uf8f0"


def sentencepiece_tokenizer(path: Path, legacy: bool = False, prefix: bool | None = None) -> str:
    """A `tokenizer.model` as the `tokenizers` library's JSON.

    Args:
        path: the file.
        legacy: whether the text behind an added token gets a space in front too, as in transformers 4.
        prefix: whether texts get a space in front; None leaves it to the file.

    Raises:
        MobileloopError: where the file is damaged or of a kind that is not supported.
    """
    model = _prefixed(read_model(path), prefix)
    with library_errors(str(path), "download it again"):
        tokenizer = Tokenizer(_model(model))
        tokenizer.decoder = spm_decoder(model.add_dummy_prefix, model.escape_whitespaces, _placeholders(model))
        if not _needs_form(model):
            tokenizer.normalizer = _normalizer(model.add_dummy_prefix, legacy)
        special = [AddedToken(piece, special=True, normalized=False) for piece in model.texts(UNKNOWN, CONTROL)]
        tokenizer.add_special_tokens(special)
        if model.kind == "bpe":
            tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in model.texts(USER_DEFINED)])
    return settled(str(tokenizer.to_str()))


def sentencepiece_form(path: Path, legacy: bool = False, prefix: bool | None = None) -> SentencePieceForm | None:
    """The normal form of a `tokenizer.model`; None where its JSON has a normalizer for it.

    Raises:
        MobileloopError: where the file is damaged or of a kind that is not supported.
    """
    model = _prefixed(read_model(path), prefix)
    if not _needs_form(model):
        return None
    return SentencePieceForm(
        charsmap=base64.b64encode(model.charsmap),
        add_dummy_prefix=model.add_dummy_prefix,
        prefix_after_tokens=legacy,
        remove_extra_whitespaces=model.remove_extra_whitespaces,
        escape_whitespaces=model.escape_whitespaces,
        kept=tuple(model.texts(USER_DEFINED)),
    )


def _prefixed(model: SentencePieceModel, prefix: bool | None) -> SentencePieceModel:
    return model if prefix is None else replace(model, add_dummy_prefix=prefix)


def settled(json_text: str) -> str:
    """The same tokenizer, after tokens were added to it: only a text that begins with none of them gets the space.

    For the JSON of `sentencepiece_tokenizer`; any other stays as it is.
    """
    data = json.loads(json_text)
    normalizer = data.get("normalizer") or {}
    if {"type": "Prepend", "prepend": _BEGIN} not in normalizer.get("normalizers", []):
        return json_text
    for token in data["added_tokens"]:
        token["normalized"] = True  # cut out of the text as it is with its space in front
    texts = [token["content"].replace(" ", "▁") for token in data["added_tokens"]]
    rules = [_replace(_BEGIN + text, text) for text in texts]
    first = [{"type": "Prepend", "prepend": _BEGIN}, _replace(" ", "▁")]
    data["normalizer"] = {"type": "Sequence", "normalizers": [*first, *rules, _replace(_BEGIN, "▁")]}
    return json.dumps(data, ensure_ascii=False)


def _replace(pattern: str, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": pattern}, "content": content}


def _needs_form(model: SentencePieceModel) -> bool:
    ties = model.kind == "unigram"  # whose ways of equal score are told apart by rounding
    spaces = model.remove_extra_whitespaces or not model.escape_whitespaces
    return ties or bool(model.charsmap) or spaces or USER_DEFINED in model.types


def _normalizer(add_space: bool, legacy: bool) -> normalizers.Normalizer:
    spaces = normalizers.Replace(" ", "▁")
    if not add_space:
        return spaces
    front = normalizers.Prepend("▁" if legacy else _BEGIN)
    return normalizers.Sequence([front, spaces])


def _model(model: SentencePieceModel) -> models.Model:
    vocabulary = {piece: index for index, piece in enumerate(model.pieces)}
    unknown = model.pieces[model.unknown]
    if model.kind == "bpe":
        normal = (index for index, kind in enumerate(model.types) if kind == NORMAL)
        return bpe_model(vocabulary, model.scores, normal, unknown, model.byte_fallback)
    return models.Unigram(_scored_pieces(model), unk_id=model.unknown, byte_fallback=model.byte_fallback)


def _scored_pieces(model: SentencePieceModel) -> list[tuple[str, float]]:
    """The pieces of a unigram model, so that the library finds those that SentencePiece would find.

    User-defined ones score by their length, as SentencePiece has it. Pieces that no text may become stay under their
    ids: unused ones under a name with a space, which no normal form has, the others with a score that always loses.
    """
    normal = [score for score, kind in zip(model.scores, model.types, strict=True) if kind == NORMAL]
    best = max(normal, default=0.0)
    names = {text: name for name, text in _placeholders(model).items()}
    pieces = []
    for piece, score, kind in zip(model.pieces, model.scores, model.types, strict=True):
        if kind == USER_DEFINED:
            score = float(np.float32(len(piece.encode("utf-8"))) * np.float32(best)) - 0.1
        elif kind in (BYTE, CONTROL, UNKNOWN):
            score = UNMATCHED
        unused = kind == UNUSED
        pieces.append((names[piece] if unused else piece, UNMATCHED if unused else score))
    return pieces


def _placeholders(model: SentencePieceModel) -> dict[str, str]:
    """Names of the unused pieces of a unigram model, and their texts."""
    if model.kind != "unigram":
        return {}
    return {f"unused piece {index}": piece for index, piece in enumerate(model.texts(UNUSED))}
