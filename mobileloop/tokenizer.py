"""Text to tokens and back; chat templates run in a sandbox, since an artifact is untrusted."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from jinja2.exceptions import SecurityError, TemplateError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer as RustTokenizer
from tokenizers.decoders import DecodeStream

from mobileloop.errors import MobileloopError
from mobileloop.spec.tokenizer import TokenizerSpec

# What makes long texts out of short ones: padding, formatting and repeating. Chat templates need none of it.
_WIDENING_METHODS = {"center", "ljust", "rjust", "zfill", "expandtabs", "format", "format_map"}
_WIDENING_FILTERS = ("center", "format", "indent", "wordwrap", "filesizeformat")


class _Sandbox(ImmutableSandboxedEnvironment):
    """Runs an artifact's chat template: no access to Python, and no operation that makes huge texts at once.

    Nested loops can still take long; Ctrl-C ends them.
    """

    intercepted_binops = frozenset(["*", "**", "%"])

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
        for name in _WIDENING_FILTERS:
            self.filters.pop(name, None)
        self.globals["raise_exception"] = _refuse
        self.globals["strftime_now"] = lambda form: datetime.now().strftime(form[:64])

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Refuse powers, and anything but numbers for the others."""
        if operator == "**" or not all(isinstance(value, (int, float)) for value in (left, right)):
            raise SecurityError(f"the operator {operator} is not allowed here")
        return super().call_binop(context, operator, left, right)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Refuse methods that widen a text."""
        return attr not in _WIDENING_METHODS and super().is_safe_attribute(obj, attr, value)


def _refuse(message: str) -> None:
    raise TemplateError(message)


class Tokenizer:
    """A tokenizer built from a TokenizerSpec."""

    def __init__(self, spec: TokenizerSpec) -> None:
        """Build from plain data.

        Raises:
            MobileloopError: where the JSON is not a tokenizer.
        """
        self.spec = spec
        try:
            self.raw = RustTokenizer.from_str(spec.json_text)
        except Exception as error:  # the library raises a bare Exception
            raise MobileloopError(f"the tokenizer in the artifact is damaged ({error}); export it again.") from None

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Token ids of `text`; `special` adds the begin-of-sequence token where the model wants one."""
        ids = list(self.raw.encode(text, add_special_tokens=special).ids)
        if special and self.spec.add_bos and self.spec.bos_id is not None and ids[:1] != [self.spec.bos_id]:
            ids.insert(0, self.spec.bos_id)
        return ids

    def decode(self, ids: list[int]) -> str:
        """Text of token ids, special tokens left out."""
        return str(self.raw.decode(ids, skip_special_tokens=True))

    def chat(self, prompt: str, system: str | None = None) -> list[int]:
        """Token ids of one user turn in the model's chat template, with the opening of the answer.

        Args:
            prompt: the user's turn.
            system: the system turn, for templates that have one; None leaves it to the template.

        Raises:
            MobileloopError: where the artifact has no template, or the template fails in the sandbox.
        """
        if not self.spec.chat_template:
            raise MobileloopError("this artifact carries no chat template; run it without --chat.")

        messages = [{"role": "user", "content": prompt}]
        if system is not None:
            if "system" not in self.spec.chat_template:
                raise MobileloopError("this artifact's chat template has no system message; run it without --system.")
            messages.insert(0, {"role": "system", "content": system})
        environment = _Sandbox()
        try:
            text = environment.from_string(self.spec.chat_template).render(
                messages=messages,
                add_generation_prompt=True,
                bos_token=self.spec.bos_token or "",
                eos_token=self.spec.eos_token or "",
            )
        except Exception as error:  # a hostile template fails with whatever Python error it provokes
            raise MobileloopError(f"the artifact's chat template failed ({error}); run it without --chat.") from None
        return self.encode(text, special=False)

    def is_end(self, token: int) -> bool:
        """Whether a token ends generation."""
        return token in self.spec.eos_ids


class TextStream:
    """Turns tokens into text piece by piece, holding back bytes of unfinished characters."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)

    def push(self, token: int) -> str:
        """The new text after `token`; empty while a character is unfinished."""
        return self._stream.step(self._tokenizer.raw, token) or ""
