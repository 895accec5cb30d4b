"""`--help`: whole lines at 80 columns, a list of commands that is true, and nothing heavy loaded for it."""

import ast
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from mobileloop.cli import COMMANDS, app

WIDTH = 80
HEAVY = ("numpy", "pydantic", "rich", "torch", "onnxruntime", "duckdb", "mobileloop_bench.results")


def every_command(group, path=()):
    """The words of each command, groups included."""
    yield path
    for name in group.list_commands(None) if hasattr(group, "list_commands") else ():
        yield from every_command(group.get_command(None, name), (*path, name))


PATHS = sorted(every_command(typer.main.get_command(app)))


def help_of(*words):
    done = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": str(WIDTH)}, prog_name="mobileloop")
    assert done.exit_code == 0, done.output
    return done.output.splitlines()


def test_there_are_commands():
    assert len(PATHS) > 20
    assert {path[0] for path in PATHS if path} == {line.name for line in COMMANDS}


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_every_line_is_whole_at_80_columns(path):
    for line in help_of(*path):
        assert len(line) <= WIDTH or re.match(r" {4}mobileloop ", line), line  # examples stay in one piece
        assert not line.endswith("...") or line.startswith("Usage:"), f"cut: {line}"


def test_the_list_of_commands_is_whole_and_grouped():
    lines = help_of()
    for command in COMMANDS:
        assert f"  {command.name:<11}{command.text}" in lines
    assert [line for line in lines if f"{line.rstrip(':')}" in {c.group for c in COMMANDS}] == [
        f"{group}:" for group in dict.fromkeys(command.group for command in COMMANDS)
    ]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda line: line.name)
def test_the_list_says_what_the_module_says(command):
    spec = importlib.util.find_spec(f"{command.module}.{command.name}")
    assert spec is not None
    assert spec.origin is not None
    docstring = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8")))
    assert docstring is not None
    assert docstring.splitlines()[0] == command.text


@pytest.mark.parametrize("words", [[], *([line.name] for line in COMMANDS)], ids=" ".join)
def test_help_loads_nothing_heavy(words):
    script = f"""
import json, sys
from mobileloop.cli import app
try:
    app({[*words, "--help"]!r})
except SystemExit:
    print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []
