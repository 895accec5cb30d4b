"""Peers: who takes part and with what, their turns, the fixed comparison and its figures, builds and weights.

Nothing is built or fetched; where peers were built, the real ones run too.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from bench_fakes import FakeSession, open_fakes, small_settings  # noqa: F401
from builders import TINY
from rich.console import Console
from typer.testing import CliRunner

from mobileloop.checkpoints.load import load_checkpoint
from mobileloop.checkpoints.random import random_model
from mobileloop.cli import app
from mobileloop.commands import fetch
from mobileloop.errors import MobileloopError
from mobileloop.quant.schemes import SCHEMES
from mobileloop.reference.model import ReferenceModel
from mobileloop.runtimes import open_session
from mobileloop.spec.schedule import Schedule, Stage
from mobileloop.tokenizer import Tokenizer
from mobileloop_bench.machine.facts import Machine
from mobileloop_bench.measure.card import peer_notes
from mobileloop_bench.measure.interference import Watch, neighbours
from mobileloop_bench.measure.memory import measure_memory
from mobileloop_bench.measure.plan import Configuration, Plan, make_plan, open_artifacts
from mobileloop_bench.measure.process import Command, CommandFailed, Entry, Turn, run_command, series_of
from mobileloop_bench.measure.process_runner import on_cpus
from mobileloop_bench.measure.resume import Earlier, earlier
from mobileloop_bench.measure.rounds import measure
from mobileloop_bench.measure.samples import Interference, Measurement
from mobileloop_bench.measure.summary import make_document
from mobileloop_bench.peers import __main__ as build_command
from mobileloop_bench.peers import agreement, contestants, executorch, genai, llama, ours, recipe, weights
from mobileloop_bench.peers import builds as store
from mobileloop_bench.peers import plan as bench
from mobileloop_bench.peers.builds import Store, default_folder
from mobileloop_bench.peers.contestant import ONCE, Contestant, Repetition, Source
from mobileloop_bench.peers.plan import repetition_of, with_peers
from mobileloop_bench.peers.scoreboard import Row, rows
from mobileloop_bench.peers.table import markdown, print_scoreboard
from mobileloop_bench.report.page import page
from mobileloop_bench.report.verdict import verdict
from mobileloop_bench.results.agreement import Agreement, Continuation, same_start
from mobileloop_bench.results.bootstrap import LEAST_ROUNDS
from mobileloop_bench.results.compare import Rule, compare_runs
from mobileloop_bench.results.document import Document, read_document
from mobileloop_bench.results.result import Memory, Peer, Result
from mobileloop_bench.results.table import print_results

BUILT = Store(default_folder())  # before the tests move the cache
SHA = "5" * 64
PLAIN = Schedule.plain(2)
LLAMA, GENAI, EXECUTORCH = "llama.cpp", "onnxruntime-genai", "executorch"


def says(**series: list[float]) -> Command:
    return Command([sys.executable, "-c", f"print({json.dumps(json.dumps(series))})"])


# -- the figures of the fixed comparison -----------------------------------------------------------------


def result(ms: Sequence[float], peer: str | None = None, **more: object) -> Result:
    """A row whose times are one per round."""
    median = float(np.median(ms)) if ms else None
    tokens = {"prefill": 128, "decode": 1}.get(str(more.get("phase", "decode")), 0)
    fields = {
        "artifact": "file",
        "runtime": peer or "engine",
        "model": "made-up",
        "quantization": "int4",
        "loops": 1,
        "threads": 2,
        "phase": "decode",
        "samples_per_round": 1,
        "samples_ms": list(ms),
        "median_ms": median,
        "tokens_per_s": tokens * 1000 / median if tokens and median else None,
        "unique_bytes": 70_000_000,
        "executed_bytes": None,
        "kv_bytes": 10_000_000,
        "read_gbps": 80 / median if median else None,
        "valid": True,
        "reasons": [],
        "schedule": None if peer else "immediate:4",
        "peer": Peer(name=peer, version="1.0", flags="-O3") if peer else None,
    }
    return Result.model_validate({**fields, **more})


def made_up(count: int = 5, mine: Sequence[float] | None = None, theirs: Sequence[float] | None = None) -> Document:
    """Our decode is 2, 2.1, 2.2, ... times llama.cpp's; two loops cost 1.25."""
    mine = mine or [1000 / (100 * (2 + number / 10)) for number in range(count)]
    theirs = theirs or [10.0] * count
    alone = ["not alone: other programs used 0.50 cores"]
    memory = Memory(delta_anonymous_bytes=15_000_000, kv_bytes=3_000_000)
    beside = {"busy": 2, "reasons": ["not alone: beside 2 busy processes, as asked"], "valid": False}
    results = [
        result(mine, threads=1, ceiling_gbps=20.0),
        result([1000 / 150] * count, ceiling_gbps=24.0, memory=memory),
        result([128 / 0.9] * count, phase="prefill"),
        result([45.0] * count, phase="first_token"),
        result([1000 / 120] * count, loops=2),
        result([1000 / 75] * count, loops=4),
        result([1000 / 100] * count, loops=2, schedule="all:2"),
        result([1000 / 60] * count, **beside),
        result(theirs, LLAMA, threads=1, reasons=alone, valid=False),
        result([10.0] * count, LLAMA),
        result([128.0] * count, LLAMA, phase="prefill"),
        result([25.0] * count, LLAMA, loops=2),
        result([20.0] * count, LLAMA, loops=2, schedule="all:2"),
        result([], GENAI, reasons=["skipped: signal 4: it crashed"], valid=False),
        result([], EXECUTORCH, reasons=["skipped: not built; build it once"], valid=False),
    ]
    return Document(
        machine=Machine(cpu="Test", cores_usable=2),
        results=results,
        settings=recipe.settings_of(repetitions=count or 1).model_copy(update={"threads": [1, 2]}),
        recipe="peers",
        agreement=Agreement(
            prompt="The capital of France is",
            reference="PyTorch",
            continuations=[
                Continuation(runtime="mobileloop", repetition=str(ONCE), tokens=[1, 2], same=2, text="Paris | yes")
            ],
        ),
    )


def by_label(document: Document) -> dict[tuple[str, str], Row]:
    return {(row.figure.label, row.figure.over): row for row in rows(document)}


def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    row = by_label(made_up())["decode, 1 thread", "llama.cpp"]
    assert (row.ours, row.other, row.ratio) == pytest.approx((220.0, 100.0, 2.2))
    assert (row.low, row.high) == pytest.approx((2.04, 2.36))
    assert (row.rounds, row.doubts, row.met) == (5, ("not alone",), True)


def test_pairing_matters() -> None:
    document = made_up(3, [100.0, 100 / 3, 100 / 9], [100.0, 50.0, 100 / 3])
    assert by_label(document)["decode, 1 thread", "llama.cpp"].ratio == pytest.approx(1.5)


def test_a_rounds_figure_is_of_its_whole_time() -> None:
    document = made_up(2, [1.0, 2.0, 3.0, 2.0, 2.0, 8.0], [4.0, 8.0])
    document.results[0].samples_per_round = 3
    row = by_label(document)["decode, 1 thread", "llama.cpp"]
    assert (row.ours, row.ratio) == pytest.approx((375.0, 2.0))


def test_taxes_shares_and_plain_figures() -> None:
    found = by_label(made_up())
    tax = found["loop tax of 2, all cores", "1 loop"]
    assert (tax.ratio, tax.ours) == pytest.approx((1.25, 1000 / 120))
    assert tax.met
    assert found["loop tax of 4, all cores", "1 loop"].met is False
    twice = found["every block twice in a row, 2 threads", "llama.cpp, every block written twice"]
    assert twice.ratio == pytest.approx(3.0)
    stack = found["the whole stack twice, 2 threads", "llama.cpp, its own loop"]
    assert (stack.ours, stack.ratio, stack.met) == (pytest.approx(100.0), pytest.approx(2.0), None)
    read = found["GB/s read in decode, 1 thread", "read bandwidth"]
    assert (read.ours, read.other, read.ratio) == pytest.approx((220 * 0.08, 20.0, 0.88))
    assert found["anonymous memory beyond the KV cache", ""].ratio == 12.0
    assert found["load to first token, warm file cache", ""].ratio == 45.0
    busy = found["decode, 2 threads beside 2 busy processes", "quiet"]
    assert (busy.ratio, busy.doubts) == (pytest.approx(0.4), ())
    prefill = found["prefill of 128 tokens, 2 threads", "llama.cpp"]
    assert prefill.ratio == pytest.approx(0.9)
    assert prefill.met is False


def test_what_is_missing_says_why() -> None:
    found = by_label(made_up())
    assert found["decode, 2 threads", EXECUTORCH].reason == "not built; build it once"
    assert found["decode, 2 threads", GENAI].reason == "signal 4: it crashed"
    stream = found["loop tax of 2, one thread computing and one streaming", "1 loop, 1 thread"]
    assert stream.reason == "not measured"
    assert stream.met is None
    assert all(row.ratio is None for row in rows(made_up().model_copy(update={"results": []})))


def test_a_round_without_a_figure_is_left_out() -> None:
    row = by_label(made_up(5, theirs=[10.0] * 4))["decode, 1 thread", "llama.cpp"]
    assert row.rounds == 4
    assert row.ratio == pytest.approx(2.15)


def test_the_table_in_markdown() -> None:
    text = markdown(made_up())
    lines = text.splitlines()
    row = next(line for line in lines if line.startswith("| decode, 1 thread | llama.cpp |"))
    assert row.endswith("| 220 tokens/s | 100 tokens/s | 2.20 (2.04-2.36) | 5 | ≥ 1.40, met | not alone |")
    header = next(index for index, line in enumerate(lines) if line.startswith("| figure |"))
    widths = {line.count("|") for line in lines[header:] if line.startswith("|")}
    assert len(widths) == 1
    assert "Paris \\| yes" in text
    assert "onnxruntime-genai: skipped: signal 4: it crashed." in text
    assert "executorch: skipped: not built; build it once." in text


def test_the_table_on_a_terminal() -> None:
    document = made_up(2)
    document.settings.ended = "interrupted"
    stream = Console(record=True, width=190, file=open(os.devnull, "w"))  # noqa: SIM115
    print_scoreboard(stream, document)
    text = stream.export_text()
    assert "2 of 2" in text
    assert "Ended: interrupted." in text
    assert "not measured" in text


def test_a_document_round_trips(tmp_path: Path) -> None:
    document = made_up()
    document.write(tmp_path / "peers.json")
    assert read_document(tmp_path / "peers.json") == document
    written = json.loads((tmp_path / "peers.json").read_text())
    assert (written["schema"], written["recipe"]) == ("mobileloop.bench/2", "peers")


# -- in a bench ---------------------------------------------------------------------------------------


class FakePeer(Contestant):
    """Prints made-up times; the second process of a turn has the decode."""

    name = "fake"

    def __init__(self, path: Path, **changes: object) -> None:
        self.asked: list[tuple[Source, Repetition]] = []
        self.turns: list[Turn] = []
        self._changes = {"path": path, **changes}

    def missing(self, store):
        return None

    def build(self, store, say):
        raise AssertionError("a bench builds nothing")

    def versions(self, store):
        return {}

    def entry(self, store, source, repetition):
        self.asked.append((source, repetition))
        if repetition.times > 1:
            raise MobileloopError("it has no loops.")

        def commands(turn: Turn) -> list[Command]:
            self.turns.append(turn)
            return [says(prefill_ms=[20.0]), says(decode_ms=[2.0] * turn.decode_tokens)]

        entry = Entry(version="1.2", flags="-O3", path=Path(), quantization="int4", commands=commands)
        return dataclasses.replace(entry, **self._changes)


@pytest.fixture
def fake_peer(tmp_path, monkeypatch):
    """make(**fields of its Entry) -> the peer `fake`."""
    (tmp_path / "fake.bin").write_bytes(b"12345")

    def make(**changes):
        peer = FakePeer(tmp_path / "fake.bin", **changes)
        monkeypatch.setattr(bench, "peers", lambda: {"fake": peer, "other": peer})
        return peer

    return make


def plan_with(*paths: Path, schedule: Schedule | None = None, **changes: object) -> Plan:
    """Of fake artifacts that claim to come from a checkpoint."""
    update: dict[str, object] = {"source": "model.gguf", "source_sha256": SHA}
    if schedule is not None:
        update["schedule"] = schedule
    artifacts = [
        dataclasses.replace(one, info=one.info.model_copy(update=update)) for one in open_artifacts(list(paths))
    ]
    return make_plan(artifacts, small_settings(**{"repetitions": 2, "threads": [1], "loops": [1], **changes}))


def document_of(measurement: Measurement) -> Document:
    machine = Machine(cpu="a processor", cores_usable=2)
    document = make_document(measurement, machine, [], {}, "mobileloop bench")
    return Document.model_validate_json(document.to_json())


# -- who takes part -------------------------------------------------------------------------------------


def test_an_unknown_name_lists_the_names(fake_artifact: Path) -> None:
    with pytest.raises(MobileloopError) as caught:
        with_peers(plan_with(fake_artifact), ["mlx"])
    assert str(caught.value).startswith("--peer mlx is unknown; the peers are llama.cpp, ")
    assert str(caught.value).endswith("onnxruntime-genai, executorch.")
    assert set(contestants.peers()) >= {"llama.cpp", "onnxruntime-genai", "executorch"}


def test_a_peer_runs_once_per_checkpoint(fake_artifact: Path, fake_peer) -> None:
    peer, other = fake_peer(), fake_artifact.with_name("second.safetensors")
    other.write_bytes(b"x")
    plan = with_peers(plan_with(fake_artifact, other, threads=[1, 2], streams=["off", "prefetch"]), ["fake"])
    ours = [one for one in plan.configurations if one.peer is None]
    theirs = [one for one in plan.configurations if one.peer == "fake"]
    assert [(one.threads, one.label) for one in theirs] == [(1, "fake.bin"), (2, "fake.bin")]
    assert plan.configurations == (*ours, *theirs)
    assert peer.asked == [(Source("model.gguf", SHA, None), ONCE)]
    assert str(theirs[0]) == "fake: fake.bin, 1 loop, 1 thread"
    assert peer_notes(plan) == ["fake (1.2) runs fake.bin."]


def test_what_cannot_run_is_skipped_with_its_reason(fake_artifact: Path, fake_peer) -> None:
    fake_peer(context=14)
    plan = with_peers(plan_with(fake_artifact, loops=[1, 2, 3], depths=[0, 8], sequences=[1, 2]), ["fake"])
    assert [(one.loops, one.depth, one.sequences) for one in plan.configurations if one.peer] == [(1, 0, 1)]
    reasons = {}
    for skip in plan.skipped:
        reasons[skip.configuration.loops, skip.configuration.depth, skip.configuration.sequences] = skip.reason
    assert reasons[1, 0, 2] == "peers are measured with one sequence, not with --batch 2"
    assert reasons[1, 8, 1].endswith("12 prompt and decode tokens do not fit the context of 14 of fake.bin")
    assert reasons[2, 0, 1] == "it has no loops"
    assert reasons[3, 0, 1].endswith("has a counterpart, which immediate:4 with 3 loops has not")
    rows = document_of(Measurement(plan, [])).results
    assert [row.reasons for row in rows] == [[f"skipped: {skip.reason}"] for skip in plan.skipped]
    assert {(row.artifact, row.runtime, row.peer.name, row.valid) for row in rows} == {
        ("model.gguf", "fake", "fake", False)
    }


def test_random_weights_have_no_peer(fake_artifact: Path, fake_peer) -> None:
    peer = fake_peer()
    plan = make_plan(open_artifacts([fake_artifact]), small_settings())
    plan = with_peers(plan, ["fake"])
    assert {skip.reason for skip in plan.skipped if skip.configuration.loops == 1} == {
        "random weights come from no checkpoint that a peer could read"
    }
    assert peer.asked == []


@pytest.mark.parametrize(
    ("schedule", "loops", "repetition"),
    [
        (PLAIN, None, ONCE),
        (Schedule.immediate(2, 4), 1, ONCE),
        (Schedule.immediate(2, 2), None, Repetition(2)),
        (Schedule.immediate(2, 4), 2, Repetition(2)),
        (Schedule.repeat_all_over(2, 3), 1, ONCE),
        (Schedule.repeat_all_over(2, 2), 2, Repetition(2, whole_stack=True)),
        (Schedule.repeat_all_over(2, 4), None, Repetition(4, whole_stack=True)),
        (Schedule.repeat_all_over(2, 2, loop_end_norm=True), 2, Repetition(2, whole_stack=True, loop_end_norm=True)),
        (Schedule.repeat_all_over(2, 2, loop_end_norm=True), 1, ONCE),  # its norm is the final one
        (Schedule.immediate(2, 4), 4, None),
        (Schedule(name="x", stages=(Stage(blocks=(0,), loop_end_norm=True), Stage(blocks=(1,)))), None, None),
        (Schedule.damped_range(2, 0, 1, 2, 0.5), 1, None),
        (Schedule.parse("range:1-1:2:1", 2), 2, None),
        (Schedule.immediate(2, 2), 3, None),
    ],
)
def test_what_a_peer_can_do_too(schedule: Schedule, loops: int | None, repetition: Repetition | None) -> None:
    if repetition is not None:
        assert repetition_of(schedule, loops) == repetition
        return
    with pytest.raises(MobileloopError, match=r"counterpart|outside"):
        repetition_of(schedule, loops)


# -- the checkpoint -------------------------------------------------------------------------------------


def test_the_checkpoint_is_given_or_beside_the_artifact(fake_artifact: Path, tmp_path: Path, monkeypatch) -> None:
    peer = FakePeer(tmp_path)
    monkeypatch.setattr(bench, "peers", lambda: {"fake": peer})
    content = b"weights"
    monkeypatch.setattr(sys.modules[__name__], "SHA", hashlib.sha256(content).hexdigest())
    given = tmp_path / "somewhere.gguf"
    given.write_bytes(content)
    with_peers(plan_with(fake_artifact), ["fake"], given)
    beside = fake_artifact.with_name("model.gguf")
    beside.write_bytes(b"another file of that name")
    with_peers(plan_with(fake_artifact), ["fake"])
    beside.write_bytes(content)
    with_peers(plan_with(fake_artifact), ["fake"])
    assert [source.path for source, _ in peer.asked] == [given, None, beside]


def test_another_checkpoint_is_refused(fake_artifact: Path, tmp_path: Path, fake_peer) -> None:
    fake_peer()
    wrong = tmp_path / "wrong.gguf"
    wrong.write_bytes(b"wrong")
    with pytest.raises(MobileloopError, match=r"has the SHA-256 .* exported from model\.gguf with 555555555555\.\.\."):
        with_peers(plan_with(fake_artifact), ["fake"], wrong)
    with pytest.raises(MobileloopError, match="is no file"):
        with_peers(plan_with(fake_artifact), ["fake"], tmp_path)


def test_a_source_without_a_peer_is_a_sentence(fake_artifact: Path) -> None:
    done = CliRunner().invoke(app, ["bench", str(fake_artifact), "--source", "x.gguf"])
    assert done.exit_code == 2
    assert done.output == "mobileloop: --source is the checkpoint for --peer; name a peer too.\n"


# -- turns and rows -------------------------------------------------------------------------------------


def test_a_peer_takes_turns_like_everybody(fake_artifact: Path, fake_peer) -> None:
    peer = fake_peer(unique_bytes=1000, kv_bits=16)
    plan = with_peers(plan_with(fake_artifact, depths=[3]), ["fake"])
    order: list[str] = []
    measurement = measure(plan, progress=lambda done, total, what: order.append(what))
    turns = [what for what in order if what.startswith("prefill")]
    assert ["fake" in what for what in turns] == [False, True, True, False]
    assert peer.turns == [Turn(threads=1, depth=3, prompt_tokens=8, decode_tokens=4, vocab_size=64, seed=0)] * 2
    document = document_of(measurement)
    prefill, decode = [row for row in document.results if row.peer]
    assert (prefill.phase, prefill.samples_ms, prefill.tokens_per_s) == ("prefill", [20.0, 20.0], 400.0)
    assert (decode.phase, decode.samples_ms, decode.tokens_per_s) == ("decode", [2.0] * 8, 500.0)
    assert (decode.artifact, decode.runtime, decode.quantization, decode.loops) == ("fake.bin", "fake", "int4", 1)
    assert decode.peer is not None
    assert (decode.peer.name, decode.peer.version, decode.peer.flags) == ("fake", "1.2", "-O3")
    assert (decode.unique_bytes, decode.executed_bytes, decode.size_on_disk_bytes) == (1000, 1000, 5)
    assert decode.read_gbps == pytest.approx((1000 + decode.kv_bytes) / 2e6)
    assert (decode.source_sha256, decode.repetitions, decode.samples_per_round) == (SHA, 2, 4)
    assert decode.memory is decode.loop_tax is decode.prediction is decode.schedule is None
    assert decode.reasons[0].startswith("too few samples")


def test_a_peer_has_no_memory_pass(fake_artifact: Path, fake_peer, monkeypatch) -> None:
    fake_peer()
    plan = with_peers(plan_with(fake_artifact), ["fake"])
    asked = []
    monkeypatch.setattr("mobileloop_bench.measure.memory._in_child", lambda one, settings: asked.append(one.peer))
    measure_memory(plan)
    assert asked == [None]


def test_a_decode_timed_as_a_whole_is_one_sample_per_round(fake_artifact: Path, fake_peer) -> None:
    fake_peer(whole_decodes=True, commands=lambda turn: [says(prefill_ms=[20.0], decode_ms=[3.0])])
    measurement = measure(with_peers(plan_with(fake_artifact, repetitions=5), ["fake"]))
    row = document_of(measurement).results[-1]
    assert (row.samples_ms, row.samples_per_round, row.repetitions) == ([3.0] * 5, 1, 5)
    assert (row.unique_bytes, row.kv_bytes, row.read_gbps) == (None, None, None)
    assert not [reason for reason in row.reasons if reason.startswith("too few")]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (Command([sys.executable, "-c", "raise SystemExit('no such model')"]), "exit code 1: no such model"),
        (says(prefill_ms=[20.0], decode_ms=[2.0]), "its output was not understood: decode_ms should hold 4 times"),
        (says(prefill_ms=[20.0], decode_ms=[2.0, 2.0, 0.0, 2.0]), "its output was not understood"),
        (says(decode_ms=[2.0] * 4), "its output was not understood: prefill_ms should hold 1 times"),
    ],
)
def test_a_failure_ends_a_peers_turns_and_not_the_run(fake_artifact: Path, fake_peer, command, said) -> None:
    calls = []
    fake_peer(commands=lambda turn: calls.append(turn) or [command])
    measurement = measure(with_peers(plan_with(fake_artifact, repetitions=3), ["fake"]))
    rows = document_of(measurement).results
    assert len(calls) == 1
    assert all(row.skipped and row.reasons[0].startswith(f"skipped: {said}") for row in rows if row.peer)
    assert [len(row.samples_ms) for row in rows if not row.peer] == [3, 3, 3, 12]


def test_a_later_failure_keeps_the_samples_with_a_doubt(fake_artifact: Path, fake_peer) -> None:
    good = says(prefill_ms=[20.0], decode_ms=[2.0] * 4)
    answers = iter([good, Command(["/no/such/program"])])
    fake_peer(commands=lambda turn: [next(answers)])
    measurement = measure(with_peers(plan_with(fake_artifact, repetitions=5, until_stable=True), ["fake"]))
    row = document_of(measurement).results[-1]
    assert row.samples_ms == [2.0] * 4
    assert "failed: /no/such/program does not start: No such file or directory" in row.reasons
    assert not row.valid


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs processor affinity")
def test_a_peer_keeps_to_the_cpus() -> None:
    code = "import json, os; print(json.dumps({'cpus': sorted(os.sched_getaffinity(0))}))"
    command = Command([sys.executable, "-c", code])
    first = min(os.sched_getaffinity(0))
    assert run_command(on_cpus(command, [first])) == {"cpus": [float(first)]}
    assert on_cpus(command, None) is command


def test_tables_reports_and_comparisons_take_peers(fake_artifact: Path, fake_peer) -> None:
    fake_peer(commands=lambda turn: [says(prefill_ms=[0.001], decode_ms=[0.0001] * 4)])  # faster than ours
    document = document_of(measure(with_peers(plan_with(fake_artifact, loops=[1, 2], repetitions=5), ["fake"])))
    said = io.StringIO()
    print_results(Console(file=said, width=200), document)
    assert "fake: fake.bin" in said.getvalue()
    assert "fake: model.gguf, 2 loops, 1 thread: skipped: it has no loops." in said.getvalue()
    assert "fake" not in str(verdict([document]))
    assert "fake.bin" in page([document])
    for row in document.results:
        row.reasons = ["skipped: made up"] if row.runtime == "fake" and row.loops == 2 else []
    again = compare_runs(document, document, Rule())
    assert {one.verdict for one in again.comparisons if one.runtime == "fake" and one.loops == 1} == {"no change"}


# -- going on with a run ---------------------------------------------------------------------------------


MACHINE = Machine(cpu="a processor", cores_usable=2)


def interrupted_run(plan: Plan, path: Path, stop_at: int) -> Document:
    """A run that Ctrl-C ends at a turn of its rounds, in its file."""

    def progress(done: int, total: int, what: str) -> None:
        if done == stop_at:
            raise KeyboardInterrupt

    document = make_document(measure(plan, progress=progress), MACHINE, [], {}, "again", recipe="peers")
    document.write(path)
    return document


def test_an_interrupted_run_goes_on(fake_artifact: Path, fake_peer, tmp_path: Path) -> None:
    fake_peer()
    plan, path = with_peers(plan_with(fake_artifact, repetitions=4), ["fake"]), tmp_path / "peers.json"
    first = interrupted_run(plan, path, 10)  # within the third round
    assert first.interrupted
    before = earlier(path, plan, MACHINE, "peers")
    assert isinstance(before, Earlier)
    assert before.rounds == 2
    assert before.rest(plan).settings.repetitions == 2
    document = make_document(before.joined(measure(before.rest(plan)), plan), MACHINE, [], {}, "again", recipe="peers")
    assert [row.repetitions for row in document.results] == [4] * len(document.results)
    decode = next(row for row in document.results if row.phase == "decode" and not row.peer)
    old = next(row for row in first.results if row.phase == "decode" and not row.peer)
    assert decode.samples_ms[:8] == old.samples_ms[:8]
    assert document.settings.repetitions == 4
    assert not document.interrupted


def test_a_peer_that_failed_is_not_asked_again(fake_artifact: Path, fake_peer, tmp_path: Path) -> None:
    good = says(prefill_ms=[20.0], decode_ms=[2.0] * 4)
    answers = iter([good, Command(["/no/such/program"])])
    fake_peer(commands=lambda turn: [next(answers, good)])
    plan, path = with_peers(plan_with(fake_artifact, repetitions=4), ["fake"]), tmp_path / "peers.json"
    interrupted_run(plan, path, 10)
    before = earlier(path, plan, MACHINE, "peers")
    assert before is not None
    row = document_of(before.joined(measure(before.rest(plan)), plan)).results[-1]
    assert (row.repetitions, row.samples_ms) == (1, [2.0] * 4)
    assert any(reason.startswith("failed: /no/such/program") for reason in row.reasons)


def test_a_finished_run_is_kept_beside(fake_artifact: Path, tmp_path: Path) -> None:
    plan, path = plan_with(fake_artifact), tmp_path / "peers.json"
    interrupted_run(plan, path, -1)
    assert earlier(path, plan, MACHINE, "peers") is None
    assert not path.exists()
    assert not read_document(tmp_path / "peers.previous.json").interrupted
    assert earlier(path, plan, MACHINE, "peers") is None


def test_a_run_of_other_versions_is_not_continued(fake_artifact: Path, fake_peer, tmp_path: Path) -> None:
    fake_peer()
    plan, path = with_peers(plan_with(fake_artifact, repetitions=4), ["fake"]), tmp_path / "peers.json"
    interrupted_run(plan, path, 10)
    fake_peer(version="1.3")
    newer = with_peers(plan_with(fake_artifact, repetitions=4), ["fake"])
    with pytest.raises(MobileloopError, match=r"other configurations or versions, .* another --json"):
        earlier(path, newer, MACHINE, "peers")
    longer = plan_with(fake_artifact, repetitions=4, decode_tokens=5)
    with pytest.raises(MobileloopError, match="other settings and configurations or versions"):
        earlier(path, longer, MACHINE, "peers")
    with pytest.raises(MobileloopError, match="other machine or commit"):
        earlier(path, plan, Machine(cpu="another", cores_usable=2), "peers")
    with pytest.raises(MobileloopError, match="other contents"):
        earlier(path, plan, MACHINE, "other")


@pytest.mark.parametrize("content", ["{", "[]", '{"schema": "mobileloop.peers/1"}', '{"schema": "mobileloop.bench/2"}'])
def test_another_file_is_no_result(fake_artifact: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(MobileloopError):
        earlier(tmp_path / "x.json", plan_with(fake_artifact), MACHINE, "peers")


# -- processes and busy neighbours -----------------------------------------------------------------------


def python(code: str) -> Command:
    return Command([sys.executable, "-c", code])


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import sys; sys.exit('no such file')", "exit code 1: no such file"),
        ("import os; os.kill(os.getpid(), 4)", "signal 4"),
        ("print('nothing')", "its output was not understood"),
        ("print('{\"x\": 1}')", "its output was not understood"),
    ],
)
def test_a_failing_process_is_a_reason(code: str, said: str) -> None:
    with pytest.raises(CommandFailed) as caught:
        run_command(python(code))
    assert str(caught.value).startswith(said)


def test_a_missing_program_is_a_sentence() -> None:
    with pytest.raises(CommandFailed, match="does not start"):
        run_command(Command(["/no/such/program"]))


def test_busy_neighbours_end_with_the_turn() -> None:
    children = Path(f"/proc/self/task/{os.getpid()}/children")

    def running() -> int:
        if not children.exists():
            return -1
        lines = [Path(f"/proc/{child}/cmdline").read_bytes() for child in children.read_text().split()]
        return sum(b"getppid" in line for line in lines)

    with neighbours(2):
        assert running() in (2, -1)
    assert running() in (0, -1)


def test_beside_busy_processes_a_figure_is_told_apart(fake_artifact: Path, fake_peer, monkeypatch) -> None:
    fake_peer()
    asked = []
    for module in ("session_runner", "process_runner"):
        monkeypatch.setattr(f"mobileloop_bench.measure.{module}.neighbours", lambda n: asked.append(n) or neighbours(0))
    plan = plan_with(fake_artifact, repetitions=5)
    quiet = plan.configurations[0]
    plan = dataclasses.replace(plan, configurations=(quiet, dataclasses.replace(quiet, busy=2)))
    theirs = dataclasses.replace(quiet, peer="fake", busy=2)
    plan = bench.joined(plan, [theirs, theirs, dataclasses.replace(theirs, busy=0)])
    assert [(one.peer, one.busy) for one in plan.configurations] == [(None, 0), (None, 2), ("fake", 2), ("fake", 0)]
    document = document_of(measure(plan))
    assert sorted(asked) == [0] * 10 + [2] * 10
    busy = [row for row in document.results if row.busy]
    assert {(row.phase, row.runtime) for row in busy} == {
        (phase, runtime) for phase in ("prefill", "decode") for runtime in ("engine", "fake")
    }
    assert all(row.reasons[-1] == "not alone: beside 2 busy processes, as asked" for row in busy)
    said = io.StringIO()
    print_results(Console(file=said, width=200), document)
    assert "busy" in said.getvalue()
    again = compare_runs(document, document, Rule())
    assert len(again.comparisons) == len([row for row in document.results if row.phase == "decode"])


def test_our_own_children_are_no_interference() -> None:
    interference = Interference()
    with Watch(interference, children=True):
        subprocess.run([sys.executable, "-c", "sum(range(10**7))"], check=True)
    assert interference.other_cores() is None or interference.other_s < 60


# -- the peers themselves -------------------------------------------------------------------------------


@pytest.fixture
def built(tmp_path, q4_0):
    """A store whose llama-bench is a script, and a checkpoint."""
    cache = Store(tmp_path / "peers")
    bin_folder = llama._libraries(cache, llama.variants()[0])
    bin_folder.mkdir(parents=True)
    llama._stamp(cache, llama.variants()[0]).write_text(json.dumps({"flags": ["-DA=ON"], "notes": ""}))
    tool = bin_folder / "llama-bench"
    tool.write_text(
        f"#!{sys.executable}\nimport json, sys\nassert sys.argv[1:3] == ['-m', {str(q4_0)!r}]\n"
        "given = dict(zip(sys.argv[1::2], sys.argv[2::2]))\n"
        "print(json.dumps([{'samples_ns': [1e6 * int(given['-p']) + 2e6 * int(given['-n'])]}]))\n"
    )
    tool.chmod(0o755)
    return cache, Source("tiny.gguf", SHA, q4_0)


def test_llama_runs_the_checkpoint_itself(built) -> None:
    cache, source = built
    entry = llama.Llama(llama.variants()[0]).entry(cache, source, ONCE)
    assert (entry.path, entry.quantization, entry.whole_decodes, entry.kv_bits) == (source.path, "Q4_0", True, 16)
    assert entry.version == "llama-cpp-python 0.3.36"
    assert entry.flags.startswith("-DA=ON; llama-bench -r 1")
    assert "tiny.gguf, Q4_0, the file that the artifact was exported from" in entry.flags
    turn = Turn(threads=2, depth=3, prompt_tokens=8, decode_tokens=4, vocab_size=67, seed=0)
    prefill, decode = entry.commands(turn)
    assert " ".join(prefill.argv[3:]) == "-p 8 -n 0 -d 3 -r 1 -t 2 -o json"
    assert " ".join(decode.argv[3:]) == "-p 0 -n 4 -d 11 -r 1 -t 2 -o json"
    assert run_command(prefill) | run_command(decode) == {"prefill_ms": [8.0], "decode_ms": [2.0]}


def test_llama_gets_every_block_twice(built) -> None:
    cache, source = built
    peer = llama.Llama(llama.variants()[0])
    once, twice = peer.entry(cache, source, ONCE), peer.entry(cache, source, Repetition(2))
    assert twice.path.parent == cache.models
    assert twice.flags.endswith("every block written twice")
    head = 67 * 64 // 32 * 18 + 4 * 64  # the embedding, which is the head too, and the final norm
    assert twice.unique_bytes == 2 * once.unique_bytes - head
    written = twice.path.stat().st_mtime_ns
    assert peer.entry(cache, source, Repetition(2)).path.stat().st_mtime_ns == written


def test_llama_loops_over_the_whole_stack_by_itself(built) -> None:
    cache, source = built
    peer = llama.Llama(llama.variants()[0])
    once, looped = peer.entry(cache, source, ONCE), peer.entry(cache, source, Repetition(3, whole_stack=True))
    assert looped.path.name == f"tiny-{SHA[:12]}-looped-3.gguf"
    assert looped.flags.endswith("with num_loops 3 for llama.cpp's own loop")
    assert (once.schedule, looped.schedule) == (None, "all:3")
    assert looped.unique_bytes == once.unique_bytes
    head = 67 * 64 // 32 * 18 + 4 * 64
    assert looped.executed_bytes == 3 * once.unique_bytes - 2 * head
    assert (once.executed_bytes, looped.kv_bits) == (None, 16)
    normed = peer.entry(cache, source, Repetition(3, whole_stack=True, loop_end_norm=True))
    assert normed.path.name.endswith("-looped-3-normed.gguf")
    with pytest.raises(MobileloopError, match="every block written 3 times"):
        peer.entry(cache, source, Repetition(3))


def test_what_llama_has_nothing_for_says_why(built, monkeypatch) -> None:
    cache, source = built
    peer = llama.Llama(llama.variants()[0])
    with pytest.raises(MobileloopError, match=r"not built; build it once with: python -m .* build"):
        peer.entry(Store(cache.folder / "empty"), source, ONCE)
    with pytest.raises(MobileloopError, match=r"tiny\.gguf is not beside the artifact; .* --source"):
        peer.entry(cache, dataclasses.replace(source, path=None), ONCE)
    with pytest.raises(MobileloopError, match=r"reads \.gguf files"):
        peer.entry(cache, dataclasses.replace(source, path=Path("model.safetensors")), ONCE)
    damaged = cache.folder / "damaged.gguf"
    damaged.write_bytes(source.path.read_bytes()[:200])
    with pytest.raises(MobileloopError, match=r"damaged\.gguf is damaged"):
        peer.entry(cache, dataclasses.replace(source, path=damaged), ONCE)
    with pytest.raises(MobileloopError, match=r"models cannot be made .* MOBILELOOP_PEERS_CACHE"):
        genai.Genai().entry(Store(damaged), dataclasses.replace(source, sha256=llama.SOURCE_SHA256), ONCE)
    monkeypatch.setattr(weights, "stored", lambda path: weights.Stored(frozenset({"Q4_0", "Q6_K"}), 10, 8))
    with pytest.raises(MobileloopError, match=r"holds Q6_K, .* takes part with Q4_0, Q4_1, Q8_0"):
        peer.entry(cache, source, ONCE)


def test_the_others_are_of_one_model_alone(built) -> None:
    cache, source = built
    for peer in (genai.Genai(), executorch.Executorch()):
        with pytest.raises(MobileloopError, match=r"is built from SmolLM2-135M-Instruct\.Q4_1\.gguf alone"):
            peer.entry(cache, source, ONCE)
        with pytest.raises(
            MobileloopError, match="built with every block once; no file of it runs every block 2 times"
        ):
            peer.entry(cache, source, Repetition(2))
    assert not llama.is_smollm2(cache, SHA)
    llama.gguf(cache).write_bytes(b"made of it")
    assert llama.SOURCE_SHA256 == fetch._SHA256
    assert llama.is_smollm2(cache, fetch._SHA256)
    assert llama.is_smollm2(cache, hashlib.sha256(b"made of it").hexdigest())


def test_llama_bench_output_is_read() -> None:
    text = 'warning: something\n[{"n_gen": 4, "avg_ts": 2.0, "samples_ns": [8000000, 4000000]}]\n'
    assert llama.parse_times(text, 4) == [2.0, 1.0]
    for wrong in ("", "[]", "[{}]", '[{"samples_ns": [1]}, {"samples_ns": [1]}]', "no json"):
        with pytest.raises(ValueError, match=r".+"):
            llama.parse_times(wrong, 4)
    with pytest.raises(ValueError, match="no samples"):
        llama.parse_times('[{"n_gen": 64, "samples_ts": [1.5, 2.5]}]', 4)


def test_executorchs_export_writes_into_its_folder_alone(tmp_path):
    command = executorch.export_command(tmp_path)
    options = dict(word.split("=", 1) for word in command if "=" in word)
    assert options["export.output_name"] == str(tmp_path / "model.pte")
    written = [options[name] for name in ("export.output_name", "hydra.run.dir", "base.checkpoint", "base.params")]
    assert all(Path(path).is_absolute() and Path(path).parent == tmp_path for path in written)


def test_executorchs_build_exports_there_and_keeps_the_program(tmp_path, monkeypatch):
    seen = []

    def export(arguments, log, failure, environment):
        options = dict(word.split("=", 1) for word in arguments if "=" in word)
        seen.append(Path(options["export.output_name"]))
        seen[0].write_bytes(b"program")

    monkeypatch.setattr(executorch, "run_logged", export)
    monkeypatch.setattr(executorch, "_write_checkpoint", lambda gguf, checkpoint, parameters: None)
    monkeypatch.chdir(tmp_path)
    cache = Store(tmp_path / "cache")
    executorch.Executorch().build(cache, lambda text: None)
    assert executorch.program(cache).read_bytes() == b"program"
    assert seen[0].parent.parent == cache.models
    assert [path.name for path in cache.models.iterdir()] == [executorch.program(cache).name]
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_a_workers_last_line_counts():
    assert series_of('chatter\n\n{"tokens": [1, 2]}\n') == {"tokens": [1.0, 2.0]}
    with pytest.raises(ValueError, match="no result"):
        series_of("")


def test_nothing_is_built_and_everybody_says_so(tmp_path: Path) -> None:
    empty = Store(tmp_path)
    everybody = contestants.peers()
    assert next(iter(everybody)) == LLAMA
    assert {GENAI, EXECUTORCH} < set(everybody)
    assert everybody[EXECUTORCH].missing(empty).endswith(("--executorch", "pip install '.[executorch]'"))
    for name, one in everybody.items():
        assert one.name == name
        assert one.missing(empty)


def test_the_same_start() -> None:
    assert same_start([1, 2, 3], [1, 2, 4]) == 2
    assert same_start([1], []) == 0


# -- weights -------------------------------------------------------------------------------------------


@pytest.fixture
def q4_0(tmp_path):
    """A tiny pure Q4_0 GGUF file and the tensors it was made from."""
    from gguf import GGMLQuantizationType, GGUFWriter, quants

    checkpoint = random_model(TINY, None, 3)
    path = tmp_path / "tiny.gguf"
    writer = GGUFWriter(str(path), "llama")
    writer.add_block_count(TINY.num_blocks)
    writer.add_context_length(TINY.max_position)
    writer.add_embedding_length(TINY.hidden_size)
    writer.add_feed_forward_length(TINY.intermediate_size)
    writer.add_head_count(TINY.num_heads)
    writer.add_head_count_kv(TINY.num_kv_heads)
    writer.add_key_length(TINY.head_dim)
    writer.add_layer_norm_rms_eps(TINY.rms_norm_eps)
    writer.add_rope_freq_base(TINY.rope_theta)
    names = {"post_attention_layernorm": "ffn_norm", "input_layernorm": "attn_norm", "o_proj": "attn_output"}
    names |= {f"{short}_proj": f"attn_{short}" for short in "qkv"}
    names |= {f"{short}_proj": f"ffn_{short}" for short in ("gate", "up", "down")}
    for name, tensor in checkpoint.tensors.items():
        parts = name.split(".")
        stored = f"blk.{parts[1]}.{names[parts[2]]}.weight" if len(parts) == 3 else None
        stored = stored or {"embedding": "token_embd.weight", "final_norm": "output_norm.weight"}[name]
        values = np.asarray(tensor, dtype=np.float32)
        if values.ndim == 1:
            writer.add_tensor(stored, values)
        else:
            kind = GGMLQuantizationType.Q4_0
            writer.add_tensor(stored, quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_the_engine_gets_every_matrix_bit_for_bit(q4_0, tmp_path):
    source = load_checkpoint(str(q4_0))
    assert {t.scheme for t in source.tensors.values() if hasattr(t, "scheme")} == {"int4-symmetric"}
    weights.write_engine(q4_0, tmp_path / "tiny.safetensors")
    reference = ReferenceModel.from_checkpoint(source, Schedule.parse("immediate:2", TINY.num_blocks))
    session = open_session(tmp_path / "tiny.safetensors", threads=1, loops=2)
    import torch

    tokens = [1, 2, 3, 4]
    expected = reference.forward(torch.tensor([tokens]))[0].numpy()
    got = session.logits(tokens)
    assert np.abs(got - expected).max() < 0.1 * np.abs(expected).max()
    head = sum(t.stored_bytes() for name, t in source.tensors.items() if name == "embedding")
    assert session.info.costs.head_bytes == head + 4 * TINY.hidden_size
    session.close()


def test_other_types_are_refused(q4_0, tmp_path, monkeypatch):
    checkpoint = load_checkpoint(str(q4_0))
    tensors = dict(checkpoint.tensors)
    tensors["embedding"] = SCHEMES["int8"].quantize(tensors["embedding"].dequantize())
    import dataclasses

    changed = dataclasses.replace(checkpoint, tensors=tensors)
    monkeypatch.setattr(weights, "load_checkpoint", lambda path: changed)
    with pytest.raises(MobileloopError, match="embedding in another type"):
        weights.write_engine(q4_0, tmp_path / "x.safetensors")


def test_unrolling_repeats_each_block_in_place(q4_0, tmp_path):
    weights.write_unrolled(q4_0, tmp_path / "twice.gguf", 2)
    once, twice = load_checkpoint(str(q4_0)), load_checkpoint(str(tmp_path / "twice.gguf"))
    assert twice.config.num_blocks == 2 * once.config.num_blocks
    for block in range(once.config.num_blocks):
        for copy in (2 * block, 2 * block + 1):
            for name in once.config.block_tensors():
                mine, theirs = once.tensors[f"blocks.{block}.{name}"], twice.tensors[f"blocks.{copy}.{name}"]
                if hasattr(mine, "codes"):
                    assert np.array_equal(mine.codes, theirs.codes)
                    assert np.array_equal(mine.scale, theirs.scale)
                else:
                    assert np.array_equal(mine, theirs)


def test_llamas_own_loop_has_the_same_tensors_once(q4_0, tmp_path):
    from gguf import GGUFReader

    weights.write_looped(q4_0, tmp_path / "looped.gguf", 2, loop_end_norm=False)
    weights.write_looped(q4_0, tmp_path / "normed.gguf", 3, loop_end_norm=True)
    plain, looped, normed = (
        GGUFReader(str(path)) for path in (q4_0, tmp_path / "looped.gguf", tmp_path / "normed.gguf")
    )
    assert [(t.name, t.tensor_type, t.data.tobytes()) for t in looped.tensors] == [
        (t.name, t.tensor_type, t.data.tobytes()) for t in plain.tensors
    ]
    read = {name: field.contents() for name, field in looped.fields.items()}
    assert read["general.architecture"] == "nanbeige"
    assert (read["nanbeige.num_loops"], read["nanbeige.skip_loop_final_norm"]) == (2, True)
    assert normed.fields["nanbeige.num_loops"].contents() == 3
    assert normed.fields["nanbeige.skip_loop_final_norm"].contents() is False
    same = {name.replace("llama.", "nanbeige."): field.contents() for name, field in plain.fields.items()}
    own = ("GGUF.", "general.architecture", "nanbeige.num_loops", "nanbeige.skip_loop_final_norm")
    assert {name: value for name, value in read.items() if not name.startswith(own)} == {
        name: value for name, value in same.items() if not name.startswith(own)
    }
    with pytest.raises(MobileloopError, match="of the architecture 'nanbeige'"):
        weights.write_looped(tmp_path / "looped.gguf", tmp_path / "again.gguf", 2, loop_end_norm=False)


def test_the_folder_holds_the_same_numbers(q4_0, tmp_path):
    folder = tmp_path / "floats"
    folder.mkdir()
    weights.write_folder(q4_0, folder)
    gguf, read = load_checkpoint(str(q4_0)), load_checkpoint(str(folder))
    assert read.config.rope_theta == gguf.config.rope_theta
    for name, tensor in read.tensors.items():
        source = gguf.tensors[name]
        assert np.array_equal(tensor, source.dequantize() if hasattr(source, "dequantize") else source)


def test_metas_rows_are_those_of_the_gguf(q4_0):
    """llama.cpp's llama files keep the rows as Meta's checkpoints do, so undoing our permutation gives them back."""
    from gguf import GGUFReader, quants

    stored = {t.name: t for t in GGUFReader(str(q4_0)).tensors}
    tensors, params = weights.meta_weights(q4_0)
    assert params["n_layers"] == TINY.num_blocks
    for ours_name, theirs in (("wq", "attn_q"), ("wk", "attn_k"), ("wv", "attn_v")):
        tensor = stored[f"blk.0.{theirs}.weight"]
        expected = quants.dequantize(tensor.data, tensor.tensor_type)
        assert np.array_equal(tensors[f"layers.0.attention.{ours_name}.weight"], expected)
    assert np.array_equal(tensors["output.weight"], tensors["tok_embeddings.weight"])


# -- builds, and the command that makes them -------------------------------------------------------------------------


def test_the_cache_can_be_moved(monkeypatch, tmp_path):
    monkeypatch.setenv("MOBILELOOP_PEERS_CACHE", str(tmp_path))
    assert default_folder() == tmp_path
    monkeypatch.delenv("MOBILELOOP_PEERS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "mobileloop" / "peers"


def test_every_pin_has_a_checksum():
    for pin in store.PINS.values():
        assert pin.sha256
        assert all(len(one) == 64 and int(one, 16) >= 0 for one in pin.sha256)
    assert str(store.PINS[genai.PACKAGE]).startswith("onnxruntime-genai-")


def test_a_download_with_another_checksum_is_refused(tmp_path, monkeypatch):
    pin = store.Pin("some-peer", "1.0", ("0" * 64,), source=True)
    monkeypatch.setattr(store, "run_logged", lambda *args: (tmp_path / "some_peer-1.0.tar.gz").write_bytes(b"x"))
    with pytest.raises(MobileloopError, match="another checksum"):
        store.download(pin, tmp_path)


def test_an_archive_cannot_leave_its_folder(tmp_path):
    archive = tmp_path / "peer.tar.gz"
    with tarfile.open(archive, "w:gz") as written:
        for name in ("peer-1/good.txt", "peer-1/../../bad.txt"):
            entry = tarfile.TarInfo(name)
            entry.size = 1
            written.addfile(entry, BytesIO(b"x"))
    into = tmp_path / "into"
    into.mkdir()
    with pytest.raises(tarfile.FilterError):
        store.unpack(archive, into)
    assert (into / "good.txt").exists()
    assert not (tmp_path / "bad.txt").exists()


def test_a_build_cut_short_leaves_nothing(tmp_path):
    def build():
        with store.made_whole(tmp_path / "peer") as folder:
            (folder / "half").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build()
    assert list(tmp_path.iterdir()) == []


def test_a_failing_build_step_names_its_log(tmp_path):
    code = "print('first'); raise SystemExit('the compiler is missing')"
    with pytest.raises(MobileloopError, match=r"could not be built \(the compiler is missing\).*build\.log"):
        store.run_logged([sys.executable, "-c", code], tmp_path / "build.log", "it could not be built", low=False)


def test_the_builder_is_told_a_wrong_name(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("MOBILELOOP_PEERS_CACHE", str(tmp_path))
    assert build_command.main(["build", "--only", "nobody"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("python -m mobileloop_bench.peers: --only nobody is unknown; the peers are llama.cpp, ")
    assert said.endswith("executorch.\n")
    assert build_command.main(["build", "--source", str(tmp_path / "none.gguf")]) == 2
    assert "none.gguf does not exist" in capsys.readouterr().err


def test_the_builder_builds_what_is_missing(tmp_path: Path, monkeypatch, q4_0) -> None:
    cache, built = Store(tmp_path), []

    class Peer(FakePeer):
        def __init__(self, name: str, reason: str | None) -> None:
            super().__init__(tmp_path)
            self.name, self.reason = name, reason

        def missing(self, store):
            return self.reason

        def build(self, store, say):
            built.append(self.name)
            if self.name == "broken":
                raise MobileloopError("the compiler is missing.")
            llama.gguf(store).write_bytes(q4_0.read_bytes())
            self.reason = None

    named = [("maker", "not built"), ("there", None), ("broken", "not built"), (EXECUTORCH, "not built")]
    everybody = {name: Peer(name, reason) for name, reason in named}
    monkeypatch.setattr(build_command, "peers", lambda: everybody)
    monkeypatch.setattr(weights, "CONTEXT", 32)
    said: list[str] = []
    build_command.build(cache, list(everybody), False, None, said.append)
    assert built == ["maker", "broken"]
    assert "broken was not built: the compiler is missing." in said
    assert said[-4:] == ["maker: ready", "there: ready", "broken: not built", "executorch: not built"]
    assert [path.is_file() for path in map(ours.artifact, [cache] * 2, [ours.BLOCKWISE, ours.WHOLE_STACK])] == [
        True
    ] * 2


# -- the recipe --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--recipe", "peers"], "there is nothing to measure: SmolLM2-135M-Instruct.Q4_0.gguf is not built"),
        (["--recipe", "cake"], "--recipe cake is unknown; there is one: peers."),
        (["--recipe", "peers", "--threads", "1"], "--recipe peers says itself what is measured"),
        (["--markdown", "x.md", "y.safetensors"], "--markdown is the table of --recipe"),
        ([], "name at least one artifact, or --recipe peers"),
    ],
)
def test_a_recipe_that_cannot_run_is_a_sentence(tmp_path: Path, monkeypatch, options, said) -> None:
    monkeypatch.setenv("MOBILELOOP_PEERS_CACHE", str(tmp_path))
    done = CliRunner().invoke(app, ["bench", *options])
    assert done.exit_code == 2
    assert said in done.output


def test_the_recipe_has_every_figures_rows(tmp_path: Path, monkeypatch, q4_0) -> None:
    cache = Store(tmp_path)
    llama.gguf(cache).write_bytes(q4_0.read_bytes())
    monkeypatch.setattr(weights, "CONTEXT", 512)
    settings = recipe.settings_of(repetitions=1)
    everybody = {LLAMA: llama.Llama(llama.variants()[0]), GENAI: genai.Genai(), EXECUTORCH: executorch.Executorch()}
    for module in (recipe, bench):
        monkeypatch.setattr(module, "peers", lambda: everybody)

    def entry(self, store, source, repetition):
        return Entry(
            version="1",
            flags=str(repetition),
            path=tmp_path / f"{self.name}-{repetition}",
            quantization="Q4_0",
            commands=lambda turn: [],
            schedule="all:2" if repetition.whole_stack else None,
        )

    for one in everybody.values():
        monkeypatch.setattr(type(one), "entry", entry)
    monkeypatch.setattr(Entry, "size_on_disk_bytes", 1)
    plan = recipe.recipe_plan([], settings, cache, lambda text: None)
    samples = [
        dataclasses.replace(one, prefill_ms=[1.0], decode_ms=[1.0] * one.configuration.decode_samples(settings))
        for one in measure_nothing(plan)
    ]
    for one in samples:
        one.first_token_ms, one.load_ms = [1.0], [1.0]
        one.details = {"stream": one.configuration.stream}
    document = document_of(Measurement(plan, samples))
    missing = [row.figure.label for row in rows(document) if row.reason]
    assert [label for label in missing if "GB/s" not in label and "memory" not in label] == []
    assert recipe.recipe_plan([GENAI], settings, cache, lambda text: None).configurations[-1].peer == GENAI
    with pytest.raises(MobileloopError, match="--peer nobody is unknown"):
        recipe.recipe_plan(["nobody"], settings, cache, lambda text: None)


def measure_nothing(plan: Plan):
    from mobileloop_bench.measure.samples import Samples

    return [Samples(one) for one in plan.configurations]


def test_the_reference_and_ours_say_the_same(tmp_path: Path, monkeypatch, q4_0) -> None:
    """In the order of each schedule; a peer's own words are compared with the reference of the same one."""
    monkeypatch.setattr(weights, "CONTEXT", 64)
    weights.write_engine(q4_0, tmp_path / "all.safetensors", "all:2")
    stack = open_artifacts([tmp_path / "all.safetensors"])[0]
    one = Configuration(stack, 1, 2, 2)
    prompt = [1, 2, 3, 4]
    reference = agreement._reference(one, q4_0, prompt, 6)
    assert len(reference) == 6
    assert agreement._ours(one, prompt, 6)[0] == reference[0]
    assert agreement._repeated(one) == "the whole stack 2 times"


def test_what_everybody_says_is_in_the_document(fake_artifact: Path, fake_peer, monkeypatch, tmp_path: Path) -> None:
    class Words:
        def __init__(self, spec) -> None:
            pass

        def encode(self, text: str) -> list[int]:
            return [1, 2]

        def decode(self, tokens: Sequence[int]) -> str:
            return " ".join(map(str, tokens))

    monkeypatch.setattr(agreement, "Tokenizer", Words)
    monkeypatch.setattr(agreement, "_reference", lambda one, checkpoint, prompt, count: [7, 8, 9])
    monkeypatch.setattr(agreement, "_ours", lambda one, prompt, count: [7, 8, 9])
    fake_peer(greedy=lambda prompt, count: says(tokens=[7.0, 8.0, 1.0]))
    plan = with_peers(plan_with(fake_artifact, threads=[1, 2]), ["fake"])
    spec = plan.artifacts[0].info.model_copy(update={"tokenizer": object()})
    plan = dataclasses.replace(plan, artifacts=(dataclasses.replace(plan.artifacts[0], info=spec),))
    found = agreement.check(plan, tmp_path / "x.gguf", lambda text: None, count=3)
    assert [(one.runtime, one.same, one.text, one.error) for one in found.continuations] == [
        ("reference", 3, "7 8 9", None),
        ("mobileloop", 3, "7 8 9", None),
        ("fake", 2, "7 8 1", None),
    ]
    fake_peer(greedy=lambda prompt, count: Command(["/no/such/program"]))
    plan = dataclasses.replace(plan, configurations=with_peers(plan_with(fake_artifact), ["fake"]).configurations)
    found = agreement.check(plan, tmp_path / "x.gguf", lambda text: None, count=3)
    assert found.continuations[-1].error.startswith("/no/such/program does not start")


def test_the_recipe_from_end_to_end(tmp_path: Path, monkeypatch, q4_0) -> None:
    """The whole command on a tiny model, with stand-ins for what takes long."""
    monkeypatch.setenv("MOBILELOOP_PEERS_CACHE", str(tmp_path / "cache"))
    cache = Store(tmp_path / "cache")
    llama.gguf(cache).write_bytes(q4_0.read_bytes())
    monkeypatch.setattr(weights, "CONTEXT", 32)
    monkeypatch.setattr(agreement, "check", lambda *args: None)
    monkeypatch.setattr("mobileloop_bench.measure.run._bandwidth", lambda *args: [])
    output = tmp_path / "peers.json"
    options = ["bench", "--recipe", "peers", "--repetitions", "1", "--prompt-tokens", "4", "--decode-tokens", "2"]
    done = CliRunner().invoke(app, [*options, "--json", str(output), "--markdown", str(tmp_path / "p.md")])
    assert done.exit_code == 0, done.output
    document = read_document(output)
    assert document.recipe == "peers"
    ran = {(row.threads, row.loops, row.stream, row.busy) for row in document.results if row.samples_ms}
    assert {(1, 1, "off", 0), (2, 4, "off", 0), (2, 2, "core:1", 0), (2, 1, "off", 2)} <= ran
    assert all(row.skipped for row in document.results if row.peer)
    text = (tmp_path / "p.md").read_text()
    assert "not built; build it once with: python -m mobileloop_bench.peers build" in text
    memory = next(row for row in document.results if row.phase == "decode").memory
    assert memory is not None
    assert memory.kv_bytes


# -- the real ones -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama.cpp", "onnxruntime-genai", "executorch"])
def test_a_real_peer_in_a_real_run(name: str, tmp_path: Path, monkeypatch) -> None:
    missing = contestants.peers()[name].missing(BUILT) if BUILT.folder.is_dir() else "no peer was built"
    if missing or not ours.artifact(BUILT).is_file():
        pytest.skip(f"{name}: {missing or 'no artifact of the same weights'}")
    monkeypatch.setenv("MOBILELOOP_PEERS_CACHE", str(BUILT.folder))
    plan = make_plan(
        open_artifacts([ours.artifact(BUILT)]),
        small_settings(threads=[1], loops=[1], depths=[4], prompt_tokens=8, decode_tokens=4, repetitions=1),
    )
    plan = with_peers(plan, [name])
    assert [one.peer for one in plan.configurations] == [None, name]
    row = document_of(measure(plan)).results[-1]
    assert row.samples_ms, row.reasons
    assert len(row.samples_ms) == (1 if name == "llama.cpp" else 4)
    assert row.peer is not None
    assert row.peer.version
    assert row.peer.flags
    assert row.reasons[0].startswith(f"too few samples: of 1 round, at least {LEAST_ROUNDS}")


def test_llamas_own_loop_says_what_we_say(monkeypatch, tmp_path: Path) -> None:
    """The whole stack twice, in the same order as ours.

    In float32: a stack that was never trained to loop blows up what rounding activations to 8 bits leaves.
    """
    peer = contestants.peers()[LLAMA]
    missing = peer.missing(BUILT) if BUILT.folder.is_dir() else "no peer was built"
    if missing or not ours.artifact(BUILT, ours.WHOLE_STACK).is_file():
        pytest.skip(f"llama.cpp: {missing or 'no artifact of the same weights'}")
    monkeypatch.setenv("MOBILELOOP_PEERS_CACHE", str(BUILT.folder))
    plan = make_plan(
        open_artifacts([ours.artifact(BUILT, ours.WHOLE_STACK)]),
        small_settings(threads=[1], loops=[2], prompt_tokens=8, decode_tokens=4, repetitions=1),
    )
    plan = with_peers(plan, [LLAMA])
    mine, theirs = plan.configurations
    floats = as_floats(theirs.entry.path, tmp_path / "floats.gguf")
    prompt = Tokenizer(mine.artifact.info.tokenizer).encode(agreement.PROMPT)
    said = run_command(peer._greedy(BUILT, floats, prompt, 12))["tokens"]
    assert said == agreement._ours(mine, prompt, 12)
    row = document_of(measure(plan)).results[-1]
    assert row.samples_ms, row.reasons
    assert row.schedule == "all:2"


def as_floats(source: Path, path: Path) -> Path:
    """A GGUF again, its matrices as float32."""
    from gguf import GGUFReader, GGUFValueType, GGUFWriter, quants

    reader = GGUFReader(str(source))
    writer = GGUFWriter(str(path), reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name not in ("general.architecture", "general.file_type"):
            kind = field.types[0]
            inner = field.types[1] if kind is GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), kind, inner)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
