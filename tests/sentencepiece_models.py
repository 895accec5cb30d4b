"""SentencePiece models of every kind, trained in a moment on the texts of tests/nasty_texts.py."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from nasty_texts import nasty, random_texts
from tokenizers import AddedToken

from mobileloop.checkpoints.account import Account
from mobileloop.checkpoints.folder_tokenizer import folder_tokenizer

_PLAIN = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
_MARKS = ["<|im_start|>", "<|im_end|>", "sat on", "ﬁ", "aa"]

# What each model asks of the trainer beside the defaults (nmt_nfkc, a space in front, extra spaces removed).
KINDS: dict[str, dict[str, Any]] = {
    "Llama": _PLAIN,
    "no space in front": {**_PLAIN, "add_dummy_prefix": False},
    "extra spaces removed": {"normalization_rule_name": "identity"},
    "defaults": {},
    "nfkc": {"normalization_rule_name": "nfkc", "remove_extra_whitespaces": False},
    "nfkc, case folded": {"normalization_rule_name": "nfkc_cf"},
    "nmt_nfkc, case folded": {"normalization_rule_name": "nmt_nfkc_cf", "add_dummy_prefix": False},
    "user-defined": {**_PLAIN, "user_defined_symbols": _MARKS},
    "user-defined and rules": {"user_defined_symbols": _MARKS, "control_symbols": ["<ctl>"]},
    "no bytes": {**_PLAIN, "byte_fallback": False},
    "digits and spaces": {**_PLAIN, "split_digits": True, "allow_whitespace_only_pieces": True},
    "unigram": {"model_type": "unigram"},
    "unigram, plain": {**_PLAIN, "model_type": "unigram"},
    "unigram, no bytes": {"model_type": "unigram", "byte_fallback": False},
    "unigram, user-defined": {"model_type": "unigram", "user_defined_symbols": _MARKS},
    "unigram, words of spaces": {"model_type": "unigram", "split_by_whitespace": False, "add_dummy_prefix": False},
}


def corpus() -> list[str]:
    """Lines to train on: words often, nasty texts once."""
    words = ["the cat sat on the mat", "the dog sat on the log", "who sat on the   mat", "it's 3.14 o'clock"] * 20
    odd = [*(text for text in nasty() if len(text) < 400), *random_texts(150, 99)]
    return [*words, *(text.replace("\n", " ").replace("\0", "") for text in odd if text.strip())]


@cache
def trained(kind: str) -> bytes:
    """The bytes of `tokenizer.model` of one kind."""
    import sentencepiece

    settings = {"model_type": "bpe", "vocab_size": 2000, "byte_fallback": True, **KINDS[kind]}
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(corpus()),
        model_writer=made,
        hard_vocab_limit=False,
        minloglevel=2,
        num_threads=1,
        character_coverage=0.98,
        **settings,
    )
    return made.getvalue()


# -- changing a model ------------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    """A number as protocol buffers write it."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: int | bytes) -> bytes:
    """One field of a message: a number, or bytes with their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def piece(text: str, score: float, kind: int) -> bytes:
    """One piece, as a field of the model."""
    import struct

    inner = field(1, text.encode()) + varint(2 << 3 | 5) + struct.pack("<f", score) + field(3, kind)
    return field(1, inner)


def folder_spec(folder: Path, data: bytes, added: Iterable[tuple[int, AddedToken]] = (), legacy: bool = False) -> Any:
    """The tokenizer of a folder with such a model, and added tokens in its tokenizer_config.json."""
    flags = ("content", "special", "lstrip", "rstrip", "single_word", "normalized")
    tokens = {str(number): {flag: getattr(token, flag) for flag in flags} for number, token in added}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(data)
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": tokens, "legacy": legacy}))
    return folder_tokenizer(folder, Account("config.json", {}), 1 << 20)[0]
