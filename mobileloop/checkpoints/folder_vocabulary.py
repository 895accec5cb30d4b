"""The vocabulary of a Hugging Face folder: tokenizer.json or tokenizer.model, with what other files add to it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from mobileloop.checkpoints import known_keys
from mobileloop.checkpoints.account import Account
from mobileloop.checkpoints.sentencepiece import sentencepiece_tokenizer, settled
from mobileloop.checkpoints.text_files import NAMED_TOKENS, TextFiles, token_text
from mobileloop.errors import MobileloopError, library_errors, printable
from mobileloop.files import check_content, parse_json, read_json, read_text
from mobileloop.json_tokenizer import open_tokenizer

_FLAGS = ("special", "lstrip", "rstrip", "single_word", "normalized")


def vocabulary_of(files: TextFiles, named: Mapping[str, Any], size: int) -> tuple[Tokenizer, str, bool] | None:
    """tokenizer.json, else tokenizer.model; with every token that the other files add.

    Returns:
        The tokenizer, its JSON, and whether it is of SentencePiece; None where the folder has no vocabulary.
    """
    folder = files.folder
    added = _added_tokens(files, named)
    whole, pieces = folder / "tokenizer.json", folder / "tokenizer.model"
    if whole.is_file():
        check_content(whole)
        text = read_text(whole)
        tokenizer, text = _opened(whole, text, files)
    elif pieces.is_file():
        text = sentencepiece_tokenizer(pieces, *spaces(files))
        tokenizer = Tokenizer.from_str(text)
    else:
        others = [name for name in ("vocab.json", "merges.txt", "tiktoken.model", "tekken.json", "vocab.txt")
                  if (folder / name).is_file()]  # fmt: skip
        held = f" ({', '.join(others)} is not read)" if others else ""
        files.notes.append(
            f"the folder has no tokenizer.json and no tokenizer.model{held}, so the artifact carries no tokenizer"
        )
        return None
    changed = tokenizer.truncation is not None or tokenizer.padding is not None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    changed |= _add(files, tokenizer, added, _special_texts(named), size)
    if tokenizer.get_vocab_size() > size:
        files.notes.append(
            f"the vocabulary has {tokenizer.get_vocab_size()} tokens and the embedding {size}: a prompt with one of "
            "the others cannot run"
        )
    return tokenizer, settled(tokenizer.to_str()) if changed else text, not whole.is_file()


def spaces(files: TextFiles) -> tuple[bool, bool | None]:
    """What tokenizer_config.json says: whether a space comes behind added tokens too, and whether before a text."""
    return bool(files.settings.get("legacy")), files.settings.flag("add_prefix_space")


_PARTS = ("model", "normalizer", "pre_tokenizer", "post_processor", "decoder", "added_tokens")
_MODEL = (
    *("type", "vocab", "merges", "unk_token", "unk_id", "fuse_unk", "byte_fallback", "ignore_merges"),
    *("continuing_subword_prefix", "end_of_word_suffix", "max_input_chars_per_word"),
)
_OLD_SPELLINGS = {"add_prefix_space", "str_rep"}  # of parts that the library writes otherwise today


def _opened(path: Path, text: str, files: TextFiles) -> tuple[Tokenizer, str]:
    """The tokenizer and the text it was made of: the file's own where every key of it is known and counts."""
    keys = parse_json(text, str(path))
    account = Account(str(path), keys)
    known = {key: keys[key] for key in ("version", "truncation", "padding", *_PARTS) if key in keys}
    for key in _PARTS:
        account.get(key)
    for key in ("truncation", "padding"):
        if account.get(key) is not None:
            files.notes.append(f"{path.name} was saved with {key}, which is left out: it would change prompts")
    files.notes += account.settle(known_keys.TOKENIZER_JSON)
    if isinstance(keys.get("model"), dict):
        known["model"] = _model(f"{path}: model", keys["model"], files)
    if known != keys:
        text = json.dumps(known, ensure_ascii=False)
    with library_errors(str(path), "it is not a tokenizer of the tokenizers library; download it again"):
        tokenizer = open_tokenizer(text)
        unread = sorted(_unread(keys, json.loads(tokenizer.to_str()), _PARTS[1:5]))
    if unread:
        files.notes.append(f"{path}: not known and left out: {', '.join(map(printable, unread))}")
    return tokenizer, text


def _model(where: str, model: dict[str, Any], files: TextFiles) -> dict[str, Any]:
    """The keys of the model; dropout, which makes every encoding another one, is of training alone."""
    account = Account(where, model)
    held = {key: account[key] for key in _MODEL if key in account}
    dropout = account.get("dropout")
    if dropout:
        files.notes.append(f"{where}: dropout {printable(str(dropout))} is of training alone and left out")
    files.notes += account.settle(known_keys.TOKENIZER_MODEL)
    return held


def _unread(given: Any, read: Any, only: Iterable[str] = (), path: str = "") -> set[str]:
    """Keys of a tokenizer's parts that the library dropped when it read them."""
    if isinstance(given, list) and isinstance(read, list):
        return {key for one, other in zip(given, read, strict=False) for key in _unread(one, other, (), path)}
    if not isinstance(given, dict) or not isinstance(read, dict):
        return set()
    names = only or [key for key in given if key not in _OLD_SPELLINGS]
    lost = {path + key for key in names if key in given and key not in read}
    return lost.union(
        *(_unread(given[key], read[key], (), f"{path}{key}.") for key in names if key in given and key in read)
    )


def _added_tokens(files: TextFiles, named: Mapping[str, Any]) -> dict[int, AddedToken]:
    """added_tokens_decoder of tokenizer_config.json, and what added_tokens.json has beside it."""
    said = files.settings.get("added_tokens_decoder") or {}
    where = files.settings.where
    if not isinstance(said, dict):
        raise MobileloopError(f"{where}: added_tokens_decoder is no object; download it again.")
    found: dict[int, AddedToken] = {}
    for number, token in said.items():
        text = token_text(token)
        if not str(number).isdecimal() or text is None:
            raise MobileloopError(
                f"{where}: added_tokens_decoder has an entry that is no token: {printable(str(number))}."
            )
        found[int(number)] = _token(token, text)
    path = files.folder / "added_tokens.json"
    if path.is_file():
        special = {token.content for token in _special_texts(named)}
        known = {token.content: number for number, token in found.items()}
        for text, number in read_json(path).items():
            other = found.get(number) if isinstance(number, int) else None
            taken = other is not None and other.content != text
            if not isinstance(number, int) or number < 0 or known.get(text, number) != number or taken:
                raise MobileloopError(
                    f"{path} gives the token {printable(text)} the id {printable(str(number))}, which does not fit "
                    f"the other tokens or {where}; correct one of them."
                )
            found.setdefault(number, _token({"special": text in special}, text))
    return found


def _add(
    files: TextFiles, tokenizer: Tokenizer, added: Mapping[int, AddedToken], special: Iterable[AddedToken], size: int
) -> bool:
    """Complete a vocabulary: added tokens under their ids, then special ones by their text; whether it changed."""
    before = tokenizer.to_str()
    for number, token in sorted(added.items()):
        held = tokenizer.token_to_id(token.content)
        if held is not None and held != number:
            raise MobileloopError(
                f"{files.folder}: the vocabulary gives {printable(token.content)} the id {held}, and the added tokens "
                f"the id {number}; correct one of them."
            )
        if held is None and number != tokenizer.get_vocab_size():
            raise MobileloopError(
                f"{files.folder}: the added token {printable(token.content)} has the id {number}, where "
                f"{tokenizer.get_vocab_size()} is the next one free; the vocabulary is of another download."
            )
        _put(tokenizer, token)
    already = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    for token in special:
        if token.content in already:
            continue
        if tokenizer.token_to_id(token.content) is None:
            if tokenizer.get_vocab_size() >= size:
                files.notes.append(f"the special token {token.content!r} is not in the vocabulary and is left out")
                continue
            files.notes.append(
                f"the special token {token.content!r} is not in the vocabulary; it takes the next id, "
                f"{tokenizer.get_vocab_size()}"
            )
        _put(tokenizer, token)
    return bool(tokenizer.to_str() != before)


def _put(tokenizer: Tokenizer, token: AddedToken) -> None:
    with library_errors(f"the added token {token.content!r}", "correct the tokenizer's files"):
        (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([token])


def _special_texts(named: Mapping[str, Any]) -> list[AddedToken]:
    found = []
    for key, value in named.items():
        values = value if isinstance(value, list) else list(value.values()) if _is_table(value) else [value]
        for one in values:
            text = token_text(one)
            if text:
                found.append(_token({**(one if isinstance(one, dict) else {}), "special": True}, text))
            elif one is not None and key in NAMED_TOKENS:
                raise MobileloopError(
                    f"{key} is {printable(str(one))}, but a token was expected; correct the tokenizer's files."
                )
    return found


def _is_table(value: object) -> bool:
    return isinstance(value, dict) and "content" not in value


def _token(fields: Any, text: str) -> AddedToken:
    said = fields if isinstance(fields, dict) else {}
    flags = {flag: said[flag] for flag in _FLAGS if isinstance(said.get(flag), bool)}
    special = flags.get("special", False)
    return AddedToken(text, **{"special": special, "normalized": not special, **flags})
