import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mobileloop_bench.machine.android import android_build, read_properties
from mobileloop_bench.machine.cores import core_names, soc_name
from mobileloop_bench.machine.facts import Machine
from mobileloop_bench.machine.probe import probe

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


def test_an_x86_host_under_an_arm_program_is_emulation(root: Path) -> None:
    put(root, "proc/sys/kernel/arch", "aarch64\n")
    assert probe(root).emulated is True


def test_the_quota_of_a_container(root: Path) -> None:
    assert probe(root).cpu_quota is None
    put(root, "proc/self/cgroup", "0::/\n")
    put(root, "sys/fs/cgroup/cpu.max", "150000 100000\n")
    machine = probe(root)
    assert (machine.cpu_quota, machine.default_threads, machine.cores_usable) == (1.5, 1, 2)


@pytest.mark.skipif(not shutil.which("localedef"), reason="localedef, of the C library's tools, is not installed")
def test_a_decimal_comma_in_the_process_reaches_no_document(root: Path, tmp_path: Path) -> None:
    made = ["localedef", "--no-archive", "-i", "de_DE", "-f", "UTF-8", str(tmp_path / "de_DE.UTF-8")]
    assert subprocess.run(made, capture_output=True, check=False).returncode == 0
    put(root, "proc/self/cgroup", "0::/\n")
    put(root, "sys/fs/cgroup/cpu.max", "150000 100000\n")
    program = (
        "import json, locale, pathlib, sys; from mobileloop.runtimes import native\n"
        "locale.setlocale(locale.LC_ALL, 'de_DE.UTF-8'); assert locale.str(1.5) == '1,5'\n"
        "for told in (native.machine_json, native.topology_json):\n"
        "    print(json.loads(told(pathlib.Path(sys.argv[1])))['cpu_quota'])\n"
    )
    command = [sys.executable, "-c", program, str(root)]
    environment = {**os.environ, "LOCPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.stdout, done.returncode) == ("1.5\n1.5\n", 0), done.stderr


def test_this_machine_round_trips() -> None:
    machine = probe()
    assert Machine.model_validate(json.loads(machine.model_dump_json())) == machine
    assert (machine.cores_usable or 0) >= 1


@pytest.fixture
def phone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A phone with four A720 and an X4, in the middle of a measurement."""
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(5)))
    blocks = []
    for cpu in range(5):
        prime = cpu == 4
        folder = f"sys/devices/system/cpu/cpu{cpu}"
        put(tmp_path, f"{folder}/cpu_capacity", "1024\n" if prime else "790\n")
        put(tmp_path, f"{folder}/cpufreq/cpuinfo_max_freq", "3300000\n" if prime else "3000000\n")
        put(tmp_path, f"{folder}/cpufreq/cpuinfo_min_freq", "480000\n" if prime else "499200\n")
        put(tmp_path, f"{folder}/cpufreq/scaling_cur_freq", "2400000\n" if prime else f"{1000 + cpu}000\n")
        put(tmp_path, f"{folder}/cpufreq/scaling_governor", "walt\n")
        caches = [(2, "2048K" if prime else "512K", str(cpu), 8), (3, "12M", "0-4", 0)]
        for index, (level, size, shared, ways) in enumerate(caches):
            put(tmp_path, f"{folder}/cache/index{index}/level", f"{level}\n")
            put(tmp_path, f"{folder}/cache/index{index}/type", "Unified\n")
            put(tmp_path, f"{folder}/cache/index{index}/size", f"{size}\n")
            put(tmp_path, f"{folder}/cache/index{index}/shared_cpu_list", f"{shared}\n")
            put(tmp_path, f"{folder}/cache/index{index}/ways_of_associativity", f"{ways}\n")
        part = "0xd82" if prime else "0xd81"
        blocks.append(
            f"processor\t: {cpu}\nFeatures\t: asimd asimddp i8mm\nCPU implementer\t: 0x41\nCPU part\t: {part}\n"
        )
    put(tmp_path, "sys/devices/system/cpu/online", "0-4\n")
    put(tmp_path, "proc/cpuinfo", "\n".join(blocks))
    put(tmp_path, "proc/meminfo", "MemTotal: 11000000 kB\nMemFree: 10 kB\nMemAvailable: 6000000 kB\n")
    put(tmp_path, "sys/class/thermal/thermal_zone0/type", "cpuss-0\n")
    put(tmp_path, "sys/class/thermal/thermal_zone0/temp", "51200\n")
    battery = {"type": "Battery", "status": "Discharging", "current_now": "900000", "voltage_now": "4100000"}
    for name, text in battery.items():
        put(tmp_path, f"sys/class/power_supply/battery/{name}", f"{text}\n")
    put(
        tmp_path,
        "system/build.prop",
        "# a comment\nro.product.manufacturer=A Maker\nro.product.model=Phone 1\nro.build.version.release=15\n"
        "ro.build.version.sdk=35\nro.build.version.security_patch=2026-10-05\nro.build.fingerprint=a/b/c:15/D/1:user\n",
    )
    put(tmp_path, "vendor/build.prop", "ro.soc.manufacturer=QTI\nro.soc.model=SM8650\nro.board.platform=pineapple\n")
    return tmp_path


def test_a_whole_phone(phone: Path) -> None:
    machine = probe(phone)
    assert (machine.soc, machine.cpu) == ("QTI SM8650", "Cortex-A720, Cortex-X4")
    prime, others = machine.clusters
    assert (prime.cpus, prime.cores, prime.core, prime.big) == ([4], 1, "Cortex-X4", True)
    assert (prime.min_mhz, prime.max_mhz, prime.current_mhz, prime.governor) == (480.0, 3300.0, 2400.0, "walt")
    assert (others.cpus, others.core, others.current_mhz) == ([0, 1, 2, 3], "Cortex-A720", 1003.0)
    assert machine.current_mhz == 2400.0
    told = {(c.level, c.size_bytes): (c.instances, c.shared_by, c.cluster, c.ways) for c in machine.caches}
    assert told == {
        (2, 2 << 20): (1, 1, 0, 8),
        (2, 512 << 10): (4, 1, 1, 8),
        (3, 12 << 20): (1, 5, None, None),
    }
    assert machine.memory_available_bytes == 6000000 * 1024
    assert machine.temperatures_celsius == {"cpuss-0": 51.2}
    assert machine.battery is not None
    assert machine.battery.drawn_w == pytest.approx(3.69)
    assert machine.energy_source == "battery"
    assert machine.android is not None
    assert machine.android.model_dump() == {
        "device": "A Maker Phone 1",
        "release": "15",
        "api_level": 35,
        "security_patch": "2026-10-05",
        "fingerprint": "a/b/c:15/D/1:user",
    }
    assert Machine.model_validate(json.loads(machine.model_dump_json())) == machine


def test_getprop(phone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "bin/getprop", "#!/bin/sh\necho '[ro.build.version.sdk]: [34]'\necho '[empty]: []'\n")
    (tmp_path / "bin/getprop").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    properties = read_properties()
    assert properties == {"ro.build.version.sdk": "34", "empty": ""}
    build = android_build(properties)
    assert build is not None
    assert (build.api_level, build.release, build.device) == (34, None, None)


def test_where_there_is_no_android(tmp_path: Path) -> None:
    assert android_build(read_properties(tmp_path)) is None


def test_midr_of_sysfs_names_a_core_that_cpuinfo_leaves_out(tmp_path: Path) -> None:
    put(tmp_path, "sys/devices/system/cpu/cpu12/regs/identification/midr_el1", "0x00000000414fd0b1\n")
    put(tmp_path, "sys/devices/system/cpu/cpu3/regs/identification/midr_el1", "0x000000005100f990\n")
    put(tmp_path, "sys/devices/system/cpu/cpu4/regs/identification/midr_el1", "none\n")
    found = core_names(tmp_path, "processor\t: 1\nCPU part\t: 0xd0b\n")
    assert found == {12: "Cortex-A76", 3: "part 0xf99 of implementer 0x51", 1: "part 0xd0b"}


@pytest.mark.parametrize(
    ("files", "name"),
    [
        ({"family": "Snapdragon", "machine": "SM8650", "soc_id": "557"}, "Snapdragon SM8650"),
        ({"family": "Samsung Exynos", "machine": "A board", "soc_id": "EXYNOS9925"}, "Samsung Exynos EXYNOS9925"),
        ({"soc_id": "jep106:0426:8186", "machine": "A board"}, "A board"),
        ({}, None),
    ],
)
def test_the_chip_as_the_kernels_driver_names_it(tmp_path: Path, files: dict[str, str], name: str | None) -> None:
    for file, text in files.items():
        put(tmp_path, f"sys/devices/soc0/{file}", f"{text}\n")
    assert soc_name(tmp_path, {}) == name


def test_the_chip_and_the_board_of_a_device_tree(tmp_path: Path) -> None:
    put(tmp_path, "sys/firmware/devicetree/base/compatible", "raspberrypi,5-model-b\0brcm,bcm2712\0")
    put(tmp_path, "sys/firmware/devicetree/base/model", "Raspberry Pi 5 Model B Rev 1.0\0")
    put(tmp_path, "proc/cpuinfo", "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n")
    machine = probe(tmp_path)
    assert (machine.soc, machine.cpu) == ("brcm,bcm2712", "Raspberry Pi 5 Model B Rev 1.0; Cortex-A76")


def test_x86_has_an_identity(root: Path) -> None:
    assert probe(root).cpu_id is None  # an incomplete one is none
    put(root, "proc/cpuinfo", X86 + "cpu family\t: 6\nmodel\t\t: 167\nstepping\t: 1\n")
    assert probe(root).cpu_id == "GenuineIntel family 6 model 167 stepping 1"


@pytest.mark.parametrize(
    ("path", "text"),
    [("sys/hypervisor/type", "xen"), ("sys/class/dmi/id/product_name", "KVM Virtual Machine")],
)
def test_a_virtual_arm_machine_says_so(tmp_path: Path, path: str, text: str) -> None:
    put(tmp_path, path, text)
    assert probe(tmp_path).hypervisor is True
