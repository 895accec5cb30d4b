"""What a chat template may make and do: one allowance of work, and a bound on every text, list and number.

Work is counted in steps of about the size of a loop turn. A value's weight is what stands in it when it is written
out, so that a list that holds itself many times over weighs what it would print.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Any

from jinja2.exceptions import SecurityError
from jinja2.utils import Namespace

MAX_STEPS = 250_000
MAX_ITEMS = 1 << 17  # of a list, with all that is in it
MAX_CHARACTERS = 1 << 20  # of a text, beside what the conversation itself has
MAX_DEPTH = 64  # of lists in lists
CHARACTERS_OF_A_STEP = 16


def too_much(what: str) -> SecurityError:
    """The refusal of a template that makes too much."""
    return SecurityError(f"it makes {what} larger than any chat needs")


class Allowance:
    """What a template has left to do in one rendering, and the meters that its compiled form calls.

    Args:
        whole: steps of all renderings together; None for as many as are asked for.
    """

    def __init__(self, whole: int | None = None) -> None:
        self.left = MAX_STEPS
        self.whole = whole
        self.characters = MAX_CHARACTERS
        # Bound once: the sandbox tells them from a template's own callables by identity.
        self.turn, self.paid, self.shown, self.weighed = self._turn, self._paid, self._shown, self._weighed
        self.meters = (self.turn, self.paid, self.shown, self.weighed)

    def renew(self, given: str) -> None:
        """Start a rendering of a conversation; `given` is all its text."""
        self.left = MAX_STEPS + len(given)
        self.characters = MAX_CHARACTERS + 16 * len(given)

    def spend(self, steps: int) -> None:
        """Take steps.

        Raises:
            SecurityError: where too few are left.
        """
        self.left -= steps
        if self.whole is not None:
            self.whole -= steps
        if self.left < 0 or (self.whole is not None and self.whole < 0):
            raise SecurityError("it does more work than any chat needs")

    def fits(self, characters: int, what: str = "a text") -> None:
        """Raise SecurityError where a text of this length may not be made."""
        if characters > self.characters:
            raise too_much(what)

    def bounded(self, pieces: Iterable[str]) -> Iterator[str]:
        """The pieces of the result, as long as they fit together."""
        total = 0
        for piece in pieces:
            total += len(piece)
            self.fits(total)
            yield piece

    def weight(self, value: Any) -> int:
        """Items and steps of text in a value, at most about MAX_ITEMS.

        Raises:
            SecurityError: where it is too large, or too deep.
        """
        total, waiting = 0, [(value, 0)]
        while waiting:
            one, depth = waiting.pop()
            total += self._weight_of_one(one)
            within = inside(one)
            if within:
                if depth >= MAX_DEPTH:
                    raise too_much("lists in lists")
                waiting.extend((item, depth + 1) for item in within)
            if total + len(waiting) > MAX_ITEMS:
                raise too_much("a list")
        return total

    def _weight_of_one(self, value: Any) -> int:
        if isinstance(value, (str, bytes)):
            self.fits(len(value))
            return 1 + len(value) // CHARACTERS_OF_A_STEP
        if isinstance(value, int) and value.bit_length() > 64:
            return 1 + value.bit_length() // 64
        return 1

    def _turn(self, cost: int) -> bool:
        self.spend(cost)
        return True

    def _paid(self, value: Any) -> Any:
        """The same value, after its weight was taken."""
        if value is not None and not isinstance(value, (bool, float)):
            self.spend(self.weight(value))
        return value

    def _shown(self, value: Any) -> Any:
        """The same value, which is to be written out."""
        return self._paid(value)

    def _weighed(self, value: Any) -> Any:
        """The same value, just made; an iterator counts what is taken from it."""
        if isinstance(value, types.GeneratorType):
            return self.counted(value)
        return self._paid(value)

    def counted(self, items: Iterable[Any]) -> Iterator[Any]:
        """The same items, each of which takes a step."""
        for item in items:
            self.spend(1)
            yield item


def inside(value: Any) -> Sequence[Any]:
    """What stands in a list, dictionary or namespace."""
    if isinstance(value, Mapping):
        return [part for pair in value.items() for part in pair]
    if isinstance(value, Namespace):
        return [value._Namespace__attrs]
    if isinstance(value, (list, tuple)):
        return value
    return list(value) if isinstance(value, (Set, types.MappingProxyType, _VALUES)) else ()


_VALUES: type[Any] = type({}.values())
