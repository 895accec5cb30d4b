"""What an artifact carries of its tokenizer."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class TokenizerSpec(BaseModel):
    """A tokenizer as plain data.

    Attributes:
        json_text: the `tokenizers` library's JSON.
        chat_template: a Jinja template, run in a sandbox, or None.
        bos_token, eos_token: strings the template may name.
        special_texts: more of them, by the names that templates use, such as `pad_token`.
        bos_id: prepended where `add_bos` says so.
        eos_ids: tokens that end generation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    json_text: str
    chat_template: str | None = None
    bos_token: str | None = None
    eos_token: str | None = None
    special_texts: dict[str, str] = {}
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()
    add_bos: bool = False
