import io

from rich.console import Console

from mobileloop_bench.machine.android import Android
from mobileloop_bench.machine.card import print_machine, this_machine
from mobileloop_bench.machine.facts import Cache, Cluster, Machine
from mobileloop_bench.machine.file import EngineCosts, MachineFile
from mobileloop_bench.machine.ladder import Ladder, Step
from mobileloop_bench.machine.sensors import Battery


def shown(file: MachineFile) -> str:
    out = io.StringIO()
    print_machine(Console(file=out, width=160), file)
    return out.getvalue()


def test_a_phone() -> None:
    machine = Machine(
        soc="A Chip",
        cpu_quota=1.5,
        default_threads=1,
        clusters=[
            Cluster(cpus=[2], cores=1, core="Cortex-X4", big=True, max_mhz=3300),
            Cluster(cpus=[0, 1], big=False),
        ],
        caches=[Cache(level=2, kind="unified", size_bytes=1 << 20, instances=1, shared_by=1, cluster=0, ways=8)],
        memory_peak_gbps=76.8,
        android=Android(device="[bold]Phone", release="15", api_level=35),
        battery=Battery(level_percent=80, status="Discharging", voltage_v=4.1),
        temperatures_celsius={"cpu": 40.0},
        emulated=False,
    )
    ladder = Ladder(steps=[Step(level="DRAM", threads=1, read_gbps=20)])
    text = shown(
        MachineFile(
            name="Phone",
            machine=machine,
            ladder=ladder,
            costs=EngineCosts(kernels="neon", compute_gbps=10, estimated=True),
            sources={"machine.soc": "a page", "machine.clusters.0": "a page"},
        )
    )
    for part in (
        "[bold]Phone",
        "a quota of 1.5 cores' time, by default 1 thread",
        "Android 15, API level 35, security patch unknown",
        "80%, Discharging, unknown, 4.10 V",
        "cpu 40.0 °C",
        "peak 76.8 GB/s in theory",
        "emulated:         no",
        "10.0 GB/s of resident int4 weights (neon, estimated)",
        "machine.soc, machine.clusters.0: a page",
    ):
        assert part in text
    assert "unknown:          processor, identity, architecture, instruction sets, page size" in text


def test_a_machine_of_which_nothing_is_known() -> None:
    text = shown(MachineFile(name="x", machine=Machine()))
    assert "Clusters" not in text
    assert "energy from" in text


def test_this_machine_is_shown() -> None:
    file = this_machine()
    assert file.topology is not None
    assert MachineFile.model_validate_json(file.to_json()) == file
    assert shown(file).startswith(file.name)
