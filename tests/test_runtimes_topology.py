import json
import os
import threading

import numpy as np
import pytest
from builders import TINY, write_engine

from mobileloop.checkpoints.random import random_model
from mobileloop.errors import MobileloopError
from mobileloop.packed import PackedModel
from mobileloop.runtimes import native, open_session
from mobileloop.runtimes.base import available_threads, default_threads
from mobileloop.runtimes.engine import EngineSession
from mobileloop.runtimes.topology import (
    Cluster,
    check_cpus,
    confined,
    parse_cpus,
    read_topology,
    write_cpus,
)
from mobileloop.spec.schedule import Schedule

ALLOWED = sorted(os.sched_getaffinity(0))
several = pytest.mark.skipif(len(ALLOWED) < 2, reason="one cpu leaves nothing to choose")


def put(folder, path, text):
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_text(f"{text}\n")


@pytest.fixture
def phone(tmp_path):
    """A Snapdragon 8 Gen 2: 3 A510, 2 A715 and 2 A710, X3; every cluster of the prime core's L3."""
    cpus = tmp_path / "sys/devices/system/cpu"
    put(cpus, "online", "0-7")
    for cpu in range(8):
        capacity, khz = ((350, 2016000) if cpu < 3 else (852, 2803200)) if cpu < 7 else (1024, 3187200)
        put(cpus, f"cpu{cpu}/cpu_capacity", capacity)
        put(cpus, f"cpu{cpu}/cpufreq/cpuinfo_max_freq", khz)
        for index, (level, size, shared) in enumerate([(1, "64K", cpu), (2, "512K", cpu), (3, "8192K", "0-7")]):
            put(cpus, f"cpu{cpu}/cache/index{index}/level", level)
            put(cpus, f"cpu{cpu}/cache/index{index}/type", "Data" if level == 1 else "Unified")
            put(cpus, f"cpu{cpu}/cache/index{index}/size", size)
            put(cpus, f"cpu{cpu}/cache/index{index}/shared_cpu_list", shared)
    return tmp_path


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    checkpoint = random_model(TINY, Schedule.immediate(TINY.num_blocks, 2))
    path = tmp_path_factory.mktemp("topology") / "tiny.safetensors"
    return write_engine(path, checkpoint, PackedModel.from_checkpoint(checkpoint))


def test_a_phone(phone):
    topology = read_topology(phone)
    assert [(one.cpus, one.big) for one in topology.clusters] == [([7], True), ([3, 4, 5, 6], True), ([0, 1, 2], False)]
    assert topology.default_threads == 5
    prime = topology.cpus[7]
    assert (prime.cluster, prime.capacity, prime.max_khz) == (0, 1024, 3187200)
    assert (prime.private_cache_bytes, prime.shared_cache_bytes) == (512 << 10, 8 << 20)
    assert prime.shared_with == list(range(8))
    assert prime.core == []  # the tree does not say
    assert len(topology.caches) == 17
    assert topology.clusters[2].title() == "3 cores up to 2016 MHz, not big"
    assert Cluster(cpus=[0], cores=1, capacity=0, max_khz=0, big=True).title() == "1 core, big"


def test_this_machine():
    topology = read_topology()
    assert [cpu.cpu for cpu in topology.cpus] == ALLOWED
    assert sorted(cpu for cluster in topology.clusters for cpu in cluster.cpus) == ALLOWED
    assert 1 <= native.default_threads() == topology.default_threads <= len(ALLOWED)


def test_a_folder_without_a_machine(tmp_path):
    topology = read_topology(tmp_path / "nothing")
    assert (topology.cpus, topology.clusters, topology.caches, topology.default_threads) == ([], [], [], 0)


def test_lists_of_cpus():
    assert parse_cpus("4-7,2") == [4, 5, 6, 7, 2]
    assert parse_cpus(" 0 , 3-3") == [0, 3]
    for cpus in ([4, 5, 6, 7, 2], [0], [3, 2, 1], [0, 1, 3, 4, 9]):
        assert parse_cpus(write_cpus(cpus)) == cpus
    assert write_cpus([]) == ""


@pytest.mark.parametrize("text", ["", "a", "1,", "-1", "3-1", "1-", "1-2-3", "1024", "0-99999", "0x1", "1.5", "\u0661"])
def test_what_is_no_list(text):
    with pytest.raises(MobileloopError, match=r"--cpus '.*write for example --cpus 4-7,2"):
        parse_cpus(text)


def test_a_cpu_twice():
    with pytest.raises(MobileloopError, match="lists a cpu twice"):
        parse_cpus("0-3,2")


def test_cpus_that_may_not_be_used():
    check_cpus(None)
    check_cpus(ALLOWED)
    with pytest.raises(MobileloopError, match=r"cpu 1023 does not exist, .* may run on cpus"):
        check_cpus([ALLOWED[0], 1023])
    with pytest.raises(MobileloopError, match=r"cpus 1022-1023 do not exist"):
        check_cpus([1022, 1023])
    with pytest.raises(MobileloopError, match="the list of cpus is empty"):
        check_cpus([])


def test_threads_by_default(monkeypatch):
    assert default_threads() == native.default_threads()
    assert default_threads(list(range(300))) == 256
    assert default_threads([5, 7]) == 2

    def missing():
        raise MobileloopError("the engine library was not built")

    monkeypatch.setattr(native, "library", missing)
    assert default_threads() == available_threads()


def affinities():
    """Cpus of every thread of this process."""
    return [frozenset(os.sched_getaffinity(int(task))) for task in os.listdir("/proc/self/task")]


@several
def test_a_session_on_cpus(artifact):
    tokens = [3, 1, 4]
    plain = EngineSession(artifact, threads=2)
    expected = plain.prefill(tokens)
    plain.close()
    second = ALLOWED[1]
    session = EngineSession(artifact, cpus=[second, ALLOWED[0]])
    assert session.threads == 2
    assert frozenset({ALLOWED[0]}) in affinities()  # the worker; the caller is moved for a call only
    assert sorted(os.sched_getaffinity(0)) == ALLOWED
    assert np.array_equal(session.prefill(tokens), expected)
    assert session.details()["cpus"] == write_cpus([second, ALLOWED[0]])
    assert sorted(os.sched_getaffinity(0)) == ALLOWED
    session.close()
    assert session.details().get("cpus") is None
    one = open_session(artifact, threads=2, cpus=[second])
    assert frozenset({second}) in affinities()
    assert np.array_equal(one.prefill(tokens), expected)
    one.close()


def test_a_session_on_a_cpu_that_is_not_there(artifact):
    with pytest.raises(MobileloopError, match="cpu 1023 does not exist"):
        EngineSession(artifact, cpus=[1023])


def test_equal_cores_are_left_alone(artifact):
    if not all(cluster.big for cluster in read_topology().clusters):
        pytest.skip("this machine has cores that are not big")
    session = EngineSession(artifact)
    assert session.threads == native.default_threads()
    assert "cpus" not in session.details()
    assert session.cpus is None
    session.close()


@several
def test_confined():
    with confined(ALLOWED[:1]):
        assert os.sched_getaffinity(0) == {ALLOWED[0]}
        assert native.default_threads() == 1
        inherited = []
        other = threading.Thread(target=lambda: inherited.extend(os.sched_getaffinity(0)))
        other.start()
        other.join()
        assert inherited == ALLOWED[:1]
    assert sorted(os.sched_getaffinity(0)) == ALLOWED
    with confined(None):
        assert sorted(os.sched_getaffinity(0)) == ALLOWED


def test_the_json_is_what_the_model_reads(phone):
    told = json.loads(native.topology_json(phone))
    assert read_topology(phone).model_dump() == told
