"""Compare two runs or artifacts; exit code 1 for a regression."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mobileloop.console import open_console
from mobileloop.errors import MobileloopError

if TYPE_CHECKING:
    from mobileloop_bench.results.document import Document

REGRESSED = 1


Before = Annotated[str, typer.Argument(metavar="A", help="Before: a result file, or a run of the store.")]
After = Annotated[str | None, typer.Argument(metavar="[B]", help="After: the same.")]
Artifact = Annotated[
    str | None, typer.Option(metavar="NAME", help="Compare this artifact of A with --against, in place of B.")
]
Against = Annotated[str | None, typer.Option(metavar="NAME", help="The artifact that counts as before.")]
Metric = Annotated[str, typer.Option(metavar="LIST", help="Of decode, prefill, load and first_token, with commas.")]
Threshold = Annotated[str, typer.Option(metavar="SHARE", help="Smaller changes are none.")]
Confidence = Annotated[float, typer.Option(help="That no configuration is called changed by chance.")]
Statistic = Annotated[
    str, typer.Option(metavar="p5|median", help="p5 ignores what neighbours add; median needs a quiet machine.")
]
Drift = Annotated[
    str | None,
    typer.Option(metavar="SHARE", help="How far two runs of one program differ (standard deviation): 2.5%."),
]
Store = Annotated[Path | None, typer.Option("--store", metavar="FILE", help="Where runs are looked up.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
AsMarkdown = Annotated[bool, typer.Option("--markdown", help="Print a table for a pull request.")]


def compare(
    before: Before,
    after: After = None,
    artifact: Artifact = None,
    against: Against = None,
    metric: Metric = "decode",
    threshold: Threshold = "5%",
    confidence: Confidence = 0.95,
    statistic: Statistic = "p5",
    drift: Drift = None,
    store: Store = None,
    as_json: AsJson = False,
    as_markdown: AsMarkdown = False,
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
    from mobileloop_bench.results.comparisons import markdown, print_comparisons

    if as_json and as_markdown:
        raise MobileloopError("--json and --markdown exclude each other; choose one.")
    rule = comparing.Rule.parse(metric, threshold, confidence, statistic, drift)
    if (artifact is None) != (against is None) or (after is None) != (artifact is not None):
        raise MobileloopError("compare takes two runs, or one run with --artifact and --against.")
    if after is not None:
        report = comparing.compare_runs(_document(before, store), _document(after, store), rule)
    else:
        assert artifact is not None
        assert against is not None
        report = comparing.compare_artifacts(_document(before, store), artifact, against, rule)
    if as_json:
        typer.echo(json.dumps(json.loads(report.model_dump_json())))
    elif as_markdown:
        typer.echo(markdown(report), nl=False)
    else:
        print_comparisons(open_console(), report)
    if report.regressed:
        raise typer.Exit(REGRESSED)


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
