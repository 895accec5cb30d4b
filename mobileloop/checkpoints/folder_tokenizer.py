"""The tokenizer of a Hugging Face folder: one function for each fact that stands in several files.

The order of the files, and where they are joined, is in docs/checkpoints.md; it is that of transformers 5.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from mobileloop.checkpoints import known_keys
from mobileloop.checkpoints.account import Account
from mobileloop.checkpoints.endings import end_ids, said_ids
from mobileloop.checkpoints.sentencepiece import sentencepiece_form, sentencepiece_tokenizer, settled
from mobileloop.checkpoints.vocabulary import with_end_token
from mobileloop.errors import MobileloopError, library_errors, printable, validated
from mobileloop.files import read_json, read_text
from mobileloop.json_tokenizer import open_tokenizer
from mobileloop.spec.tokenizer import TokenizerSpec

_NAMED_TOKENS = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "pad", "sep", "cls", "mask"))
_FLAGS = ("special", "lstrip", "rstrip", "single_word", "normalized")


@dataclass
class _Files:
    """The files that speak of the text, each with its account; one that is missing has no keys."""

    folder: Path
    config: Account
    settings: Account
    generation: Account
    special: Account
    notes: list[str]

    @classmethod
    def open(cls, folder: Path, config: Account) -> _Files:
        def account(name: str) -> Account:
            path = folder / name
            return Account(str(path), read_json(path) if path.is_file() else {})

        names = ("tokenizer_config.json", "generation_config.json", "special_tokens_map.json")
        settings, generation, special = map(account, names)
        return cls(folder, config, settings, generation, special, [])

    def settle(self) -> None:
        """Account for what is left in them."""
        self.notes += self.settings.settle(known_keys.TOKENIZER_CONFIG)
        self.notes += self.generation.settle(known_keys.GENERATION)
        self.notes += self.special.settle(known_keys.SPECIAL_TOKENS_MAP)
        advice = known_keys.sampling_advice(self.generation.items())
        if advice:
            self.notes.append(
                f"generation_config.json recommends {advice}; `mobileloop run` samples as its options say"
            )


def folder_tokenizer(folder: Path, config: Account, vocab_size: int) -> tuple[TokenizerSpec | None, list[str]]:
    """What a folder says about text, and notes.

    Args:
        folder: the checkpoint folder.
        config: its config.json.
        vocab_size: rows of the embedding.

    Raises:
        MobileloopError: where a file is damaged, or says what would change the tokens and is not supported.
    """
    files = _Files.open(folder, config)
    template = _chat_template(files)
    named = _named_tokens(files)
    texts = {key: text for key in _NAMED_TOKENS if (text := token_text(named.get(key))) is not None}
    vocabulary = _vocabulary(files, named, vocab_size)
    add_bos, add_eos = files.settings.get("add_bos_token"), files.settings.get("add_eos_token")
    if vocabulary is None:
        for account, key in itertools.product((config, files.generation), ("bos_token_id", "eos_token_id")):
            account.get(key)  # of no use without a vocabulary
        files.settle()
        return None, files.notes
    tokenizer, json_text, from_sentencepiece = vocabulary
    bos = texts.get("bos_token")
    bos_id = None if bos is None else tokenizer.token_to_id(bos)
    said = {"generation_config.json": files.generation.get("bos_token_id"), "config.json": config.get("bos_token_id")}
    if bos_id is None:
        bos_id = next((ids[0] for ids in map(said_ids, said.values()) if ids), None)
    form = sentencepiece_form(folder / "tokenizer.model", _legacy(files)) if from_sentencepiece else None
    if from_sentencepiece:
        if add_eos:
            json_text = with_end_token(json_text, texts.get("eos_token", "</s>"))
    else:
        _note_overruled(
            files, tokenizer, {"add_bos_token": (add_bos, bos), "add_eos_token": (add_eos, texts.get("eos_token"))}
        )
    ends, notes = end_ids(
        {"generation_config.json": files.generation.get("eos_token_id"), "config.json": config.get("eos_token_id")},
        {text: tokenizer.token_to_id(text) for text in [texts.get("eos_token")] if text is not None},
        vocab_size,
    )
    files.settle()
    data = {
        "json_text": json_text,
        "sentencepiece": form,
        "chat_template": template,
        "bos_token": bos,
        "eos_token": texts.get("eos_token"),
        "special_texts": _template_texts(named),
        "bos_id": bos_id,
        "eos_ids": ends,
        "add_bos": from_sentencepiece and (add_bos is None or bool(add_bos)),
    }
    return validated(TokenizerSpec, data, f"the tokenizer of {folder}"), [*files.notes, *notes]


# -- one function for each fact --------------------------------------------------------------------


def _chat_template(files: _Files) -> str | None:
    """chat_template.jinja, else tokenizer_config's, else chat_template.json's; of named ones the one named default."""
    folder = files.folder
    said = files.settings.get("chat_template")
    extra = folder / "additional_chat_templates"
    if extra.is_dir():
        files.notes.append(f"{extra} holds more chat templates, which are left out")
    if (folder / "chat_template.jinja").is_file():
        return read_text(folder / "chat_template.jinja")
    if said is None and (folder / "chat_template.json").is_file():
        said = read_json(folder / "chat_template.json").get("chat_template")
    if isinstance(said, list):
        if not all(isinstance(one, dict) for one in said):
            raise MobileloopError(
                f"{files.settings.where} has a chat_template whose list holds what is no template; correct it or "
                "remove it."
            )
        said = {str(one.get("name")): one.get("template") for one in said}
    if isinstance(said, dict):
        others = sorted(printable(str(name)) for name in said if name != "default")
        chosen = said.get("default", next(iter(said.values())) if len(said) == 1 else None)
        if others and len(said) != 1:
            files.notes.append(f"of several chat templates only 'default' is taken; left out: {', '.join(others)}")
        said = chosen
    if said is not None and not isinstance(said, str):
        raise MobileloopError(
            f"{files.settings.where} has a chat_template that is a {type(said).__name__}, but text was expected; "
            "correct it or remove it."
        )
    return said


def _template_texts(named: Mapping[str, Any]) -> dict[str, str]:
    """The texts of the other named tokens, for the chat template; models add names of their own."""
    extra = named.get("extra_special_tokens")
    every = {**named, **(extra if isinstance(extra, dict) else {})}
    texts = {str(key): token_text(value) for key, value in every.items() if str(key).endswith("_token")}
    return {key: text for key, text in texts.items() if text is not None and key not in ("bos_token", "eos_token")}


def _named_tokens(files: _Files) -> dict[str, Any]:
    """bos_token and its like: tokenizer_config's; special_tokens_map's where that is silent."""
    named: dict[str, Any] = {}
    for key in (*_NAMED_TOKENS, "additional_special_tokens", "extra_special_tokens"):
        said, mapped = files.settings.get(key), files.special.get(key)
        named[key] = mapped if said is None else said
        if said is not None and mapped is not None and key in _NAMED_TOKENS and token_text(said) != token_text(mapped):
            files.notes.append(
                f"special_tokens_map.json says {key} {token_text(mapped)!r}, and tokenizer_config.json, which counts, "
                f"{token_text(said)!r}"
            )
    # Models add names of their own, such as image_token; each is a special token.
    for account in (files.settings, files.special):
        for key in list(account):
            if key.endswith("_token") and key not in named and not key.startswith("add_"):
                named[key] = account[key]
    return named


def _vocabulary(files: _Files, named: Mapping[str, Any], size: int) -> tuple[Tokenizer, str, bool] | None:
    """tokenizer.json, else tokenizer.model; with every token that the other files add.

    Returns:
        The tokenizer, its JSON, and whether it is of SentencePiece; None where the folder has no vocabulary.
    """
    folder = files.folder
    added = _added_tokens(files)
    whole, pieces = folder / "tokenizer.json", folder / "tokenizer.model"
    if whole.is_file():
        text = read_text(whole)
        tokenizer, text = _opened(whole, text, files)
    elif pieces.is_file():
        text = sentencepiece_tokenizer(pieces, legacy=_legacy(files))
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


def _legacy(files: _Files) -> bool:
    """Whether tokenizer_config.json asks for transformers 4's way of putting a space behind added tokens too."""
    return bool(files.settings.get("legacy"))


_PARTS_OF_A_TOKENIZER = ("model", "normalizer", "pre_tokenizer", "post_processor", "decoder", "added_tokens")


def _opened(path: Path, text: str, files: _Files) -> tuple[Tokenizer, str]:
    """The tokenizer and the text it was made of: the file's own where the library knows every key of it."""
    with library_errors(str(path), "it is not JSON; download it again"):
        keys = json.loads(text)
    if not isinstance(keys, dict):
        raise MobileloopError(
            f"{path} holds a JSON {type(keys).__name__}, but a tokenizer was expected; download it again."
        )
    account = Account(str(path), keys)
    for key in _PARTS_OF_A_TOKENIZER:
        account.get(key)
    for key in ("truncation", "padding"):
        if account.get(key) is not None:
            files.notes.append(f"{path.name} was saved with {key}, which is left out: it would change prompts")
    files.notes += account.settle(known_keys.TOKENIZER_JSON)
    known = {key: keys[key] for key in ("version", "truncation", "padding", *_PARTS_OF_A_TOKENIZER) if key in keys}
    if len(known) != len(keys):
        text = json.dumps(known, ensure_ascii=False)
    with library_errors(str(path), "it is not a tokenizer of the tokenizers library; download it again"):
        return open_tokenizer(text), text


def _added_tokens(files: _Files) -> dict[int, AddedToken]:
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
        known = {token.content: number for number, token in found.items()}
        for text, number in read_json(path).items():
            if not isinstance(number, int) or number < 0 or known.get(text, number) != number:
                raise MobileloopError(
                    f"{path} gives the token {printable(text)} the id {printable(str(number))}, which does not fit "
                    f"{where}; correct one of them."
                )
            found.setdefault(number, AddedToken(text, special=True, normalized=False))
    return found


def _add(
    files: _Files, tokenizer: Tokenizer, added: Mapping[int, AddedToken], special: Iterable[AddedToken], size: int
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
                found.append(_token({**one, "special": True} if isinstance(one, dict) else {}, text))
            elif one is not None and key in _NAMED_TOKENS:
                raise MobileloopError(
                    f"{key} is {printable(str(one))}, but a token was expected; correct the tokenizer's files."
                )
    return found


def _is_table(value: object) -> bool:
    return isinstance(value, dict) and "content" not in value


def _token(fields: Any, text: str) -> AddedToken:
    said = fields if isinstance(fields, dict) else {}
    flags = {flag: said[flag] for flag in _FLAGS if isinstance(said.get(flag), bool)}
    return AddedToken(text, **{"special": True, "normalized": False, **flags})


def token_text(value: object) -> str | None:
    """A token's text: a string, or an object that holds it as `content`."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _note_overruled(files: _Files, tokenizer: Tokenizer, asked: Mapping[str, tuple[object, str | None]]) -> None:
    """tokenizer.json's post-processor says what stands around a text; a note where tokenizer_config says otherwise."""
    around = tokenizer.encode("").tokens
    for key, (wanted, token) in asked.items():
        if isinstance(wanted, bool) and token is not None and wanted != (token in around):
            puts = "does not put" if wanted else "puts"
            files.notes.append(
                f"tokenizer_config.json says {key} {str(wanted).lower()}, and tokenizer.json, which counts, "
                f"{puts} {token!r}"
            )
