"""`mobileloop report`: one HTML page from the results of `mobileloop bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    results: Annotated[list[Path], typer.Argument(metavar="OUT...", help="Results of mobileloop bench --json.")],
    html: Annotated[Path, typer.Option("--html", metavar="FILE", help="The page to write.")] = Path("report.html"),
) -> None:
    """Make one self-contained HTML page from the results of mobileloop bench.

    The page says its verdict first, then shows decode time against loops
    with the physical limit, the achieved GB/s against the measured ceiling,
    every result with its doubts, the machine, and how to reproduce it. It
    loads nothing from the network.

    \b
    Examples:
      mobileloop report bench.json --html report.html
      mobileloop report phone.json laptop.json --html both.html
    """
    from mobileloop.errors import MobileloopError

    try:
        from mobileloop_bench.report import report as write_report
    except ImportError as error:
        raise MobileloopError(
            f"the report needs a package that is not installed ({error.name}); run pip install '.[bench]'."
        ) from None
    write_report(results, html)
    typer.echo(f"Wrote {html}")
