"""What the measurement says, in sentences and four figures: the first screen of the report.

What is known comes first: medians with the intervals that their rounds leave, which a busy machine widens and does not
take away. Doubts come second, by name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from mobileloop_bench.report.residency import INVALID, doubt, residency, with_one_loop
from mobileloop_bench.results.document import Document
from mobileloop_bench.results.result import Result
from mobileloop_bench.results.table import share, short_reasons
from mobileloop_bench.writing.units import UNKNOWN, counted, figure, megabytes


@dataclass(frozen=True)
class KeyFigure:
    """One large number: what it is, its unit, and what to hold it against."""

    name: str
    value: str
    unit: str
    note: str


@dataclass(frozen=True)
class Verdict:
    """The sentence, what it speaks of, the key figures, and whether all of it is valid.

    Attributes:
        trusted: True where every result is valid, False where the ones spoken of are not, None in between.
    """

    sentence: str
    subject: str = ""
    figures: Sequence[KeyFigure] = field(default_factory=list)
    trusted: bool | None = False
    trust: str = ""


def verdict(documents: Sequence[Document]) -> Verdict:
    """The loop tax, the share of the read bandwidth, and where the looped block is read from.

    A loop tax counts only within one run, so the sentence speaks of the first run that has one.
    """
    rows = [(row, document) for document in documents for row in document.results if _measured(row)]
    if not rows:
        return Verdict("Nothing was measured.", trust="There is no figure to trust.")
    row, document = _telling(rows)
    once = with_one_loop(row, document.results) or row
    parts = [_cost(row), *_of_memory(row, once, document), _doubts(row, once)]
    trusted, trust = _trust(documents, (row, once))
    return Verdict(
        "; ".join(part for part in parts if part) + ".",
        ", ".join((row.artifact, row.runtime, row.quantization, counted(row.threads, "thread"), *_kernels(row))),
        [_tokens(row, once), _tax(row), _share(once, doubt(once, document)), _memory(row, once)],
        trusted,
        trust,
    )


def _kernels(row: Result) -> list[str]:
    """The kernel set, where it is known: a figure of one says nothing of another."""
    kernels = row.details.get("kernels")
    return [f"{kernels} kernels"] if kernels else []


def _measured(row: Result) -> bool:
    return row.phase == "decode" and row.median_ms is not None


def _telling(rows: Sequence[tuple[Result, Document]]) -> tuple[Result, Document]:
    """Our own, valid, known to an interval, looped as little as possible but more than once, most threads, fastest."""
    with_tax = [pair for pair in rows if pair[0].loop_tax is not None and pair[0].loops > 1]

    def rank(pair: tuple[Result, Document]) -> tuple[bool, bool, bool, int, int, float]:
        row = pair[0]
        vague = row.half_width is None
        return (row.peer is not None, not row.valid, vague, row.loops, -row.threads, row.median_ms or 0.0)

    return min(with_tax or rows, key=rank)


# -- the sentence --------------------------------------------------------------------------------------


def _cost(row: Result) -> str:
    threads = counted(row.threads, "thread")
    if row.loop_tax is None or row.loops == 1:
        return f"{row.artifact} decodes {figure(row.tokens_per_s)} tokens/s on {threads}, {_time(row)} per token"
    subject = "The second loop" if row.loops == 2 else f"{row.loops} loops instead of one"
    verb = ("costs", "saves") if row.loops == 2 else ("cost", "save")
    percent = round(100 * (row.loop_tax - 1))
    change = f"{verb[0]} {percent}%" if percent >= 0 else f"{verb[1]} {-percent}%"
    return f"{subject} {change} on {threads}, {_time(row)} per token"


def _time(row: Result) -> str:
    """The median with its 95% interval."""
    if row.median_low_ms is None or row.median_high_ms is None:
        return f"{figure(row.median_ms, 'ms')} (interval unknown)"
    return f"{figure(row.median_ms, 'ms')} ({figure(row.median_low_ms)} to {figure(row.median_high_ms)})"


def _doubts(row: Result, once: Result) -> str:
    """Why these times are not valid results, by the names of the reasons."""
    bad = [one for one in (row, once) if not one.valid]
    reasons = list(dict.fromkeys(reason for one in bad for reason in short_reasons(one.reasons)))
    return f"in doubt: {', '.join(reasons) or 'no reason given'}" if bad else ""


def _of_memory(row: Result, once: Result, document: Document) -> list[str]:
    """How much of the read bandwidth `once` uses, and where the loops of `row` are read from."""
    if row.loops == 1:
        return [_bandwidth(once, document)]
    resident, why = residency(row, document), doubt(once, document)
    if resident.doubt == INVALID:
        return [_bandwidth(once, document), resident.fits()]
    if why and why == resident.doubt and once.ceiling_share is not None and resident.level != "DRAM":
        return [f"neither the share of the read bandwidth nor whether {resident.claim()} can be told: {why}"]
    return [_bandwidth(once, document), resident.sentence()]


def _bandwidth(row: Result, document: Document) -> str:
    used = row.ceiling_share
    if used is None:
        return "the share of the read bandwidth is unknown"
    why = doubt(row, document)
    if why and why != INVALID:
        return f"the share of the read bandwidth cannot be told: {why}"
    if used > 1 and why:
        return f"decode reads {used:.1f} times the measured read bandwidth"
    if used > 1:
        return f"decode reads {used:.1f} times the measured read bandwidth, so its weights came from a cache"
    return f"{100 * used:.0f}% of the measured read bandwidth is used"


# -- the key figures -----------------------------------------------------------------------------------


def _tokens(row: Result, once: Result) -> KeyFigure:
    width = "" if once.half_width is None else f" ±{once.half_width:.1%}"
    more = f"; {figure(row.tokens_per_s)} with {row.loops}" if row is not once else ""
    return KeyFigure(
        "decode",
        figure(once.tokens_per_s),
        "tokens/s" if once.tokens_per_s is not None else "",
        f"with {counted(once.loops, 'loop')}{width}{more}",
    )


def _tax(row: Result) -> KeyFigure:
    tax = row.loop_tax if row.loops > 1 else None
    if tax is None:
        return KeyFigure("loop tax", UNKNOWN, "", "run bench with --loops 1,2")
    return KeyFigure("loop tax", figure(tax), "×", f"time of {row.loops} loops over 1; {row.loops} = nothing shared")


def _share(once: Result, why: str | None) -> KeyFigure:
    if once.ceiling_share is None:
        return KeyFigure("read bandwidth", UNKNOWN, "", "it was not measured")
    value = share(once.ceiling_share)
    note = f"{figure(once.read_gbps)} of {figure(once.ceiling_gbps)} GB/s, {counted(once.loops, 'loop')}" + (
        "; in doubt" if why else ""
    )
    return KeyFigure("read bandwidth used", value.rstrip("%"), "%", note)


def _memory(row: Result, once: Result) -> KeyFigure:
    held = once.memory.delta_anonymous_bytes if once.memory else None
    value, _, unit = megabytes(held).partition(" ")  # the word for an unknown has no unit
    more = row.memory.delta_anonymous_bytes if row.memory and row is not once else None
    note = f"with {counted(once.loops, 'loop')}" + (f"; {megabytes(more)} with {row.loops}" if more is not None else "")
    return KeyFigure("anonymous memory", value, unit, note if held is not None else "it was not measured")


# -- trust ---------------------------------------------------------------------------------------------


def _trust(documents: Sequence[Document], told: Sequence[Result]) -> tuple[bool | None, str]:
    """Skipped configurations have no samples and are no doubtful results; the report lists them apart."""
    rows = [row for document in documents for row in document.results if row.samples_ms]
    bad = [row for row in rows if not row.valid]
    if not bad:
        return True, f"All {counted(len(rows), 'result')} are valid." if len(rows) > 1 else "The result is valid."
    reasons = Counter(reason for row in bad for reason in dict.fromkeys(short_reasons(row.reasons)))
    why = ", ".join(f"{reason} ({count})" for reason, count in reasons.most_common())
    verb = "is" if len(bad) == 1 else "are"
    sentence = f"{len(bad)} of {counted(len(rows), 'result')} {verb} not valid: {why or 'no reason given'}."
    if all(row.valid for row in told):
        return None, f"The figures above are valid; {sentence}"
    return False, sentence
