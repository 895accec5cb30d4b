import dataclasses
from pathlib import Path

import pytest
from bench_fakes import FakeSession, open_fakes, plan_of, small_settings, tiny_info  # noqa: F401
from builders import packed_model, write_engine

from mobileloop.errors import MobileloopError
from mobileloop.spec.schedule import Schedule
from mobileloop_bench.bandwidth import memory
from mobileloop_bench.bandwidth.ceiling import MIB, ceiling_gbps, measure_bandwidth, working_set_bytes
from mobileloop_bench.machine.facts import Cache, Machine
from mobileloop_bench.measure import memory as memory_module
from mobileloop_bench.measure.plan import make_plan, open_artifacts
from mobileloop_bench.measure.probes import Probes
from mobileloop_bench.measure.rounds import measure
from mobileloop_bench.measure.samples import prompt_of
from mobileloop_bench.measure.summary import make_document
from mobileloop_bench.measure.turns import rotated
from mobileloop_bench.results.settings import Settings
from mobileloop_bench.writing.lists import numbers


def test_every_configuration_runs_once_per_round_in_a_rotating_order(fake_artifact: Path) -> None:
    plan = plan_of(fake_artifact, repetitions=3)
    FakeSession.log.clear()
    measure(plan)
    prefills = [
        (threads, loops) for what, _, threads, loops, tokens in FakeSession.log if what == "run" and len(tokens) == 8
    ]
    # In the first round a warm-up evaluates 8 tokens too; behind every round come the loads.
    rounds = [prefills[0:8:2], prefills[12:16], prefills[20:24]]
    configurations = [(1, 1), (2, 1), (1, 2), (2, 2)]
    expected = [[configurations[i] for i in rotated(4, turn)] for turn in range(3)]
    assert rounds == expected
    assert [prefills[8:12], prefills[16:20], prefills[24:]] == expected
    assert expected[0] != expected[1]


def test_all_samples_are_kept(fake_artifact: Path) -> None:
    measurement = measure(plan_of(fake_artifact))
    assert len(measurement.samples) == 4
    for samples in measurement.samples:
        counts = [len(samples.load_ms), len(samples.first_token_ms), len(samples.prefill_ms)]
        assert [*counts, len(samples.decode_ms)] == [5, 5, 5, 5 * 4]
    assert not measurement.interrupted


def test_every_configuration_evaluates_the_same_tokens(fake_artifact: Path) -> None:
    measure(plan_of(fake_artifact, loops=[2], repetitions=1, prompt_tokens=9))
    prompts = {tokens for what, *_, tokens in FakeSession.log if what == "run" and len(tokens) == 9}
    assert len(prompts) == 1
    assert prompt_of(64, 5, seed=0) == prompt_of(64, 5, seed=0) != prompt_of(64, 5, seed=1)


def test_sessions_are_closed(fake_artifact: Path) -> None:
    measure(plan_of(fake_artifact))
    whats = [entry[0] for entry in FakeSession.log]
    assert whats.count("open") == whats.count("close") > 0


def test_sessions_are_opened_anew_where_memory_is_short(fake_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mobileloop_bench.measure.rounds._fits_memory", lambda plan: False)
    measurement = measure(plan_of(fake_artifact))
    assert not measurement.sessions_kept
    assert all(len(samples.decode_ms) == 20 for samples in measurement.samples)
    opened = 0
    for what, *_ in FakeSession.log:
        opened += {"open": 1, "close": -1}.get(what, 0)
        assert opened <= 2  # the kept one, and the one that a load opens


def test_ctrl_c_keeps_what_was_measured(fake_artifact: Path) -> None:
    plan = plan_of(fake_artifact)
    FakeSession.stop_at = 7 + 5  # one whole turn with its warm-up, then into the second one
    measurement = measure(plan)
    assert measurement.interrupted
    assert [len(samples.decode_ms) for samples in measurement.samples] == [4, 2, 0, 0]
    whats = [entry[0] for entry in FakeSession.log]
    assert whats.count("open") == whats.count("close")


def test_loops_beyond_the_bound_are_skipped_with_a_reason(fake_artifact: Path) -> None:
    plan = plan_of(fake_artifact, loops=[2, 8])
    assert [one.loops for one in plan.configurations] == [2, 2]
    assert [skip.configuration.loops for skip in plan.skipped] == [8, 8]
    assert "loops 8 is outside 1-4" in plan.skipped[0].reason


def test_nothing_left_is_an_error(fake_artifact: Path) -> None:
    with pytest.raises(MobileloopError, match="nothing is left to measure: loops 8 is outside 1-4"):
        plan_of(fake_artifact, loops=[8])


def test_default_loops_are_the_artifacts_own(fake_artifact: Path) -> None:
    assert {one.loops for one in plan_of(fake_artifact, loops=None).configurations} == {4}


def test_a_prompt_beyond_the_context_is_refused_up_front(fake_artifact: Path) -> None:
    with pytest.raises(MobileloopError, match="45 prompt and 4 decode tokens do not fit the context of 48"):
        plan_of(fake_artifact, prompt_tokens=45)


def test_equal_names_are_told_apart_by_their_paths(fake_artifact: Path) -> None:
    other = fake_artifact.parent / "other" / fake_artifact.name
    other.parent.mkdir()
    other.write_bytes(b"x")
    artifacts = open_artifacts([fake_artifact, other, other])
    assert [artifact.label for artifact in artifacts] == [str(fake_artifact), str(other)]
    assert len(make_plan(artifacts, small_settings()).configurations) == 8


def test_comma_lists() -> None:
    assert numbers("1, 2,1,4", "--loops") == [1, 2, 4]


@pytest.mark.parametrize("text", ["", "1,,2", "a", "0", "-1", "1.5", "2000", "9" * 5000, "²"])
def test_bad_comma_lists_name_the_option(text: str) -> None:
    with pytest.raises(MobileloopError, match=r"--threads .* write for example --threads 1,2") as caught:
        numbers(text, "--threads")
    assert "\n" not in str(caught.value)


def test_the_working_set_is_kept_sane() -> None:
    def machine(cache_mib: int, memory_mib: int | None) -> Machine:
        cache = Cache(level=3, kind="unified", size_bytes=cache_mib * MIB, instances=1, shared_by=2)
        return Machine(caches=[cache], memory_bytes=memory_mib and memory_mib * MIB)

    assert working_set_bytes(machine(8, 65536)) == 256 * MIB
    assert working_set_bytes(machine(100, 65536)) == 400 * MIB
    assert working_set_bytes(machine(480, 65536)) == 1024 * MIB
    assert working_set_bytes(machine(480, 2048)) == 256 * MIB
    assert working_set_bytes(machine(8, None)) == working_set_bytes(Machine()) == 256 * MIB


def test_bandwidth_is_the_best_of_all_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    given = iter([1.0, 10.0, 3.0, 30.0, 2.0, 20.0])
    monkeypatch.setattr(memory, "read_bandwidth", lambda threads, size_bytes, seconds: next(given))
    cache = Cache(level=3, kind="unified", size_bytes=480 * MIB, instances=1, shared_by=2)
    found = measure_bandwidth(Machine(caches=[cache], memory_bytes=2048 * MIB), [1, 2])
    assert [one.samples_gbps for one in found] == [[1.0, 3.0, 2.0], [10.0, 30.0, 20.0]]
    assert (ceiling_gbps(found, 1), ceiling_gbps(found, 2), ceiling_gbps(found, 3)) == (3.0, 30.0, None)
    assert found[0].beyond_last_level_cache is False


def test_bandwidth_without_the_engine_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(threads: int, size_bytes: int, seconds: float) -> float:
        raise MobileloopError("no engine")

    monkeypatch.setattr(memory, "read_bandwidth", missing)
    (found,) = measure_bandwidth(Machine(), [1])
    assert found.read_gbps is None
    assert found.beyond_last_level_cache is None
    assert "no engine" in (found.reason or "")


def test_memory_of_a_session(fake_artifact: Path) -> None:
    request = memory_module.Request(
        path=str(fake_artifact), runtime="engine", options={}, threads=1, loops=2, prompt_tokens=8
    )
    used = memory_module.use_of(request)
    assert used.threads == 1
    assert sum(1 for what, *_ in FakeSession.log if what == "run") == 1 + memory_module.DECODED_TOKENS


def test_memory_that_cannot_be_measured_is_unknown(fake_artifact: Path) -> None:
    # The child process has no fake: the file is not an artifact there.
    (used,) = memory_module.measure_memory(plan_of(fake_artifact, loops=[1])).values()
    assert used.delta_anonymous_bytes is None
    assert "the memory pass failed" in (used.reason or "")


def test_tiny_info_is_tiny() -> None:
    assert tiny_info().unique_bytes() < 100_000


def test_a_sweep_of_everything(fake_artifact: Path) -> None:
    plan = plan_of(fake_artifact, loops=[1], streams=["off", "core:1"], depths=[0, 16, 4096], sequences=[1, 2])
    found = {(one.threads, one.stream, one.depth, one.sequences) for one in plan.configurations}
    two = {(2, stream, depth, sequences) for stream in ("off", "core:1") for depth in (0, 16) for sequences in (1, 2)}
    assert found == two | {(1, "off", depth, sequences) for depth in (0, 16) for sequences in (1, 2)}
    assert len(plan.configurations) == len(found)
    assert {skip.reason for skip in plan.skipped} == {
        "--stream core:1 on 1 thread leaves none to compute",
        "--depth 4096 and 12 prompt and decode tokens do not fit the context of 48",
    }


def test_other_runtimes_skip_what_only_the_engine_can(fake_artifact: Path) -> None:
    (artifact,) = open_artifacts([fake_artifact])
    other = dataclasses.replace(artifact, runtime="onnx")
    plan = make_plan([other], small_settings(threads=[2], loops=[1], streams=["auto", "prefetch"], sequences=[1, 4]))
    assert [(one.stream, one.sequences) for one in plan.configurations] == [("auto", 1)]
    assert {skip.reason for skip in plan.skipped} == {
        "onnx does not run 4 sequences at once; that needs an engine artifact",
        "onnx does not run streaming by 'prefetch'; that needs an engine artifact",
    }


def test_an_empty_sweep_is_one_sentence(fake_artifact: Path) -> None:
    with pytest.raises(MobileloopError, match="the sweep is empty; give every option at least one value"):
        plan_of(fake_artifact, threads=[])
    for lists in ({"streams": ""}, {"depths": ""}, {"sequences": "0"}, {"threads": ""}):
        with pytest.raises(MobileloopError, match=r"streaming mode ''|holds '0?'"):
            Settings.parse(**lists)  # type: ignore[arg-type]


def test_settings_of_the_command_line() -> None:
    settings = Settings.parse("1,2", None, "off, core ,core:1", "0,512", "1,4", prompt_tokens=3)
    assert (settings.threads, settings.loops, settings.streams) == ([1, 2], None, ["off", "core:1"])
    assert (settings.depths, settings.sequences, settings.prompt_tokens) == ([0, 512], [1, 4], 3)
    assert settings.swept() == ["depth", "batch"]
    assert Settings.parse("1").swept() == []


def test_depth_fills_the_cache_before_the_prompt(fake_artifact: Path) -> None:
    measure(plan_of(fake_artifact, threads=[1], loops=[1], depths=[16], repetitions=1))
    runs = [len(tokens) for what, *_, tokens in FakeSession.log if what == "run"]
    assert runs == [8, 1, 16, 8, 1, 1, 1, 1, 8]  # warm-up, depth, prompt, decode, load


class Ticking(Probes):
    """A run in which a second passes whenever somebody looks at the clock."""

    ticks = 0

    @property
    def seconds(self) -> float:
        self.ticks += 1
        return float(self.ticks)


def test_a_time_budget_leaves_out_by_name_what_did_not_get_a_turn(fake_artifact: Path) -> None:
    plan = plan_of(fake_artifact, time_budget_s=10)
    measurement = measure(plan, probes=Ticking())
    assert measurement.ended == "the time budget of 10 s was over after 0 whole rounds"
    measured = [bool(samples.decode_ms) for samples in measurement.samples]
    assert measured == sorted(measured, reverse=True)
    assert set(measured) == {True, False}
    rows = [row for row in make_document(measurement, Machine(), [], {}, None).results if row.phase == "decode"]
    assert [row.skipped for row in rows] == [not one for one in measured]
    assert rows[-1].reasons == ["skipped: the time budget of 10 s was over after 0 whole rounds"]


def test_a_time_budget_runs_as_many_rounds_as_fit(fake_artifact: Path) -> None:
    measurement = measure(plan_of(fake_artifact, threads=[1], repetitions=2, time_budget_s=200), probes=Ticking())
    rounds = [len(samples.decode_ms) // 4 for samples in measurement.samples]
    assert min(rounds) > 5
    assert max(rounds) - min(rounds) <= 1
    assert [len(samples.load_ms) for samples in measurement.samples] == [2, 2]


def test_until_stable_goes_on_and_says_how_it_ended(fake_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(fake_artifact, threads=[1], loops=[1], repetitions=2, until_stable=True)
    looks = iter([False, False, True])
    monkeypatch.setattr("mobileloop_bench.measure.rounds.stable", lambda samples, per_round: next(looks))
    measurement = measure(plan)
    assert measurement.ended == "stable after 4 rounds"
    assert len(measurement.samples[0].decode_ms) == 4 * 4
    monkeypatch.setattr("mobileloop_bench.measure.rounds.stable", lambda samples, per_round: False)
    assert measure(plan).ended == "100 rounds, not stable yet"


def test_a_cooldown_lies_between_rounds(fake_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("mobileloop_bench.measure.turns.time.sleep", slept.append)
    measure(plan_of(fake_artifact, threads=[1], loops=[1], repetitions=3, cooldown_s=4), probes=Ticking())
    assert sum(slept) > 0
    slept.clear()
    measure(plan_of(fake_artifact, threads=[1], loops=[1], repetitions=1, cooldown_s=4), probes=Ticking())
    assert slept == []


@pytest.fixture(name="looped")
def make_looped(tmp_path: Path) -> Path:
    checkpoint, packed = packed_model(schedule=Schedule.immediate(2, 3), quantization="int4")
    write_engine(tmp_path / "looped.safetensors", checkpoint, packed)
    return tmp_path / "looped.safetensors"


def test_several_sequences_read_the_weights_once(looped: Path) -> None:
    plan = plan_of(looped, threads=[1], loops=[2], sequences=[1, 3], depths=[4], repetitions=1)
    measurement = measure(plan)
    one, three = (row for row in make_document(measurement, Machine(), [], {}, None).results if row.phase == "decode")
    assert (one.sequences, three.sequences, three.depth) == (1, 3, 4)
    assert (three.unique_bytes, three.executed_bytes) == (one.unique_bytes, one.executed_bytes)
    assert one.kv_bytes == plan.artifacts[0].info.kv_bytes(4 + 8 + 2, 2)
    assert three.kv_bytes == 3 * one.kv_bytes
    assert three.tokens_per_s == pytest.approx(3 * 1000 / three.median_ms)
    assert three.context_tokens == 4 + 8 + 4


def test_a_slowed_run_says_so_and_nonsense_is_refused(looped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOBILELOOP_BENCH_SLOW_DOWN", "0.5")
    plan = plan_of(looped, threads=[1], loops=[1], repetitions=1)
    assert measure(plan).samples[0].details["slowed_down"] == "0.5"
    for wrong in ("fast", "-1", "nan", "11"):
        monkeypatch.setenv("MOBILELOOP_BENCH_SLOW_DOWN", wrong)
        with pytest.raises(MobileloopError, match=f"SLOW_DOWN is '{wrong}', but a share from 0 to 10"):
            measure(plan)
