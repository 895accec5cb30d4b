"""What the measurement says, in sentences: the first thing a reader of the report sees."""

from __future__ import annotations

from collections.abc import Sequence

from mobileloop_bench.results import Document, Result
from mobileloop_bench.words import counted, figure


def verdict(documents: Sequence[Document]) -> str:
    """The loop tax, the share of the read bandwidth, and how much of it all is valid.

    A loop tax counts only within one run, so the sentence speaks of the first run that has one.
    """
    decode = [row for document in documents for row in document.results if _measured(row)]
    if not decode:
        return "Nothing was measured."
    row = _telling(decode)
    parts = [_cost(row), _bandwidth(_one_loop(row, decode))]
    sentences = ["; ".join(part for part in parts if part) + ".", _validity(documents)]
    return " ".join(sentence for sentence in sentences if sentence)


def _measured(row: Result) -> bool:
    return row.phase == "decode" and row.median_ms is not None


def _telling(rows: Sequence[Result]) -> Result:
    """The row to speak of: valid, looped as little as possible but more than once, on most threads, fastest."""
    with_tax = [row for row in rows if row.loop_tax is not None and row.loops > 1]

    def rank(row: Result) -> tuple[bool, int, int, float]:
        return (not row.valid, row.loops, -row.threads, row.median_ms or 0.0)

    return min(with_tax or rows, key=rank)


def _one_loop(row: Result, rows: Sequence[Result]) -> Result:
    """The same configuration with one loop: its weights are streamed, so it shows the use of bandwidth best."""
    key = (row.artifact, row.runtime, row.threads)
    return next((r for r in rows if r.loops == 1 and (r.artifact, r.runtime, r.threads) == key), row)


def _cost(row: Result) -> str:
    threads = counted(row.threads, "thread")
    if row.loop_tax is None or row.loops == 1:
        return f"{row.artifact} decodes {figure(row.tokens_per_s)} tokens/s on {threads}"
    subject = "The second loop" if row.loops == 2 else f"{row.loops} loops instead of one"
    verb = ("costs", "saves") if row.loops == 2 else ("cost", "save")
    percent = round(100 * (row.loop_tax - 1))
    change = f"{verb[0]} {percent}%" if percent >= 0 else f"{verb[1]} {-percent}%"
    doubt = "" if row.valid else ", which is not a valid result"
    return f"{subject} {change} on {threads} ({row.artifact}{doubt})"


def _bandwidth(row: Result) -> str:
    share = row.ceiling_share
    if share is None:
        return "the share of the read bandwidth is unknown"
    if share > 1:
        return f"decode reads {share:.1f} times the measured read bandwidth, so its weights came from a cache"
    return f"{100 * share:.0f}% of the measured read bandwidth is used"


def _validity(documents: Sequence[Document]) -> str:
    """Skipped configurations have no samples and are no doubtful results; the report lists them apart."""
    rows = [row for document in documents for row in document.results if row.samples_ms]
    bad = sum(not row.valid for row in rows)
    return f"{bad} of {counted(len(rows), 'result')} {'is' if bad == 1 else 'are'} not valid." if bad else ""
