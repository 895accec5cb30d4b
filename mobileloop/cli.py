"""The `mobileloop` command line: a table of names; a command's module is loaded when it is asked for."""

from __future__ import annotations

import io
import os
import signal
import sys
from importlib import import_module
from itertools import groupby
from typing import Annotated, Any, NamedTuple, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from mobileloop import __version__
from mobileloop.commands.options import STDOUT
from mobileloop.console import INTERRUPTED, say, take_any_text
from mobileloop.errors import MobileloopError


class Line(NamedTuple):
    """A command as `--help` lists it; `text` is the first line of its module's docstring."""

    group: str
    name: str
    module: str
    text: str


_BENCH = "mobileloop_bench.commands"
COMMANDS = (
    Line("Make", "fetch", "mobileloop.commands", "Fetch the demo's real model, SmolLM2-135M-Instruct (98 MB)."),
    Line("Make", "export", "mobileloop_export.commands", "Export a checkpoint to the engine, ExecuTorch or ONNX."),
    Line("Make", "verify", "mobileloop.commands", "Compare an artifact with the PyTorch model of the same weights."),
    Line("Run", "run", "mobileloop.commands", "Generate text, then say how fast."),
    Line("Run", "info", "mobileloop.commands", "Show an artifact, or what an export of a source would take in."),
    Line("Run", "demo", _BENCH, "Fetch a real model, export it three ways, run and measure it."),
    Line("Measure", "bench", _BENCH, "Measure load, prefill, decode and memory of artifacts."),
    Line("Measure", "bandwidth", _BENCH, "Measure what this machine reads per second, by working set."),
    Line("Measure", "simulate", _BENCH, "Count the DRAM traffic of a token on simulated caches."),
    Line("Measure", "plan", _BENCH, "Say what a machine runs within a time per token, predicted."),
    Line("Look", "report", _BENCH, "Make one self-contained HTML page from results."),
    Line("Look", "compare", _BENCH, "Compare two runs or artifacts; exit code 1 for a regression."),
    Line("Look", "results", _BENCH, "Keep results of many machines in a local store; query them."),
    Line("Devices", "machine", _BENCH, "Show a machine: chip, cores, clocks, caches, memory, power."),
    Line("Devices", "device", _BENCH, "List, set up and measure phones and boards over adb."),
)


class _Commands(TyperGroup):
    """Loads a command when it is asked for, and says a user's mistake in one sentence.

    A mistake is exit code 2, Ctrl-C is 130.

    It works inside typer's own error handling: typer brings click along from some version on, so the exceptions of
    an installed click are not the ones it raises.
    """

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        names: dict[str, Any] = dict.fromkeys(line.name for line in COMMANDS)
        self.commands = names  # what a mistyped name is compared with

    def list_commands(self, ctx: Any) -> list[str]:
        """Names in the order of the table."""
        return [line.name for line in COMMANDS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import the command's module, or None for a name that is none."""
        line = next((line for line in COMMANDS if line.name == cmd_name), None)
        if line is None:
            return None
        found = getattr(import_module(f"{line.module}.{cmd_name}"), cmd_name)
        if isinstance(found, typer.Typer):
            return typer.main.get_group(found)
        alone = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
        alone.command(cmd_name, cls=_Command)(found)
        return typer.main.get_command(alone)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The table, group by group, with nothing imported."""
        for group, lines in groupby(COMMANDS, key=lambda line: line.group):
            with formatter.section(group):
                formatter.write_dl([(f"{line.name:<9}", line.text) for line in lines])

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except MobileloopError as error:
            say(f"mobileloop: {error}", err=True)
            raise typer.Exit(error.exit_code) from None
        except MemoryError:
            say("mobileloop: this machine ran out of memory; use a smaller model or --context.", err=True)
            raise typer.Exit(2) from None
        except (KeyboardInterrupt, typer.Abort):
            typer.echo("\nmobileloop: interrupted.", err=True)
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:  # the reader of our output went away
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(141) from None
        except OSError as error:  # a full disk behind a redirect, say
            say(f"mobileloop: {error.filename or 'the output'} failed: {error.strerror or error}.", err=True)
            raise typer.Exit(2) from None


class _Command(TyperCommand):
    """An option whose metavar is in brackets may stand alone: it then has the value `-`, standard output."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Complete such options; typer knows options with a value and options without one."""
        bracketed = [one for one in self.params if (one.metavar or "").startswith("[")]
        lone = {name for one in bracketed for name in one.opts if name.startswith("-")}
        spelled = []
        for arg, following in zip(args, [*args[1:], "--"], strict=False):
            alone = arg in lone and following.startswith("-") and following != STDOUT
            spelled.append(f"{arg}={STDOUT}" if alone else arg)
        return super().parse_args(ctx, spelled)


app = typer.Typer(
    name="mobileloop",
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mobileloop {__version__}")
        raise typer.Exit


@app.callback()
def main_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Deep-thin, weight-shared language models on phone CPUs: export them, run them, measure them.

    \b
    Examples:
      mobileloop export SmolLM2-135M-Instruct.Q4_1.gguf --to engine -o smollm2.safetensors
      mobileloop run smollm2.safetensors --prompt "What is the capital of France?"
      mobileloop bench smollm2.safetensors --threads 1,2 --json result.json
      mobileloop report result.json --html report.html

    Tab completion: mobileloop --install-completion
    """


def main() -> None:
    """Entry point. SIGTERM ends a command as Ctrl-C does, with nothing half-written, and is exit code 143."""
    terminated = False

    def terminate(*_: object) -> NoReturn:
        nonlocal terminated
        terminated = True
        raise KeyboardInterrupt

    for stream in (sys.stdout, sys.stderr):  # a character that the terminal's encoding lacks is escaped
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
    signal.signal(signal.SIGTERM, terminate)
    take_any_text()
    try:
        app()
    except SystemExit as end:
        raise SystemExit(128 + signal.SIGTERM if terminated and end.code == INTERRUPTED else end.code) from None


if __name__ == "__main__":
    main()
