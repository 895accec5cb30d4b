from pathlib import Path

import pytest

from mobileloop_bench.machine.sensors import EnergyMeter, read_battery, read_frequencies, read_temperatures


def put(root: Path, path: str, text: object) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(f"{text}\n")


def put_battery(root: Path, **files: object) -> None:
    for name, text in {"type": "Battery", "status": "Discharging", **files}.items():
        put(root, f"sys/class/power_supply/battery/{name}", text)


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_frequencies_by_cluster(tmp_path: Path) -> None:
    for cpu, khz in enumerate([1_800_000, 1_200_000, 3_000_000]):
        folder = f"sys/devices/system/cpu/cpu{cpu}"
        put(tmp_path, f"{folder}/topology/thread_siblings_list", cpu)
        put(tmp_path, f"{folder}/cpufreq/cpuinfo_max_freq", 3_200_000 if cpu == 2 else 2_000_000)
        put(tmp_path, f"{folder}/cpufreq/scaling_cur_freq", khz)
    assert read_frequencies(tmp_path, [[2], [0, 1]]) == {0: 3000.0, 1: 1800.0}
    assert read_frequencies(tmp_path, [[2], [7]]) == {0: 3000.0}
    put(tmp_path, "sys/devices/system/cpu/cpu2/cpufreq/scaling_cur_freq", "<unknown>")
    assert read_frequencies(tmp_path, [[2], [0, 1]]) == {1: 1800.0}
    assert read_frequencies(tmp_path / "nothing") == {}


def test_the_clusters_are_the_topologys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for cpu in range(2):
        folder = f"sys/devices/system/cpu/cpu{cpu}"
        put(tmp_path, f"{folder}/cpufreq/cpuinfo_max_freq", (2_000_000, 3_200_000)[cpu])
        put(tmp_path, f"{folder}/cpufreq/scaling_cur_freq", (1_000_000, 3_000_000)[cpu])
    put(tmp_path, "sys/devices/system/cpu/online", "0-1")
    assert read_frequencies(tmp_path) == {0: 3000.0, 1: 1000.0}  # the strongest first


@pytest.mark.parametrize("text", ["0", "37", "-40000", "-274000", "200000", "999", "warm", ""])
def test_an_absurd_temperature_is_unknown(tmp_path: Path, text: str) -> None:
    put(tmp_path, "sys/class/thermal/thermal_zone0/type", "cpu")
    put(tmp_path, "sys/class/thermal/thermal_zone0/temp", text)
    assert read_temperatures(tmp_path) == {}


def test_temperatures(tmp_path: Path) -> None:
    zones = {0: ("cpuss-0", 41000), 2: ("cpu-1", 38500), 10: ("cpu-1", 39000), 11: ("skin", -5200)}
    for number, (kind, millidegrees) in zones.items():
        put(tmp_path, f"sys/class/thermal/thermal_zone{number}/type", kind)
        put(tmp_path, f"sys/class/thermal/thermal_zone{number}/temp", millidegrees)
    found = read_temperatures(tmp_path)
    assert found == {"cpuss-0": 41.0, "cpu-1 2": 38.5, "cpu-1 10": 39.0, "skin": -5.2}
    assert list(found)[1] == "cpu-1 2"  # by number, not by spelling


def test_battery(tmp_path: Path) -> None:
    assert read_battery(tmp_path) is None
    put_battery(tmp_path, capacity=83, current_now=-512000, voltage_now=4_000_000)
    put(tmp_path, "sys/class/power_supply/a_mouse/type", "Battery")
    put(tmp_path, "sys/class/power_supply/a_mouse/scope", "Device")
    put(tmp_path, "sys/class/power_supply/ac/type", "Mains")
    battery = read_battery(tmp_path)
    assert battery is not None
    assert (battery.level_percent, battery.current_ma, battery.voltage_v) == (83, 512.0, 4.0)
    assert battery.drawn_w == pytest.approx(2.048)
    put_battery(tmp_path, status="Charging")
    battery = read_battery(tmp_path)
    assert battery is not None
    assert battery.drawn_w is None


def test_a_battery_in_units_of_its_own_is_unknown(tmp_path: Path) -> None:
    put_battery(tmp_path, capacity=250, current_now=512, voltage_now=4000)
    battery = read_battery(tmp_path)
    assert battery is not None
    assert battery.level_percent is battery.current_ma is battery.voltage_v is battery.drawn_w is None


def test_energy_of_the_battery_is_the_integral_of_its_power(tmp_path: Path) -> None:
    clock = Clock()
    put_battery(tmp_path, current_now=500_000, voltage_now=4_000_000)
    meter = EnergyMeter(tmp_path, clock)
    assert (meter.source, meter.joules()) == ("battery", 0.0)
    clock.now_s = 2.0
    put_battery(tmp_path, current_now=1_000_000, voltage_now=4_000_000)
    assert meter.joules() == pytest.approx(6.0)
    clock.now_s = 3.0
    assert meter.joules() == pytest.approx(10.0)
    clock.now_s = 30.0  # nobody looked for too long
    assert meter.joules() is None
    clock.now_s = 31.0
    assert meter.joules() is None


def test_a_charger_ends_the_meter(tmp_path: Path) -> None:
    clock = Clock()
    put_battery(tmp_path, current_now=500_000, voltage_now=4_000_000)
    meter = EnergyMeter(tmp_path, clock)
    put_battery(tmp_path, status="Charging")
    clock.now_s = 1.0
    assert meter.joules() is None


def put_rapl(root: Path, zone: str, name: str, energy_uj: object) -> None:
    put(root, f"sys/class/powercap/{zone}/name", name)
    put(root, f"sys/class/powercap/{zone}/energy_uj", energy_uj)
    put(root, f"sys/class/powercap/{zone}/max_energy_range_uj", 10_000_000)


def test_rapl_counts_packages_and_memory_and_wraps_around(tmp_path: Path) -> None:
    put_rapl(tmp_path, "intel-rapl:0", "package-0", 9_000_000)
    put_rapl(tmp_path, "intel-rapl:0:0", "core", 5_000_000)
    put_rapl(tmp_path, "intel-rapl:0:1", "dram", 1_000_000)
    put_rapl(tmp_path, "intel-rapl:1", "psys", 3_000_000)
    put_rapl(tmp_path, "intel-rapl-mmio:0", "package-0", 9_000_000)
    meter = EnergyMeter(tmp_path)
    assert (meter.source, meter.joules()) == ("rapl", 0.0)
    put_rapl(tmp_path, "intel-rapl:0", "package-0", 2_000_000)
    put_rapl(tmp_path, "intel-rapl:0:0", "core", 9_000_000)
    put_rapl(tmp_path, "intel-rapl:0:1", "dram", 1_500_000)
    assert meter.joules() == pytest.approx(3.5)
    put_rapl(tmp_path, "intel-rapl:0", "package-0", 4_000_000)
    assert meter.joules() == pytest.approx(5.5)
    put_rapl(tmp_path, "intel-rapl:0", "package-0", "")
    assert meter.joules() is None


def test_a_counter_that_wraps_nobody_knows_where_is_unknown(tmp_path: Path) -> None:
    put_rapl(tmp_path, "intel-rapl:0", "package-0", 9_000_000)
    (tmp_path / "sys/class/powercap/intel-rapl:0/max_energy_range_uj").unlink()
    meter = EnergyMeter(tmp_path)
    put(tmp_path, "sys/class/powercap/intel-rapl:0/energy_uj", 2_000_000)
    assert meter.joules() is None


def test_where_nothing_can_be_read(tmp_path: Path) -> None:
    meter = EnergyMeter(tmp_path)
    assert meter.source is meter.joules() is None
