"""The tokenizer of a GGUF file: one function for each fact, with llama.cpp's defaults (docs/checkpoints.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mobileloop.checkpoints.account import Account
from mobileloop.checkpoints.endings import end_ids, known_ends, said_ids
from mobileloop.checkpoints.sentencepiece_model import CONTROL
from mobileloop.checkpoints.vocabulary import (
    byte_level_tokenizer,
    pre_tokenizer_adds_bos,
    scored_tokenizer,
    with_end_token,
)
from mobileloop.errors import MobileloopError, library_errors, printable, validated
from mobileloop.spec.tokenizer import TokenizerSpec

_USUAL_IDS = {"bos_token_id": 1, "eos_token_id": 2}
_END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")


def gguf_tokenizer(account: Account, vocab_size: int) -> tuple[TokenizerSpec | None, list[str]]:
    """What a GGUF file says about text, and notes.

    Args:
        account: the file's metadata.
        vocab_size: rows of the embedding.

    Raises:
        MobileloopError: where the vocabulary is damaged or of a kind that is not supported.
    """
    kind = account.get("tokenizer.ggml.model")
    template, notes = _chat_template(account)
    if kind in (None, "no_vocab", "none"):
        return None, [*notes, "the file has no vocabulary, so the artifact carries no tokenizer"]
    tokens, types = _tokens(account)
    try:
        json_text, adds_bos, said = _vocabulary(account, str(kind), tokens, types)
    except MobileloopError as error:
        raise MobileloopError(f"the tokenizer of {account.where}: {error}") from None
    notes += said
    if len(tokens) != vocab_size:
        notes.append(f"the vocabulary has {len(tokens)} tokens and the embedding {vocab_size}")
    usual = _USUAL_IDS if kind == "llama" else {}
    named = {key: _token_id(account, key, len(tokens), notes, usual) for key in ("bos_token_id", *_END_KEYS)}
    texts = _control_ends(tokens, types)
    ends, said_of_ends = end_ids({key: named[key] for key in _END_KEYS}, texts, min(vocab_size, len(tokens)))
    bos, eos = named["bos_token_id"], named["eos_token_id"]
    add_bos, add_eos = (account.flag(f"tokenizer.ggml.{key}") for key in ("add_bos_token", "add_eos_token"))
    if add_eos:
        if eos is None:
            raise MobileloopError(f"{account.where} asks for an end token behind every text, and names none.")
        json_text = with_end_token(json_text, tokens[eos])
        notes.append(f"every text gets the end token {tokens[eos]!r} behind it, as add_eos_token asks for")
    data = {
        "json_text": json_text,
        "chat_template": template,
        "bos_token": None if bos is None else tokens[bos],
        "eos_token": None if eos is None else tokens[eos],
        "bos_id": bos,
        "eos_ids": ends,
        "add_bos": adds_bos if add_bos is None else add_bos,
    }
    return validated(TokenizerSpec, data, f"the tokenizer of {account.where}"), [*notes, *said_of_ends]


# -- one function for each fact --------------------------------------------------------------------


def _chat_template(account: Account) -> tuple[str | None, list[str]]:
    """tokenizer.chat_template; templates under other names are left out with a note."""
    template = account.get("tokenizer.chat_template")
    account.get("tokenizer.chat_templates")  # the names of the others
    others = [key for key in account if key.startswith("tokenizer.chat_template.")]
    for key in others:
        account.get(key)
    if template is not None and not isinstance(template, str):
        raise MobileloopError(f"{account.where} has a chat template that is no text; download it again.")
    names = ", ".join(printable(key.removeprefix("tokenizer.chat_template.")) for key in others)
    return template, [f"of several chat templates only the default is taken; left out: {names}"] if others else []


def _tokens(account: Account) -> tuple[list[str], list[int]]:
    """The tokens and their types, by id."""
    tokens = account.get("tokenizer.ggml.tokens")
    types = account.get("tokenizer.ggml.token_type")
    if not isinstance(tokens, list) or not tokens or not all(isinstance(one, str) for one in tokens):
        raise MobileloopError(
            f"{account.where} has no list of tokens, so its vocabulary is damaged; download it again."
        )
    types = [1] * len(tokens) if types is None else types
    if not isinstance(types, list) or len(types) != len(tokens):
        raise MobileloopError(
            f"{account.where} has {len(tokens)} tokens and another number of token types; download it again."
        )
    return tokens, types


def _vocabulary(
    account: Account, kind: str, tokens: Sequence[str], types: Sequence[int]
) -> tuple[str, bool, list[str]]:
    """The `tokenizers` JSON, whether a begin token is put by default, and notes."""
    damage = library_errors(f"the tokenizer of {account.where}", "download the file again")
    unknown = said_ids(account.get("tokenizer.ggml.unknown_token_id", 0))
    add_space = bool(account.get("tokenizer.ggml.add_space_prefix", True))  # of SentencePiece alone, as is the unknown
    if kind == "gpt2":
        pre = account.get("tokenizer.ggml.pre")
        notes = [] if pre else ["the file names no pre-tokenizer, and GPT-2's is taken; words may be cut otherwise"]
        merges = account.get("tokenizer.ggml.merges", [])
        with damage:
            text = byte_level_tokenizer(tokens, merges, types, str(pre or "default"))
        return text, pre_tokenizer_adds_bos(str(pre or "default")), notes
    if kind == "llama":
        if not unknown or unknown[0] >= len(tokens):
            raise MobileloopError(f"{account.where} has no unknown token in its vocabulary; download it again.")
        account.get("tokenizer.ggml.pre")  # of no effect on this kind
        scores = account.get("tokenizer.ggml.scores", [])
        with damage:
            return scored_tokenizer(tokens, scores, types, tokens[unknown[0]], add_space), True, []
    raise MobileloopError(
        f"{account.where} has a tokenizer of kind '{printable(kind)}', but only gpt2 and llama are supported."
    )


def _token_id(account: Account, key: str, size: int, notes: list[str], usual: Mapping[str, int]) -> int | None:
    """The id that a key says; None where it says none, with a note where it lies outside the vocabulary.

    Args:
        usual: what a missing key means, which is noted.
    """
    said = account.get(f"tokenizer.ggml.{key}")
    if f"tokenizer.ggml.{key}" not in account and usual.get(key, size) < size:
        notes.append(f"the file names no {key}: {usual[key]} is taken, as llama.cpp does for SentencePiece")
        return usual[key]
    if said is not None and not isinstance(said, int):
        notes.append(f"tokenizer.ggml.{key} is {printable(repr(said))}, which is no token's number, and left out")
    ids = said_ids(said)
    if ids and ids[0] >= size:
        notes.append(f"tokenizer.ggml.{key} is {ids[0]}, beyond the {size} tokens of the vocabulary, and left out")
        return None
    return ids[0] if ids else None


def _control_ends(tokens: Sequence[str], types: Sequence[int]) -> dict[str, int]:
    """The control tokens that are known to end a turn."""
    control = ((text, number) for number, (text, kind) in enumerate(zip(tokens, types, strict=True)) if kind == CONTROL)
    return known_ends(control)
