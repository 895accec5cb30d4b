"""Compare two runs or artifacts; exit code 1 for a regression."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mobileloop.errors import MobileloopError

if TYPE_CHECKING:
    from mobileloop_bench.results.compare import Comparison, Report, Rule
    from mobileloop_bench.results.document import Document

REGRESSED = 1


def compare(
    before: Annotated[str, typer.Argument(metavar="A", help="Before: a result file, or a run of the store.")],
    after: Annotated[str | None, typer.Argument(metavar="[B]", help="After: the same.")] = None,
    artifact: Annotated[
        str | None, typer.Option(metavar="NAME", help="Compare this artifact of A with --against, in place of B.")
    ] = None,
    against: Annotated[str | None, typer.Option(metavar="NAME", help="The artifact that counts as before.")] = None,
    metric: Annotated[
        str, typer.Option(metavar="LIST", help="Of decode, prefill, load and first_token, with commas.")
    ] = "decode",
    threshold: Annotated[str, typer.Option(metavar="SHARE", help="Smaller changes are none.")] = "5%",
    confidence: Annotated[float, typer.Option(help="That no configuration is called changed by chance.")] = 0.95,
    statistic: Annotated[
        str, typer.Option(metavar="p5|median", help="p5 ignores what neighbours add; median needs a quiet machine.")
    ] = "p5",
    drift: Annotated[
        str | None,
        typer.Option(metavar="SHARE", help="How far two runs of one program differ (standard deviation): 2.5%."),
    ] = None,
    store: Annotated[Path | None, typer.Option("--store", metavar="FILE", help="Where runs are looked up.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print a table for a pull request.")] = False,
) -> None:
    """Compare two runs, or two artifacts of one run; exit code 1 for a regression.

    Each configuration gets the ratio of its times with a confidence interval
    and a verdict: regression, improvement, no change, undecided (slower than
    the threshold, but not beyond doubt), or not comparable with the reason.
    Two runs should be minutes apart; two artifacts of one run were measured in
    the same rounds, which is the surest. Exit code 0: no regression, 1: a
    regression beyond the threshold, 2: bad input, or nothing that can be
    compared.

    \b
    Examples:
      mobileloop compare before.json after.json
      mobileloop compare before.json after.json --metric decode,prefill --threshold 3% --markdown
      mobileloop compare both.json --artifact new.safetensors --against old.safetensors
    """
    from mobileloop_bench.results import compare as comparing

    if as_json and as_markdown:
        raise MobileloopError("--json and --markdown exclude each other; choose one.")
    rule = _rule(metric, threshold, confidence, statistic, drift)
    if (artifact is None) != (against is None) or (after is None) != (artifact is not None):
        raise MobileloopError("compare takes two runs, or one run with --artifact and --against.")
    if after is not None:
        report = comparing.compare_runs(_document(before, store), _document(after, store), rule)
    else:
        assert artifact is not None
        assert against is not None
        report = comparing.compare_artifacts(_document(before, store), artifact, against, rule)
    if as_json:
        typer.echo(report.model_dump_json())
    elif as_markdown:
        typer.echo(_markdown(report), nl=False)
    else:
        _print(report)
    if report.regressed:
        raise typer.Exit(REGRESSED)


def _rule(metric: str, threshold: str, confidence: float, statistic: str, drift: str | None) -> Rule:
    from mobileloop_bench.results.bootstrap import DRIFT, QUANTILES
    from mobileloop_bench.results.compare import Rule
    from mobileloop_bench.results.result import PHASES
    from mobileloop_bench.writing.lists import percentage

    named = [name.strip() for name in metric.split(",")]
    phases = [phase for phase in PHASES if phase in named]
    if unknown := [name for name in named if name not in PHASES]:
        raise MobileloopError(f"--metric '{unknown[0]}' is not known; choose of {', '.join(PHASES)}.")
    if statistic not in QUANTILES:
        raise MobileloopError(f"--statistic '{statistic}' is not known; choose one of {', '.join(QUANTILES)}.")
    if not 0.5 <= confidence < 1:
        raise MobileloopError(f"--confidence {confidence} is outside 0.5-1; write for example 0.95.")
    shares = {}
    for option, text in (("--threshold", threshold), ("--drift", drift)):
        try:
            shares[option] = DRIFT if text is None else percentage(text)
        except ValueError:
            raise MobileloopError(f"{option} '{text}' is no share from 0% to 100%; write for example 5%.") from None
    return Rule(phases, statistic, shares["--threshold"], confidence, shares["--drift"])


def _document(named: str, store: Path | None) -> Document:
    """A file, or else a run of the store."""
    from mobileloop_bench.results.document import read_document

    path = Path(named)
    if path.exists() or path.suffix or len(path.parts) > 1:
        return read_document(path)
    try:
        from mobileloop_bench.results.store import default_path, opened
    except ImportError:
        raise MobileloopError(f"{named} is no file, and runs of the store need pip install '.[bench]'.") from None
    if store is None and not default_path().exists():
        return read_document(path)
    with opened(store or default_path()) as found:
        return found.document(named)


def _cells(one: Comparison) -> list[str]:
    from mobileloop_bench.results.compare import title
    from mobileloop_bench.writing.units import figure

    ratio = "" if one.ratio is None else f"{one.ratio:.3f} ({one.low:.3f} to {one.high:.3f})"
    medians = "" if one.ratio is None else f"{figure(one.before_median_ms)} / {figure(one.after_median_ms)}"
    times = ["", ""] if one.ratio is None else [figure(one.before_ms), figure(one.after_ms)]
    why = one.reasons or one.notes
    return [title(one), *times, medians, ratio, one.verdict, "; ".join(why)]


def _columns(report: Report) -> list[str]:
    name = report.statistic
    return ["configuration", f"before {name} ms", f"after {name} ms", "medians ms", "ratio", "verdict", "doubts"]


def _sentences(report: Report) -> list[str]:
    from collections import Counter

    counts: Counter[str] = Counter(one.verdict for one in report.comparisons)
    order = ("regression", "improvement", "no change", "undecided", "not comparable")
    many = {"regression": "regressions", "improvement": "improvements"}
    found = ", ".join(f"{n} {v if n == 1 else many.get(v, v)}" for v in order if (n := counts[v]))
    same = "in the same rounds" if report.interleaved else f"drift between runs {report.drift:.1%}"
    rule = f"threshold {report.threshold:.1%}, confidence {report.confidence:.1%} over all, {same}"
    return [*(f"Note: {note}." for note in report.notes), f"Found: {found} ({rule})."]


def _markdown(report: Report) -> str:
    columns = _columns(report)
    lines = [columns, ["---"] * len(columns), *(_cells(one) for one in report.comparisons)]
    table = ["| " + " | ".join(" ".join(cell.replace("|", r"\|").split()) for cell in line) + " |" for line in lines]
    return "\n".join([*table, "", *_sentences(report)]) + "\n"


def _print(report: Report) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table()
    for name in _columns(report):
        table.add_column(name, overflow="fold")
    for one in report.comparisons:
        table.add_row(*(escape(cell) for cell in _cells(one)))
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    for sentence in _sentences(report):
        console.print(escape(sentence), highlight=False)
