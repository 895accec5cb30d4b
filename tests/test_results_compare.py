"""The statistics of compare on made-up machines with a fixed seed, its reasons, and its command."""

import json
from pathlib import Path

import numpy as np
import pytest
from test_writing_documents import BENCH, ROW
from typer.testing import CliRunner

from mobileloop.cli import app
from mobileloop.errors import MobileloopError
from mobileloop_bench.results.bootstrap import ratio_interval
from mobileloop_bench.results.compare import Rule, compare_artifacts, compare_runs
from mobileloop_bench.results.document import Document
from mobileloop_bench.results.result import Result
from mobileloop_bench.results.settings import Settings
from mobileloop_bench.writing.lists import percentage

ROUNDS, EACH = 8, 32


def noisy(generator: np.random.Generator, level: float = 1.0) -> np.ndarray:
    """Times as a shared machine gives them: the clock drifts, rounds differ, and neighbours add time by bursts."""
    clock = level * np.exp(generator.normal(0, 0.022 / 2**0.5))  # as measured, docs/lab-log.md
    rounds = np.exp(np.cumsum(generator.normal(0, 0.004, ROUNDS)))[:, None]
    times = clock * rounds * (1 + generator.gamma(2, 0.01, (ROUNDS, EACH)))
    busy = np.zeros((ROUNDS, EACH), bool)
    for index in range(ROUNDS * EACH):  # a burst goes on with probability 0.8: samples are not independent
        before = busy.flat[index - 1] if index else False
        busy.flat[index] = generator.random() < (0.8 if before else 0.1)
    return times + busy * level * (generator.pareto(1.5, busy.shape) + 0.2)


def row(times: np.ndarray | None = None, **changes: object) -> Result:
    samples = [1.0] * 160 if times is None else times.ravel().tolist()
    given = {"samples_ms": samples, "samples_per_round": EACH, "reasons": [], "valid": True, "context_tokens": 40}
    return ROW.model_copy(update={**given, **changes}, deep=True)


def document(*rows: Result, **machine: object) -> Document:
    found = BENCH.model_copy(deep=True, update={"results": list(rows), "settings": Settings(threads=[1])})
    found.machine = found.machine.model_copy(update=machine)
    return found


def verdict(before: np.ndarray, after: np.ndarray) -> str:
    (one,) = compare_runs(document(row(before)), document(row(after)), Rule()).comparisons
    return one.verdict


def test_false_alarms_and_detections_on_a_noisy_machine() -> None:
    generator = np.random.default_rng(4)
    tries = 100
    same = [verdict(noisy(generator), noisy(generator)) for _ in range(tries)]
    slower = [verdict(noisy(generator), noisy(generator, 1.1)) for _ in range(tries)]
    faster = [verdict(noisy(generator, 1.1), noisy(generator)) for _ in range(tries)]
    assert same.count("regression") <= 5
    assert same.count("improvement") <= 5
    assert slower.count("regression") >= 80
    assert faster.count("improvement") >= 80
    assert slower.count("improvement") + faster.count("regression") == 0


def test_rounds_measured_together_see_smaller_changes() -> None:
    """The same machine state in both: drift cancels, and 3% are found where two runs could not tell."""
    generator = np.random.default_rng(5)
    found = []
    for _ in range(20):
        shared = np.exp(generator.normal(0, 0.05, (ROUNDS, 1)))
        one, other = (shared * level * (1 + generator.gamma(2, 0.01, (ROUNDS, EACH))) for level in (1, 1.03))
        both = document(row(one), row(other, artifact="b.safetensors"))
        (paired,) = compare_artifacts(both, "b.safetensors", "a.safetensors", Rule(threshold=0.01)).comparisons
        found.append(paired.verdict)
        assert paired.against == "a.safetensors"
        assert verdict(one, other) == "no change"
    assert found.count("regression") >= 19


def test_the_interval_holds_the_ratio_and_grows_with_what_is_unknown() -> None:
    generator = np.random.default_rng(6)
    before, after = noisy(generator), noisy(generator, 1.2)
    more = {"quantile": 0.05, "paired": False}
    tight = ratio_interval(before, after, confidence=0.9, drift=0, **more)
    assert tight == ratio_interval(before, after, confidence=0.9, drift=0, **more)
    wide = ratio_interval(before, after, confidence=0.9, drift=0.03, **more)
    wider = ratio_interval(before, after, confidence=0.99, drift=0.03, **more)
    assert wider.low < wide.low < tight.low <= tight.estimate <= tight.high < wide.high < wider.high
    flat = ratio_interval(np.ones((5, 4)), np.full((5, 4), 1.5), confidence=0.95, drift=0, **more)
    assert (flat.estimate, flat.low, flat.high) == pytest.approx((1.5, 1.5, 1.5))


def test_slower_but_not_beyond_doubt_is_undecided() -> None:
    """Every other round takes 1.4 times as long: the ratio is beyond the threshold, its interval is not above 1."""
    calm = np.ones((ROUNDS, EACH))
    torn = calm * np.resize([[1.0], [1.4]], (ROUNDS, 1))
    rule = Rule(statistic="median")
    (one,) = compare_runs(document(row(calm)), document(row(torn)), rule).comparisons
    assert one.low <= 1 < 1 + rule.threshold < one.ratio
    assert one.verdict == "undecided"
    assert "not beyond doubt" in one.notes[-1]


def test_whole_rounds_are_drawn() -> None:
    """Two kinds of rounds, each exact: a draw of single samples would nearly always see the mean of both."""
    times = np.repeat([[1.0], [1.0], [1.0], [2.0], [2.0]], 100, axis=1)
    found = ratio_interval(times, times, quantile=0.5, confidence=0.9, drift=0, paired=False)
    assert (found.low, found.high) == (0.5, 2)
    paired = ratio_interval(times, times, quantile=0.5, confidence=0.9, drift=0, paired=True)
    assert (paired.low, paired.high) == (1, 1)


@pytest.mark.parametrize(
    ("changes", "machine", "reason"),
    [
        ({}, {"cpu": "another"}, "another machine: cpu is a processor before and another after"),
        ({}, {"emulated": True}, "another machine: emulated is unknown before and True after"),
        ({"unique_bytes": 11}, {}, "other work: unique bytes are 0.0 kB (10) before and 0.0 kB (11) after"),
        ({"context_tokens": 41}, {}, "other work: the context is 40 tokens before and 41 after"),
        ({"quantization": "int8"}, {}, "other work: quantization is int4 before and int8 after"),
        ({"reasons": ["throttled: 20%"], "valid": False}, {}, "not valid after: throttled: 20%"),
        ({"samples_ms": [1.0] * 140}, {}, "fewer than 5 rounds after: 4"),
        ({"samples_per_round": None}, {}, "its rounds are unknown after"),
        ({"samples_ms": [1.0] * 40 + [9.0] * 120}, {}, "disturbed after: the median is 9.0 times"),
    ],
)
def test_what_is_not_comparable_says_why(changes: dict, machine: dict, reason: str) -> None:
    other = document(row(**changes), row(loops=1), **machine)
    if machine:
        with pytest.raises(MobileloopError, match="nothing can be compared") as caught:
            compare_runs(document(row(), row(loops=1)), other, Rule())
        assert reason in str(caught.value)
        return
    first, second = compare_runs(document(row(), row(loops=1)), other, Rule()).comparisons
    assert (first.verdict, first.ratio, second.verdict) == ("not comparable", None, "no change")
    assert reason in "; ".join(first.reasons)


def test_noise_is_told_and_compared() -> None:
    busy = row(reasons=["not alone: other programs used 1.20 cores"], valid=False)
    (one,) = compare_runs(document(busy), document(row()), Rule()).comparisons
    assert (one.verdict, one.notes) == ("no change", ["before: not alone"])


def test_configurations_of_one_side_are_told_and_streams_may_differ() -> None:
    before = document(row(stream="off"), row(threads=2))
    after = document(row(stream="prefetch"), row(threads=4), row(phase="load"))
    found = {one.threads: one for one in compare_runs(before, after, Rule()).comparisons}
    assert found[1].notes == ["streaming is off before and prefetch after"]
    assert found[2].reasons == ["measured before only"]
    assert found[4].reasons == ["measured after only"]


def test_a_single_artifact_may_have_another_name() -> None:
    (one,) = compare_runs(document(row()), document(row(artifact="new.safetensors")), Rule()).comparisons
    assert (one.artifact, one.against) == ("new.safetensors", "a.safetensors")


@pytest.mark.parametrize(("text", "share"), [("5%", 0.05), ("0.05", 0.05), ("0%", 0)])
def test_percentages(text: str, share: float) -> None:
    assert percentage(text) == pytest.approx(share)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    level = {"base": 1.0, "same": 1.01, "slow": 1.2, "fast": 0.8}
    for name, factor in level.items():
        document(row(factor * np.ones((5, EACH)))).write(tmp_path / f"{name}.json")
    document(row(), row(np.full((5, EACH), 1.02), artifact="b")).write(tmp_path / "both.json")
    return {name: tmp_path / f"{name}.json" for name in [*level, "both"]}


def command(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["compare", *map(str, arguments)])
    assert "Traceback" not in done.stderr
    return done.exit_code, done.stdout, done.stderr


def test_exit_codes(files: dict[str, Path]) -> None:
    codes = {name: command(files["base"], files[name])[0] for name in ("same", "slow", "fast")}
    assert codes == {"same": 0, "slow": 1, "fast": 0}
    assert command(files["base"], files["slow"], "--threshold", "25%")[0] == 0
    both = ("--artifact", "b", "--against", "a.safetensors")
    assert command(files["both"], *both)[0] == 0
    assert command(files["both"], *both, "--threshold", "1%")[0] == 1


def test_output_forms(files: dict[str, Path]) -> None:
    told = json.loads(command(files["base"], files["slow"], "--json")[1])
    assert told["comparisons"][0]["verdict"] == "regression"
    assert told["comparisons"][0]["ratio"] == pytest.approx(1.2)
    lines = command(files["base"], files["slow"], "--markdown")[1].splitlines()
    assert lines[2].startswith("| a.safetensors, 2 loops, 1 thread, decode | 1.00 | 1.20 |")
    assert lines[-1].startswith("Found: 1 regression (threshold 5.0%")
    assert "regression" in command(files["base"], files["slow"])[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["base"], "takes two runs"),
        (["base", "same", "--artifact", "a", "--against", "b"], "takes two runs"),
        (["both", "--artifact", "c", "--against", "b"], "the run has no artifact c"),
        (["both", "--artifact", "b", "--against", "b"], "compared with itself"),
        (["base", "same", "--metric", "lunch"], "--metric 'lunch'"),
        (["base", "same", "--metric", "load"], "neither run measured load"),
        (["base", "same", "--threshold", "-5%"], "--threshold '-5%'"),
        (["base", "same", "--threshold", "nan"], "--threshold 'nan'"),
        (["base", "same", "--drift", "x"], "--drift 'x'"),
        (["base", "same", "--confidence", "1"], "--confidence 1"),
        (["base", "same", "--statistic", "mode"], "--statistic 'mode'"),
        (["base", "same", "--json", "--markdown"], "exclude each other"),
        (["base", "no.json"], "cannot be read"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], said: str, files: dict[str, Path]) -> None:
    code, _, error = command(*(files.get(one, one) for one in arguments))
    assert (code, len(error.splitlines())) == (2, 1), error
    assert said in error


def test_runs_of_the_store(files: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("duckdb")
    place = tmp_path / "s.duckdb"
    added = CliRunner().invoke(app, ["results", "add", str(files["base"]), str(files["slow"]), "--store", str(place)])
    ids = [line.split()[0] for line in added.stdout.splitlines()]
    assert command(*ids, "--store", place)[0] == 1
    assert command(ids[0], files["same"], "--store", place)[0] == 0
    assert "no run begins with 'zz'" in command("zz", ids[0], "--store", place)[2]


def test_artifacts_pair_by_name(files: dict[str, Path], tmp_path: Path) -> None:
    document(row(artifact="c"), row(artifact="d")).write(tmp_path / "others.json")
    code, _, error = command(files["both"], tmp_path / "others.json")
    assert (code, len(error.splitlines())) == (2, 1)
    assert "those of A are a.safetensors, b, those of B c, d; measure both in one run and use --artifact X" in error


def test_counts_are_plural_and_doubts_are_named_once(tmp_path: Path) -> None:
    for name, factor in (("before", 1.0), ("after", 1.5)):
        times = factor * np.ones((5, EACH))
        document(row(times), row(times, threads=2)).write(tmp_path / f"{name}.json")
    assert "Found: 2 regressions (" in command(tmp_path / "before.json", tmp_path / "after.json")[1]
    busy = row(reasons=["preempted: by one", "preempted: by another"], valid=False)
    (one,) = compare_runs(document(busy), document(row()), Rule()).comparisons
    assert one.notes == ["before: preempted"]
