"""A table that a query found, as CSV, Parquet or Markdown."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb

from mobileloop.errors import MobileloopError
from mobileloop.files import utf8_path, written_whole
from mobileloop_bench.writing.markdown import markdown_table
from mobileloop_bench.writing.table import Column
from mobileloop_bench.writing.table import Table as Screen

SUFFIXES = {".csv": "csv", ".parquet": "parquet", ".md": "markdown"}
COPY_OPTIONS = {"csv": "FORMAT csv, HEADER", "parquet": "FORMAT parquet"}


@dataclass(frozen=True)
class Table:
    """Rows with the name and the SQL type of each column."""

    columns: list[str]
    kinds: list[str]
    rows: list[tuple[Any, ...]]

    def dicts(self) -> list[dict[str, Any]]:
        """One object per row."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


def export_format(path: Path, named: str | None) -> str:
    """`csv`, `parquet` or `markdown`: the named one, or that of the suffix.

    Raises:
        MobileloopError: where neither is known.
    """
    form = named or SUFFIXES.get(path.suffix, "")
    if form not in SUFFIXES.values():
        known = ", ".join(f"{name} ({suffix})" for suffix, name in SUFFIXES.items())
        raise MobileloopError(f"the format of {path} is not known; name one with --format: {known}.")
    return form


def export(table: Table, path: Path, form: str) -> None:
    """Write a table, whole or not at all.

    Raises:
        MobileloopError: for a place that cannot be written.
    """
    with written_whole(path) as temporary:
        if form == "markdown":
            temporary.write_text(markdown(table), encoding="utf-8")
        else:
            _copy(table, temporary, form)


def markdown(table: Table) -> str:
    """A pipe table; of a list of numbers only their count is told."""
    rows = [[told(value) for value in row] for row in table.rows]
    return "".join(f"{line}\n" for line in markdown_table(table.columns, rows))


def screen(table: Table) -> Screen:
    """The table as a terminal shows it: times to the minute, reasons as numbered notes."""
    drawn = Screen("", [_column(name, kind) for name, kind in zip(table.columns, table.kinds, strict=True)])
    for row in table.rows:
        cells = []
        for name, value in zip(table.columns, row, strict=True):
            if name == "reasons" and isinstance(value, list):
                cells.append(drawn.notes.mark(map(told, value)))
            else:
                cells.append(_minute(value) if name == "time" else told(value))
        drawn.rows.append(cells)
    return drawn


def _column(name: str, kind: str) -> Column:
    return Column(name, left=kind not in ("BIGINT", "DOUBLE"), context=True, name=name == "artifact")


def _minute(value: object) -> str:
    """An ISO time as people write it; what is none as it is."""
    try:
        return f"{datetime.fromisoformat(str(value)):%Y-%m-%d %H:%M}"
    except ValueError:
        return told(value)


def told(value: Any) -> str:
    """A value in one line; figures with four digits."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list) and not all(isinstance(item, str) for item in value):
        return f"{len(value)} values"
    text = "" if value is None else "; ".join(value) if isinstance(value, list) else str(value)
    return " ".join(text.split())


def _copy(table: Table, path: Path, form: str) -> None:
    """By a database in memory, since the store's own may write no file."""
    marks = ", ".join("?" * len(table.columns))
    names = ['"' + name.replace('"', '""') + '"' for name in table.columns]
    defined = ", ".join(f"{name} {kind}" for name, kind in zip(names, table.kinds, strict=True))
    quoted = utf8_path(path, "DuckDB").replace("'", "''")
    try:
        with duckdb.connect(":memory:") as connection:
            connection.execute(f"CREATE TABLE out ({defined})")
            if table.rows:
                connection.executemany(f"INSERT INTO out VALUES ({marks})", table.rows)
            connection.execute(f"COPY out TO '{quoted}' ({COPY_OPTIONS[form]})")
    except duckdb.Error as error:
        raise MobileloopError(f"{path} could not be written: {first_line(error)}.") from None


def first_line(error: Exception) -> str:
    """What DuckDB says first; the rest draws the query."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
