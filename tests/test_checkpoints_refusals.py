"""What is no model of ours is refused by `mobileloop export`: one sentence with the reason, and nothing is written."""

from __future__ import annotations

import re
import resource
import shutil
import signal
import sys
import warnings
from pathlib import Path

import foreign
import foreign_gguf
import pytest

from mobileloop import cli
from mobileloop.process import memory_status

LONGEST = 400  # characters of a refusal
MOST_BYTES = 400 << 20  # of memory for a refusal: what is imported, and no more than the small models of these tests
ROOM_BYTES = 4 << 30  # of addresses: what asks for more finds none, and the machine stays usable
SECONDS = 60
NOTED = [*foreign.noted_cases(), *foreign_gguf.noted_cases()]
CASES = [*foreign.folder_cases(), *foreign_gguf.gguf_cases()]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return foreign.good_folder(tmp_path_factory.mktemp("good") / "m")


@pytest.fixture
def export(tmp_path, monkeypatch, capfd):
    """export(source) -> (exit code, standard output, error stream): the command in `tmp_path`, in this process.

    Streams are taken from the descriptors: what a library prints itself is seen, too.
    """
    for name in ("TMPDIR", "XDG_CACHE_HOME", "HF_HOME"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "TMPDIR"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)

    def late(*_):
        raise TimeoutError(f"no answer within {SECONDS} s")

    def run(source):
        monkeypatch.setattr(sys, "argv", ["mobileloop", "export", "--quantize", "int8", source])
        capfd.readouterr()
        before = signal.signal(signal.SIGALRM, late), signal.signal(signal.SIGTERM, signal.SIG_DFL)
        bounds, now = resource.getrlimit(resource.RLIMIT_AS), memory_status()["VmSize"]
        resource.setrlimit(resource.RLIMIT_AS, (now + ROOM_BYTES, bounds[1]))
        signal.alarm(SECONDS)
        code: int | str | None = 0
        try:
            with warnings.catch_warnings(record=True) as warned:  # a terminal would show them
                warnings.filterwarnings("ignore", category=DeprecationWarning)
                cli.main()
        except SystemExit as end:
            code = end.code or 0
        finally:
            signal.alarm(0)
            resource.setrlimit(resource.RLIMIT_AS, bounds)
            signal.signal(signal.SIGALRM, before[0])
            signal.signal(signal.SIGTERM, before[1])
        out, err = capfd.readouterr()
        return code, out, err + "".join(f"{one.message}\n" for one in warned)

    return run


def contents(folder: Path) -> dict[str, int | None]:
    """Everything below a folder, with the time of its last change."""
    found = {}
    for path in folder.rglob("*"):
        found[str(path.relative_to(folder))] = path.lstat().st_mtime_ns if not path.is_dir() else None
    return found


def test_the_sources_that_the_cases_change_are_exported(good, export, tmp_path):
    shutil.copytree(good, tmp_path / "m")
    (tmp_path / "m.gguf").write_bytes(foreign_gguf.good_file().to_bytes())
    for source in ("m", "m.gguf"):
        code, out, err = export(source)
        assert (code, err) == (0, ""), err
        assert all("packing the weights" in line for line in out.splitlines() if line.startswith("note"))
        (tmp_path / "m-plain-int8.safetensors").unlink()


@pytest.mark.parametrize("case", NOTED, ids=[case.name for case in NOTED])
def test_note(good, export, tmp_path, case):
    shutil.copytree(good, tmp_path / "m")
    case.make(tmp_path / "m")
    code, out, err = export(case.source)
    assert (code, err) == (0, ""), err
    assert any(re.search(case.words, line) for line in out.splitlines() if line.startswith("note: ")), out


def test_there_are_enough_kinds_and_each_has_a_name():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names) > 400


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_refusal(good, export, tmp_path, case):
    shutil.copytree(good, tmp_path / "m")
    case.make(tmp_path / "m")
    before, memory = contents(tmp_path), memory_status()["VmHWM"]
    code, out, err = export(case.source)
    assert (code, out) == (2, ""), (out, err)
    assert err.startswith("mobileloop: "), err
    assert err.count("\n") == 1, err
    assert err.endswith(".\n"), err
    assert err[:-1].isprintable()
    assert len(err) <= LONGEST, err
    assert re.search(case.words, err.removeprefix("mobileloop: ")), err
    assert contents(tmp_path) == before
    assert memory_status()["VmHWM"] - memory < MOST_BYTES
