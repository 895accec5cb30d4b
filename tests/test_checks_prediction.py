"""Prediction beside measurement, with a model small enough for a test; no time is asserted."""

from __future__ import annotations

import json

import pytest
from builders import TINY

from mobileloop_bench.checks import prediction as prediction_check
from mobileloop_bench.checks.prediction import Compared, check_configs, exported, main, median_error
from mobileloop_bench.machine.facts import Machine
from mobileloop_bench.machine.file import EngineCosts, MachineFile
from mobileloop_bench.machine.ladder import Ladder, Step


def test_errors_are_relative_to_what_was_measured():
    compared = [Compared("a", 1, loops, predicted, 10.0) for loops, predicted in ((1, 11.0), (2, 8.0), (4, 10.5))]
    assert [one.error for one in compared] == pytest.approx([0.1, -0.2, 0.05])
    assert median_error(compared) == pytest.approx(0.1)


def test_three_sizes_are_checked():
    sizes = [config.num_parameters() for config in check_configs()]
    assert sizes == sorted(sizes)
    assert sizes[0] < 60e6
    assert sizes[-1] > 300e6


def test_the_program_measures_and_compares(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(prediction_check, "check_configs", lambda: [TINY])
    steps = [Step(level="DRAM", threads=1, read_gbps=10), Step(level="L2", threads=1, up_to_bytes=1, read_gbps=10)]
    costs = EngineCosts(compute_gbps=10, scheme_gbps={"int8": 10})
    file = MachineFile(name="made up", machine=Machine(), ladder=Ladder(steps=steps), costs=costs)
    file.write(tmp_path / "m.json")
    arguments = ["--machine", str(tmp_path / "m.json"), "--folder", str(tmp_path / "models"), "--threads", "1"]
    arguments += ["--loops", "1,2", "--rounds", "1", "--json", str(tmp_path / "out.json")]
    assert main([*arguments, "--limit", "1000"]) == 0
    found = [Compared(**one) for one in json.loads((tmp_path / "out.json").read_text())]
    assert [(one.threads, one.loops) for one in found] == [(1, 1), (1, 2)]
    assert found[0].predicted_ms < found[1].predicted_ms
    assert f"Median absolute error {100 * median_error(found):.1f}%." in capsys.readouterr().out
    assert main([*arguments, "--limit", "0"]) == 1


def test_an_artifact_is_made_once(tmp_path):
    path = exported(TINY, tmp_path)
    before = path.stat().st_mtime_ns
    assert exported(TINY, tmp_path) == path
    assert path.stat().st_mtime_ns == before
    assert exported(TINY.model_copy(update={"vocab_size": 99}), tmp_path).stat().st_mtime_ns > before


def test_a_missing_machine_file_is_one_sentence(tmp_path, capsys):
    assert main(["--machine", str(tmp_path / "none.json")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
