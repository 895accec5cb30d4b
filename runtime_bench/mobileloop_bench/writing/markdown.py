"""Tables in Markdown, as GitHub and others draw them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown_table(headers: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """The lines of a pipe table; the columns in `right` are aligned to the right.

    A cell stays one cell on one line, whatever is in it; other markup in it is left as it is.
    """
    rule = ["---:" if i in right else "---" for i in range(len(headers))]
    return [_line(map(markdown_cell, headers)), _line(rule), *(_line(map(markdown_cell, row)) for row in rows)]


def markdown_cell(text: str) -> str:
    """`text` without what would end a cell."""
    return " ".join(text.replace("|", r"\|").split())


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
