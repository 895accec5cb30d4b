"""Chat templates: rendered as transformers' `apply_chat_template` does, in a sandbox that bounds what they make and do.

The environment has what templates for transformers count on: `generation` blocks, loop controls, `tojson` that is
`json.dumps`, `strftime_now`, `raise_exception`. An artifact is untrusted, so its template may neither reach Python nor
make huge texts nor run for long: every text, list and number that it makes is bounded before it is made where an
operation can widen it (repetition, padding, formatting, joining), and every loop turn, call, filter and text takes
from one allowance of work. Both bounds lie far above what any conversation needs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2.ext
from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from mobileloop.chat.allowance import Allowance
from mobileloop.chat.growth import FILTER_CHECKS, check_call, check_operator, guarded, guarded_format
from mobileloop.chat.syntax import metered
from mobileloop.chat.watch import Watched, Watching
from mobileloop.errors import MobileloopError, library_errors

MAX_SOURCE = 1 << 18  # characters of a template

Message = Mapping[str, Any]


class _GenerationBlocks(jinja2.ext.Extension):
    """`generation` blocks mark the assistant's part for training; the text inside is rendered as it stands."""

    tags = {"generation"}  # noqa: RUF012  (as jinja2 declares it)

    def parse(self, parser: Parser) -> nodes.Node:
        """A call block, so that the inside has a scope of its own, as in transformers."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_inside"), [], [], body).set_lineno(line)

    def _inside(self, caller: Callable[[], str]) -> str:
        return caller()


class _Dictionaries:
    """What templates call as `dict`: makes dictionaries, and has nothing else of the type."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args, **kwargs)


class _OpenNamespace(Namespace):
    """A namespace without names that begin with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        values = dict(*args[1:], **kwargs)
        for name in values:
            _check_name(name)
        Namespace.__init__(args[0], values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace takes no name that begins with an underscore, such as {name}")


def _refuse(message: Any) -> None:
    raise TemplateError(message)


def _now(form: str) -> str:
    if len(form) > 1000:
        raise SecurityError("the form of a date is too long")
    return datetime.now().strftime(form)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Runs one artifact's chat template; `allowance` is what it has left."""

    intercepted_binops = frozenset(["+", "-", "*", "/", "//", "**", "%"])

    def __init__(self, allowance: Allowance) -> None:
        self.allowance = allowance
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_GenerationBlocks, jinja2.ext.loopcontrols],
            finalize=allowance.shown,
        )
        self.filters["tojson"] = _to_json
        for table, checks in ((self.filters, FILTER_CHECKS), (self.tests, {})):
            for name, function in list(table.items()):
                table[name] = guarded(function, allowance, checks.get(name))
        self.globals.update(raise_exception=_refuse, strftime_now=_now, dict=_Dictionaries(), namespace=_OpenNamespace)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """The template's tree, with what counts its work put in."""
        return metered(super()._parse(source, name, filename))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """An operator, unless it would make something huge."""
        check_operator(operator, left, right, self.allowance)
        return self.allowance.weighed(super().call_binop(context, operator, left, right))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """A call, unless it would make something huge."""
        allowance = __self.allowance
        if any(__obj is meter for meter in allowance.meters):
            return __obj(*args)
        allowance.paid(args)
        allowance.paid(kwargs)
        check_call(__obj, args, kwargs, allowance)
        return allowance.weighed(super().call(__context, __obj, *args, **kwargs))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """`str.format` and `format_map`, with fields that stay in bounds."""
        if super().wrap_str_format(value) is None:
            return None
        return guarded_format(self, value, self.allowance)


class _WatchingSandbox(Watching, _Sandbox):
    """The same, for turns that are not to be looked into."""


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class ChatTemplate:
    """A compiled chat template.

    Args:
        source: the Jinja template.
        special_texts: the tokenizer's special tokens by the names that templates use, such as `bos_token`. A name
            that the tokenizer lacks is undefined in the template, as in transformers.
        whole: steps of all renderings together (`Allowance`); None for as many as are asked for.

    Raises:
        MobileloopError: where the template is no Jinja template.
    """

    def __init__(self, source: str, special_texts: Mapping[str, str], whole: int | None = None) -> None:
        self._special_texts = dict(special_texts)
        self._allowance = Allowance(whole)
        with _template_errors():
            if len(source) > MAX_SOURCE:
                raise SecurityError(f"it has {len(source)} characters, and {MAX_SOURCE} are allowed")
            self._cost = 1 + len(source) // 64  # of a rendering, besides what is counted
            self._template = _Sandbox(self._allowance).from_string(source)
            self._source = source

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Message] | None = None,
        documents: Sequence[Message] | None = None,
        add_generation_prompt: bool = True,
    ) -> str:
        """The text of a conversation.

        Raises:
            MobileloopError: where the template fails, refuses the conversation, or makes or does too much.
        """
        given = {"messages": list(messages), "tools": tools, "documents": documents}
        with _template_errors():
            self._allowance.renew(json.dumps(given, ensure_ascii=False))
            if self._allowance.whole is not None:
                self._allowance.spend(self._cost)
            pieces = self._template.generate(
                **given, add_generation_prompt=add_generation_prompt, **self._special_texts
            )
            return "".join(self._allowance.bounded(pieces))

    def refuse_looks(self, messages: Sequence[Mapping[str, str]]) -> None:
        """Render a conversation whose turns may only be put together, stripped and written out (`watch`).

        Raises:
            MobileloopError: where the template does more with the text of one, or cannot be rendered.
        """
        turns = [{**message, "content": Watched(message["content"])} for message in messages]
        whole = self._template
        with _template_errors():
            self._template = _WatchingSandbox(self._allowance).from_string(self._source)
        try:
            self.render(turns)
        finally:
            self._template = whole

    def render_with_system(self, system: Message, user: Message) -> str:
        """The text of a system turn and a user's turn.

        Raises:
            MobileloopError: where the template fails, refuses the system turn or leaves it out.
        """
        try:
            text = self.render([system, user])
        except MobileloopError as failure:
            self.render([user])  # one that fails anyway says why itself
            reason = str(failure).partition("(")[2].rpartition(")")[0]
            raise MobileloopError(
                f"this artifact's chat template refuses a system message ({reason}); run it without --system."
            ) from None
        if not self.takes_system(user):
            raise MobileloopError(
                "this artifact's chat template has no system message and would drop it; run it without --system."
            )
        return text

    def takes_system(self, user: Message) -> bool:
        """Whether a system turn before the user's reaches the text: two different ones must give two different texts.

        Raises:
            MobileloopError: where the template fails or refuses the turn.
        """
        turns = ({"role": "system", "content": probe} for probe in ("qvrzkjxu one", "wkzpvjyq two"))
        first, second = (self.render([turn, user]) for turn in turns)
        return first != second


def _template_errors() -> Any:
    return library_errors("the artifact's chat template", "run it with --no-chat", "failed")
