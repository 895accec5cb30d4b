"""Did it become slower? Two runs, or two artifacts of one run, configuration by configuration.

What is compared is by default the 5th percentile of the times (`p5`): neighbours, interrupts and a busy memory bus only
ever add time, so the fast samples are those of the undisturbed program. docs/results.md has the figures behind that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from mobileloop.errors import MobileloopError
from mobileloop_bench.machine.facts import Machine
from mobileloop_bench.results.bootstrap import DRIFT, F64, LEAST_ROUNDS, QUANTILES, as_rounds, ratio_interval
from mobileloop_bench.results.document import Document
from mobileloop_bench.results.result import LOADING, PHASES, Phase, Result
from mobileloop_bench.results.speed import alike, at_full_speed, fastest_ns
from mobileloop_bench.results.table import short_reasons
from mobileloop_bench.results.validity import NOISE, code_of
from mobileloop_bench.writing.lists import percentage
from mobileloop_bench.writing.units import UNKNOWN, counted, megabytes

MAX_DISTURBED = 3.0  # median over 5th percentile; beyond, the fast samples hold waiting too (docs/lab-log.md)
MACHINE = ("cpu", "architecture", "cores_usable", "emulated")
MACHINE_NOTES = ("governor", "kernel", "mobileloop", "git_commit")

Verdict = Literal["regression", "improvement", "no change", "undecided", "not comparable"]


@dataclass(frozen=True)
class Rule:
    """What counts as a change.

    Attributes:
        phases: that are compared.
        statistic: `p5` or `median`.
        threshold: the least change of the ratio, as a share, that is a regression or an improvement.
        confidence: that no configuration is called changed by chance, all of them together.
        drift: see `ratio_interval`; it does not apply within one run.
    """

    phases: Sequence[Phase] = ("decode",)
    statistic: str = "p5"
    threshold: float = 0.05
    confidence: float = 0.95
    drift: float = DRIFT

    @classmethod
    def parse(cls, metric: str, threshold: str, confidence: float, statistic: str, drift: str | None) -> Rule:
        """A rule from the options of the command line.

        Raises:
            MobileloopError: naming the option that is wrong.
        """
        named = [name.strip() for name in metric.split(",")]
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
        phases = [phase for phase in PHASES if phase in named]
        return cls(phases, statistic, shares["--threshold"], confidence, shares["--drift"])


class Comparison(BaseModel):
    """One configuration before and after; times in ms, `ratio` after over before with its interval `low` to `high`.

    `before_ms` and `after_ms` are of the compared statistic. Where the verdict is `not comparable`, `reasons` say why
    and there is no ratio.
    """

    model_config = ConfigDict(frozen=True)

    artifact: str
    against: str | None
    runtime: str
    loops: int
    threads: int
    phase: Phase
    depth: int
    sequences: int
    verdict: Verdict
    reasons: list[str] = []
    notes: list[str] = []
    before_ms: float | None = None
    after_ms: float | None = None
    before_median_ms: float | None = None
    after_median_ms: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None


class Report(BaseModel):
    """All configurations; `notes` are of the machine."""

    statistic: str
    threshold: float
    confidence: float
    drift: float
    interleaved: bool
    notes: list[str]
    comparisons: list[Comparison]

    @property
    def regressed(self) -> bool:
        """Whether any configuration became slower beyond the threshold."""
        return any(one.verdict == "regression" for one in self.comparisons)


@dataclass(frozen=True)
class _Pair:
    before: Result
    after: Result
    reasons: tuple[str, ...]
    notes: tuple[str, ...]


def compare_runs(before: Document, after: Document, rule: Rule) -> Report:
    """Two runs, artifact by artifact; where each has a single one, its name does not matter.

    Raises:
        MobileloopError: where nothing can be compared.
    """
    alone = all(len({row.artifact for row in one.results}) == 1 for one in (before, after))
    machine = [
        f"another machine: {name} is {_told(one)} before and {_told(other)} after"
        for name, one, other in _differences(before.machine, after.machine, MACHINE)
    ]
    notes = [
        f"{name} is {_told(one)} before and {_told(other)} after"
        for name, one, other in _differences(before.machine, after.machine, MACHINE_NOTES)
    ]
    return _report(before.results, after.results, rule, alone, tuple(machine), notes, interleaved=False)


def compare_artifacts(document: Document, artifact: str, against: str, rule: Rule) -> Report:
    """Two artifacts that one run measured in the same rounds: `against` before, `artifact` after.

    Raises:
        MobileloopError: for a name that the run does not have, or where nothing can be compared.
    """
    rows: dict[str, list[Result]] = {}
    for row in document.results:
        rows.setdefault(row.artifact, []).append(row)
    for name in (artifact, against):
        if name not in rows:
            raise MobileloopError(f"the run has no artifact {name}; it has {', '.join(rows)}.")
    if artifact == against:
        raise MobileloopError(f"{artifact} would be compared with itself; name two artifacts.")
    return _report(rows[against], rows[artifact], rule, True, (), [], interleaved=True)


def _report(
    before: Iterable[Result],
    after: Iterable[Result],
    rule: Rule,
    any_artifact: bool,
    machine: tuple[str, ...],
    notes: list[str],
    interleaved: bool,
) -> Report:
    before, after = list(before), list(after)
    names = [", ".join(dict.fromkeys(row.artifact for row in rows)) for rows in (before, after)]
    pairs, lone = _matched(before, after, rule, any_artifact, interleaved)
    if lone and not pairs and not {row.artifact for row in before} & {row.artifact for row in after}:
        raise MobileloopError(
            f"nothing can be compared: artifacts pair by name, and those of A are {names[0]}, those of B {names[1]}; "
            "measure both in one run and use --artifact X --against Y, or give them the same name."
        )
    pairs = [_Pair(p.before, p.after, machine + p.reasons, p.notes) for p in pairs]
    count = sum(not pair.reasons for pair in pairs)
    found = [_compared(pair, rule, count, interleaved, any_artifact) for pair in pairs] + lone
    if not count:
        reasons = list(dict.fromkeys(reason for one in found for reason in one.reasons))
        said = "; ".join(reasons[:3]) or f"neither run measured {' or '.join(rule.phases)}"
        raise MobileloopError(f"nothing can be compared: {said}.")
    return Report(
        statistic=rule.statistic,
        threshold=rule.threshold,
        confidence=rule.confidence,
        drift=0 if interleaved else rule.drift,
        interleaved=interleaved,
        notes=notes,
        comparisons=found,
    )


def _matched(
    before: Iterable[Result], after: Iterable[Result], rule: Rule, any_artifact: bool, interleaved: bool
) -> tuple[list[_Pair], list[Comparison]]:
    """Rows of the same configuration, and those that only one side has."""
    sides = (_by_key(before, rule, any_artifact), _by_key(after, rule, any_artifact))
    pairs, lone = [], []
    for key in dict.fromkeys([*sides[0], *sides[1]]):
        rows = [side.get(key, []) for side in sides]
        if len(rows[0]) == len(rows[1]) == 1:  # a mode that `--stream auto` chose may differ
            pairs.append(_pair(rows[0][0], rows[1][0], interleaved))
            continue
        streams = [{row.stream: row for row in side} for side in rows]
        for stream in dict.fromkeys([*streams[0], *streams[1]]):
            one, other = (side.get(stream) for side in streams)
            if one and other:
                pairs.append(_pair(one, other, interleaved))
            elif row := one or other:
                where = "before" if one else "after"
                lone.append(_comparison(row, None, "not comparable", reasons=[f"measured {where} only"]))
    return pairs, lone


def _by_key(rows: Iterable[Result], rule: Rule, any_artifact: bool) -> dict[tuple[Any, ...], list[Result]]:
    found: dict[tuple[Any, ...], list[Result]] = {}
    for row in rows:
        if row.phase in rule.phases:
            name = () if any_artifact else (row.artifact, row.runtime)
            peer = row.peer.name if row.peer else None
            place = (row.phase, row.loops, row.threads, row.depth, row.sequences, row.busy)
            key = (*name, *place, row.details.get("cpus"), peer)
            found.setdefault(key, []).append(row)
    return found


def _pair(before: Result, after: Result, interleaved: bool) -> _Pair:
    """Why two rows would not be the same work, and what else differs."""
    reasons: list[str] = []
    notes: list[str] = []
    work = reasons if not interleaved else notes  # who names two artifacts of one run asks for their difference
    if before.unique_bytes != after.unique_bytes:
        sizes = f"{_bytes(before.unique_bytes)} before and {_bytes(after.unique_bytes)} after"
        work.append(f"other work: unique bytes are {sizes}")
    for name in ("model", "quantization"):
        one, other = getattr(before, name), getattr(after, name)
        if one != other:
            work.append(f"other work: {name} is {one} before and {other} after")
    if before.phase not in LOADING and before.context_tokens != after.context_tokens:
        tokens = f"{_told(before.context_tokens)} tokens before and {_told(after.context_tokens)} after"
        reasons.append(f"other work: the context is {tokens}")
    if before.stream != after.stream:
        notes.append(f"streaming is {_told(before.stream)} before and {_told(after.stream)} after")
    for where, row in (("before", before), ("after", after)):
        doubts = [reason for reason in row.reasons if code_of(reason) not in NOISE]
        reasons += [f"not valid {where}: {reason}" for reason in doubts]
        times = _rounds(row)
        if not doubts and times is not None and len(times) < LEAST_ROUNDS:
            reasons.append(f"fewer than {LEAST_ROUNDS} rounds {where}: {len(times)}")
        elif times is not None and times.size and (share := _disturbed(times)) > MAX_DISTURBED:
            reasons.append(f"disturbed {where}: the median is {share:.1f} times the 5th percentile; measure again")
        elif not doubts and times is None:
            reasons.append(f"its rounds are unknown {where}")
        if noisy := short_reasons([one for one in (*row.reasons, *row.notes) if one not in doubts]):
            notes.append(f"{where}: {', '.join(noisy)}")
    if interleaved and not reasons and before.samples_ms and after.samples_ms:
        one, other = _rounds(before), _rounds(after)
        if one is not None and other is not None and len(one) != len(other):
            reasons.append(f"{len(one)} rounds of one and {len(other)} of the other")
    return _Pair(before, after, tuple(reasons), tuple(notes))


def _rounds(row: Result) -> F64 | None:
    """Times [rounds, samples per round]; a last round that was cut short is left out."""
    each = row.samples_per_round or (len(row.samples_ms) // row.repetitions if row.repetitions else None)
    if not each or min(row.samples_ms, default=1) <= 0:
        return None
    return as_rounds(row.samples_ms, each)


def _like_rounds(before: Result, after: Result, paired: bool) -> tuple[F64 | None, F64 | None]:
    """The rounds of both that the cores took at the same speed, where that is known of enough; else all."""
    one, other = _rounds(before), _rounds(after)
    if one is None or other is None:
        return one, other
    speeds = before.speeds[: len(one)], after.speeds[: len(other)]  # a document may hold more than it has rounds
    fastest = fastest_ns([*speeds[0], *speeds[1]])
    if fastest is None:
        return one, other
    kept = (alike(*speeds),) * 2 if paired else tuple(at_full_speed(each, fastest) for each in speeds)
    if min(map(len, kept)) < LEAST_ROUNDS:
        return one, other
    return one[kept[0]], other[kept[1]]


def _disturbed(times: F64) -> float:
    return float(np.median(times) / np.quantile(times, QUANTILES["p5"]))


def _compared(pair: _Pair, rule: Rule, count: int, interleaved: bool, any_artifact: bool) -> Comparison:
    before, after = _like_rounds(pair.before, pair.after, interleaved)
    against = pair.before.artifact if any_artifact and pair.before.artifact != pair.after.artifact else None
    if pair.reasons or before is None or after is None:
        reasons = [*pair.reasons]
        return _comparison(pair.after, against, "not comparable", reasons=reasons, notes=list(pair.notes))
    quantile = QUANTILES[rule.statistic]
    found = ratio_interval(
        before,
        after,
        quantile=quantile,
        confidence=1 - (1 - rule.confidence) / count,  # Bonferroni: one chance among all configurations
        drift=0 if interleaved else rule.drift,
        paired=interleaved,
    )
    notes = list(pair.notes)
    verdict: Verdict = "no change"
    if found.low > 1 and found.estimate > 1 + rule.threshold:
        verdict = "regression"
    elif found.high < 1 and found.estimate < 1 / (1 + rule.threshold):
        verdict = "improvement"
    elif found.estimate > 1 + rule.threshold:
        verdict = "undecided"
        notes.append("slower beyond the threshold, but not beyond doubt: measure again")
    return _comparison(
        pair.after,
        against,
        verdict,
        notes=notes,
        before_ms=float(np.quantile(before, quantile)),
        after_ms=float(np.quantile(after, quantile)),
        before_median_ms=float(np.median(before)),
        after_median_ms=float(np.median(after)),
        ratio=found.estimate,
        low=found.low,
        high=found.high,
    )


def _comparison(row: Result, against: str | None, verdict: Verdict, **more: Any) -> Comparison:
    named = {name: getattr(row, name) for name in ("runtime", "loops", "threads", "phase", "depth", "sequences")}
    return Comparison(artifact=row.artifact, against=against, verdict=verdict, **named, **more)


def _differences(before: Machine, after: Machine, names: Iterable[str]) -> list[tuple[str, object, object]]:
    pairs = [(name, getattr(before, name), getattr(after, name)) for name in names]
    return [(name.replace("_", " "), one, other) for name, one, other in pairs if one != other]


def _told(value: object) -> str:
    return UNKNOWN if value is None else str(value)


def _bytes(value: int | None) -> str:
    return UNKNOWN if value is None else f"{megabytes(value)} ({value:,})"


def title(one: Comparison) -> str:
    """`model.safetensors, 2 loops, 1 thread, decode`."""
    parts = [one.artifact, counted(one.loops, "loop"), counted(one.threads, "thread"), one.phase]
    if one.depth:
        parts.append(f"depth {one.depth}")
    if one.sequences > 1:
        parts.append(f"{one.sequences} sequences")
    return ", ".join(parts) + (f" against {one.against}" if one.against else "")
