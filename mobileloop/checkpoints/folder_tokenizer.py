"""The tokenizer of a Hugging Face folder: one function for each fact that stands in several files.

The order of the files, and where they are joined, is in docs/checkpoints.md; it is that of transformers 5, but for
special_tokens_map.json, which counts where tokenizer_config.json is silent.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from mobileloop.checkpoints.account import Account
from mobileloop.checkpoints.endings import end_ids, said_ids
from mobileloop.checkpoints.folder_vocabulary import spaces, vocabulary_of
from mobileloop.checkpoints.sentencepiece import sentencepiece_form
from mobileloop.checkpoints.text_files import NAMED_TOKENS, TextFiles, token_text
from mobileloop.checkpoints.vocabulary import with_end_token
from mobileloop.errors import MobileloopError, printable, validated
from mobileloop.files import read_json, read_text
from mobileloop.spec.tokenizer import TokenizerSpec


def folder_tokenizer(folder: Path, config: Account, vocab_size: int) -> tuple[TokenizerSpec | None, list[str]]:
    """What a folder says about text, and notes.

    Args:
        folder: the checkpoint folder.
        config: its config.json.
        vocab_size: rows of the embedding.

    Raises:
        MobileloopError: where a file is damaged, or says what would change the tokens and is not supported.
    """
    files = TextFiles.open(folder, config)
    template = _chat_template(files)
    named = _named_tokens(files)
    texts = {key: text for key in NAMED_TOKENS if (text := token_text(named.get(key))) is not None}
    vocabulary = vocabulary_of(files, named, vocab_size)
    add_bos, add_eos = (files.settings.flag(key) for key in ("add_bos_token", "add_eos_token"))
    prefix = files.settings.flag("add_prefix_space")
    if vocabulary is None:
        for account, key in itertools.product((config, files.generation), ("bos_token_id", "eos_token_id")):
            account.get(key)  # of no use without a vocabulary
        files.settle()
        return None, files.notes
    tokenizer, json_text, from_sentencepiece = vocabulary
    bos, eos = texts.get("bos_token"), texts.get("eos_token")
    if not from_sentencepiece:
        _note_overruled(files, tokenizer, {bos: add_bos, eos: add_eos}, prefix)
    if from_sentencepiece and add_eos:
        json_text = with_end_token(json_text, eos or "</s>")
        files.notes.append("every text gets the end token behind it, as add_eos_token asks for")
    ends, notes = end_ids(
        {"generation_config.json": files.generation.get("eos_token_id"), "config.json": config.get("eos_token_id")},
        {} if eos is None else {eos: tokenizer.token_to_id(eos)},
        vocab_size,
    )
    data = {
        "json_text": json_text,
        "sentencepiece": sentencepiece_form(folder / "tokenizer.model", *spaces(files)) if from_sentencepiece else None,
        "chat_template": template,
        "bos_token": bos,
        "eos_token": eos,
        "special_texts": _template_texts(named),
        "bos_id": _begin_id(files, tokenizer, bos),
        "eos_ids": ends,
        "add_bos": from_sentencepiece and add_bos is not False,
    }
    files.settle()
    return validated(TokenizerSpec, data, f"the tokenizer of {folder}"), [*files.notes, *notes]


# -- one function for each fact --------------------------------------------------------------------


def _chat_template(files: TextFiles) -> str | None:
    """chat_template.jinja, else tokenizer_config's, else chat_template.json's; of named ones the one named default."""
    folder = files.folder
    said = files.settings.get("chat_template")
    extra = folder / "additional_chat_templates"
    if extra.is_dir():
        files.notes.append(f"{extra} holds more chat templates, which are left out")
    if (folder / "chat_template.jinja").is_file():
        text = read_text(folder / "chat_template.jinja")
        if said is not None and said != text:
            files.notes.append("chat_template.jinja counts, not the other chat_template of tokenizer_config.json")
        return text
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
        if others and chosen is None:
            files.notes.append(f"of several chat templates none is named 'default': {', '.join(others)} are left out")
        elif others and len(said) != 1:
            files.notes.append(f"of several chat templates only 'default' is taken; left out: {', '.join(others)}")
        said = chosen
    if said is not None and not isinstance(said, str):
        raise MobileloopError(
            f"{files.settings.where} has a chat_template that is no text ({type(said).__name__}); correct it or "
            "remove it."
        )
    return said


def _template_texts(named: Mapping[str, Any]) -> dict[str, str]:
    """The texts of the other named tokens, for the chat template; models add names of their own."""
    extra = named.get("extra_special_tokens")
    every = {**named, **(extra if isinstance(extra, dict) else {})}
    texts = {str(key): token_text(value) for key, value in every.items() if str(key).endswith("_token")}
    return {key: text for key, text in texts.items() if text is not None and key not in ("bos_token", "eos_token")}


def _named_tokens(files: TextFiles) -> dict[str, Any]:
    """bos_token and its like: tokenizer_config's; special_tokens_map's where that is silent."""
    named: dict[str, Any] = {}
    for key in (*NAMED_TOKENS, "additional_special_tokens", "extra_special_tokens"):
        said, mapped = files.settings.get(key), files.special.get(key)
        named[key] = mapped if said is None else said
        if isinstance(said, list) and isinstance(mapped, list):
            named[key] = [*said, *(one for one in mapped if one not in said)]
        if said is not None and mapped is not None and key in NAMED_TOKENS and token_text(said) != token_text(mapped):
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


def _begin_id(files: TextFiles, tokenizer: Tokenizer, bos: str | None) -> int | None:
    """The id of bos_token; where it has none, that of generation_config.json, else of config.json."""
    said = [account.get("bos_token_id") for account in (files.generation, files.config)]
    found = None if bos is None else tokenizer.token_to_id(bos)
    return next((ids[0] for ids in map(said_ids, said) if ids), None) if found is None else int(found)


def _note_overruled(
    files: TextFiles, tokenizer: Tokenizer, around: Mapping[str | None, bool | None], prefix: bool | None
) -> None:
    """The vocabulary's file says what stands around a text; a note where tokenizer_config.json says otherwise.

    Args:
        around: a token -> whether tokenizer_config.json asks for it.
        prefix: whether it asks for a space before the text.
    """
    put = tokenizer.encode("").tokens
    for token, wanted in around.items():
        if wanted is not None and token is not None and wanted != (token in put):
            puts = "puts no" if wanted else "puts"
            files.notes.append(
                f"the vocabulary's file counts before tokenizer_config.json, and {puts} {token!r} around texts"
            )
    first = tokenizer.encode("a", add_special_tokens=False).tokens[:1]
    spaced = bool(first) and first[0].startswith(("\u2581", "\u0120"))
    if prefix is not None and prefix != spaced:
        puts = "puts no space" if prefix else "puts a space"
        files.notes.append(f"the vocabulary's file counts before tokenizer_config.json, and {puts} before texts")
