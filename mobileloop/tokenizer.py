"""Text to tokens and back."""

from __future__ import annotations

from collections.abc import Sequence

from mobileloop import detokenize
from mobileloop.chat.template import ChatTemplate
from mobileloop.errors import MobileloopError, library_errors
from mobileloop.json_tokenizer import open_tokenizer
from mobileloop.normal_form import PieceEncoder
from mobileloop.quiet import muted_stderr
from mobileloop.spec.tokenizer import TokenizerSpec


class Tokenizer:
    """A tokenizer built from a TokenizerSpec."""

    def __init__(self, spec: TokenizerSpec) -> None:
        """Build from plain data; truncation and padding that it was saved with are taken off.

        Raises:
            MobileloopError: where the JSON is not a tokenizer.
        """
        self.spec = spec
        with library_errors("the tokenizer in the artifact", "export it again", "is damaged"), muted_stderr():
            self.raw = open_tokenizer(spec.json_text)
            self.raw.no_truncation()
            self.raw.no_padding()
            added = self.raw.get_added_tokens_decoder().values()
            self._special = {token.content for token in added if token.special}
            self._pieces = None if spec.sentencepiece is None else PieceEncoder(self.raw, spec.sentencepiece)

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Token ids of `text`; `special` adds the begin-of-sequence token where the model wants one.

        Raises:
            MobileloopError: where the tokenizer fails, such as at a character that it has no token for.
        """
        with library_errors("the text", "try another text", "cannot be turned into tokens"), muted_stderr():
            if self._pieces is None:
                ids = list(self.raw.encode(text, add_special_tokens=special).ids)
            else:
                ids = self._pieces.encode(text, special)
        if special and self.spec.add_bos and self.spec.bos_id is not None:
            ids.insert(0, self.spec.bos_id)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out; ids that the vocabulary lacks give nothing. Never raises."""
        chain = self.decoder_steps()
        if chain is not None:
            tokens = (token for token in map(self.token, ids) if token is not None)
            return "".join([*(detokenize.push(chain, token) for token in tokens), detokenize.end(chain)])
        known = [token for token in ids if self.token(token) is not None]
        try:
            with library_errors("", ""), muted_stderr():
                return str(self.raw.decode(known, skip_special_tokens=True))
        except MobileloopError:  # a decoder of strange settings can panic
            return "".join(self.token(token) or "" for token in known)

    def decoder_steps(self) -> list[detokenize.Step] | None:
        """New steps that make text of tokens one by one; None where the decoder needs all tokens at once."""
        return detokenize.steps(self.raw.decoder)

    def token(self, token: int) -> str | None:
        """The token of an id as the vocabulary has it; None for a special one, and for an id without a token."""
        found = self.raw.id_to_token(int(token)) if 0 <= token < 1 << 32 else None
        return None if found is None or found in self._special else str(found)

    def chat(self, prompt: str, system: str | None = None) -> list[int]:
        """Token ids of one user turn in the model's chat template, with the opening of the answer.

        Args:
            prompt: the user's turn.
            system: the system turn, for templates that have one; None leaves it to the template.

        Raises:
            MobileloopError: where the artifact has no template, the template fails in the sandbox, or it has no place
                for the system turn.
        """
        return self.encode(self.chat_text(prompt, system), special=False)

    def chat_text(self, prompt: str, system: str | None = None) -> str:
        """The text that `chat` turns into tokens."""
        if not self.spec.chat_template:
            raise MobileloopError("this artifact carries no chat template; run it with --no-chat.")
        named = {"bos_token": self.spec.bos_token, "eos_token": self.spec.eos_token, **self.spec.special_texts}
        template = ChatTemplate(
            self.spec.chat_template, {name: text for name, text in named.items() if text is not None}
        )
        user = {"role": "user", "content": prompt}
        if system is None:
            return template.render([user])
        return template.render_with_system({"role": "system", "content": system}, user)

    def is_end(self, token: int) -> bool:
        """Whether a token ends generation."""
        return token in self.spec.eos_ids


def template_doubts(spec: TokenizerSpec | None) -> tuple[str, ...]:
    """A note where a chat template takes no plain user's turn, so that a chat would fail."""
    if spec is None or spec.chat_template is None:
        return ()
    try:
        Tokenizer(spec).chat_text("Hello")
    except MobileloopError as error:
        return (f"a chat with this model fails: {error}",)
    return ()


class TextStream:
    """Turns tokens into text piece by piece; the pieces and `flush` join to the whole text.

    Without a prompt the whole is `decode(ids)`. Behind a prompt it is what `decode(prompt + ids)` has beyond the length
    of `decode(prompt)`: a SentencePiece answer then begins with its space, and prompt and answer join as one text.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._steps = tokenizer.decoder_steps()
        self._held: list[int] = []  # all ids, where the decoder needs them at once
        self._skip = 0
        if prompt:
            shown = sum(len(self._text(token)) for token in prompt)
            self._skip = len(tokenizer.decode(prompt)) - shown  # held back, and part of the prompt

    def push(self, token: int) -> str:
        """The new text after `token`; empty while a later token may still change it."""
        return self._beyond_prompt(self._text(token))

    def flush(self) -> str:
        """What was held back. Nothing may be pushed after it."""
        text = self._tokenizer.decode(self._held) if self._steps is None else detokenize.end(self._steps)
        return self._beyond_prompt(text)

    def _text(self, token: int) -> str:
        if self._steps is None:
            self._held.append(token)
            return ""
        known = self._tokenizer.token(token)
        return "" if known is None else detokenize.push(self._steps, known)

    def _beyond_prompt(self, text: str) -> str:
        cut = min(self._skip, len(text))
        self._skip -= cut
        return text[cut:]
