"""A table that fits: what all rows share is said once above it, and a narrow screen gets more lines, never less.

How a table becomes narrower, in this order: headers take two lines; names lose their middle, where they stay different;
names stand on lines of their own above the rows they hold for; gaps and unknowns shrink; a row takes several lines.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size

from mobileloop.console import filled, print_lines
from mobileloop_bench.writing.units import UNKNOWN

if TYPE_CHECKING:
    from rich.console import Console

GAP = 2  # columns between two cells
SHORTEST_NAME = 16  # what a name is shortened to at most
BRIEF = "?"  # for an unknown, where the word takes too much room
INDENT = "  "  # of what belongs to the line above


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        header: its name, in words that may stand below each other.
        left: aligned to the left, as texts are; figures are not.
        context: it says what a row is about, no result: said above the table where all rows share it.
        name: a context that names what rows are about, as one column at most does; it is shortened or set apart.
        shared: how the sentence above the table says the value, such as `on {}`; `header value` where it is empty.
    """

    header: str
    left: bool = False
    context: bool = False
    name: bool = False
    shared: str = ""

    def says(self, value: str) -> str:
        """What the sentence above the table says."""
        return self.shared.format(value) if self.shared else f"{self.header} {value}"


class Notes:
    """Numbered notes below a table: each text once, whatever rows it is of."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def mark(self, texts: Iterable[str]) -> str:
        """The numbers of these notes, such as `1,3`."""
        return ",".join(map(str, sorted({self._numbers.setdefault(text, len(self._numbers) + 1) for text in texts})))

    def lines(self, width: int) -> list[str]:
        """The notes, filled."""
        indent = len(str(len(self._numbers))) + 2
        told = [f"{f'{number}:':<{indent}}{text}" for text, number in self._numbers.items()]
        return [line for text in told for line in filled(_printable(text), width, " " * indent)]


@dataclass
class Table:
    """Columns and rows of text; `title` and what all rows share stand above, `notes` below."""

    title: str
    columns: Sequence[Column]
    rows: list[Sequence[str]] = field(default_factory=list)
    notes: Notes = field(default_factory=Notes)

    def lines(self, width: int) -> list[str]:
        """The table in lines of at most `width` columns, nothing in it cut."""
        grid = _Grid(self.columns, [[_printable(cell) for cell in row] for row in self.rows])
        shared, grid = grid.without_shared()
        above = [self.title, *([f"In all rows: {', '.join(shared)}."] if shared and self.rows else [])]
        told = [line for text in above if text for line in filled(_printable(text), width)]
        drawn = grid.lines(width)
        brief = [f"{BRIEF}: {UNKNOWN}"] if grid.holds(UNKNOWN) and any(BRIEF in line.split() for line in drawn) else []
        return [*told, *drawn, *brief, *self.notes.lines(width)]


def print_table(console: Console, table: Table) -> None:
    """Print a table, its title in bold."""
    first, *rest = table.lines(console.width)
    print_lines(console, [first], "bold")
    print_lines(console, rest)


Lines = list[str]


@dataclass(frozen=True)
class _Grid:
    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]

    def without_shared(self) -> tuple[list[str], _Grid]:
        """What a sentence above says of all rows, and the columns that are left; a single row keeps its columns."""
        if len(self.rows) < 2:
            return [], self
        alike = [
            (column.context or column.name) and len(set(self._cells(i))) == 1 for i, column in enumerate(self.columns)
        ]
        told = [c.says(self.rows[0][i]) for i, c in enumerate(self.columns) if alike[i] and self.rows[0][i]]
        return told, self._keeping([i for i in range(len(self.columns)) if not alike[i]])

    def holds(self, cell: str) -> bool:
        """Whether a cell is this text."""
        return any(cell in row for row in self.rows)

    def lines(self, width: int) -> Lines:
        """The first arrangement that fits; the last one always does."""
        name = next((i for i, column in enumerate(self.columns) if column.name), None)
        if name is not None and self._width(True, GAP) > width:
            if (shortened := self._shortened(name, width)) is None:
                return self._grouped(name, width)
            return shortened.lines(width)
        head, rows = self._arranged(width)
        return [*head, *(line for row in rows for line in row)]

    def _arranged(self, width: int) -> tuple[Lines, list[Lines]]:
        """Lines of the header with a rule below, and those of each row."""
        brief = self._brief()
        for grid, stacked, gap in ((self, False, GAP), (self, True, GAP), (self, True, 1), (brief, True, 1)):
            if grid._width(stacked, gap) <= width:
                return grid._drawn(stacked, gap)
        parts = [self._keeping(pack) for pack in self._packs(width - len(INDENT))]
        drawn = [part._drawn(False, GAP, width - len(INDENT)) for part in parts]
        head = [line for part, _ in drawn for line in part[:-1]]
        rows = [[line for _, part in drawn for line in part[i]] for i in range(len(self.rows))]
        return [*_hanging(head), drawn[0][0][-1]], [_hanging(row) for row in rows]

    def _brief(self) -> _Grid:
        return replace(self, rows=[[BRIEF if cell == UNKNOWN else cell for cell in row] for row in self.rows])

    def _narrowest(self) -> int:
        """The least columns that take a row in one line."""
        return self._brief()._width(True, 1)

    def _cells(self, index: int) -> Lines:
        return [row[index] for row in self.rows]

    def _keeping(self, kept: Sequence[int]) -> _Grid:
        return _Grid([self.columns[i] for i in kept], [[row[i] for i in kept] for row in self.rows])

    def _widths(self, stacked: bool) -> list[int]:
        """Of each column; a stacked header is as wide as its longest word."""
        found = []
        for i, column in enumerate(self.columns):
            words = column.header.split() if stacked else [column.header]
            found.append(max(map(cell_len, (*words, *self._cells(i))), default=0))
        return found

    def _width(self, stacked: bool, gap: int) -> int:
        widths = self._widths(stacked)
        return sum(widths) + gap * (len(widths) - 1)

    def _packs(self, width: int) -> list[list[int]]:
        """The columns in groups that fit one line each, but for a column that alone is too wide."""
        packs: list[list[int]] = []
        used = 0
        for i, wide in enumerate(self._widths(False)):
            if packs and used + GAP + wide <= width:
                packs[-1].append(i)
                used += GAP + wide
            else:
                packs.append([i])
                used = wide
        return packs

    def _drawn(self, stacked: bool, gap: int, most: int | None = None) -> tuple[Lines, list[Lines]]:
        """Each row in one line; a column on its own that is wider than `most` is filled."""
        widths = self._widths(stacked)
        if most is not None and len(widths) == 1 and widths[0] > most:
            return [self.columns[0].header, "─" * most], [filled(cell, most) for cell in self._cells(0)]
        headers = [textwrap.wrap(column.header, wide) for column, wide in zip(self.columns, widths, strict=True)]
        height = max(map(len, headers), default=0)
        padded = [[""] * (height - len(header)) + header for header in headers]
        above = [*zip(*padded, strict=True), ["─" * wide for wide in widths]]
        return [self._line(cells, widths, gap) for cells in above], [[self._line(r, widths, gap)] for r in self.rows]

    def _line(self, cells: Sequence[str], widths: Sequence[int], gap: int) -> str:
        told = []
        for cell, wide, column in zip(cells, widths, self.columns, strict=True):
            blank = " " * (wide - cell_len(cell))
            told.append(cell + blank if column.left else blank + cell)
        return (" " * gap).join(told).rstrip()

    def _shortened(self, name: int, width: int) -> _Grid | None:
        """With names that lack their middle; None where they would be too short or no longer told apart."""
        room = width - self._width(True, GAP) + self._widths(True)[name]
        if room < SHORTEST_NAME:
            return None
        cut = {one: without_middle(one, room) for one in self._cells(name)}
        if len(set(cut.values())) < len(cut):
            return None
        return replace(self, rows=[[*row[:name], cut[row[name]], *row[name + 1 :]] for row in self.rows])

    def _grouped(self, name: int, width: int) -> Lines:
        """Names on lines of their own, each with what else is the same in all rows that it holds for."""
        groups = [list(rows) for _, rows in groupby(range(len(self.rows)), key=lambda i: self.rows[i][name])]
        several = len(groups) < len(self.rows)

        def is_own(i: int) -> bool:
            column = self.columns[i]
            return (
                column.context
                and (column.left or several)
                and all(len({self.rows[row][i] for row in group}) == 1 for group in groups)
            )

        own = [i for i in range(len(self.columns)) if i != name and is_own(i)]
        rest = self._keeping([i for i in range(len(self.columns)) if i != name and i not in own])
        indent = "" if width - len(INDENT) < rest._narrowest() <= width else INDENT
        head, rows = rest._arranged(width - len(indent))
        lines = [indent + line for line in head]
        for group in groups:
            first = self.rows[group[0]]
            about = [first[name], *(self.columns[i].says(first[i]) for i in own if first[i])]
            lines += filled(", ".join(about), width, INDENT)
            lines += [indent + line for row in group for line in rows[row]]
        return lines


def without_middle(text: str, width: int) -> str:
    """`text` in at most `width` columns (3 or more): beginning and end, where names differ, and dots between."""
    if cell_len(text) <= width:
        return text
    begin = width // 2
    end = width - 1 - begin
    head, tail = set_cell_size(text, begin).rstrip(), text[-end:]
    while cell_len(tail) > end:  # characters that are two columns wide
        tail = tail[1:]
    return f"{head}…{tail}"


def _hanging(lines: Lines) -> Lines:
    return [*lines[:1], *(INDENT + line for line in lines[1:])]


def _printable(text: str) -> str:
    """One line without what moves a terminal's cursor; texts may come from result files of others."""
    return "".join(c if c.isprintable() else " " for c in text)
