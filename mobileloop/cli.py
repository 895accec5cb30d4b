"""The `mobileloop` command line: dispatch only; every command is a module of `mobileloop.commands`."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import click
import typer

from mobileloop import __version__
from mobileloop.commands.bench import bench
from mobileloop.commands.demo import demo
from mobileloop.commands.export import export
from mobileloop.commands.fetch import fetch
from mobileloop.commands.info import info
from mobileloop.commands.report import report
from mobileloop.commands.run import run
from mobileloop.commands.verify import verify
from mobileloop.errors import MobileloopError

app = typer.Typer(
    name="mobileloop",
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


for command in (export, run, verify, bench, report, info, fetch, demo):
    app.command()(command)


def main() -> None:
    """Entry point: a user's mistake is one sentence and exit code 2; Ctrl-C is exit code 130."""
    try:
        code = app(standalone_mode=False)
    except MobileloopError as error:
        click.echo(f"mobileloop: {error}", err=True)
        code = error.exit_code
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("\nmobileloop: interrupted.", err=True)
        code = 130
    except BrokenPipeError:  # the reader of our output went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
