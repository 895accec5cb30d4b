"""Finds out whether a chat template looks into the turns that it is given.

The turns are texts of a kind of their own, `Watched`, which may be put together, stripped and written out. Whatever
else a template does with one is refused where it is done: a comparison, a test but for the type, a filter, a method, a
subscript, a loop over it. So what a template does cannot depend on the text of a turn, and what it makes of one turn is
what it makes of every one. Where Python itself would look into a text without asking it, calls are put into the
template's syntax tree: at comparisons, and at `~`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context, Macro
from jinja2.sandbox import SandboxedEnvironment
from jinja2.utils import _PassArg
from jinja2.visitor import NodeTransformer

from mobileloop.chat.allowance import MAX_ITEMS, inside, too_much

# What may be done with a turn, and with lists and dictionaries that hold one.
_TEXT_FILTERS = {"trim", "string", "default", "d"}
_LIST_FILTERS = {"default", "d", "length", "count", "first", "last", "list", "reverse", "batch", "slice"}
_LIST_FILTERS |= {"map", "select", "reject", "selectattr", "rejectattr"}
_TYPE_TESTS = {"defined", "undefined", "none", "string", "mapping", "iterable", "sequence", "number", "integer"}
_TYPE_TESTS |= {"boolean", "float", "callable", "true", "false"}
_METHODS = {"get", "items", "keys", "values"}
_SCOPES = {"_loop_vars", "_block_vars"}  # that Jinja hands to every call, for functions that ask for the context


def _looks(*_: Any, **__: Any) -> Any:
    raise SecurityError("it looks into a turn")


class Watched(str):
    """A turn, never blank, or a text that holds one."""

    __slots__ = ()
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __hash__ = _looks
    __contains__ = __iter__ = __getitem__ = __mul__ = __rmul__ = __mod__ = __rmod__ = __repr__ = __format__ = _looks

    def __bool__(self) -> bool:
        return True

    def __str__(self) -> str:
        return self

    def __add__(self, other: Any) -> Any:
        return Watched(str.__add__(self, other)) if isinstance(other, str) else NotImplemented

    def __radd__(self, other: Any) -> Any:
        return Watched(str.__add__(other, self)) if isinstance(other, str) else NotImplemented

    def strip(self, chars: str | None = None) -> str:
        """Without the white space at its ends."""
        return _looks() if chars is not None else Watched(str.strip(self))


def plain(text: str) -> str:
    """The same text, which nobody watches."""
    return "".join([text])


def joined(parts: Any) -> str:
    """Texts put together; watched where one of them is."""
    parts = list(parts)
    text = "".join(parts)
    return Watched(text) if any(isinstance(part, Watched) for part in parts) else text


def _holds(*values: Any) -> bool:
    """Whether a turn is in one of the values; of an iterator, that it may be."""
    waiting, seen = list(values), 0
    while waiting:
        one = waiting.pop()
        if isinstance(one, (Watched, Iterator)):
            return True
        waiting.extend(inside(one))
        seen += 1
        if seen > MAX_ITEMS:
            raise too_much("a list")
    return False


class Watching(SandboxedEnvironment):
    """What a sandbox does besides, so that no turn is looked into."""

    concat = staticmethod(joined)  # of what macros and blocks make

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Bound once, so that they are told from a template's own callables by identity.
        self.watch_joined, self.watch_compared = _joined_values, _compared
        for name, function in list(self.filters.items()):
            self.filters[name] = _watched_filter(name, function)
        tests: dict[str, Any] = {**self.tests}
        self.tests.update({name: _watched_test(name, function) for name, function in tests.items()})

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        if tree.find(nodes.EvalContextModifier) is not None:  # autoescape, which makes texts of another kind
            _looks()
        _Calls().visit(tree)
        tree.set_environment(self)
        return tree

    def getattr(self, obj: Any, attribute: str) -> Any:
        """An attribute; of a turn only `strip`."""
        if isinstance(obj, Watched) and attribute != "strip":
            _looks()
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """An item, but none of a turn, and none that a turn names."""
        if isinstance(obj, Watched) or isinstance(argument, Watched):
            _looks()
        return super().getitem(obj, argument)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """An operator; with a turn only `+`."""
        if operator != "+" and _holds(left, right):
            _looks()
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """A call; one that a turn is given to only where the template says what is done with it."""
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        own = (_joined_values, _compared, *__self.allowance.meters)  # type: ignore[attr-defined]
        if any(__obj is one for one in own):
            return __obj(*args)
        if isinstance(owner, (list, tuple, dict)) and name not in _METHODS and _holds(owner):
            _looks()
        makes = any(__obj is __self.globals.get(one) for one in ("namespace", "dict"))
        given = {key: value for key, value in kwargs.items() if key not in _SCOPES}
        if not makes and not isinstance(__obj, Macro) and _holds(args, given):
            _looks()
        return super().call(__context, __obj, *args, **kwargs)


def _joined_values(*values: Any) -> str:
    return joined(map(str, values))


def _compared(value: Any) -> Any:
    return _looks() if isinstance(value, Watched) else value


def _watched_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    skipped = 0 if _PassArg.from_obj(function) is None else 1

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        first, *others = args[skipped:] or (None,)
        allowed = _TEXT_FILTERS if isinstance(first, Watched) else _LIST_FILTERS
        if (_holds(first) and name not in allowed) or (name not in ("default", "d") and _holds(others, kwargs)):
            _looks()
        return function(*args, **kwargs)

    return run


def _watched_test(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    skipped = 0 if _PassArg.from_obj(function) is None else 1

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        given = list(args[skipped:])
        if name not in _TYPE_TESTS and _holds(given, kwargs):
            _looks()
        return function(*args[:skipped], *(plain(one) if isinstance(one, Watched) else one for one in given), **kwargs)

    return run


class _Calls(NodeTransformer):
    """Puts calls where Python would look into texts, or join them, without asking them."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _call("watch_joined", node.nodes, node.lineno)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = _call("watch_compared", [node.expr], node.lineno)
        for operand in node.ops:
            operand.expr = _call("watch_compared", [operand.expr], node.lineno)
        return node


def _call(name: str, arguments: list[nodes.Expr], line: int) -> nodes.Expr:
    call = nodes.Call(nodes.EnvironmentAttribute(name), arguments, [], None, None)
    call.set_lineno(line)
    return call
