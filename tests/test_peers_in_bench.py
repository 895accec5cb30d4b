"""Peers in `mobileloop bench`: which take part and with what, their turns in the rounds, and their rows."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import sys
from pathlib import Path

import pytest
from bench_fakes import FakeSession, open_fakes, small_settings  # noqa: F401
from rich.console import Console
from test_bench_peers import q4_0  # noqa: F401
from typer.testing import CliRunner

from mobileloop.cli import app
from mobileloop.commands import fetch
from mobileloop.errors import MobileloopError
from mobileloop.spec.schedule import Schedule, Stage
from mobileloop_bench.machine.facts import Machine
from mobileloop_bench.measure.card import peer_notes
from mobileloop_bench.measure.memory import measure_memory
from mobileloop_bench.measure.plan import Plan, make_plan, open_artifacts
from mobileloop_bench.measure.process import Command, Entry, Turn, run_command
from mobileloop_bench.measure.process_runner import on_cpus
from mobileloop_bench.measure.rounds import measure
from mobileloop_bench.measure.samples import Measurement
from mobileloop_bench.measure.summary import make_document
from mobileloop_bench.peers import contestants, executorch, genai, llama, weights
from mobileloop_bench.peers import plan as bench
from mobileloop_bench.peers.builds import Store, default_folder
from mobileloop_bench.peers.contestant import ONCE, Contestant, Repetition, Source
from mobileloop_bench.peers.plan import repetition_of, with_peers
from mobileloop_bench.report.page import page
from mobileloop_bench.report.verdict import verdict
from mobileloop_bench.results import bootstrap
from mobileloop_bench.results.compare import Rule, compare_runs
from mobileloop_bench.results.document import Document
from mobileloop_bench.results.table import print_results

BUILT = Store(default_folder())  # before the tests move the cache
SHA = "5" * 64
PLAIN = Schedule.plain(2)


def says(**series: list[float]) -> Command:
    return Command([sys.executable, "-c", f"print({json.dumps(json.dumps(series))})"])


class FakePeer(Contestant):
    """Prints made-up times; the second process of a turn has the decode."""

    name, label = "fake", "a fake"

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

    def cells(self, store, settings):
        return []

    def greedy(self, store, settings, prompt):
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


# -- the peers themselves -------------------------------------------------------------------------------


@pytest.fixture
def built(tmp_path, q4_0):  # noqa: F811
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
    with pytest.raises(MobileloopError, match=r"not built; build it once with: python -m .* --build-only"):
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


@pytest.mark.parametrize("name", ["llama.cpp", "onnxruntime-genai", "executorch"])
def test_a_real_peer_in_a_real_run(name: str, tmp_path: Path, monkeypatch) -> None:
    from mobileloop_bench.peers.ours import artifact

    missing = contestants.peers()[name].missing(BUILT) if BUILT.folder.is_dir() else "no peer was built"
    if missing or not artifact(BUILT).is_file():
        pytest.skip(f"{name}: {missing or 'no artifact of the same weights'}")
    monkeypatch.setenv("MOBILELOOP_PEERS_CACHE", str(BUILT.folder))
    plan = make_plan(
        open_artifacts([artifact(BUILT)]),
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
    assert row.reasons[0].startswith(f"too few samples: of 1 round, at least {bootstrap.LEAST_ROUNDS}")
