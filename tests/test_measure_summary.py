import json
from pathlib import Path

import pytest
import typer
from bench_fakes import FakeSession, made_up_document, made_up_measurement, open_fakes, plan_of  # noqa: F401
from typer.testing import CliRunner

from mobileloop.errors import MobileloopError
from mobileloop_bench.commands.bench import bench
from mobileloop_bench.machine.facts import Machine
from mobileloop_bench.measure.rounds import measure
from mobileloop_bench.measure.samples import Interference
from mobileloop_bench.measure.summary import make_document
from mobileloop_bench.results.document import Document, read_document

KEYS = [
    "artifact",
    "runtime",
    "model",
    "quantization",
    "loops",
    "threads",
    "phase",
    "samples_ms",
    "median_ms",
    "tokens_per_s",
    "unique_bytes",
    "executed_bytes",
    "kv_bytes",
    "read_gbps",
    "valid",
    "reasons",
]


def test_a_document_round_trips_with_every_key(fake_artifact: Path, tmp_path: Path) -> None:
    document = made_up_document(plan_of(fake_artifact))
    document.write(tmp_path / "out.json")
    data = json.loads((tmp_path / "out.json").read_text())
    assert data["schema"] == "mobileloop.bench/2"
    assert "machine" in data
    assert [row["phase"] for row in data["results"][:4]] == ["load", "first_token", "prefill", "decode"]
    for row in data["results"]:
        assert set(KEYS) <= set(row)
    assert read_document(tmp_path / "out.json") == document
    assert [path.name for path in tmp_path.glob(".*")] == []


def test_bytes_and_rates(fake_artifact: Path) -> None:
    plan = plan_of(fake_artifact)
    info = plan.artifacts[0].info
    rows = {(row.loops, row.threads, row.phase): row for row in made_up_document(plan).results}
    row = rows[2, 1, "decode"]
    assert row.valid, row.reasons
    assert row.unique_bytes == info.unique_bytes() < info.executed_bytes(2) == row.executed_bytes
    assert row.block_bytes == row.stage_bytes == max(info.costs.block_bytes)
    assert row.kv_bytes == info.kv_bytes(8 + 4 // 2, 2)
    assert row.median_ms is not None
    assert row.tokens_per_s == pytest.approx(1000 / row.median_ms)
    assert row.read_gbps == pytest.approx((row.unique_bytes + row.kv_bytes) / (row.median_ms * 1e6))
    assert row.executed_gbps == pytest.approx((row.executed_bytes + row.kv_bytes) / (row.median_ms * 1e6))
    assert row.loop_tax == pytest.approx(1.12, abs=0.01)
    assert rows[1, 1, "decode"].loop_tax == 1
    assert rows[1, 2, "prefill"].tokens_per_s == 8 * 1000 / 20
    assert (rows[1, 2, "prefill"].read_gbps, rows[1, 2, "load"].tokens_per_s) == (None, None)
    assert row.random_weights


def test_loop_tax_is_unknown_without_one_loop(fake_artifact: Path) -> None:
    rows = made_up_document(plan_of(fake_artifact, loops=[2])).results
    assert all(row.loop_tax is None for row in rows)


def reasons_of(path: Path, machine: Machine | None = None, **changes: object) -> list[str]:
    rows = made_up_document(plan_of(path, **changes), machine).results
    assert all(row.valid == (not row.reasons) for row in rows)
    return [reason for row in rows for reason in row.reasons]


def test_doubts_are_said(fake_artifact: Path) -> None:
    assert reasons_of(fake_artifact) == []
    assert "too few samples: of 2 rounds, at least 5 needed" in reasons_of(fake_artifact, repetitions=2)
    assert any(reason.startswith("emulated") for reason in reasons_of(fake_artifact, Machine(emulated=True)))
    assert "2 threads on 1 core" in reasons_of(fake_artifact, Machine(cores_usable=1))


def test_spread_drift_and_neighbours_are_said(fake_artifact: Path) -> None:
    plan = plan_of(fake_artifact, threads=[1], loops=[1])
    measurement = made_up_measurement(plan)
    (samples,) = measurement.samples
    samples.decode_ms = [10.0] * 8 + [20.0] * 12
    samples.interference = Interference(wall_s=1, other_s=0.5, stolen_s=0.2)
    decode = make_document(measurement, Machine(), [], {}, None).results[-1]
    assert not decode.valid
    said = "; ".join(decode.reasons)
    assert decode.notes == ["wide spread: p90 is 2.00 times p10"]
    assert (decode.median_low_ms, decode.median_high_ms) == (10, 20)
    assert "interval too wide: the median is known to ±25%, beyond ±10%" in said
    assert "the last round took 2.00 times the first" in said
    assert "preempted" in said
    assert "other programs used 0.50 cores" in said


def test_a_skipped_loop_count_is_a_row_with_its_reason(fake_artifact: Path) -> None:
    row = made_up_document(plan_of(fake_artifact, loops=[1, 8], threads=[1])).results[-1]
    assert (row.loops, row.samples_ms, row.median_ms, row.read_gbps, row.valid) == (8, [], None, None, False)
    assert row.executed_bytes is None
    assert row.reasons == [
        "skipped: loops 8 is outside 1-4, the bound this artifact was exported for; ask for less or export again "
        "with a larger --loops"
    ]


def test_an_interrupted_run_is_written_and_not_valid(fake_artifact: Path, tmp_path: Path) -> None:
    plan = plan_of(fake_artifact)
    FakeSession.stop_at = 7 + 5
    document = make_document(measure(plan), Machine(), [], {}, None)
    document.write(tmp_path / "out.json")
    back = read_document(tmp_path / "out.json")
    assert back.interrupted
    assert all(not row.valid and "interrupted" in row.reasons for row in back.results)
    assert [len(row.samples_ms) for row in back.results if row.phase == "decode"] == [4, 2, 0, 0]


def test_unknown_keys_are_kept(fake_artifact: Path, tmp_path: Path) -> None:
    data = json.loads(made_up_document(plan_of(fake_artifact)).to_json())
    data["phone"], data["results"][0]["thermal"] = "yes", 3
    path = tmp_path / "in.json"
    path.write_text(json.dumps(data))
    back = json.loads(read_document(path).to_json())
    assert (back["phone"], back["results"][0]["thermal"]) == ("yes", 3)


def test_a_newer_schema_is_refused(fake_artifact: Path, tmp_path: Path) -> None:
    path = tmp_path / "in.json"
    path.write_text(made_up_document(plan_of(fake_artifact)).to_json().replace("bench/2", "bench/3"))
    with pytest.raises(MobileloopError, match=r"has schema mobileloop.bench/3, but .* upgrade mobileloop"):
        read_document(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"schema":3}',
        b'{"schema":"other/1"}',
        b'{"schema":"mobileloop.bench/1"}',
        b'{"schema":"mobileloop.bench/1","machine":{},"results":[{"artifact":"a"}]}',
        b'{"schema":"mobileloop.bench/1","machine":{},"results":[],"x":NaN}',
        b'{"schema":"mobileloop.bench/1","machine":{"cores_usable":"many"},"results":[]}',
    ],
)
def test_a_corrupted_document_is_refused_in_one_sentence(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "in.json"
    path.write_bytes(content)
    with pytest.raises(MobileloopError) as caught:
        read_document(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_document_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MobileloopError, match="cannot be read: No such file"):
        read_document(tmp_path / "none.json")


def test_infinity_is_never_written() -> None:
    with pytest.raises(ValueError, match="finite"):
        Document.model_validate(
            {"machine": {}, "results": [], "bandwidth": [{"threads": 1, "size_bytes": 1, "read_gbps": float("inf")}]}
        )


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> typer.Typer:
    monkeypatch.setattr("mobileloop_bench.measure.run.measure_memory", lambda plan, seconds: {})
    monkeypatch.setattr("mobileloop_bench.measure.run.measure_bandwidth", lambda machine, threads, cpus: [])
    app = typer.Typer()
    app.command()(bench)
    return app


SMALL = ["--threads", "1", "--loops", "1,2", "--prompt-tokens", "8", "--decode-tokens", "4", "--repetitions", "2"]


def test_the_last_line_of_the_command_is_the_document(
    fake_artifact: Path, tmp_path: Path, command: typer.Typer
) -> None:
    done = CliRunner().invoke(command, [str(fake_artifact), *SMALL, "--json", str(tmp_path / "out.json")])
    assert done.exit_code == 0, done.output
    lines = done.stdout.strip().splitlines()
    assert json.loads(lines[-1]) == json.loads((tmp_path / "out.json").read_text())
    card = done.stdout.index("Bytes per decoded token")
    assert card < done.stdout.index("Measured")
    assert "unknown" in done.stdout
    assert "Random weights: tiny.safetensors" in done.stdout


def test_the_command_keeps_a_result_on_ctrl_c(fake_artifact: Path, command: typer.Typer) -> None:
    FakeSession.stop_at = 14
    done = CliRunner().invoke(command, [str(fake_artifact), *SMALL])
    assert done.exit_code == 130
    assert json.loads(done.stdout.strip().splitlines()[-1])["interrupted"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threads", "x"], "--threads 'x'"),
        (["--loops", "1,"], "--loops '1,'"),
        (["--json", "no/o.json"], "folder no"),
    ],
)
def test_the_command_refuses_up_front(
    arguments: list[str], message: str, fake_artifact: Path, command: typer.Typer
) -> None:
    done = CliRunner().invoke(command, [str(fake_artifact), *arguments])
    assert isinstance(done.exception, MobileloopError)
    assert message in str(done.exception)


def test_version_1_is_upgraded(fake_artifact: Path, tmp_path: Path) -> None:
    data = json.loads(made_up_document(plan_of(fake_artifact)).to_json())
    data["schema"] = "mobileloop.bench/1"
    data["results"] = [row for row in data["results"] if row["phase"] != "first_token"]
    path = tmp_path / "old.json"
    path.write_text(json.dumps(data))
    found = read_document(path)
    assert found.schema_ == "mobileloop.bench/2"
    assert {row.phase for row in found.results} == {"first_token", "prefill", "decode"}
