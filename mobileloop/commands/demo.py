"""`mobileloop demo`: a real model, three artifacts, an answer from each, and an honest picture."""

from __future__ import annotations

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
    repetitions: Annotated[int, typer.Option("--repetitions", help="Rounds of the measurement.")] = 5,
) -> None:
    """Fetch SmolLM2-135M-Instruct, export it three ways, let each answer a question, measure, report.

    What is already there is not fetched or exported again; the measurement is made anew.

    \b
    Example:
      mobileloop demo --folder demo
    """
    from mobileloop.commands.bench import INTERRUPTED, measure_and_show
    from mobileloop.commands.fetch import MODEL, fetch
    from mobileloop.commands.report import report

    folder.mkdir(parents=True, exist_ok=True)
    source = folder / MODEL
    _say("1/4  the model")
    fetch(source)
    _say(f"2/4  three artifacts, each with every block up to {MAX_LOOPS} times in a row")
    artifacts = [_artifact(source, folder, target) for target in ("engine", "executorch", "onnx")]
    _say(f'3/4  "{QUESTION}" (loops 1: the model as it was trained)')
    for artifact in artifacts:
        _answer(artifact)
    _say("4/4  measuring (the model was not trained for loops: loops 2 and 4 are measured for time)")
    result, page = folder / "result.json", folder / "report.html"
    document = measure_and_show(artifacts, None, "1,2,4", 64, 32, repetitions, result)
    if document.interrupted:
        raise typer.Exit(INTERRUPTED)
    report([result], html=page)


def _artifact(source: Path, folder: Path, target: str) -> Path:
    from mobileloop import __version__
    from mobileloop.checkpoints.folder import file_sha256
    from mobileloop.commands.export import Quantization, Target, export
    from mobileloop.runtimes import open_session
    from mobileloop_export import FORMATS

    path = folder / f"SmolLM2-135M-Instruct-int4{FORMATS[target]}"
    if path.is_file():
        try:
            session = open_session(path, threads=1)
            info = session.info
            session.close()
            same = info.source_sha256 == file_sha256(source) and info.tool_version == __version__
            if same and info.schedule.max_loops == MAX_LOOPS and info.context == CONTEXT:
                typer.echo(f"{path} is there already.")
                return path
        except MobileloopError:
            pass  # damaged or older: export it again
    export(str(source), Target(target), loops=MAX_LOOPS, quantize=Quantization.int4, context=CONTEXT, output=path)
    return path


def _answer(artifact: Path) -> None:
    from mobileloop.commands.run import run

    sys.stdout.write(f"{artifact.name}: ")
    sys.stdout.flush()
    run(artifact, QUESTION, chat=True, max_tokens=48, loops=1)


def _say(line: str) -> None:
    typer.secho(f"\n{line}", bold=True)
