"""`make test-tools`: what it installs, and one sentence where it cannot."""

import subprocess

import pytest
import tools


@pytest.fixture
def machine(monkeypatch):
    """machine(*programs, root=True) -> the commands that are run; a package that is installed brings its program."""

    def make(*programs, root=True, installs=True):
        there, ran = set(programs), []

        def run(command, **more):
            ran.append(list(command))
            if installs and "install" in command:
                there.update(program for tool in tools.TOOLS for program in tool.programs[:1])
            text = "clang\n  Depends: clang-14\n" if command[0] == "apt-cache" else ""
            return subprocess.CompletedProcess(command, 0 if installs else 100, stdout=text, stderr="")

        monkeypatch.setattr(tools.shutil, "which", lambda name: name if name in there else None)
        monkeypatch.setattr(tools.subprocess, "run", run)
        monkeypatch.setattr(tools.os, "geteuid", lambda: 0 if root else 1000)
        return ran

    return make


def test_everything_that_is_missing_is_installed(machine, capsys):
    ran = machine("apt-get", "google-chrome", "valgrind")
    assert tools.main() == 0
    (installed,) = [command for command in ran if "install" in command]
    assert installed[0] == "env"
    names = installed[installed.index("--no-install-recommends") + 1 :]
    assert {"qemu-user", "clang", "libclang-rt-14-dev", "likwid", "g++-aarch64-linux-gnu"} <= set(names)
    assert not {"chromium", "valgrind"} & set(names)
    assert "qemu-user" in capsys.readouterr().out


def test_others_than_root_use_sudo(machine):
    ran = machine("apt-get", "sudo", root=False)
    assert tools.main() == 0
    assert {command[0] for command in ran if "install" in command} == {"sudo"}


def test_nothing_is_missing(machine, capsys):
    ran = machine(*(program for tool in tools.TOOLS for program in tool.programs))
    assert tools.main() == 0
    assert [command for command in ran if "install" in command] == []
    assert capsys.readouterr().out == "Every tool of the tests is installed.\n"


@pytest.mark.parametrize(
    ("programs", "root", "said"),
    [
        ((), True, "this is not Debian or Ubuntu"),
        (("apt-get",), False, "as root: apt-get install -y -qq --no-install-recommends chromium"),
    ],
)
def test_one_sentence_where_it_cannot(machine, capsys, programs, root, said):
    ran = machine(*programs, root=root)
    assert tools.main() == 2
    out = capsys.readouterr().out
    assert said in out
    assert out.count("\n") == 1
    assert [command for command in ran if command[0] != "apt-cache"] == []


def test_what_is_still_missing_is_said(machine, capsys):
    machine("apt-get", installs=False)
    assert tools.main() == 1
    assert "Still missing: chromium, qemu-aarch64" in capsys.readouterr().out


def test_the_fuzzer_is_of_the_distributions_clang():
    missing = [tool for tool in tools.TOOLS if "clang" in tool.packages or isinstance(tool, tools.Fuzzer)]
    assert tools.packages(missing, lambda name: f"{name}\n  Depends: clang-14\n") == ["clang", "libclang-rt-14-dev"]
    assert tools.packages(missing, lambda name: "") == ["clang", "libclang-rt-dev"]
