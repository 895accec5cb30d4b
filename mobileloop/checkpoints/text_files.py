"""The files of a Hugging Face folder that speak of text, each with its account."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mobileloop.checkpoints import known_keys
from mobileloop.checkpoints.account import Account
from mobileloop.files import read_json

NAMED_TOKENS = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "pad", "sep", "cls", "mask"))


@dataclass
class TextFiles:
    """The files that speak of the text, each with its account; one that is missing has no keys."""

    folder: Path
    config: Account
    settings: Account
    generation: Account
    special: Account
    notes: list[str]

    @classmethod
    def open(cls, folder: Path, config: Account) -> TextFiles:
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
        for account in (self.generation, self.config):
            self.notes += known_keys.generation_notes(account.where, account.values_untouched())


def token_text(value: object) -> str | None:
    """A token's text: a string, or an object that holds it as `content`."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None
