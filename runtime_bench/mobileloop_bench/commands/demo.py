"""Fetch a real model, export it three ways, run and measure it."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from mobileloop.errors import MobileloopError

QUESTION = "What is the capital of France?"
MAX_LOOPS = 4
CONTEXT = 512


def demo(
    folder: Annotated[Path, typer.Option("--folder", help="Where the model, the artifacts and the report go.")] = Path(
        "demo"
    ),
    repetitions: Annotated[int, typer.Option("--repetitions", min=1, help="Rounds of the measurement.")] = 5,
) -> None:
    """Fetch SmolLM2-135M-Instruct, export it three ways, let each answer a question, measure this machine and
    them, report.

    Each step is a command you can type yourself, and is shown. What is already there is not fetched or exported
    again; the measurement is made anew.

    \b
    Example:
      mobileloop demo --folder demo
    """
    from mobileloop.commands.fetch import MODEL
    from mobileloop.console import INTERRUPTED
    from mobileloop_bench.commands.bench import measure_and_show
    from mobileloop_bench.results.settings import Settings
    from mobileloop_export.formats import FORMATS

    folder.mkdir(parents=True, exist_ok=True)
    source = folder / MODEL
    artifacts = {target: folder / f"SmolLM2-135M-int4{suffix}" for target, suffix in FORMATS.items()}
    _say("1/5  the model")
    _mobileloop("fetch", "-o", str(source))
    _say(f"2/5  three artifacts, each with every block up to {MAX_LOOPS} times in a row")
    for target, path in artifacts.items():
        if _is_current(path, source):
            typer.echo(f"{path} is there already.")
        else:
            bounds = ["--loops", str(MAX_LOOPS), "--context", str(CONTEXT)]
            _mobileloop("export", str(source), "--to", target, *bounds, "-o", str(path))
    _say("3/5  an answer from each (loops 1: the model as it was trained)")
    for path in artifacts.values():
        _mobileloop("run", str(path), "--prompt", QUESTION, "--loops", "1", "--max-tokens", "48")
    _say("4/5  what this machine reads per second, and what the engine costs on it")
    machine = folder / "machine.json"
    _mobileloop("bandwidth", "--costs", "--json", str(machine))
    _say("5/5  measuring (the model was not trained for loops: loops 2 and 4 are measured for time)")
    result, page = folder / "result.json", folder / "report.html"
    settings = Settings.parse(loops="1,2,4", prompt_tokens=64, decode_tokens=32, repetitions=repetitions)
    document = measure_and_show(list(artifacts.values()), settings, result, machine=machine)
    if document.interrupted:
        raise typer.Exit(INTERRUPTED)
    _mobileloop("report", str(result), "--html", str(page))


def _is_current(path: Path, source: Path) -> bool:
    """Whether an artifact was made from this source, by this version, as the demo wants it."""
    from mobileloop import __version__
    from mobileloop.files import file_sha256
    from mobileloop.runtimes import open_session

    if not path.is_file():
        return False
    try:
        session = open_session(path, threads=1)
    except MobileloopError:
        return False  # damaged or older
    info = session.info
    session.close()
    wanted = (__version__, MAX_LOOPS, CONTEXT)
    held = (info.tool_version, info.schedule.max_loops, info.context)
    return held == wanted and info.source_sha256 == file_sha256(source)


def _mobileloop(*arguments: str) -> None:
    """Run one of our commands in a process of its own, so that its memory figure is its own."""
    typer.secho(f"$ mobileloop {shlex.join(arguments)}", fg="bright_black")
    code = subprocess.run([sys.executable, "-m", "mobileloop.cli", *arguments], check=False).returncode
    if code:
        raise typer.Exit(code)


def _say(line: str) -> None:
    typer.secho(f"\n{line}", bold=True)
