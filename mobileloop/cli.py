"""The `mobileloop` command line: dispatch only; every command is a module of `mobileloop.commands`."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from mobileloop import __version__
from mobileloop.commands.fetch import fetch
from mobileloop.commands.info import info
from mobileloop.commands.options import STDOUT
from mobileloop.commands.run import run
from mobileloop.commands.verify import verify
from mobileloop.console import INTERRUPTED
from mobileloop.errors import MobileloopError
from mobileloop_bench.commands.bandwidth import bandwidth
from mobileloop_bench.commands.bench import bench
from mobileloop_bench.commands.compare import compare
from mobileloop_bench.commands.demo import demo
from mobileloop_bench.commands.device import device
from mobileloop_bench.commands.machine import machine
from mobileloop_bench.commands.plan import plan
from mobileloop_bench.commands.report import report
from mobileloop_bench.commands.results import results
from mobileloop_bench.commands.simulate import simulate
from mobileloop_export.commands.export import export


class _Commands(TyperGroup):
    """Says a user's mistake in one sentence, exit code 2; Ctrl-C is exit code 130.

    It works inside typer's own error handling: typer brings click along from some version on, so the exceptions of
    an installed click are not the ones it raises.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except MobileloopError as error:
            typer.echo(f"mobileloop: {error}", err=True)
            raise typer.Exit(error.exit_code) from None
        except MemoryError:
            typer.echo("mobileloop: this machine ran out of memory; use a smaller model or --context.", err=True)
            raise typer.Exit(2) from None
        except (KeyboardInterrupt, typer.Abort):
            typer.echo("\nmobileloop: interrupted.", err=True)
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:  # the reader of our output went away
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(141) from None
        except OSError as error:  # a full disk behind a redirect, say
            typer.echo(f"mobileloop: {error.filename or 'the output'} failed: {error.strerror or error}.", err=True)
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


COMMANDS = (
    export,
    run,
    verify,
    bench,
    compare,
    bandwidth,
    machine,
    plan,
    simulate,
    report,
    info,
    fetch,
    demo,
)
GROUPS = (device, results)
for command in COMMANDS:
    app.command(cls=_Command)(command)
for group in GROUPS:
    app.add_typer(group)


def main() -> None:
    """Entry point. SIGTERM ends a command as Ctrl-C does, with nothing half-written, and is exit code 143."""
    terminated = False

    def terminate(*_: object) -> NoReturn:
        nonlocal terminated
        terminated = True
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, terminate)
    try:
        app()
    except SystemExit as end:
        raise SystemExit(128 + signal.SIGTERM if terminated and end.code == INTERRUPTED else end.code) from None


if __name__ == "__main__":
    main()
