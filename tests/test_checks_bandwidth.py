"""The comparison with other tools: what they print is read rightly, and it runs where they are installed."""

import json
import shutil
import subprocess
import sys

import pytest

from mobileloop.errors import MobileloopError
from mobileloop_bench.checks.bandwidth import LIKWID, SYSBENCH, Case, parse_likwid, parse_sysbench


def test_what_likwid_bench_prints():
    text = "Size (Byte):\t\t16000000\nSize per thread:\t8000000\nTime:\t\t7.5e-01 sec\nMByte/s:\t\t4218.13\n"
    assert parse_likwid(text) == (16000000, pytest.approx(4.21813))
    for broken in ("", "Size (Byte):\t1\n", "MByte/s:\t1.0\n", "Size (Byte):\t1\nMByte/s:\t0.00\n"):
        with pytest.raises(MobileloopError, match="gave no bandwidth"):
            parse_likwid(broken)


def test_what_sysbench_prints():
    assert parse_sysbench("2048.00 MiB transferred (1000.00 MiB/sec)\n") == pytest.approx(1.048576)
    with pytest.raises(MobileloopError, match="gave no bandwidth"):
        parse_sysbench("FATAL: Invalid block size\n")


def test_ratios_are_of_pairs():
    case = Case("L2", 1 << 20, 1)
    case.record(LIKWID, True, 10.0, 8.0)
    case.record(LIKWID, True, 3.0, 4.0)
    case.record(SYSBENCH, False, 1.0, 1.0)
    assert case.found[(LIKWID, True)].ratios() == [1.25, 0.75]
    assert len(case.found) == 2
    assert "0.750-1.250" in case.found[(LIKWID, True)].line()


@pytest.mark.skipif(shutil.which(LIKWID) is None, reason="likwid-bench is not installed (apt-get install likwid)")
def test_it_runs(tmp_path):
    out = tmp_path / "pairs.jsonl"
    words = ["--threads", "1", "--seconds", "0.002", "--alternations", "1", "--json", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "mobileloop_bench.checks.bandwidth", *words], capture_output=True, text=True, check=False
    )
    if "is hidden" in done.stderr:
        pytest.skip("this machine hides the size of its L2")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    asked = {(row["level"], row["huge_pages"]) for row in rows if row["tool"] == LIKWID}
    assert asked == {(level, huge) for level in ("L2", "L3", "DRAM") for huge in (True, False)}
    assert all(len(row["ours_gbps"]) == len(row["theirs_gbps"]) == 1 for row in rows)


def test_bad_options_are_one_sentence():
    done = subprocess.run(
        [sys.executable, "-m", "mobileloop_bench.checks.bandwidth", "--seconds", "0"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "--seconds is outside" in done.stderr
