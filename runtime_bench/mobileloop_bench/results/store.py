"""A local store of results: one DuckDB file that takes the runs of many machines.

`runs` has one row per run, its whole document included; `results` one per result, with the fields of `Result` as
columns, raw samples as a list. The view `measurements` joins both. A run is known by its document's id, or by the hash
of its content where it has none, so adding a file again replaces what an earlier state of it said.
"""

from __future__ import annotations

import hashlib
import json
import os
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import duckdb

from mobileloop import __version__
from mobileloop.console import visible
from mobileloop.errors import MobileloopError
from mobileloop.files import data_path, text_of, utf8_path
from mobileloop_bench.results.document import Document
from mobileloop_bench.results.exports import Table, first_line
from mobileloop_bench.results.result import PHASES, Result
from mobileloop_bench.writing.lists import numbers

VERSION = 1
MACHINE_COLUMNS = ("cpu", "architecture", "emulated", "governor", "os", "kernel", "mobileloop", "git_commit", "time")
SCALARS = {bool: "BOOLEAN", int: "BIGINT", float: "DOUBLE", str: "VARCHAR"}
Added = Literal["added", "replaced", "kept"]


def default_path() -> Path:
    """`$XDG_DATA_HOME/mobileloop/results.duckdb`."""
    return data_path("results.duckdb")


@dataclass(frozen=True)
class Filter:
    """Which measurements are wanted; None and empty mean any.

    Attributes:
        globs: by column (`model`, `artifact`, `cpu`, `runtime`), a pattern with `*` and `?`, case ignored.
        numbers: by column (`loops`, `threads`), any of these.
        phase: one of the phases.
        since: an ISO date or time; runs from then on.
        valid: only results that are valid.
    """

    globs: Mapping[str, str] = field(default_factory=dict)
    numbers: Mapping[str, Sequence[int]] = field(default_factory=dict)
    phase: str | None = None
    since: str | None = None
    valid: bool = False

    @classmethod
    def parse(
        cls,
        globs: Mapping[str, str | None],
        lists: Mapping[str, str | None],
        phase: str | None,
        since: str | None,
        valid: bool,
    ) -> Filter:
        """A filter from the options of the command line; None is an option that was not given.

        Raises:
            MobileloopError: naming the option that is wrong.
        """
        if phase is not None and phase not in PHASES:
            raise MobileloopError(f"--phase '{phase}' is not known; choose one of {', '.join(PHASES)}.")
        try:
            _ = since and datetime.fromisoformat(since)
        except ValueError:
            raise MobileloopError(f"--since '{since}' is no date; write for example 2026-11-01.") from None
        return cls(
            globs={name: visible(glob) for name, glob in globs.items() if glob is not None},
            numbers={name: numbers(text, f"--{name}") for name, text in lists.items() if text is not None},
            phase=phase,
            since=since,
            valid=valid,
        )

    def where(self) -> tuple[str, list[Any]]:
        """The SQL condition and its arguments."""
        parts, arguments = ["true"], list[Any]()
        for column, pattern in self.globs.items():
            parts.append(f"lower({column}) GLOB lower(?)")
            arguments.append(pattern)
        for column, wanted in self.numbers.items():
            parts.append(f"list_contains(?, {column})")
            arguments.append(list(wanted))
        if self.phase:
            parts.append("phase = ?")
            arguments.append(self.phase)
        if self.since:
            parts.append("time >= ?")
            arguments.append(self.since)
        if self.valid:
            parts.append("valid")
        return " AND ".join(parts), arguments


class Store:
    """An open store; use `opened`."""

    def __init__(self, path: Path, connection: duckdb.DuckDBPyConnection) -> None:
        self.path = path
        self._connection = connection

    # -- writing -------------------------------------------------------------------------------------

    def add(self, document: Document) -> Added:
        """Take a run in, or a later state of one that is known; an earlier state is left alone."""
        run = run_id(document)
        known = self._run(run)
        if known is not None and _progress(known) > _progress(document):
            return "kept"
        with self._transaction():
            self._delete(run)
            machine = [getattr(document.machine, name) for name in MACHINE_COLUMNS]
            values = [run, *machine, document.command, document.interrupted, document.to_json()]
            self._insert("runs", ["run", *MACHINE_COLUMNS, "command", "interrupted", "document"], [values])
            names = list(Result.model_fields)
            rows = [[run, index, *_cells(row, names)] for index, row in enumerate(document.results)]
            if rows:
                self._insert("results", ["run", "row", *names], rows)
        return "added" if known is None else "replaced"

    def remove(self, run: str) -> str:
        """Forget a run, named by the start of its id; returns the whole id."""
        found = self.find(run)
        with self._transaction():
            self._delete(found)
        return found

    def _delete(self, run: str) -> None:
        for table in ("results", "runs"):
            self._connection.execute(f"DELETE FROM {table} WHERE run = ?", [run])

    def _insert(self, table: str, columns: Sequence[str], rows: list[list[Any]]) -> None:
        names, marks = ", ".join(f'"{name}"' for name in columns), ", ".join("?" * len(columns))
        self._connection.executemany(f"INSERT INTO {table} ({names}) VALUES ({marks})", rows)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    # -- reading -------------------------------------------------------------------------------------

    def find(self, run: str) -> str:
        """The whole id of a run, from its start.

        Raises:
            MobileloopError: where no run or several begin so.
        """
        rows = self._connection.execute("SELECT run FROM runs WHERE starts_with(run, ?)", [run]).fetchall()
        found = [row[0] for row in rows]
        if run in found:
            return run
        if len(found) != 1 or not run:
            said = f"{len(found)} runs begin" if found else "no run begins"
            raise MobileloopError(f"{said} with '{run}' in {self.path}; see mobileloop results list.")
        return str(found[0])

    def document(self, run: str) -> Document:
        """A run as it was added."""
        found = self._run(self.find(run))
        assert found is not None
        return found

    def _run(self, run: str) -> Document | None:
        row = self._connection.execute("SELECT document FROM runs WHERE run = ?", [run]).fetchone()
        return None if row is None else Document.parse(json.loads(row[0]), f"run {run} of {self.path}")

    def runs(self) -> Table:
        """Every run, the newest last."""
        return self.sql(
            "SELECT run, time, cpu, interrupted, count(results.run) AS results, "
            "string_agg(DISTINCT artifact, ', ' ORDER BY artifact) AS artifacts "
            "FROM runs LEFT JOIN results USING (run) GROUP BY ALL ORDER BY time, run"
        )

    def measurements(self, wanted: Filter, columns: str = "*") -> Table:
        """The results that pass a filter, each with its run's machine."""
        where, arguments = wanted.where()
        return self.sql(f'SELECT {columns} FROM measurements WHERE {where} ORDER BY time, run, "row"', arguments)

    def sql(self, query: str, arguments: Sequence[Any] = ()) -> Table:
        """Run one SELECT of the user's own; files and settings are out of its reach.

        Raises:
            MobileloopError: with the first line of what DuckDB says.
        """
        try:
            found = self._connection.sql(text_of(query), params=list(arguments))
            if found is None:
                raise MobileloopError("the query gives no table; write a SELECT.")
            return Table(found.columns, [str(kind) for kind in found.types], found.fetchall())
        except duckdb.Error as error:
            raise MobileloopError(f"the query failed: {first_line(error)}.") from None


@contextmanager
def opened(path: Path, write: bool = False) -> Iterator[Store]:
    """The store at `path`; made where it is missing and to be written.

    SQL sees this one file: DuckDB's access to others is off, and its settings are locked.

    Raises:
        MobileloopError: for a store that is missing, read-only, held by another program, newer, or no store.
    """
    if not write and not path.exists():
        raise MobileloopError(f"there is no store at {path}; make one with mobileloop results add FILE.")
    if write:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise MobileloopError(f"the folder {path.parent} cannot be made: {error.strerror}.") from None
        if path.exists() and not (path.stat().st_mode & 0o222 and os.access(path, os.W_OK)):
            raise MobileloopError(f"the store {path} is read-only; name another with --store.")
    if path.is_file() and _magic(path) != b"DUCK" and path.stat().st_size:
        raise MobileloopError(_no_store(path))
    fixed: dict[str, str | bool | int | float | list[str]] = {
        "enable_external_access": False,
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "python_enable_replacements": False,
    }
    try:
        connection = duckdb.connect(utf8_path(path, "DuckDB"), read_only=not write, config=fixed)
    except (duckdb.Error, OSError) as error:
        raise MobileloopError(_refusal(path, error)) from None
    try:
        connection.execute("SET lock_configuration = true")
        _check_file(connection, path)
        _check_version(connection, path, write)
        yield Store(path, connection)
    except duckdb.Error as error:  # a full disk, say
        raise MobileloopError(f"the store {path} failed: {first_line(error)}.") from None
    finally:
        connection.close()


def run_id(document: Document) -> str:
    """The document's own id, or one from its content."""
    if document.id:
        return document.id
    content = json.dumps(json.loads(document.to_json()), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _progress(document: Document) -> tuple[bool, int, float]:
    """A later state of a run is larger."""
    samples = sum(len(row.samples_ms) for row in document.results)
    return not document.interrupted, samples, document.seconds or 0.0


def column_type(annotation: Any) -> str:
    """The column of a field: scalars and lists of scalars as such, all else as JSON text."""
    kind = _plain(annotation)
    if get_origin(kind) is list and (inner := SCALARS.get(_plain(get_args(kind)[0]))):
        return f"{inner}[]"
    return SCALARS.get(kind, "VARCHAR")


def _plain(annotation: Any) -> Any:
    """Without `| None` and without the bounds of an Annotated."""
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        inner = [one for one in get_args(annotation) if one is not type(None)]
        return _plain(inner[0]) if len(inner) == 1 else annotation
    return annotation


def _cells(row: Result, names: Sequence[str]) -> list[Any]:
    values = row.model_dump(mode="json")

    def cell(name: str) -> Any:
        value = values[name]
        as_text = column_type(Result.model_fields[name].annotation) == "VARCHAR" and not isinstance(value, str)
        return json.dumps(value) if as_text and value is not None else value

    return [cell(name) for name in names]


def _check_file(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """A file that is there and whose name ends like data (.json, .csv) is none to DuckDB: all would be in memory."""
    query = "SELECT path FROM duckdb_databases() WHERE database_name = current_database()"
    if connection.execute(query).fetchone() in (None, (None,)):
        raise MobileloopError(_no_store(path))


def _magic(path: Path) -> bytes:
    """What says that a file is DuckDB's."""
    try:
        with path.open("rb") as stream:
            return stream.read(12)[8:]
    except OSError as error:
        raise MobileloopError(f"the store {path} cannot be opened: {error.strerror}.") from None


def _no_store(path: Path) -> str:
    return f"{path} is no store of mobileloop results; name another with --store."


def _check_version(connection: duckdb.DuckDBPyConnection, path: Path, write: bool) -> None:
    tables = {row[0] for row in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
    if not tables and write:
        _create(connection)
        return
    found = (
        connection.execute("SELECT version FROM mobileloop_store").fetchall() if "mobileloop_store" in tables else []
    )
    if len(found) != 1:
        raise MobileloopError(f"{path} is a DuckDB file but no store of mobileloop results; name another with --store.")
    if found[0][0] > VERSION:
        raise MobileloopError(
            f"the store {path} has version {found[0][0]}, but this mobileloop {__version__} knows up to {VERSION}; "
            "upgrade mobileloop."
        )
    if write:
        _add_columns(connection)


def _create(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute("BEGIN")
    machine = ", ".join(f"{name} {'BOOLEAN' if name == 'emulated' else 'VARCHAR'}" for name in MACHINE_COLUMNS)
    connection.execute(
        f"CREATE TABLE runs (run VARCHAR, {machine}, command VARCHAR, interrupted BOOLEAN, document VARCHAR)"
    )
    connection.execute('CREATE TABLE results (run VARCHAR, "row" INTEGER)')
    _add_columns(connection)
    connection.execute("CREATE TABLE mobileloop_store (version INTEGER)")
    connection.execute("INSERT INTO mobileloop_store VALUES (?)", [VERSION])
    connection.execute("COMMIT")


def _add_columns(connection: duckdb.DuckDBPyConnection) -> None:
    """A store gains the fields that results have gained since it was made."""
    query = "SELECT column_name FROM duckdb_columns() WHERE table_name = 'results'"
    known = {row[0] for row in connection.execute(query).fetchall()}
    missing = [name for name in Result.model_fields if name not in known]
    for name in missing:
        kind = column_type(Result.model_fields[name].annotation)
        connection.execute(f'ALTER TABLE results ADD COLUMN "{name}" {kind}')
    if missing:
        connection.execute(
            "CREATE OR REPLACE VIEW measurements AS "
            "SELECT * FROM results JOIN (SELECT * EXCLUDE (document) FROM runs) USING (run)"
        )


def _refusal(path: Path, error: Exception) -> str:
    said = str(error).lower()
    if "lock" in said:
        return f"the store {path} is in use by another program; wait for it, or name another with --store."
    if "not a valid duckdb" in said or "in-memory" in said:
        return _no_store(path)
    if "newer" in said or "version number" in said:
        return f"the store {path} was written by a newer DuckDB than {duckdb.__version__}; upgrade duckdb."
    return f"the store {path} cannot be opened: {first_line(error)}."
