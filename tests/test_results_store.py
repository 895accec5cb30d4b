import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_writing_documents import BENCH
from typer.testing import CliRunner

from mobileloop.cli import app
from mobileloop.errors import MobileloopError
from mobileloop_bench.results.document import Document

duckdb = pytest.importorskip("duckdb")
from mobileloop_bench.results import store  # noqa: E402


def state(run: str | None, samples: list[float], interrupted: bool = False, cpu: str = "a processor") -> Document:
    document = BENCH.model_copy(deep=True, update={"id": run, "interrupted": interrupted})
    document.results[0].samples_ms = samples
    document.machine.cpu, document.machine.time = cpu, "2026-11-22T10:00:00+00:00"
    return document


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "results.duckdb"


@pytest.fixture
def filled(place: Path) -> Path:
    with store.opened(place, write=True) as opened:
        assert opened.add(state("aa11", [1.0, 2.0])) == "added"
        assert opened.add(state("ab22", [3.0], cpu="Another Phone")) == "added"
    return place


def run(place: Path, *arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["results", *map(str, arguments), "--store", str(place)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert "Traceback" not in done.stderr
    return done.exit_code, done.stdout, done.stderr


def refused(place: Path, *arguments: object) -> str:
    code, said, error = run(place, *arguments)
    assert (code, said, len(error.splitlines())) == (2, "", 1), (code, said, error)
    return error


def test_a_run_is_there_once_in_its_newest_state(place: Path) -> None:
    with store.opened(place, write=True) as opened:
        assert opened.add(state("r", [1.0], interrupted=True)) == "added"
        assert opened.add(state("r", [1.0, 2.0], interrupted=True)) == "replaced"
        assert opened.add(state("r", [1.0, 2.0, 3.0])) == "replaced"
        assert opened.add(state("r", [1.0], interrupted=True)) == "kept"
        assert opened.add(state("r", [1.0, 2.0, 3.0])) == "replaced"
        assert opened.sql("SELECT samples_ms FROM results").rows == [([1.0, 2.0, 3.0],)]
        assert opened.document("r") == state("r", [1.0, 2.0, 3.0])
        assert opened.add(state(None, [1.0])) == "added"
        assert opened.add(state(None, [1.0])) == "replaced"
        assert opened.add(state(None, [2.0])) == "added"
        assert opened.sql("SELECT count(*) FROM runs").rows == [(3,)]


def test_every_field_of_a_result_is_a_column(filled: Path) -> None:
    with store.opened(filled) as opened:
        (row,) = opened.sql("SELECT * FROM measurements WHERE run = 'aa11'").dicts()
    told = json.loads(BENCH.to_json())["results"][0]
    for name, value in told.items():
        if name not in ("samples_ms", "stages", "details", "counters", "speeds"):
            assert row[name] == value, name
    assert json.loads(row["stages"]) == told["stages"]
    assert (row["cpu"], row["samples_ms"]) == ("a processor", [1.0, 2.0])


def test_a_store_gains_the_columns_that_results_gained(filled: Path) -> None:
    with duckdb.connect(str(filled)) as old:
        old.execute("DROP VIEW measurements")
        old.execute("ALTER TABLE results DROP COLUMN p99_ms")
    with store.opened(filled, write=True) as opened:
        opened.add(state("new", [1.0]))
        assert "p99_ms" in opened.sql("SELECT * FROM measurements").columns


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ([], ["aa11", "ab22"]),
        (["--machine", "*PHONE*"], ["ab22"]),
        (["--model", "ti?y", "--artifact", "*.safetensors", "--runtime", "engine"], ["aa11", "ab22"]),
        (["--model", "big*"], []),
        (["--loops", "1,2"], ["aa11", "ab22"]),
        (["--loops", "1"], []),
        (["--threads", "1", "--phase", "decode"], ["aa11", "ab22"]),
        (["--phase", "load"], []),
        (["--since", "2026-11-22"], ["aa11", "ab22"]),
        (["--since", "2026-11-23"], []),
        (["--valid"], []),
    ],
)
def test_filters(filters: list[str], found: list[str], filled: Path) -> None:
    code, said, _ = run(filled, "query", *filters, "--json")
    assert (code, [row["run"] for row in json.loads(said)]) == (0, found)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM read_csv('{file}')",
        "SELECT * FROM read_text('{file}')",
        "SELECT * FROM glob('/*')",
        "COPY runs TO '{file}.out'",
        "ATTACH '{file}.db'",
        "DELETE FROM runs",
        "CREATE TABLE x (a INTEGER)",
        "SET enable_external_access = true",
        "SELECT * FROM filled",
        "SELECT nothing FROM runs",
        "nonsense",
        "",
    ],
)
def test_sql_reads_this_store_and_nothing_else(query: str, filled: Path, tmp_path: Path) -> None:
    file = tmp_path / "secret.csv"
    file.write_text("a\n1\n")
    assert refused(filled, "query", "--sql", query.format(file=file))
    assert run(filled, "query", "--sql", "SELECT count(*) AS n FROM runs", "--json")[1] == '[{"n": 2}]\n'
    assert {path.name for path in tmp_path.iterdir()} == {"secret.csv", "deep"}


def test_exports(filled: Path, tmp_path: Path) -> None:
    for name in ("a.csv", "a.parquet", "a.md"):
        assert run(filled, "export", tmp_path / name)[0] == 0
    with (tmp_path / "a.csv").open() as stream:
        assert [row["run"] for row in csv.DictReader(stream)] == ["aa11", "ab22"]
    found = duckdb.connect().execute(f"SELECT run, samples_ms FROM '{tmp_path / 'a.parquet'}'").fetchall()
    assert found == [("aa11", [1.0, 2.0]), ("ab22", [3.0])]
    assert len((tmp_path / "a.md").read_text().splitlines()) == 4
    assert "is an input of this command" in refused(filled, "export", filled, "--format", "csv")
    before = sorted(tmp_path.iterdir())
    assert "--format" in refused(filled, "export", tmp_path / "a.xls")
    assert "query failed" in refused(filled, "export", tmp_path / "b.csv", "--sql", "SELECT x")
    assert "does not exist" in refused(filled, "export", tmp_path / "none" / "b.csv")
    assert sorted(tmp_path.iterdir()) == before


def test_add_list_show_remove(place: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "1.json", tmp_path / "2.json"
    state("one1", [1.0]).write(first)
    state("one2", [2.0]).write(second)
    assert run(place, "add", first, second)[0] == 0
    assert json.loads(run(place, "add", first, "--json")[1])[0]["state"] == "replaced"
    assert [row["run"] for row in json.loads(run(place, "list", "--json")[1])] == ["one1", "one2"]
    assert json.loads(run(place, "show", "one2", "--json")[1]) == json.loads(second.read_text())
    assert "a.safetensors" in run(place, "show", "one1")[1]
    assert "2 runs begin" in refused(place, "show", "one")
    assert "no run begins" in refused(place, "remove", "one1", "zzz")
    assert run(place, "remove", "one1")[1] == "Removed one1\n"
    assert [row["run"] for row in json.loads(run(place, "list", "--json")[1])] == ["one2"]
    second.write_text("{")
    assert "is not JSON" in refused(place, "add", first, second)
    assert [row["run"] for row in json.loads(run(place, "list", "--json")[1])] == ["one2"]


def test_a_store_that_cannot_be_used_is_one_sentence(filled: Path, tmp_path: Path) -> None:
    result = tmp_path / "r.json"
    BENCH.write(result)
    assert "there is no store at" in refused(tmp_path / "none.duckdb", "list")
    (tmp_path / "text.duckdb").write_text("not a database" * 1000)
    assert "is no store" in refused(tmp_path / "text.duckdb", "add", result)
    assert "is no store" in refused(result, "add", result)  # DuckDB itself would say nothing and keep it in memory
    assert "is no store" in refused(result, "list")
    assert Document.read(result) == BENCH
    assert refused(tmp_path, "list")
    for text in ("{}", "{" * 100):
        (tmp_path / "bad.json").write_text(text)
        assert "is no store" in refused(tmp_path / "bad.json", "list")
    duckdb.connect(str(tmp_path / "other.duckdb")).execute("CREATE TABLE mine (a INTEGER)").close()
    assert "no store of mobileloop" in refused(tmp_path / "other.duckdb", "add", result)
    assert "exclude each other" in refused(filled, "query", "--sql", "SELECT 1", "--valid")
    filled.chmod(0o444)
    assert "is read-only" in refused(filled, "add", result)
    assert run(filled, "list")[0] == 0
    filled.chmod(0o644)
    duckdb.connect(str(filled)).execute("UPDATE mobileloop_store SET version = 99").close()
    assert "upgrade mobileloop" in refused(filled, "list")
    assert "choose one of load" in refused(filled, "query", "--phase", "lunch")
    assert "is no date" in refused(filled, "query", "--since", "lately")


def test_a_store_that_another_program_holds(filled: Path) -> None:
    code = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(filled)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert "in use by another program" in refused(filled, "list")
        holder.communicate("")
    assert run(filled, "list")[0] == 0


def test_a_failed_add_leaves_the_earlier_state(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with store.opened(filled, write=True) as opened:
        monkeypatch.setattr(store, "_cells", lambda row, names: ["too short"])
        with pytest.raises(duckdb.Error):
            opened.add(state("aa11", [9.0, 9.0, 9.0]))
        assert opened.document("aa11").results[0].samples_ms == [1.0, 2.0]


def test_the_default_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert store.default_path() == tmp_path / "mobileloop" / "results.duckdb"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert store.default_path() == tmp_path / ".local/share/mobileloop/results.duckdb"


def test_the_schema_is_printed(filled: Path) -> None:
    done = CliRunner().invoke(app, ["results", "schema", "machine"])
    assert json.loads(done.stdout)["title"] == "mobileloop.machine/1"
    assert CliRunner().invoke(app, ["results", "schema", "lunch"]).exit_code == 2


def test_a_run_by_a_prefix_that_is_empty(filled: Path) -> None:
    with store.opened(filled) as opened, pytest.raises(MobileloopError, match="2 runs begin with ''"):
        opened.find("")


def test_tables_are_for_people(filled: Path) -> None:
    assert run(filled, "query", "--phase", "load")[1] == "0 results\n"
    shown = run(filled, "list")[1]
    assert "2026-11-22 10:00" in shown
    assert "T10:00" not in shown
    assert "no" in shown
    assert "False" not in shown
