"""Show a machine: chip, cores, clocks, caches, memory, power."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mobileloop.commands.options import STDOUT
from mobileloop.console import open_console, say
from mobileloop.errors import MobileloopError
from mobileloop_bench.commands.options import complete_machines


def machine(
    named: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME|FILE]",
            help="A shipped machine or a machine file; default: this one.",
            autocompletion=complete_machines,
        ),
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="List the machines that ship with the package.")] = False,
    json_out: Annotated[
        str | None,
        typer.Option("--json", metavar="[FILE]", help="Print one JSON document instead, or write it to FILE."),
    ] = None,
) -> None:
    """Show a machine: chip, cores, clocks, caches, memory, temperatures, power.

    Everything is read from the kernel, and from Android's properties where
    there are any. What they hide is unknown and said to be. A machine file
    holds the same of a phone or board from published figures, each with its
    source; mobileloop plan and mobileloop simulate read such files.

    \b
    Examples:
      mobileloop machine
      mobileloop machine --json this.json
      mobileloop machine --list
      mobileloop machine snapdragon-8-gen-3
    """
    from mobileloop.files import check_output
    from mobileloop_bench.machine.card import print_machine, this_machine
    from mobileloop_bench.machine.file import load, shipped

    if listed:
        if named is not None or json_out is not None:
            raise MobileloopError("--list shows the names of all shipped machines; give it alone.")
        for name in shipped():
            say(f"{name:<20}{load(name).name}")
        return
    if json_out not in (None, STDOUT):
        check_output(Path(json_out), (named,))
    found = this_machine() if named is None else load(named)
    if json_out is None:
        print_machine(open_console(), found)
    elif json_out == STDOUT:
        typer.echo(found.to_json())
    else:
        found.write(Path(json_out))
        say(f"Wrote {json_out}")
