"""Tokenizers from raw vocabularies, as GGUF and SentencePiece files hold them, in the `tokenizers` library's form."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

from mobileloop.checkpoints.pre_tokenizer import ignores_merges, pre_tokenizer, pre_tokenizer_adds_bos
from mobileloop.checkpoints.sentencepiece_model import CONTROL, USER_DEFINED
from mobileloop.checkpoints.spm_parts import bpe_model, spm_decoder
from mobileloop.errors import MobileloopError, library_errors, printable

__all__ = [
    "byte_level_tokenizer",
    "pre_tokenizer_adds_bos",
    "scored_tokenizer",
    "with_end_token",
]


def _add_special(tokenizer: Tokenizer, tokens: Sequence[str], types: Sequence[int]) -> None:
    special = [
        AddedToken(t, special=True, normalized=False) for t, k in zip(tokens, types, strict=False) if k == CONTROL
    ]
    user = [AddedToken(t, normalized=False) for t, k in zip(tokens, types, strict=False) if k == USER_DEFINED]
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens(user)


def _by_id(tokens: Sequence[str]) -> dict[str, int]:
    """The vocabulary of a GGUF file: an empty token gets a name, one that stands there twice is refused (llama.cpp).

    Raises:
        MobileloopError: naming the token.
    """
    vocabulary: dict[str, int] = {}
    for index, token in enumerate(tokens):
        name = token or f"[EMPTY_{index}]"
        if name in vocabulary:
            raise MobileloopError(
                f"the tokenizer has the token {printable(name)} twice, as {vocabulary[name]} and {index}, so ids and "
                "texts do not belong together; take another file of this model."
            )
        vocabulary[name] = index
    return vocabulary


def byte_level_tokenizer(tokens: Sequence[str], merges: Sequence[str], types: Sequence[int], pre: str) -> str:
    """A GPT-2 style byte-level BPE tokenizer's JSON.

    Args:
        tokens: token strings by id.
        merges: "left right" in rank order.
        types: GGUF token types by id.
        pre: GGUF's `tokenizer.ggml.pre`.

    Raises:
        MobileloopError: where the pre-tokenizer is not known, a token stands there twice, or a merge has no token.
    """
    cut = pre_tokenizer(pre)
    vocabulary = _by_id(tokens)
    with library_errors("the merges of the tokenizer", "take another file of this model", "do not fit its tokens"):
        pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs, ignore_merges=ignores_merges(pre)))
    tokenizer.pre_tokenizer = cut
    tokenizer.decoder = decoders.ByteLevel()
    _add_special(tokenizer, list(vocabulary), types)
    return str(tokenizer.to_str())


def scored_tokenizer(
    tokens: Sequence[str], scores: Sequence[float], types: Sequence[int], unknown: str, add_space: bool = True
) -> str:
    """A SentencePiece BPE tokenizer's JSON of a GGUF vocabulary (Llama 2, MobileLLM), as llama.cpp reads it.

    Merges follow from the scores. A space is put before the text and behind each token that is cut out of it.

    Args:
        tokens: pieces by id.
        scores: by id; a higher score merges earlier.
        types: token types by id.
        unknown: the unknown piece.
        add_space: whether SentencePiece puts a space before the text.

    Raises:
        MobileloopError: where scores are missing, or a piece stands there twice.
    """
    if len(scores) < len(tokens):
        raise MobileloopError(
            f"the tokenizer has {len(tokens)} pieces and {len(scores)} scores, so the order of its merges is unknown; "
            "take another file of this model."
        )
    vocabulary = _by_id(tokens)
    tokenizer = Tokenizer(bpe_model(vocabulary, scores, range(len(tokens)), unknown, byte_fallback=True))
    spaces = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if add_space else spaces
    tokenizer.decoder = spm_decoder(add_space)
    _add_special(tokenizer, list(vocabulary), types)
    return str(tokenizer.to_str())


def with_end_token(json_text: str, end: str) -> str:
    """The same tokenizer with the token `end` behind every text, as `add_eos_token` asks for.

    Raises:
        MobileloopError: where the vocabulary has no such token.
    """
    tokenizer = Tokenizer.from_str(json_text)
    number = tokenizer.token_to_id(end)
    if number is None:
        raise MobileloopError(f"add_eos_token asks for the token {end!r}, which is not in the vocabulary.")
    template = processors.TemplateProcessing(single=["$A", end], special_tokens=[(end, number)])
    before = tokenizer.post_processor
    tokenizer.post_processor = template if before is None else processors.Sequence([before, template])
    return str(tokenizer.to_str())
