"""What an artifact carries of its tokenizer."""

from __future__ import annotations

from pydantic import Base64Bytes, BaseModel, ConfigDict


class SentencePieceForm(BaseModel):
    """The normal form of a SentencePiece model, for those that the `tokenizers` library has no exact form for.

    Attributes:
        charsmap: the compiled rules, as the model file holds them; empty where there are none.
        add_dummy_prefix: whether a text gets a space in front.
        prefix_after_tokens: whether the text behind an added token gets one too (transformers' `legacy`).
        remove_extra_whitespaces: whether spaces at the ends go, and several become one.
        escape_whitespaces: whether spaces are written as U+2581.
        kept: pieces that the rules leave alone (user-defined ones), which are part of the text.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    charsmap: Base64Bytes = b""
    add_dummy_prefix: bool = True
    prefix_after_tokens: bool = False
    remove_extra_whitespaces: bool = False
    escape_whitespaces: bool = True
    kept: tuple[str, ...] = ()


class SystemTurns(BaseModel):
    """What a chat template puts around a system turn and the user's; which of them lose white space at their ends."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    before: str
    between: str
    after: str
    trims_system: bool = False
    trims_user: bool = False


class ChatTurns(BaseModel):
    """What a chat template puts around a user's turn, the opening of the answer included.

    Attributes:
        before, after: the text of the conversation is these with the turn between them.
        trims: whether the turn loses the white space at its ends.
        system: the same with a system turn; None where the template has none, or does more with it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    before: str
    after: str
    trims: bool = False
    system: SystemTurns | None = None


class TokenizerSpec(BaseModel):
    """A tokenizer as plain data.

    Attributes:
        json_text: the `tokenizers` library's JSON.
        sentencepiece: the form to which texts are brought first, where the JSON has none for it.
        chat_template: a Jinja template, run in a sandbox, or None.
        turns: what the template comes to where it only puts turns between fixed texts, for programs without Jinja.
        bos_token, eos_token: strings the template may name.
        special_texts: more of them, by the names that templates use, such as `pad_token`.
        bos_id: prepended where `add_bos` says so.
        eos_ids: tokens that end generation.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    json_text: str
    sentencepiece: SentencePieceForm | None = None
    chat_template: str | None = None
    turns: ChatTurns | None = None
    bos_token: str | None = None
    eos_token: str | None = None
    special_texts: dict[str, str] = {}
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()
    add_bos: bool = False
