"""The model of time on synthetic machines, where the answer is arithmetic."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobileloop.spec.config import ModelConfig
from mobileloop.spec.costs import TokenBytes
from mobileloop.spec.schedule import Schedule, Stage
from mobileloop_bench.machine.facts import Cache, Cluster, Machine, cache_bytes
from mobileloop_bench.machine.file import EngineCosts, MachineFile
from mobileloop_bench.machine.ladder import Ladder, Rung, Step
from mobileloop_bench.timemodel.levels import Levels, UnknownError
from mobileloop_bench.timemodel.predict import Workload, busiest, kv_pages, predict

MB = 1_000_000
CONFIG = ModelConfig(
    vocab_size=512,
    hidden_size=256,
    intermediate_size=512,
    num_blocks=4,
    num_heads=4,
    num_kv_heads=2,
    head_dim=64,
)


def workload(schedule: Schedule, block=MB, head=2 * MB, quantization="int4") -> Workload:
    return Workload(TokenBytes(CONFIG, schedule, [block] * 4, head, 100, 16), quantization)


def machine(cache=4 * MB, cached=40.0, dram=10.0, **costs) -> MachineFile:
    """One and two threads over one cache; two read and compute twice as fast."""
    steps = []
    for threads in (1, 2):
        steps.append(Step(level="L2", threads=threads, up_to_bytes=cache * threads, read_gbps=cached * threads))
        steps.append(Step(level="DRAM", threads=threads, read_gbps=dram * threads))
    costs = {"compute_gbps": 20.0, "scheme_gbps": {"int8": 30.0}, "overlap": 1.0, **costs}
    return MachineFile(name="made up", machine=Machine(), ladder=Ladder(steps=steps), costs=EngineCosts(**costs))


def ms(schedule, where=None, threads=1, loops=None, **more):
    return predict(workload(schedule, **more), where or machine(), threads, loops).ms


def test_every_block_once_takes_the_time_of_the_memory():
    predicted = predict(workload(Schedule.plain(4)), machine(), 1)
    assert predicted.ms == pytest.approx(6 * MB / 10e9 * 1e3)
    assert [stage.stage for stage in predicted.stages] == ["0-3", "head"]
    assert [stage.bound for stage in predicted.stages] == ["memory", "memory"]
    assert predicted.stages[0].resident is None
    assert predicted.stages[0].compute_ms == pytest.approx(0.2)
    assert predicted.stages[1].compute_ms == pytest.approx(2 / 30)


def test_resident_repeats_take_the_time_of_the_arithmetic():
    predicted = predict(workload(Schedule.immediate(4, 3)), machine(), 1)
    assert predicted.ms == pytest.approx(0.6 + 4 * 2 * MB / 20e9 * 1e3)
    assert {stage.resident for stage in predicted.stages[:-1]} == {"L2"}
    assert predicted.streamed_ms == pytest.approx(max(0.6 + 8 / 40, 12 / 20 + 2 / 30))


def test_repeats_that_do_not_fit_come_from_memory():
    predicted = predict(workload(Schedule.immediate(4, 3)), machine(cache=MB // 2), 1)
    assert predicted.ms == pytest.approx(14 * MB / 10e9 * 1e3)
    assert {stage.resident for stage in predicted.stages[:-1]} == {"DRAM"}


def test_the_reuse_distance_of_a_range_is_the_range():
    """All four blocks lie between two applications of one: 4 MB and the KV bytes, more than the cache."""
    again = Schedule.repeat_all_over(4, 2)
    assert predict(workload(again), machine(cache=4 * MB), 1).stages[0].resident == "DRAM"
    assert predict(workload(again), machine(cache=5 * MB), 1).stages[0].resident == "L2"
    assert ms(again, machine(cache=4 * MB)) == pytest.approx(10 * MB / 10e9 * 1e3)


def test_a_block_met_again_in_a_later_stage_is_read_from_where_the_blocks_between_leave_it():
    schedule = Schedule(name="again", stages=(Stage(blocks=(0,)), Stage(blocks=(1, 2)), Stage(blocks=(0,))))
    assert predict(workload(schedule), machine(cache=4 * MB), 1).stages[2].resident == "L2"
    assert predict(workload(schedule), machine(cache=2 * MB), 1).stages[2].resident == "DRAM"


def test_a_model_that_a_cache_holds_whole_starts_from_there():
    assert ms(Schedule.plain(4), machine(cache=7 * MB, cached=15)) == pytest.approx(6 * MB / 15e9 * 1e3)


def test_between_two_rungs_the_time_lies_between_theirs():
    where = machine()
    rungs = [(MB, 40.0), (4 * MB, 10.0)]
    where.ladder.rungs = [Rung(size_bytes=size, threads=1, read_gbps=gbps) for size, gbps in rungs]
    levels = Levels(where, 1)
    assert levels.us_per_mb(MB // 2) == levels.us_per_mb(MB) == pytest.approx(25)
    assert levels.us_per_mb(2 * MB) == pytest.approx((25 + 100) / 2)  # halfway by the logarithm of the size
    assert levels.us_per_mb(100 * MB) == pytest.approx(100)


def test_what_is_not_hidden_is_added():
    """A quarter of the arithmetic (the shorter) beside the memory; nothing of what was cached where it was measured."""
    assert ms(Schedule.plain(4), machine(overlap=0.75)) == pytest.approx(0.6 + 0.25 * (4 / 20 + 2 / 30))
    resident = machine(overlap=0.75, resident_gbps=40.0)
    assert ms(Schedule.immediate(4, 2), resident) - ms(Schedule.immediate(4, 1), resident) == pytest.approx(0.2)


def test_a_second_application_misses_what_the_first_left_behind():
    """L2 holds no block and L3 all of them; half of the second application comes from DRAM like the first."""
    where = machine(cache=MB // 2, cached=100.0, compute_gbps=1000.0, reread_misses=0.5)
    where.ladder.steps.append(Step(level="L3", threads=1, up_to_bytes=3 * MB, read_gbps=40.0))
    first, second, third = (ms(Schedule.immediate(4, loops), where) for loops in (1, 2, 3))
    assert second - first == pytest.approx(4 * MB * (0.5 / 40e9 + 0.5 / 10e9) * 1e3)
    assert third - second == pytest.approx(4 * MB / 40e9 * 1e3)


def test_overhead_is_counted_by_calls_stages_and_applications():
    where = machine(region_us={1: 10.0}, application_us={1: 1.0}, token_us=100.0)
    assert predict(workload(Schedule.immediate(4, 3)), where, 1).overhead_ms == pytest.approx(0.1 + 5 * 0.01 + 0.012)


def test_attention_goes_with_the_busiest_thread():
    where = machine(attention_ns=5.0)
    at = [predict(workload(Schedule.plain(4)), where, threads, depth=99).kv_ms for threads in (1, 2)]
    assert at == pytest.approx([4 * 4 * 100 * 5e-6, 4 * 2 * 100 * 5e-6])
    assert busiest(CONFIG, 1) == (4, 2)
    assert busiest(CONFIG, 2) == (2, 1)
    assert busiest(CONFIG, 3) == (2, 1)
    nine = CONFIG.model_copy(update={"num_heads": 9, "num_kv_heads": 3})
    assert busiest(nine, 2) == (5, 2)
    assert busiest(nine, 16) == (1, 1)


def test_kv_pages_of_one_application():
    assert kv_pages(CONFIG, 0, 16, 128) == 4 * (1 + 127 / 128)
    assert kv_pages(CONFIG, 31, 16, 4096) == 4 * (1 + 4095 / 4096)
    assert kv_pages(CONFIG, 63, 16, 4096) == 4 * (1 + 8191 / 4096)


def test_kv_pages_cost_only_where_no_private_cache_holds_the_model():
    at = [predict(workload(Schedule.plain(4)), machine(cache=size, kv_page_us=1.0), 1).kv_ms for size in (MB, 100 * MB)]
    assert at[0] == pytest.approx(4 * kv_pages(CONFIG, 0, 16, 4096) / 1e3)
    assert at[1] == 0


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        ({"ladder": None}, "the read bandwidth of DRAM with 1 thread"),
        ({"costs": None}, "the engine's compute rate of int4 weights"),
        ({"costs": EngineCosts(scheme_gbps={"int8": 3})}, "the engine's compute rate of int4 weights"),
    ],
)
def test_what_is_missing_is_named(change, missing):
    with pytest.raises(UnknownError, match=missing):
        predict(workload(Schedule.plain(4)), machine().model_copy(update=change), 1)


def test_threads_that_were_not_measured_are_unknown():
    with pytest.raises(UnknownError, match="DRAM with 3 threads"):
        predict(workload(Schedule.plain(4)), machine(), 3)


def test_small_costs_that_are_missing_are_left_out_and_named():
    bare = machine().model_copy(update={"costs": EngineCosts(compute_gbps=20)})
    predicted = predict(workload(Schedule.immediate(4, 2)), bare, 1)
    said = " ".join(predicted.notes)
    assert predicted.overhead_ms == predicted.kv_ms == 0
    for word in ("parallel region", "attention", "KV pages", "taken as wholly", "int8 taken as that of int4"):
        assert word in said
    assert predict(workload(Schedule.plain(4)), machine(), 1).notes == [
        "what these cost is not known and left out: an application beside its weights, a parallel region, a call, "
        "attention, bringing KV pages"
    ]


def phone() -> MachineFile:
    """Caches listed, their rates not; only DRAM is known, as of most published figures."""
    caches = [
        Cache(level=2, kind="unified", size_bytes=2 * MB, instances=1, shared_by=1, cluster=0),
        Cache(level=2, kind="unified", size_bytes=MB // 2, instances=3, shared_by=1, cluster=1),
        Cache(level=3, kind="unified", size_bytes=4 * MB, instances=1, shared_by=4),
    ]
    clusters = [Cluster(cpus=[3], big=True), Cluster(cpus=[0, 1, 2], big=True)]
    steps = [Step(level="DRAM", threads=threads, read_gbps=10.0 * threads) for threads in (1, 2)]
    return MachineFile(
        name="a phone",
        machine=Machine(caches=caches, clusters=clusters),
        ladder=Ladder(steps=steps),
        costs=EngineCosts(compute_gbps=20, scheme_gbps={"int8": 30}),
    )


def test_caches_of_the_cores_that_run():
    assert cache_bytes(phone().machine, 1) == {"L2": 2 * MB, "L3": 4 * MB}
    assert cache_bytes(phone().machine, 2) == {"L2": MB, "L3": 4 * MB}  # equal parts: the smaller L2 decides
    assert cache_bytes(Machine(), 2) == {}


def test_a_cache_of_unknown_rate_is_bounded_by_no_time_and_by_dram():
    looped = workload(Schedule.immediate(4, 3))
    with pytest.raises(UnknownError, match="the read bandwidth of L2 with 1 thread"):
        predict(looped, phone(), 1)
    fast, slow = (predict(looped, phone(), 1, unknown=taken) for taken in ("fast", "slow"))
    assert fast.ms == pytest.approx(0.6 + 8 / 20)
    assert slow.ms == pytest.approx(1.4)
    assert slow.stages[0].resident == "L2"
    assert predict(workload(Schedule.plain(4)), phone(), 1).ms == pytest.approx(0.6)


def test_where_rungs_were_measured_listed_caches_say_nothing():
    """A virtual machine lists the cache of a whole socket; what it gets of it is what was measured."""
    where = machine(cache=MB // 2)
    where.machine.caches = [Cache(level=3, kind="unified", size_bytes=900 * MB, instances=1, shared_by=2)]
    where.ladder.rungs = [
        Rung(size_bytes=MB // 2, threads=1, read_gbps=40),
        Rung(size_bytes=MB, threads=1, read_gbps=10),
    ]
    assert predict(workload(Schedule.immediate(4, 3)), where, 1).ms == pytest.approx(1.4)


def test_what_lies_beyond_the_private_caches():
    steps = [("L1", 1, 200), ("L2", 2, 100), ("L3", 4, 50), ("L4", 8, 25)]
    where = machine()
    where.ladder.steps = [Step(level=n, threads=1, up_to_bytes=size * MB, read_gbps=gbps) for n, size, gbps in steps]
    where.ladder.steps.append(Step(level="DRAM", threads=1, read_gbps=10))
    levels = Levels(where, 1)
    assert [levels.beyond_private(size * MB) for size in (1, 2, 4, 8, 9)] == [0, 0, 0, 1, 1]
    assert [levels.level(size * MB) for size in (1, 2, 4, 8, 9)] == ["L1", "L2", "L3", "L4", "DRAM"]


def test_a_machine_without_a_word_of_caches_bounds_too():
    bare = phone().model_copy(update={"machine": Machine()})
    with pytest.raises(UnknownError, match="a cache"):
        predict(workload(Schedule.plain(4)), bare, 1)
    assert predict(workload(Schedule.plain(4)), bare, 1, unknown="slow").ms == pytest.approx(0.6)


costs = st.fixed_dictionaries(
    {
        "overlap": st.floats(0, 1),
        "reread_misses": st.floats(0, 1),
        "resident_gbps": st.floats(20, 200),
        "compute_gbps": st.floats(1, 100),
        "kv_page_us": st.floats(0, 2),
        "attention_ns": st.floats(0, 20),
    }
)
rates = st.tuples(st.floats(1, 20), st.floats(1, 10))


@settings(max_examples=60, deadline=None)
@given(costs, rates, st.integers(1, 7), st.integers(MB // 10, 8 * MB), st.integers(MB // 10, 20 * MB))
def test_time_grows_with_loops_and_bytes_and_falls_with_threads(some, rate, loops, block, cache):
    dram, faster = rate
    where = machine(cache=cache, cached=dram * faster, dram=dram, **some)
    one = ms(Schedule.immediate(4, loops), where, block=block)
    more = ms(Schedule.immediate(4, loops + 1), where, block=block)
    assert more > one
    assert ms(Schedule.immediate(4, loops), where, block=block + 1000) >= one
    assert ms(Schedule.immediate(4, loops), where, block=block, threads=2) <= one * (1 + 1e-9)


@settings(max_examples=60, deadline=None)
@given(costs, rates, st.integers(2, 8), st.integers(MB // 10, 8 * MB), st.integers(MB // 10, 20 * MB))
def test_the_loop_tax_lies_between_none_and_one_per_loop(some, rate, loops, block, cache):
    """No cache is slower than DRAM, so a repeat costs at most what the first application did."""
    where = machine(cache=cache, cached=rate[0] * rate[1], dram=rate[0], **some)
    tax = ms(Schedule.immediate(4, loops), where, block=block) / ms(Schedule.immediate(4, 1), where, block=block)
    assert 1 < tax <= loops * (1 + 1e-9)
    predicted = predict(workload(Schedule.immediate(4, loops), block=block), where, 1)
    assert predicted.streamed_ms <= predicted.ms * (1 + 1e-9)
    parts = sum(stage.ms for stage in predicted.stages) + predicted.kv_ms + predicted.overhead_ms
    assert predicted.ms == pytest.approx(parts)
    for stage in predicted.stages:
        whole = stage.memory_ms + stage.compute_ms
        assert max(stage.memory_ms, stage.compute_ms) * (1 - 1e-9) <= stage.ms <= whole * (1 + 1e-9)
