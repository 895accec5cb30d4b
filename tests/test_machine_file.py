import json

import pytest

from mobileloop.errors import MobileloopError
from mobileloop.runtimes.topology import read_topology
from mobileloop_bench.machine.facts import Cache, Machine
from mobileloop_bench.machine.file import MACHINES, MachineFile, load, shipped
from mobileloop_bench.machine.ladder import Ladder, Step


def board() -> MachineFile:
    steps = [
        Step(level="DRAM", threads=1, read_gbps=6),
        Step(level="L2", threads=1, up_to_bytes=1 << 19, read_gbps=20),
        Step(level="DRAM", threads=4, read_gbps=10),
    ]
    caches = [Cache(level=2, kind="unified", size_bytes=1 << 19, instances=4, shared_by=1)]
    return MachineFile(name="a board", machine=Machine(caches=caches), ladder=Ladder(steps=steps))


def test_a_machine_file_round_trips(tmp_path):
    path = tmp_path / "board.json"
    board().write(path)
    assert json.loads(path.read_text())["schema"] == "mobileloop.machine/1"
    found = MachineFile.read(path)
    assert found == board()
    assert [step.level for step in found.ladder.steps_of(1)] == ["L2", "DRAM"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data["machine"]["caches"][0].update(size_bytes=-1), "machine.caches.0.size_bytes"),
        (lambda data: data["ladder"]["steps"][0].update(read_gbps=0), "ladder.steps.0.read_gbps"),
        (lambda data: data["ladder"]["steps"][0].update(read_gbps=1e-300), "ladder.steps.0.read_gbps"),
        (lambda data: data["ladder"]["steps"][0].update(read_gbps=1e300), "ladder.steps.0.read_gbps"),
        (lambda data: data.update(costs={"region_us": {"1": -1e9}}), "costs.region_us.1"),
        (lambda data: data.update(costs={"compute_gbps": 1e-308}), "costs.compute_gbps"),
        (lambda data: data["machine"].update(page_bytes=0), "machine.page_bytes"),
        (lambda data: data["machine"]["caches"][0].update(cluster=2), "machine.caches.0 is of cluster 2, but the"),
        (lambda data: data["ladder"]["steps"][1].update(cluster=-1), "ladder.steps.1 is of cluster -1"),
        (lambda data: data.update(schema="mobileloop.machine/2"), "upgrade mobileloop"),
        (lambda data: data.update(schema="mobileloop.bench/1"), "its schema is not mobileloop.machine"),
    ],
)
def test_bad_machine_files_are_one_sentence(change, said, tmp_path):
    data = json.loads(board().to_json())
    change(data)
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(data))
    with pytest.raises(MobileloopError) as raised:
        MachineFile.read(path)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def leaves(value, path=""):
    """Every value of a document with its dotted path."""
    if isinstance(value, dict):
        for key, below in value.items():
            yield from leaves(below, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for index, below in enumerate(value):
            yield from leaves(below, f"{path}.{index}")
    else:
        yield path, value


def test_at_least_eight_machines_ship():
    assert len(shipped()) >= 8
    assert {"snapdragon-8-gen-1", "snapdragon-8-elite", "dimensity-9300", "raspberry-pi-5"} <= set(shipped())


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_value_has_a_source(name):
    data = json.loads((MACHINES / f"{name}.json").read_text())
    found = load(name)
    values = {path for path, value in leaves(data) if value is not None and path.split(".")[0] != "sources"}
    for path in values - {"schema", "name"}:
        assert found.source(path), f"{name}: {path} has no source"
    for path in found.sources:
        assert any(f"{value}.".startswith(f"{path}.") for value in values), f"{name}: {path} is the source of nothing"
        assert path not in ("machine", "machine.clusters", "machine.caches", "ladder", "ladder.steps")  # too coarse


@pytest.mark.parametrize("name", shipped())
def test_shipped_machines_hold_together(name):
    found = load(name)
    clusters = found.machine.clusters
    cpus = [cpu for cluster in clusters for cpu in cluster.cpus]
    assert sorted(cpus) == list(range(found.machine.cores_physical))
    for cache in found.machine.caches:
        inside = len(cpus) if cache.cluster is None else len(clusters[cache.cluster].cpus)
        assert cache.instances * cache.shared_by == inside
        assert cache.size_bytes % (64 * (cache.ways or 1)) == 0
    for step in found.ladder.steps if found.ladder else []:
        assert step.threads <= len(cpus)
        assert step.level != "DRAM" or step.read_gbps < found.machine.memory_peak_gbps
        assert (step.up_to_bytes is None) == (step.level == "DRAM")
    assert found.costs.estimated


@pytest.mark.parametrize("name", [name for name in shipped() if name != "graviton2"])  # 64 cpus are not this process's
def test_big_cores_are_the_engines(name, tmp_path):
    machine = load(name).machine
    folder = tmp_path / "sys/devices/system/cpu"
    for cluster in machine.clusters:
        for cpu in cluster.cpus:
            (folder / f"cpu{cpu}/cpufreq").mkdir(parents=True)
            (folder / f"cpu{cpu}/cpufreq/cpuinfo_max_freq").write_text(f"{cluster.max_mhz * 1000:.0f}\n")
    (folder / "online").write_text(f"0-{machine.cores_physical - 1}\n")
    topology = read_topology(tmp_path)
    engine = {(cpu, cluster.big) for cluster in topology.clusters for cpu in cluster.cpus}
    assert engine == {(cpu, cluster.big) for cluster in machine.clusters for cpu in cluster.cpus}
    assert topology.default_threads == machine.default_threads


def test_a_source_holds_for_all_below_it():
    file = MachineFile(name="x", machine=Machine(), sources={"machine.caches.0": "a", "machine.caches.0.ways": "b"})
    assert file.source("machine.caches.0.size_bytes") == "a"
    assert file.source("machine.caches.0.ways") == "b"
    assert file.source("machine.caches.1.ways") is None


def test_load_takes_a_path_or_a_name(tmp_path):
    board().write(tmp_path / "board.json")
    assert load(tmp_path / "board.json") == load(str(tmp_path / "board.json")) == board()
    assert load("raspberry-pi-5").name == "Raspberry Pi 5"
    with pytest.raises(MobileloopError, match=r"there is no machine 'iphone'; .*one of dimensity-9000, .*tensor-g3"):
        load("iphone")
    with pytest.raises(MobileloopError, match=r"none\.json cannot be read"):
        load(tmp_path / "none.json")
