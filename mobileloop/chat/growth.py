"""Looks at each operation of a chat template that can widen what it is given, before it is done."""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Iterable, Mapping, Sized
from functools import wraps
from typing import Any

from jinja2.sandbox import SandboxedEnvironment, SandboxedFormatter
from jinja2.utils import _PassArg

from mobileloop.chat.allowance import CHARACTERS_OF_A_STEP, MAX_ITEMS, Allowance, inside, too_much

MAX_BITS = 4096  # of a whole number
MAX_PADDING = 10_000  # of one number in a format

Check = Callable[[Allowance, list[Any], dict[str, Any]], None]

# -- operators -------------------------------------------------------------------------------------------


def check_operator(operator: str, left: Any, right: Any, allowance: Allowance) -> None:
    """Raise SecurityError before an operator makes something huge."""
    if operator == "%" and isinstance(left, (str, bytes)):
        check_percent(left, right, allowance)
    elif operator == "+" and isinstance(left, Sized) and isinstance(right, Sized):
        allowance.fits(len(left) + len(right))
    elif operator == "*" and isinstance(left, Sized) != isinstance(right, Sized):
        sequence, times = (left, right) if isinstance(left, Sized) else (right, left)
        if isinstance(times, int):
            _check_repeated(sequence, times, allowance)
    else:
        _check_numbers(operator, left, right)


def _check_repeated(sequence: Sized, times: int, allowance: Allowance) -> None:
    if times <= 0:
        return
    if isinstance(sequence, (str, bytes)):
        allowance.fits(len(sequence) * times)
    elif len(sequence) * times > MAX_ITEMS:
        raise too_much("a list")


def _check_numbers(operator: str, left: Any, right: Any) -> None:
    if not isinstance(left, int) or not isinstance(right, int):
        return
    bits = left.bit_length() + right.bit_length()
    if operator == "**" and left not in (-1, 0, 1):
        bits = left.bit_length() * max(right, 0)
    if bits > MAX_BITS:
        raise too_much("a number")


_CONVERSION = re.compile(rb"%(?:\([^)]*\))?[-+ #0]*(\*|\d*)(?:\.(\*|\d*))?")


def check_percent(form: str | bytes, values: Any, allowance: Allowance) -> None:
    """Raise SecurityError where `form % values` may become huge: wide fields, or many large values."""
    conversions = _CONVERSION.findall(form if isinstance(form, bytes) else form.encode("utf-8", "replace"))
    numbers = [number for pair in conversions for number in pair if number]
    given = list(values) if isinstance(values, tuple) else [values]
    stars = [abs(value) for value in given if isinstance(value, int)] if b"*" in numbers else []
    widths = stars + [int(number) for number in numbers if number != b"*" and len(number) < 12]
    if any(len(number) >= 12 for number in numbers) or max(widths, default=0) > MAX_PADDING:
        raise too_much("a text")
    largest = max((written_size(value, allowance) for value in given), default=0)
    allowance.fits(len(form) + len(conversions) * (largest + max(widths, default=0)))


def written_size(value: Any, allowance: Allowance) -> int:
    """About the characters of a value that is written out, never too few."""
    if isinstance(value, (str, bytes)):
        return len(value)
    return 2 * CHARACTERS_OF_A_STEP * allowance.weight(value) if inside(value) else 400


# -- calls -----------------------------------------------------------------------------------------------


def check_call(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], allowance: Allowance) -> None:
    """Raise SecurityError before a method of a text or number makes something huge."""
    owner, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
    if isinstance(owner, (str, bytes)):
        check = _METHODS.get(name)
        if check is not None:
            check(allowance, [owner, *args], kwargs)
    elif isinstance(owner, int) and name == "to_bytes":
        _small(args, kwargs)
    elif name == "generate_lorem_ipsum":
        _small(args, kwargs, 100)


def _small(args: Iterable[Any], kwargs: Mapping[str, Any], most: int = MAX_PADDING) -> None:
    if any(isinstance(value, int) and abs(value) > most for value in (*args, *kwargs.values())):
        raise too_much("a text")


def _padded(allowance: Allowance, args: list[Any], kwargs: dict[str, Any]) -> None:
    for value in (*args[1:], *kwargs.values()):
        if isinstance(value, int):
            allowance.fits(value)


def _tabs(allowance: Allowance, args: list[Any], kwargs: dict[str, Any]) -> None:
    width = kwargs.get("tabsize", args[1] if len(args) > 1 else 8)
    if isinstance(width, int):
        tab = b"\t" if isinstance(args[0], bytes) else "\t"
        allowance.fits(len(args[0]) + args[0].count(tab) * max(width, 0))


def _replaced(allowance: Allowance, args: list[Any], kwargs: dict[str, Any]) -> None:
    given = dict(zip(("text", "old", "new"), args, strict=False)) | kwargs
    text, old, new = (given.get(key, "") for key in ("text", "old", "new"))
    if isinstance(text, (str, bytes)) and isinstance(new, (str, bytes)):
        places = 1 + _places(text, old)
        allowance.fits(len(text) + places * len(new))
    else:  # of the filter, which writes any value as a text
        sizes = [written_size(value, allowance) for value in (text, new)]
        allowance.fits((sizes[0] + 1) * (sizes[1] + 1))


def _places(text: str | bytes, part: Any) -> int:
    if isinstance(text, bytes):
        return text.count(part) if isinstance(part, bytes) else len(text)
    return text.count(str(part))


def _joined(allowance: Allowance, args: list[Any], kwargs: dict[str, Any]) -> None:
    separator, items = args[0], args[1] if len(args) > 1 else kwargs.get("iterable", ())
    if isinstance(items, types.GeneratorType):
        items = args[1] = list(allowance.counted(items))
    if isinstance(items, Sized) and isinstance(items, Iterable):
        allowance.fits(sum(written_size(item, allowance) for item in items) + len(separator) * len(items))


def _translated(allowance: Allowance, args: list[Any], kwargs: dict[str, Any]) -> None:
    table = args[1] if len(args) > 1 else {}
    values = table.values() if isinstance(table, Mapping) else table if isinstance(table, (list, tuple, str)) else ()
    longest = max((len(value) for value in values if isinstance(value, str)), default=1)
    allowance.fits(len(args[0]) * max(longest, 1))


def _encoded(allowance: Allowance, args: list[Any], kwargs: dict[str, Any]) -> None:
    if len(args[0]) > MAX_PADDING and (len(args) > 1 or kwargs):  # some encodings take quadratic time
        raise too_much("a text in another encoding")


_METHODS: dict[str, Check] = {
    **dict.fromkeys(("center", "ljust", "rjust", "zfill"), _padded),
    "expandtabs": _tabs,
    "replace": _replaced,
    "join": _joined,
    "translate": _translated,
    **dict.fromkeys(("encode", "decode"), _encoded),
}


# -- filters ---------------------------------------------------------------------------------------------


def guarded(function: Callable[..., Any], allowance: Allowance, check: Check | None) -> Callable[..., Any]:
    """A filter or test that pays for what it is given, checks what it is about to make, and weighs what it made."""
    skipped = 0 if _PassArg.from_obj(function) is None else 1

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        given = list(args[skipped:])
        for value in (*given, *kwargs.values()):
            allowance.paid(value)
        if check is not None:
            check(allowance, given, kwargs)
        return allowance.weighed(function(*args[:skipped], *given, **kwargs))

    return run


def _indented(allowance: Allowance, args: list[Any], kwargs: dict[str, Any]) -> None:
    width = kwargs.get("width", args[1] if len(args) > 1 else 4)
    size = len(width) if isinstance(width, str) else width
    if isinstance(size, int) and isinstance(args[0], (str, bytes)):
        allowance.fits(len(args[0]) + (len(str(args[0]).splitlines()) + 1) * max(size, 0))


def _wrapped(allowance: Allowance, args: list[Any], kwargs: dict[str, Any]) -> None:
    between = kwargs.get("wrapstring", args[3] if len(args) > 3 else None)
    _short(allowance, args, kwargs)
    allowance.fits(len(args[0]) * (1 + len(between or "\n")))


def _short(allowance: Allowance, args: list[Any], kwargs: dict[str, Any]) -> None:
    """Filters that may take quadratic time."""
    if isinstance(args[0], (str, bytes)) and len(args[0]) > 1 << 16:
        raise too_much("a text for such a filter")


def _grouped(allowance: Allowance, args: list[Any], kwargs: dict[str, Any]) -> None:
    for value in (*args[1:], *kwargs.values()):
        if isinstance(value, int) and abs(value) > MAX_ITEMS:
            raise too_much("a list")


def _rounded(allowance: Allowance, args: list[Any], kwargs: dict[str, Any]) -> None:
    _small(args[1:], kwargs, 400)


def _summed(allowance: Allowance, args: list[Any], kwargs: dict[str, Any]) -> None:
    start = kwargs.get("start", args[2] if len(args) > 2 else 0)
    if isinstance(start, (list, tuple)) and (not isinstance(args[0], Sized) or len(args[0]) > 1000):
        raise too_much("a list")


def _joined_filter(allowance: Allowance, args: list[Any], kwargs: dict[str, Any]) -> None:
    between = kwargs.get("d", args[1] if len(args) > 1 else "")
    both = [str(between), args[0]]
    _joined(allowance, both, {})
    args[0] = both[1]


def _formatted(allowance: Allowance, args: list[Any], kwargs: dict[str, Any]) -> None:
    form = args[0] if isinstance(args[0], (str, bytes)) else str(args[0])
    check_percent(form, tuple(args[1:]) or tuple(kwargs.values()), allowance)


def _as_json(allowance: Allowance, args: list[Any], kwargs: dict[str, Any]) -> None:
    given = dict(zip(("value", "ensure_ascii", "indent", "separators"), args, strict=False)) | kwargs
    indent, separators = given.get("indent"), given.get("separators")
    size = indent if isinstance(indent, int) else len(indent) if isinstance(indent, str) else 0
    marks = sum(len(mark) for mark in inside(separators) if isinstance(mark, str))
    allowance.fits(allowance.weight(given["value"]) * (max(size, 0) * _depth(given["value"]) + marks + 4))


def _depth(value: Any) -> int:
    """Lists in lists, and one for what is in the last."""
    level, depth = [value], 0
    while level:
        level, depth = [item for one in level for item in inside(one)], depth + 1
    return depth


FILTER_CHECKS: dict[str, Check] = {
    "center": _padded,
    "indent": _indented,
    "wordwrap": _wrapped,
    "format": _formatted,
    "replace": _replaced,
    "join": _joined_filter,
    "batch": _grouped,
    "slice": _grouped,
    "tojson": _as_json,
    "round": _rounded,
    "sum": _summed,
    **dict.fromkeys(("urlize", "striptags", "xmlattr", "pprint", "title"), _short),
}


# -- str.format ------------------------------------------------------------------------------------------


class _Formatter(SandboxedFormatter):
    """`str.format` within the sandbox, whose fields are bounded one by one and together."""

    def __init__(self, environment: SandboxedEnvironment, allowance: Allowance) -> None:
        super().__init__(environment)
        self._allowance, self._made = allowance, 0

    def format_field(self, value: Any, format_spec: str) -> Any:
        self._allowance.paid(value)
        if any(len(digits) > 5 or int(digits) > MAX_PADDING for digits in re.findall(r"\d+", format_spec)):
            raise too_much("a text")
        made = super().format_field(value, format_spec)
        self._made += len(made)
        self._allowance.fits(self._made)
        return made

    def convert_field(self, value: Any, conversion: Any) -> Any:
        self._allowance.paid(value)
        return super().convert_field(value, conversion)


def guarded_format(environment: SandboxedEnvironment, method: Any, allowance: Allowance) -> Callable[..., str]:
    """What stands for the method `str.format` or `str.format_map` of a text."""
    text, maps = method.__self__, method.__name__ == "format_map"

    def formatted(*args: Any, **kwargs: Any) -> str:
        if maps and (kwargs or len(args) != 1):
            raise TypeError("format_map() takes one argument, a mapping")
        given = ((), args[0]) if maps else (args, kwargs)
        made: str = type(text)(_Formatter(environment, allowance).vformat(text, *given))
        return made

    return formatted
