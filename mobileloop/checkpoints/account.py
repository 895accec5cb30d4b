"""Accounting: what became of every key of a file that a source is read from.

A key is used (a reader asked for it), known and without effect on the answer (a table says why), noted (nobody knows
it, and its name does not speak of the arithmetic), or refused by name (it can change the arithmetic or the text).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from mobileloop.errors import MobileloopError, printable

_NAMED = 100  # keys that one note lists


@dataclass(frozen=True)
class Rules:
    """What is known about the keys of one kind of file beside those that its reader asks for.

    Attributes:
        without_effect: names (or patterns with *) -> why they do not change the answer.
        can_change: what the name of a key that can change the answer looks like; such a key is refused unless off.
        off: the values that change nothing, for keys where they are not null, false, 0 and what is empty.
        effect: what a refused key can change, for the sentence.
    """

    without_effect: Mapping[str, str]
    can_change: re.Pattern[str]
    off: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    effect: str = "what the model computes"

    def knows(self, key: str) -> bool:
        """Whether a table entry covers `key`."""
        return key in self.without_effect or any(
            fnmatchcase(key, pattern) for pattern in self.without_effect if "*" in pattern
        )


class Account(Mapping[str, Any]):
    """The keys of one file; remembers which of them were asked for.

    Args:
        where: the file, for sentences.
        values: its keys.
    """

    def __init__(self, where: str, values: Mapping[str, Any]) -> None:
        self.where = where
        self._values = values
        self._asked: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self._asked.add(key)
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def flag(self, key: str) -> bool | None:
        """A value that is true, false or not said.

        Raises:
            MobileloopError: where it is anything else.
        """
        value = self.get(key)
        if value is not None and not isinstance(value, bool):
            raise MobileloopError(
                f"{self.where} sets {key} to {printable(str(value))}, but true or false was expected; correct it."
            )
        return value

    def values_untouched(self) -> Mapping[str, Any]:
        """Every key and value, without asking for any."""
        return self._values

    def settle(self, rules: Rules) -> list[str]:
        """Account for the keys that nobody asked for; returns at most one note, which names them.

        Raises:
            MobileloopError: for the first key that can change the answer and is on.
        """
        unknown = [key for key in self._values if key not in self._asked and not rules.knows(key)]
        for key in unknown:
            value = self._values[key]
            if rules.can_change.search(key.lower()) and not _is_off(value, rules.off.get(key)):
                raise MobileloopError(
                    f"{self.where} sets {printable(key)} to {_shown(value)}, which can change {rules.effect} and is "
                    "not known to this version; take a checkpoint without it."
                )
        if not unknown:
            return []
        listed = ", ".join(printable(key) for key in unknown[:_NAMED])
        more = f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
        return [f"{self.where}: not known and left out: {listed}{more}"]


def _is_off(value: object, off: tuple[object, ...] | None) -> bool:
    if off is not None:
        return value is None or value in off
    empty = value is None or (isinstance(value, (str, list, dict)) and not value)
    return empty or (isinstance(value, (int, float)) and value == 0)


def _shown(value: object) -> str:
    text = printable(str(value))
    return text if len(text) <= 60 else text[:57] + "..."
