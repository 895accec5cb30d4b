"""The whole of a run: its file at every moment, the ladder that is given, and what a killed run leaves behind."""

import io
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bench_fakes import FakeSession, open_fakes, plan_of  # noqa: F401
from builders import packed_model, write_engine
from rich.console import Console

from mobileloop.errors import MobileloopError
from mobileloop.spec.schedule import Schedule
from mobileloop_bench.bandwidth.ceiling import bandwidth_of, bandwidth_sentence
from mobileloop_bench.machine.facts import Cluster, Machine
from mobileloop_bench.machine.file import EngineCosts, MachineFile
from mobileloop_bench.machine.ladder import Ladder, Step
from mobileloop_bench.machine.probe import probe
from mobileloop_bench.measure import run as bench_module
from mobileloop_bench.measure.probes import Probes
from mobileloop_bench.measure.run import Recorder, check_same_machine, run_bench
from mobileloop_bench.report.page import notes
from mobileloop_bench.results.document import read_document

LADDER = Ladder(
    steps=[
        Step(level="L2", threads=1, up_to_bytes=1 << 20, read_gbps=50),
        Step(level="DRAM", threads=1, read_gbps=10),
        Step(level="DRAM", threads=2, cluster=1, read_gbps=8),
        Step(level="DRAM", threads=2, cluster=0, read_gbps=16),
    ]
)


@pytest.fixture(name="looped")
def make_looped(tmp_path: Path) -> Path:
    checkpoint, packed = packed_model(schedule=Schedule.immediate(2, 3), quantization="int4")
    write_engine(tmp_path / "looped.safetensors", checkpoint, packed)
    return tmp_path / "looped.safetensors"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_module, "measure_memory", lambda plan, seconds: {})
    monkeypatch.setattr(bench_module, "measure_bandwidth", lambda machine, threads, cpus: [])


WITH_CLUSTERS = Machine(clusters=[Cluster(cpus=[0]), Cluster(cpus=[1])])


def test_a_ladder_gives_the_ceilings() -> None:
    found = {one.threads: one.read_gbps for one in bandwidth_of(LADDER, [1, 2, 4])}
    assert found == {1: 10, 2: 16}  # of the strongest cluster where no other is known


def test_a_ladder_is_kept_and_predicts(looped: Path, tmp_path: Path) -> None:
    given = MachineFile(name="here", machine=WITH_CLUSTERS, ladder=LADDER, costs=EngineCosts(compute_gbps=10))
    plan = plan_of(looped, threads=[1], repetitions=1)
    document = run_bench(Console(quiet=True), plan, Probes(), tmp_path / "out.json", "mobileloop bench", given)
    assert document.ladder == LADDER
    assert document == read_document(tmp_path / "out.json")
    for row in document.results:
        assert (row.prediction is not None) == (row.phase == "decode")
    decode = [row for row in document.results if row.phase == "decode"]
    assert [row.ceiling_gbps for row in decode] == [10, 10]
    first, second = (row.prediction.ms for row in decode if row.prediction)
    assert 0 < first < second
    assert [[(stage.stage, stage.loops) for stage in row.stages] for row in decode] == [
        [("0-1 (each block by itself)", 1), ("head", 1)],
        [("0-1 (each block by itself)", 2), ("head", 1)],
    ]
    assert all(len(stage.loop_ms) == stage.loops for row in decode for stage in row.stages)


def test_another_machines_file_is_refused_before_anything_is_measured(fake_artifact: Path, tmp_path: Path) -> None:
    if probe().cpu is None:
        pytest.skip("this machine does not name its processor")
    given = MachineFile(
        name="phone", machine=WITH_CLUSTERS.model_copy(update={"cpu": "another processor"}), ladder=LADDER
    )
    with pytest.raises(MobileloopError, match="phone is of another processor, but this machine is"):
        run_bench(Console(quiet=True), plan_of(fake_artifact), Probes(), tmp_path / "out.json", None, given)
    assert not (tmp_path / "out.json").exists()


def test_a_machine_file_without_a_ladder_is_named(looped: Path) -> None:
    console = Console(file=io.StringIO(), width=400)
    given = MachineFile(name="here", machine=WITH_CLUSTERS)
    run_bench(console, plan_of(looped, threads=[1], repetitions=1), Probes(), None, None, given)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "The machine file here has no read bandwidth of 1 thread, so it was measured now" in said


def test_a_given_bandwidth_says_where_it_is_from(looped: Path, tmp_path: Path) -> None:
    for time_, said in (
        ("2020-01-02T03:04:05+00:00", "2020-01-02 03:04 UTC, over a day ago"),
        (None, "an unknown time"),
    ):
        machine = WITH_CLUSTERS.model_copy(update={"time": time_})
        document = run_bench(
            Console(quiet=True), plan_of(looped, threads=[1], repetitions=1), Probes(), None, None,
            MachineFile(name="here", machine=machine, ladder=LADDER),
        )  # fmt: skip
        assert said in bandwidth_sentence(document.bandwidth)
        assert any("not measured in this run; it is from the machine file here" in note for note in notes([document]))


def test_a_file_of_another_core_count_is_refused() -> None:
    given = MachineFile(name="phone", machine=Machine(cores_usable=8))
    with pytest.raises(MobileloopError, match="is of 8 usable cores, but this machine has 2"):
        check_same_machine(given, Machine(cores_usable=2))


def test_the_file_grows_with_every_turn(fake_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_module, "WRITE_SECONDS", 0.0)
    monkeypatch.setattr(bench_module, "WRITE_SHARE", 1e9)
    states = []

    def watched(self: Recorder, document: object) -> None:
        original(self, document)  # type: ignore[arg-type]
        states.append(read_document(tmp_path / "out.json"))

    original = Recorder.write
    monkeypatch.setattr(Recorder, "write", watched)
    last = run_bench(Console(quiet=True), plan_of(fake_artifact), Probes(), tmp_path / "out.json")
    assert states[0].results == []
    assert states[-1] == last
    assert [state.interrupted for state in states] == [True] * (len(states) - 1) + [False]
    assert len({state.id for state in states}) == 1
    counts = [sum(len(row.samples_ms) for row in state.results) for state in states]
    assert counts == sorted(counts)
    assert counts[1] < counts[-1]
    assert all(row.valid is False for state in states[:-1] for row in state.results)


def test_without_a_file_nothing_is_written(fake_artifact: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    run_bench(Console(quiet=True), plan_of(fake_artifact, repetitions=1), Probes())
    assert sorted(tmp_path.iterdir()) == before


def test_a_run_killed_at_any_moment_leaves_a_readable_file(looped: Path, tmp_path: Path) -> None:
    MachineFile(name="here", machine=WITH_CLUSTERS, ladder=LADDER).write(tmp_path / "here.json")
    out = tmp_path / "out.json"
    command = [sys.executable, "-m", "mobileloop.cli", "bench", looped, "--machine", tmp_path / "here.json"]
    command += ["--threads", "1", "--loops", "1,2", "--prompt-tokens", "4", "--decode-tokens", "4"]
    command += ["--time-budget", "600", "--json", out]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    moments = random.Random(0)
    for needs_samples in (False, False, True):
        out.unlink(missing_ok=True)
        with subprocess.Popen(
            [str(part) for part in command], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            while process.poll() is None and not (out.exists() and (not needs_samples or _samples(out))):
                time.sleep(0.01)
            time.sleep(moments.uniform(0, 1.5))
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        found = read_document(out)
        assert found.interrupted
        if needs_samples:
            assert _samples(out) > 0
            assert all("interrupted" in row.reasons for row in found.results)


def _samples(path: Path) -> int:
    return sum(len(row.samples_ms) for row in read_document(path).results)


def test_a_time_budget_in_which_nothing_fits_is_an_error(fake_artifact: Path, tmp_path: Path) -> None:
    class Late(Probes):
        seconds = 100.0

    plan = plan_of(fake_artifact, time_budget_s=10)
    with pytest.raises(MobileloopError, match="nothing was measured: the time budget of 10 s was over after 0 whole"):
        run_bench(Console(quiet=True), plan, Late(), tmp_path / "out.json")
    assert read_document(tmp_path / "out.json").interrupted


def test_a_slowdown_that_is_none_is_refused_before_anything(
    fake_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOBILELOOP_BENCH_SLOW_DOWN", "x")
    console = Console(record=True, quiet=True)
    with pytest.raises(MobileloopError, match="SLOW_DOWN is 'x'"):
        run_bench(console, plan_of(fake_artifact), Probes(), tmp_path / "out.json")
    assert console.export_text() == ""
    assert not (tmp_path / "out.json").exists()
