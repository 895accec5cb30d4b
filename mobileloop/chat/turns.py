"""What a chat template puts around a user's turn, for programs that do not run templates.

A template is a program, and most of them do no more with the texts of a single turn than to put them between fixed
ones. Whether one does is found in two steps. First the template is rendered with turns that may only be put together,
stripped, asked for their type and written out (`watch`): one that compares a turn, or gives it to any other filter,
test or method, does more. Then the fixed texts are found, and whether turns are stripped, by rendering texts with white
space in all places, and some that templates know. Where one of them comes out otherwise, where all renderings together
are more work than one allowance, or where the template may say something else at another time, nothing is written, and
such a program refuses the template.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from mobileloop.chat.allowance import MAX_STEPS
from mobileloop.chat.template import ChatTemplate
from mobileloop.errors import MobileloopError
from mobileloop.spec.tokenizer import ChatTurns, SystemTurns, TokenizerSpec

_USER, _SYSTEM = "qvrzkjxu", "wkzpvjyq"  # no template has a reason to know them
_CHANGING = re.compile(r"strftime_now|random|lipsum|now\(")
_MOST_STEPS = 4 * MAX_STEPS  # of all renderings together
_TEXTS = (
    *(
        "x",
        "Hello, world!",
        " x",
        "x ",
        "\n x\t\n",
        "two\n\nlines\n",
        "\u3000x\x1c",
        "x\u200b",
        "\u0130 ß ﬁ e\u0301 日本 🙂",
    ),
    *("'", '"', "\\", "\\n", "{{ x }}", "{% if x %}", "{# x #}", "<b>&amp;</b>", "%s {0} $x", "`x`", "```\nx\n```"),
    *(
        "[INST] x [/INST]",
        "<|im_start|>user\nx<|im_end|>",
        "<s>x</s>",
        "<think>\nx\n</think>\n\nx",
        "/think x /no_think",
    ),
    *("0", "None", "true", "[]", '{"a": 1}', "user", "assistant", "system", "x" * 9000, "x y\n" * 2000),
)


def chat_turns(spec: TokenizerSpec) -> ChatTurns | None:
    """The texts around a user's turn and a system turn; None where the template is more than them, or there is none."""
    if not spec.chat_template or _CHANGING.search(spec.chat_template):
        return None
    named = {"bos_token": spec.bos_token, "eos_token": spec.eos_token, **spec.special_texts}
    try:
        texts = {name: text for name, text in named.items() if text is not None}
        template = ChatTemplate(spec.chat_template, texts, _MOST_STEPS)
        turns = _user_turns(template, _TEXTS)
        return turns and turns.model_copy(update={"system": _system_turns(template, _TEXTS)})
    except MobileloopError:  # one that refuses a turn; so does whoever renders it
        return None


def _user_turns(template: ChatTemplate, texts: Sequence[str]) -> ChatTurns | None:
    def rendered(user: str) -> str:
        return template.render([{"role": "user", "content": user}])

    template.refuse_looks([{"role": "user", "content": _USER}])
    around = rendered(_USER).split(_USER)
    if len(around) != 2:
        return None
    for trims in (False, True):
        given = ((rendered, (text,)) for text in texts if text.strip())
        if all(render(*turn) == _joined(around, turn, (trims,)) for render, turn in given):
            return ChatTurns(before=around[0], after=around[1], trims=trims)
    return None


def _system_turns(template: ChatTemplate, texts: Sequence[str]) -> SystemTurns | None:
    def rendered(system: str, user: str) -> str:
        return template.render([{"role": "system", "content": system}, {"role": "user", "content": user}])

    try:
        template.refuse_looks([{"role": "system", "content": _SYSTEM}, {"role": "user", "content": _USER}])
        around = re.split(f"{_SYSTEM}|{_USER}", rendered(_SYSTEM, _USER))
        if len(around) != 3 or rendered(_SYSTEM, _USER) != _joined(around, (_SYSTEM, _USER), (False, False)):
            return None
        whole = [text for text in texts if text.strip()]
        turns = [*zip(whole, reversed(whole), strict=True), *((text, _USER) for text in whole)]
        turns += [(_SYSTEM, text) for text in whole]
        for trims in ((False, False), (True, True), (True, False), (False, True)):
            if all(rendered(*turn) == _joined(around, turn, trims) for turn in turns):
                before, between, after = around
                return SystemTurns(
                    before=before, between=between, after=after, trims_system=trims[0], trims_user=trims[1]
                )
    except MobileloopError:  # one that takes no system turn
        return None
    return None


def _joined(around: Sequence[str], turns: Iterable[str], trims: Iterable[bool]) -> str:
    """Fixed texts with the turns between them."""
    shown = [turn.strip() if trim else turn for turn, trim in zip(turns, trims, strict=True)]
    return "".join(part for pair in zip(around, [*shown, ""], strict=True) for part in pair)
