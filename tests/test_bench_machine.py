import json
from pathlib import Path

import pytest

from mobileloop_bench.machine import Machine, probe

ARM = """processor\t: 0
Features\t: fp asimd asimdhp asimddp i8mm sve
CPU part\t: 0xd4b
"""
X86 = """vendor_id\t: GenuineIntel
model name\t: A Processor
flags\t\t: fpu avx2 fma f16c avx_vnni hypervisor
"""


def put(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two cores of one kind with an L2 each and one L3."""
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})
    monkeypatch.delenv("MOBILELOOP_EMULATED", raising=False)
    for cpu in (0, 1):
        folder = f"sys/devices/system/cpu/cpu{cpu}"
        put(tmp_path, f"{folder}/topology/thread_siblings_list", f"{cpu}\n")
        put(tmp_path, f"{folder}/cpufreq/cpuinfo_max_freq", "3000000\n")
        put(tmp_path, f"{folder}/cpufreq/scaling_governor", "performance\n")
        for index, (level, size, shared) in enumerate([(2, "512K", str(cpu)), (3, "32M", "0-3")]):
            put(tmp_path, f"{folder}/cache/index{index}/level", f"{level}\n")
            put(tmp_path, f"{folder}/cache/index{index}/type", "Unified\n")
            put(tmp_path, f"{folder}/cache/index{index}/size", f"{size}\n")
            put(tmp_path, f"{folder}/cache/index{index}/shared_cpu_list", f"{shared}\n")
    put(tmp_path, "proc/cpuinfo", X86)
    put(tmp_path, "proc/meminfo", "MemTotal:       1000 kB\n")
    return tmp_path


def test_what_the_kernel_tells_is_read(root: Path) -> None:
    machine = probe(root)
    assert machine.cpu == "A Processor"
    assert machine.instruction_sets == ["avx2", "fma", "f16c", "avx_vnni"]
    assert (machine.cores_usable, machine.cores_physical) == (2, 2)
    assert [(c.level, c.size_bytes, c.instances, c.shared_by) for c in machine.caches] == [
        (2, 512 << 10, 2, 1),
        (3, 32 << 20, 1, 2),
    ]
    assert machine.last_level_cache_bytes() == 32 << 20
    assert (machine.max_mhz, machine.current_mhz, machine.governor) == (3000.0, None, "performance")
    assert machine.memory_bytes == 1024000
    assert machine.hypervisor is True


def test_an_arm_phone_has_clusters_and_part_numbers(root: Path) -> None:
    put(root, "proc/cpuinfo", ARM)
    put(root, "sys/devices/system/cpu/cpu1/cpufreq/cpuinfo_max_freq", "1800000\n")
    machine = probe(root)
    assert machine.cpu == "part 0xd4b"
    assert machine.instruction_sets == ["asimd", "asimdhp", "asimddp", "i8mm", "sve"]
    assert [(c.cpus, c.max_mhz) for c in machine.clusters] == [([0], 3000.0), ([1], 1800.0)]
    assert machine.hypervisor is None


def test_what_the_kernel_hides_is_null(tmp_path: Path) -> None:
    machine = probe(tmp_path / "nothing")
    for value in (machine.cpu, machine.cores_physical, machine.instruction_sets, machine.max_mhz, machine.governor):
        assert value is None
    assert machine.memory_bytes is machine.hypervisor is machine.last_level_cache_bytes() is None


def test_emulation(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert probe(root).emulated is None  # under a hypervisor it cannot be told
    put(root, "proc/cpuinfo", X86.replace(" hypervisor", ""))
    assert probe(root).emulated is False
    put(root, "proc/cpuinfo", X86.replace("A Processor", "QEMU TCG CPU"))
    assert probe(root).emulated is True
    monkeypatch.setenv("MOBILELOOP_EMULATED", "0")
    assert probe(root).emulated is False
    monkeypatch.setenv("MOBILELOOP_EMULATED", "1")
    assert probe(root).emulated is True


def test_an_x86_host_under_an_arm_program_is_emulation(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert probe(root).emulated is True


def test_this_machine_round_trips() -> None:
    machine = probe()
    assert Machine.model_validate(json.loads(machine.model_dump_json())) == machine
    assert (machine.cores_usable or 0) >= 1
