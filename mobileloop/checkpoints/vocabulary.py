"""Tokenizers from raw vocabularies, as GGUF and SentencePiece files hold them, in the `tokenizers` library's form."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from mobileloop.errors import MobileloopError

CONTROL, USER_DEFINED = 3, 4  # GGUF token types

_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2_SPLIT = _LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")


def _pre_tokenizer(name: str) -> pre_tokenizers.PreTokenizer:
    if name in ("smollm", "default-digits"):
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    if name in ("gpt-2", "default"):
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    if name in ("llama-bpe", "llama3", "qwen2"):
        pattern = Regex(_QWEN2_SPLIT if name == "qwen2" else _LLAMA3_SPLIT)
        split = pre_tokenizers.Split(pattern, behavior="isolated")
        return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    raise MobileloopError(
        f"the GGUF file's pre-tokenizer '{name}' is not supported; supported are smollm, gpt-2, llama-bpe and qwen2."
    )


def _add_special(tokenizer: Tokenizer, tokens: Sequence[str], types: Sequence[int]) -> None:
    special = [
        AddedToken(t, special=True, normalized=False) for t, k in zip(tokens, types, strict=False) if k == CONTROL
    ]
    user = [AddedToken(t, normalized=False) for t, k in zip(tokens, types, strict=False) if k == USER_DEFINED]
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens(user)


def byte_level_tokenizer(tokens: Sequence[str], merges: Sequence[str], types: Sequence[int], pre: str) -> str:
    """A GPT-2 style byte-level BPE tokenizer's JSON.

    Args:
        tokens: token strings by id.
        merges: "left right" in rank order.
        types: GGUF token types by id.
        pre: GGUF's `tokenizer.ggml.pre`.
    """
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs, ignore_merges=pre in ("llama-bpe", "llama3")))
    tokenizer.pre_tokenizer = _pre_tokenizer(pre)
    tokenizer.decoder = decoders.ByteLevel()
    _add_special(tokenizer, tokens, types)
    return str(tokenizer.to_str())


def scored_tokenizer(
    tokens: Sequence[str], scores: Sequence[float], types: Sequence[int], unknown: str, add_space: bool = True
) -> str:
    """A SentencePiece BPE tokenizer's JSON (Llama 2, MobileLLM): merges follow from the scores.

    Args:
        tokens: pieces by id.
        scores: by id; a higher score merges earlier.
        types: token types by id.
        unknown: the unknown piece.
        add_space: whether SentencePiece puts a space before the text.
    """
    vocabulary = {token: index for index, token in enumerate(tokens)}
    merges = []
    for token, index in vocabulary.items():
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in vocabulary and right in vocabulary:
                merges.append((-scores[index], vocabulary[left], vocabulary[right], (left, right)))
    merges.sort(key=lambda merge: merge[:3])
    pairs = [merge[3] for merge in merges]
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=pairs, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    spaces = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if add_space else spaces
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if add_space else steps)
    _add_special(tokenizer, tokens, types)
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


def sentencepiece_tokenizer(path: Path) -> str:
    """A SentencePiece `tokenizer.model` as the `tokenizers` library's JSON.

    Raises:
        MobileloopError: where the file is damaged or is not a BPE model.
    """
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor()
    try:
        model.LoadFromFile(str(path))
    except (OSError, RuntimeError) as error:
        raise MobileloopError(f"{path} is not a SentencePiece model ({error}); download it again.") from None
    size = model.GetPieceSize()
    tokens = [model.IdToPiece(i) for i in range(size)]
    scores = [model.GetScore(i) for i in range(size)]
    types = [CONTROL if model.IsControl(i) else 1 for i in range(size)]
    if any(score != int(score) for score in scores):  # BPE scores are ranks, unigram scores are log-probabilities
        raise MobileloopError(
            f"{path} is a unigram model, and only BPE is supported; give the folder a tokenizer.json."
        )
    return scored_tokenizer(tokens, scores, types, tokens[model.unk_id()])


def pre_tokenizer_adds_bos(name: str) -> bool:
    """Whether llama.cpp puts a begin token where a GGUF file of this pre-tokenizer does not say: Llama 3's kinds."""
    return name in ("llama-bpe", "llama3", "llama-v3")
