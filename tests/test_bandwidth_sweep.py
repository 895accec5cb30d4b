"""Measuring the ladder: what is planned for which machine, what Ctrl-C leaves, and a short real one."""

import pytest

from mobileloop.errors import MobileloopError
from mobileloop.runtimes import native
from mobileloop.runtimes.topology import Cache as TopologyCache
from mobileloop.runtimes.topology import Cluster, Cpu, Topology, read_topology
from mobileloop_bench.bandwidth.memory import Memory
from mobileloop_bench.bandwidth.sweep import cache_sizes, find_steps, measure_ladder, parse_sizes, plan_sweep
from mobileloop_bench.machine.facts import Cache, Machine
from mobileloop_bench.machine.ladder import Ladder, Latency, Rung

KIB, MIB = 1 << 10, 1 << 20


def phone():
    """Two big cores with an L2 of their own, four small ones that share pairs, one L3."""
    numbers = range(6)
    cpus = [
        Cpu(cpu=n, cluster=int(n < 4), capacity=1024 if n > 3 else 300, max_khz=0, core=[n], private_cache_bytes=0,
            shared_cache_bytes=0, shared_with=[])
        for n in numbers
    ]  # fmt: skip
    clusters = [
        Cluster(cpus=[4, 5], cores=2, capacity=1024, max_khz=0, big=True),
        Cluster(cpus=[0, 1, 2, 3], cores=4, capacity=300, max_khz=0, big=False),
    ]
    caches = [TopologyCache(level=1, kind="data", size_bytes=64 * KIB, cpus=[n]) for n in numbers]
    caches += [TopologyCache(level=1, kind="instruction", size_bytes=64 * KIB, cpus=[n]) for n in numbers]
    caches += [TopologyCache(level=2, kind="unified", size_bytes=MIB, cpus=[n]) for n in (4, 5)]
    caches += [TopologyCache(level=2, kind="unified", size_bytes=256 * KIB, cpus=pair) for pair in ([0, 1], [2, 3])]
    caches.append(TopologyCache(level=3, kind="unified", size_bytes=8 * MIB, cpus=list(numbers)))
    return Topology(cpus=cpus, clusters=clusters, caches=caches, default_threads=2)


def machine(cache_mib, memory_gib, hypervisor=False):
    cache = Cache(level=3, kind="unified", size_bytes=cache_mib * MIB, instances=1, shared_by=2)
    return Machine(caches=[cache], memory_bytes=memory_gib << 30, hypervisor=hypervisor)


def test_caches_of_the_cores_that_read_together():
    assert cache_sizes(phone(), [4]) == [("L1", 64 * KIB), ("L2", MIB), ("L3", 8 * MIB)]
    assert cache_sizes(phone(), [4, 5]) == [("L1", 128 * KIB), ("L2", 2 * MIB), ("L3", 8 * MIB)]
    assert cache_sizes(phone(), [0, 1, 2]) == [("L1", 192 * KIB), ("L2", 512 * KIB), ("L3", 8 * MIB)]
    assert cache_sizes(phone(), []) == []


def test_every_cluster_is_measured():
    sweep = plan_sweep(machine(8, 16), phone())
    found = [(place.threads, place.cluster, place.cpus) for place in sweep.places]
    assert found == [(1, None, None), (2, None, None), (1, 0, (4,)), (2, 0, (4, 5)), (1, 1, (0,)), (4, 1, (0, 1, 2, 3))]
    sweep = plan_sweep(machine(8, 16), phone(), threads=[1, 4])
    assert [(place.threads, place.cluster) for place in sweep.places] == [(1, None), (4, None), (1, 0), (1, 1), (4, 1)]
    sweep = plan_sweep(machine(8, 16), phone(), cpus=[3, 1])
    assert [(place.threads, place.cpus) for place in sweep.places] == [(1, (3,)), (2, (3, 1))]


def test_working_sets_rise_from_16_kib_and_a_cap_is_said():
    sweep = plan_sweep(machine(8, 16), phone())
    assert (sweep.sizes[0], sweep.sizes[-1], sweep.notes) == (16 * KIB, 256 * MIB, ())
    assert all(1.2 < b / a <= 1.5 and b % 4096 == 0 for a, b in zip(sweep.sizes, sweep.sizes[1:], strict=False))
    (note,) = plan_sweep(machine(480, 24, hypervisor=True), phone()).notes
    assert "1 GiB, not four times the last-level cache of 480 MiB" in note
    assert "whole socket" in note
    (note,) = plan_sweep(machine(480, 2), phone()).notes
    assert "256 MiB" in note
    assert "an eighth of the memory" in note
    assert "hidden" in plan_sweep(Machine(), phone()).notes[0]


def test_sizes_as_people_write_them():
    assert parse_sizes("2M, 512k,4096,1G,2M") == [4096, 512 * KIB, 2 * MIB, 1 << 30]
    for text in ("", "1", "4095", "65G", "2X", "-4K", "4K,,8K", "99999999999999G", "\u0664K"):
        with pytest.raises(MobileloopError, match=r"write for example --sizes") as caught:
            parse_sizes(text)
        assert "\n" not in str(caught.value)


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(MobileloopError, match="more than half of this machine's"):
        plan_sweep(machine(8, 1), phone(), sizes=[1 << 30])
    with pytest.raises(MobileloopError, match="each of 64 threads"):
        plan_sweep(machine(8, 1), phone(), threads=[64], sizes=[16 * KIB])


def test_latencies_belong_to_the_levels_they_lie_in():
    sizes = [16 * KIB << i for i in range(15)]
    rates = [100] * 3 + [50] * 4 + [25] * 3 + [5] * 5
    ladder = Ladder(
        rungs=[Rung(size_bytes=s, threads=2, read_gbps=r) for s, r in zip(sizes, rates, strict=True)],
        latencies=[Latency(size_bytes=s, ns=1 + i) for i, s in enumerate(sizes)]
        + [Latency(size_bytes=sizes[0], ns=999, state="cold")],
    )
    (place,) = plan_sweep(machine(8, 16), phone(), threads=[2], cpus=[4, 5]).places
    steps = find_steps(ladder, place, cache_sizes(phone(), [4, 5]))
    found = [(step.level, step.up_to_bytes, step.read_gbps, step.latency_ns) for step in steps]
    assert found[0] == ("L1", sizes[2], 100, 1.5)
    assert found[1] == ("L2", sizes[6], 50, 5.5)
    assert found[2] == ("L3", sizes[9], 25, 9)
    assert found[3] == ("DRAM", None, 5, 14.5)
    ladder.steps = steps
    assert (ladder.dram_gbps(2), ladder.dram_gbps(1), Ladder().dram_gbps(1)) == (5, None, None)


def test_few_sizes_give_no_step_but_memory_beyond_every_cache():
    (place,) = plan_sweep(machine(8, 16), phone(), threads=[2], cpus=[4, 5]).places

    def steps(rates, whole=True):
        rungs = [Rung(size_bytes=size, threads=2, read_gbps=rate) for size, rate in rates]
        found = find_steps(Ladder(rungs=rungs), place, cache_sizes(phone(), [4, 5]), whole)
        return [(step.level, step.up_to_bytes, step.read_gbps) for step in found]

    few = [(32 * KIB, 295), (512 * KIB, 146), (4 * MIB, 30), (16 * MIB, 9.6)]
    assert steps(few) == []
    assert steps(few[3:]) == []
    assert steps([*few, (32 * MIB, 9.5)]) == [("DRAM", None, 9.5)]
    sparse = [(32 << (10 + 3 * i), 300 / 2**i) for i in range(6)]
    assert [level for level, *_ in steps(sparse)] == ["DRAM"]
    fine = [(16 << (10 + i), 100 if i < 4 else 10) for i in range(8)]
    assert len(steps(fine)) == 2
    assert steps(fine, whole=False) == []


def test_wide_samples_are_disturbed():
    def rung(*samples):
        return Rung(size_bytes=1, threads=1, read_gbps=samples[0], samples_gbps=samples)

    assert rung(10, 1, 20, 4, 2).disturbed
    assert not rung(10, 10.5, 1, 11, 9.8).disturbed  # one outlier leaves the median alone
    assert not rung(10).disturbed


def test_the_time_ends_a_ladder_between_samples(monkeypatch):
    sweep, topology = small_sweep(seconds=1.0)
    clock = iter(range(10**6))
    monkeypatch.setattr("mobileloop_bench.bandwidth.sweep.time.monotonic", lambda: next(clock))
    ladder = measure_ladder(sweep, topology)
    assert [(rung.threads, rung.size_bytes, rung.state) for rung in ladder.rungs] == [(1, MIB, "warm")]
    assert ladder.latencies == ladder.steps == []
    (note,) = [note for note in ladder.notes if note.startswith("The time was over")]
    assert "1 thread warm up to 64 KiB; " in note
    assert "2 threads" in note


def small_sweep(**more):
    topology = read_topology()
    return plan_sweep(machine(1, 8), topology, threads=[1, 2], sizes=[16 * KIB, 64 * KIB, MIB], **more), topology


@pytest.mark.alone
@pytest.mark.parametrize("cold", [True, False])
def test_a_short_real_ladder(cold):
    sweep, topology = small_sweep(seconds=2, cold=cold)  # of 0.3 s a busy machine left none for the latencies
    told = []
    ladder = measure_ladder(sweep, topology, lambda what, done: told.append((what, done)))
    warm = [(rung.threads, rung.size_bytes) for rung in ladder.rungs if rung.state == "warm"]
    assert warm == [(threads, size) for threads in (1, 2) for size in sweep.sizes]
    assert any(rung.state == "cold" for rung in ladder.rungs) == cold
    assert (ladder.cold_by is not None) == cold
    assert all(rung.samples_gbps and rung.read_gbps > 0 for rung in ladder.rungs)
    assert {one.state for one in ladder.latencies} == ({"warm", "cold"} if cold else {"warm"})
    assert ladder.steps == []  # three sizes tell no levels, and none is beyond every cache
    assert any("Too few sizes" in note for note in ladder.notes)
    assert (ladder.kernels, ladder.interrupted) == (native.kernels(), False)
    assert all(0 <= done <= 1 for _, done in told)
    assert Ladder.model_validate_json(ladder.model_dump_json()) == ladder


def test_ctrl_c_keeps_whole_thread_counts_only():
    sweep, topology = small_sweep(seconds=0.1)

    def interrupt(word):
        def progress(what, done):
            if what.startswith(word):
                raise KeyboardInterrupt

        return progress

    with pytest.raises(KeyboardInterrupt):
        measure_ladder(sweep, topology, interrupt("1 thread"))
    for word in ("2 threads", "latency"):
        ladder = measure_ladder(sweep, topology, interrupt(word))
        assert ladder.interrupted
        assert {rung.threads for rung in ladder.rungs} == ({1} if word == "2 threads" else {1, 2})
        assert ladder.latencies == []


def test_memory_refuses_what_it_cannot_measure():
    with pytest.raises(MobileloopError, match="outside 1-256"):
        Memory(MIB, 0)
    with Memory(MIB, 1) as memory, pytest.raises(MobileloopError, match="working set of 2097152 bytes"):
        memory.read_gbps(2 * MIB, 0.01)
    memory.close()
    with pytest.raises(MobileloopError, match="no memory was given"):
        memory.read_gbps(MIB, 0.01)
