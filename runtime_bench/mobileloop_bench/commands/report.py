"""Make one self-contained HTML page from results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from mobileloop.console import say


def report(
    results: Annotated[list[Path], typer.Argument(metavar="OUT...", help="Results of mobileloop bench --json.")],
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="The page to write (report.html where nothing else is asked for)."),
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", metavar="FILE", help="A summary for a pull request.")
    ] = None,
    charts: Annotated[
        Path | None, typer.Option("--charts", metavar="FOLDER", help="Every chart as a file of its own.")
    ] = None,
    chart_format: Annotated[Literal["svg", "png"], typer.Option(help="What --charts writes.")] = "svg",
) -> None:
    """Make one self-contained HTML page from the results of mobileloop bench.

    The page says its verdict first, then shows the roofline, the bandwidth
    ladder, decode time against loops, the bytes of a token, latencies, the
    machine over time, prediction against measurement, every result with its
    doubts, the machine, and how to reproduce it. What a result does not hold
    is left out, and the page says which command brings it. It loads nothing
    from the network.

    \b
    Examples:
      mobileloop report bench.json --html report.html
      mobileloop report phone.json laptop.json --html both.html
      mobileloop report bench.json --markdown summary.md
      mobileloop report bench.json --charts charts --chart-format png
    """
    from mobileloop.errors import MobileloopError

    try:
        from mobileloop_bench.report.page import report as write_report
    except ImportError as error:
        raise MobileloopError(
            f"the report needs a package that is not installed ({error.name}); run pip install '.[bench]'."
        ) from None
    if html is None and markdown is None and charts is None:
        html = Path("report.html")
    for path in write_report(results, html, markdown, charts, chart_format):
        say(f"Wrote {path}")
