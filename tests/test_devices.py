"""`mobileloop device` end to end against a stand-in adb: on the host's program, and on the ARM one under QEMU."""

import fcntl
import json
import os
import platform
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import fake_adb
import pytest
from builders import packed_model, write_engine
from fake_adb import facts_of, make_device
from hypothesis import given
from hypothesis import strategies as st
from test_engine_binary import arm_binary, build
from typer.testing import CliRunner

from mobileloop.cli import app
from mobileloop.spec.schedule import Schedule
from mobileloop_bench.devices import adb as adb_module
from mobileloop_bench.devices import install as session
from mobileloop_bench.devices import run as bench_module
from mobileloop_bench.devices.adb import Adb, AdbError, Listed, choose, list_devices
from mobileloop_bench.devices.describe import FOLDER, by_cluster, describe, parse_sensors
from mobileloop_bench.machine.sensors import Sensors
from mobileloop_bench.results.document import read_document

ROOT = Path(__file__).resolve().parents[1]
OWN_ABI = {"x86_64": "x86_64", "aarch64": "arm64-v8a"}.get(platform.machine())
SMALL = ["--threads", "1", "--loops", "1,2", "--prompt-tokens", "8", "--decode-tokens", "3", "--repetitions", "2"]
SMALL += ["--no-bandwidth"]
TURNS = 4
SERIAL = "R5CT10"


@pytest.fixture
def phones(tmp_path, monkeypatch):
    """make(serial, **changes) -> its folder; the stand-in is `adb`, and nothing waits for long."""
    program = tmp_path / "bin" / "adb"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {fake_adb.__file__} "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    root = tmp_path / "devices"
    root.mkdir()
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_ADB_ROOT", str(root))
    monkeypatch.setattr(bench_module, "POLL_S", 0.05)

    def make(serial=SERIAL, **changes):
        return make_device(root, serial, **changes)

    return make


@pytest.fixture
def own(phones):
    """Phones that run this machine's program."""
    if OWN_ABI is None:
        pytest.skip(f"no Android runs programs of {platform.machine()}")

    def make(serial=SERIAL, **changes):
        folder = phones(serial, **changes)
        with facts_of(folder) as facts:
            facts["properties"]["ro.product.cpu.abilist"] = OWN_ABI
        return folder

    return make


@pytest.fixture(scope="module")
def program():
    return build("engine", "mobileloop-engine", "-DML_CLI=ON")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    checkpoint, packed = packed_model(schedule=Schedule.repeat_all_over(3, 2), quantization="int8")
    return write_engine(tmp_path_factory.mktemp("device") / "tiny model's.safetensors", checkpoint, packed)


def invoke(*words):
    return CliRunner().invoke(app, ["device", *map(str, words)])


def told(*words):
    """What a command that succeeds says."""
    done = invoke(*words)
    assert done.exit_code == 0, done.output
    return done.stdout


def commands(folder):
    """What adb was asked to do on a device, in order."""
    log = folder / "log"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def measured(folder):
    return sum(words[0] == "shell" and " bench " in words[1] for words in commands(folder))


def held(folder):
    return sorted(path.name for path in (folder / f"fs{FOLDER}").iterdir())


# -- list ----------------------------------------------------------------------------------------------


def test_list_says_what_a_phone_is(phones):
    phones()
    phones("192.168.1.7:5555", state="unauthorized")
    phones("0123", state="no permissions", detail="(missing udev rules? user is in the plugdev group); see [http://x]")
    done = invoke("list", "--json")
    assert done.exit_code == 0, done.output
    told = {one["serial"]: one for one in json.loads(done.stdout)["devices"]}
    phone = told[SERIAL]
    assert (phone["model"], phone["soc"], phone["android"]) == ("Acme Phone 9", "SM9999", "15")
    assert (phone["cores"], phone["free_bytes"]) == (8, 9_000_000 * 1024)
    assert (phone["zone"], phone["celsius"], phone["battery_percent"]) == ("battery", 31.5, 80)
    assert told["192.168.1.7:5555"] == {
        **dict.fromkeys(phone),
        "serial": "192.168.1.7:5555",
        "state": "unauthorized",
        "abis": [],
    }
    assert told["0123"]["state"] == "no permissions"
    table = invoke("list").stdout
    assert "Acme Phone 9" in table
    assert "unknown" in table
    assert "31.5 °C (battery)" in table


def test_list_of_nothing(phones):
    assert "adb sees no device" in invoke("list").stdout
    assert json.loads(invoke("list", "--json").stdout)["devices"] == []


def test_what_a_device_hides_is_unknown(phones):
    folder = phones(properties={})
    shutil.rmtree(folder / "fs/sys")
    listed = describe(Adb(SERIAL), Listed(SERIAL, "device"))
    assert (listed.model, listed.soc, listed.android, listed.cores, listed.abis) == (None, None, None, None, [])


def test_sensors_are_read_strictly():
    text = (
        "zone 41200 skin-therm\nzone 38 whole-degrees\nzone -40000 off\nzone 55000 cpu-0\nzone 61000 cpu-0\n"
        "zone x broken\nzone 9999999999999 long\nzone 44000 \x1b[31mskin\x07\n"
        "policy 1800000 0 1 2 3\npolicy 2800000 4 5\npolicy  7\n  level: 101\n  temperature: 305\n"
    )
    sensors = parse_sensors(text)
    assert sensors.celsius == {
        "skin-therm": 41.2,
        "cpu-0": 55.0,
        "cpu-0 #2": 61.0,
        "[31mskin": 44.0,
        "battery": 30.5,
    }
    assert sensors.mhz == {0: 1800, 4: 2800}
    assert sensors.battery_percent is None
    assert sensors.watched() == ("[31mskin", 44.0)
    assert Sensors(celsius={"cpu-0": 60, "battery": 30}).watched() == ("battery", 30)
    assert Sensors(celsius={"cpu-0": 60, "modem": 70}).watched() == ("cpu-0", 60)
    assert Sensors(celsius={"modem": 70}).watched() is None
    assert by_cluster(sensors.mhz, [[4, 5, 6], [0, 1, 2, 3], [7]]) == {0: 2800, 1: 1800}


# -- one sentence for each thing that can be wrong -----------------------------------------------------


def refused(*words):
    done = invoke(*words)
    assert done.exit_code == 2, done.output
    assert done.stderr.startswith("mobileloop: ")
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.output
    return done.stderr


def test_no_adb(tmp_path, monkeypatch, artifact):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "adb was not found; install Android's platform tools" in refused("list")
    assert "adb was not found" in refused("bench", artifact, *SMALL)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"state": "unauthorized"}, "accept the question 'Allow USB debugging?'"),
        ({"state": "offline"}, "is offline"),
        ({"state": "no permissions", "detail": "(missing udev rules?)"}, "add a udev rule"),
        ({"state": "recovery"}, "in the state 'recovery'"),
    ],
)
@pytest.mark.parametrize("command", ["setup", "bench"])
def test_a_device_that_is_not_ready(phones, artifact, command, changes, said):
    phones(**changes)
    assert said in refused(command, artifact, *(SMALL if command == "bench" else []))


def test_the_choice_of_devices(phones, artifact):
    assert "adb sees no device;" in refused("setup", artifact)
    phones("A")
    phones("B", state="offline")
    assert "adb sees 2 devices (A, B)" in refused("setup", artifact)
    assert "adb sees no device C;" in refused("setup", artifact, "--device", "C")
    assert choose(["all"]) == ["A"]
    assert choose(["A", "A"]) == ["A"]
    assert [one.state for one in list_devices()] == ["device", "offline"]


FACTS = "product:a16 model:SM_A165F device:a16 transport_id:4"
MDNS = "adb-R5CT123ABC-x1Y2z3 (2)._adb-tls-connect._tcp"
HELP = "(user in plugdev group; are your udev rules wrong?); see [http://developer.android.com/tools/device.html]"


@pytest.mark.parametrize("facts", ["", FACTS, f"usb:1-1.2 {FACTS}", "transport_id:4"])
@pytest.mark.parametrize(
    "state",
    ["device", "offline", "unauthorized", "authorizing", "recovery", "sideload", "bootloader", "rescue", "unknown"],
)
@pytest.mark.parametrize(
    "serial",
    ["R5CT10", MDNS, "192.168.1.5:5555", "my device", "device offline", "(no serial number)", "a (b) (c) d", "x  y",
     "Ä 1", "emulator-5554", "0123456789ABCDEFGHIJKLMNOPQ", "no", "usb:1"],
)  # fmt: skip
def test_a_line_of_the_list(serial, state, facts):
    assert adb_module._listed(f"{serial:<22} {state} {facts}") == Listed(serial, state, facts)
    assert adb_module._listed(f"{serial}\t{state}") == Listed(serial, state)


@pytest.mark.parametrize("serial", ["R5CT10", MDNS, "????????????", "(no serial number)"])
@pytest.mark.parametrize("facts", ["", " usb:3-4 transport_id:1"])
def test_a_line_of_a_device_without_permissions(serial, facts):
    expected = Listed(serial, "no permissions", f"{HELP}{facts}"[:200])
    assert adb_module._listed(f"{serial:<22} no permissions {HELP}{facts}") == expected
    assert adb_module._listed(f"{serial}\tno permissions {HELP}{facts}") == expected
    with pytest.raises(AdbError, match="may not open"):
        expected.check_ready()


@given(st.text(max_size=60))
def test_any_line_is_a_device(line):
    listed = adb_module._listed(line)
    assert listed.state
    assert all(c.isprintable() for c in listed.state + listed.detail)


@pytest.mark.parametrize("serial", [MDNS, 'a\'b "c" $(touch x) `y`; z & w', "Ä (1)"])
def test_a_serial_that_a_shell_would_take_apart(own, artifact, program, tmp_path, monkeypatch, serial):
    monkeypatch.chdir(tmp_path)
    own(serial)
    own("other")
    listed = json.loads(told("list", "--json"))["devices"]
    assert sorted((one["serial"], one["state"], one["model"]) for one in listed) == sorted(
        [(serial, "device", "Acme Phone 9"), ("other", "device", "Acme Phone 9")]
    )
    assert serial in told("setup", artifact, "--engine", program, "--device", serial)
    told("bench", artifact, "--engine", program, "--device", "all", *SMALL, "--json", "out.json")
    results = sorted(path for path in tmp_path.glob("out-*.json"))
    assert len(results) == 2
    assert {read_document(path).device["serial"] for path in results} == {serial, "other"}
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "128 prompt and 64 decode tokens do not fit the context of 64"),
        (["--threads", "x"], "--threads 'x'"),
        (["--cpus", "4-"], "--cpus '4-'"),
        ([*SMALL, "--loops", "9"], "nothing is left to measure"),
        (["--prompt-tokens", "500"], "do not fit the context of 64"),
        (["--max-temperature", "nan"], "--max-temperature nan is outside 1-150"),
        (["--wait", "-1"], "--wait -1.0 is outside"),
        (["--json", "nowhere/out.json"], "the folder nowhere does not exist"),
    ],
)
def test_bench_refuses_before_it_starts(phones, artifact, words, said):
    folder = phones()
    assert said in refused("bench", artifact, *words)
    assert commands(folder) == []


def test_what_is_not_an_artifact_or_a_program(own, artifact, tmp_path, program):
    own()
    other = tmp_path / "a.onnx"
    other.write_bytes(b"x")
    assert "is not an engine artifact" in refused("setup", other)
    assert "is no 64-bit Linux program" in refused("setup", artifact, "--engine", other)
    assert "cannot be read" in refused("setup", artifact, "--engine", tmp_path / "none")
    wrong = tmp_path / "engine"
    data = bytearray(program.read_bytes())
    data[18:20] = (183 if OWN_ABI == "x86_64" else 62).to_bytes(2, "little")
    wrong.write_bytes(data)
    assert f"but {SERIAL} runs {OWN_ABI}" in refused("setup", artifact, "--engine", wrong)


def test_no_program_was_built(own, artifact, tmp_path, monkeypatch):
    own()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(session.mobileloop, "__file__", str(tmp_path / "site" / "mobileloop" / "__init__.py"))
    assert "build it with make engine" in refused("setup", artifact)


def test_another_version_of_the_program(own, artifact, program, monkeypatch):
    own()
    monkeypatch.setattr(session.mobileloop, "__version__", "9.9.9")
    assert f"is 'mobileloop-engine {mobileloop_version()}', but" in refused("setup", artifact, "--engine", program)


def mobileloop_version():
    text = (ROOT / "mobileloop" / "__init__.py").read_text()
    return text.partition('__version__ = "')[2].partition('"')[0]


# -- setup ---------------------------------------------------------------------------------------------


def test_setup_pushes_once(own, artifact, program):
    folder = own()
    first = invoke("setup", artifact, "--engine", program)
    assert first.exit_code == 0, first.output
    assert first.stdout == f"{SERIAL}: pushed mobileloop-engine, {artifact.name}; ready.\n"
    pushed, copy = session.payload(program, ""), session.payload(artifact, ".safetensors")
    assert held(folder) == sorted(Path(one.remote).name for one in (pushed, copy))
    assert (folder / f"fs{copy.remote}").read_bytes() == artifact.read_bytes()
    second = invoke("setup", artifact, "--engine", program)
    assert second.stdout == f"{SERIAL}: everything was there; ready.\n"
    assert sum(words[0] == "push" for words in commands(folder)) == 2
    # A file of the right name that holds something else is replaced.
    (folder / f"fs{copy.remote}").write_bytes(b"half")
    assert f"pushed {artifact.name};" in invoke("setup", artifact, "--engine", program).stdout
    assert (folder / f"fs{copy.remote}").read_bytes() == artifact.read_bytes()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"full": True}, "has no space left in /data/local/tmp while taking mobileloop-engine"),
        ({"free_kb": 3}, "bytes, 3,072 are free"),
        ({"corrupt": 1}, "is not what was sent"),
    ],
)
def test_a_push_that_fails_leaves_nothing(own, artifact, program, changes, said):
    folder = own(**changes)
    assert said in refused("setup", artifact, "--engine", program)
    assert held(folder) == []


def test_a_device_without_a_writable_folder(own, artifact, program):
    folder = own()
    shutil.rmtree(folder / "fs/data/local/tmp")
    (folder / "fs/data/local/tmp").write_text("")
    assert f"{SERIAL} refused while making {FOLDER}" in refused("setup", artifact, "--engine", program)


# -- bench ---------------------------------------------------------------------------------------------


def test_bench_writes_a_document(own, artifact, program, tmp_path):
    folder, out = own(), tmp_path / "out.json"
    with facts_of(folder) as facts:
        facts["properties"]["ro.soc.model"] = "SM [1]"
    done = invoke("bench", artifact, *SMALL, "--engine", program, "--json", out)
    assert done.exit_code == 0, done.output
    document = read_document(out)
    assert json.loads(done.stdout.splitlines()[-1]) == json.loads(out.read_text())
    assert not document.interrupted
    assert document.command.startswith("mobileloop")
    rows = {(row.loops, row.phase): row for row in document.results}
    assert set(rows) == {(n, phase) for n in (1, 2) for phase in ("load", "first_token", "prefill", "decode")}
    for (loops, phase), row in rows.items():
        assert row.artifact == artifact.name
        assert len(row.samples_ms) == (6 if phase == "decode" else 2)
        assert row.samples_per_round == (3 if phase == "decode" else 1)
        assert row.repetitions == 2
        assert not any(reason.startswith("hot") for reason in row.reasons)
        assert row.executed_bytes > row.unique_bytes or loops == 1
    assert rows[2, "decode"].loop_tax is not None
    assert rows[2, "decode"].details["kernels"]
    assert document.machine.os == "Android 15"
    assert document.machine.soc == "SM [1]"
    assert document.machine.android is not None
    assert document.machine.android.device == "Acme Phone 9"
    assert document.machine.python is None  # the device's machine, not this one's
    assert document.model_dump()["device"]["serial"] == SERIAL
    assert len(document.series) == 2 * TURNS
    assert document.series[0].celsius == {"cpu-0-0": 48.5, "battery": 31.5}
    assert [one.t_s for one in document.series] == sorted(one.t_s for one in document.series)
    assert measured(folder) == TURNS + 1  # and the probe
    assert not [name for name in held(folder) if "run" in name or "busy" in name]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith((".", "out"))] == ["out.json"]


def test_rounds_are_interleaved_and_measure_bandwidth_once(own, artifact, program):
    folder = own()
    words = [word for word in SMALL if word != "--no-bandwidth"]
    done = invoke("bench", artifact, *words, "--engine", program, "--device", SERIAL)
    assert done.exit_code == 0, done.output
    turns = [words[1] for words in commands(folder) if " bench " in words[-1]][1:]
    assert ["--loops 1" in turn for turn in turns] == [True, False, False, True]
    assert ["--no-bandwidth" in turn for turn in turns] == [False, True, True, True]
    document = json.loads(done.stdout.splitlines()[-1])
    assert [one["threads"] for one in document["bandwidth"]] == [1]
    decode = [row for row in document["results"] if row["phase"] == "decode"]
    assert all(row["ceiling_gbps"] == document["bandwidth"][0]["read_gbps"] for row in decode)


def test_cpus_are_those_of_the_device(own, artifact, program):
    own()
    cpu = max(os.sched_getaffinity(0))
    done = invoke("bench", artifact, *SMALL[2:], "--cpus", cpu, "--engine", program)
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout.splitlines()[-1])
    assert {row["details"]["cpus"] for row in document["results"]} == {str(cpu)}
    assert {row["threads"] for row in document["results"]} == {1}
    said = refused("bench", artifact, *SMALL[2:], "--cpus", "1000", "--engine", program)
    assert f"{SERIAL} refused while measuring {artifact.name}" in said
    assert "cpu 1000" in said


def test_a_turn_waits_for_the_temperature(own, artifact, program):
    # Readings: what it is, whether it has a thermometer, then before and after each turn.
    folder = own(celsius=[45, 45, 45, 40, 36, 36])
    done = invoke("bench", artifact, *SMALL, "--max-temperature", "37", "--cooldown", "60", "--engine", program)
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout.splitlines()[-1])
    assert document["series"][0]["celsius"]["battery"] == 36
    assert not [reason for row in document["results"] for reason in row["reasons"] if "hot" in reason]
    with facts_of(folder) as facts:
        assert facts["readings"] == 2 + 2 + 2 * TURNS


def test_a_turn_that_stays_hot_is_flagged(own, artifact, program):
    own(celsius=[45])
    words = ["--max-temperature", "37", "--cooldown", "0.1", "--engine", program]
    done = invoke("bench", artifact, *SMALL, *words)
    assert done.exit_code == 0, done.output
    for row in json.loads(done.stdout.splitlines()[-1])["results"]:
        assert "hot: 2 turns began above 37 °C, at up to 45.0 °C" in row["reasons"]
        assert not row["valid"]


def test_a_device_without_a_thermometer(own, artifact, program):
    folder = own(celsius=[0])
    shutil.rmtree(folder / "fs/sys/class")
    assert "shows no thermometer" in refused("bench", artifact, *SMALL, "--max-temperature", 37, "--engine", program)


def test_an_emulated_phone_is_said_to_be_one(own, artifact, program):
    folder = own()
    with facts_of(folder) as facts:
        facts["properties"]["ro.boot.qemu"] = "1"
    done = invoke("bench", artifact, *SMALL, "--engine", program)
    document = json.loads(done.stdout.splitlines()[-1])
    assert document["machine"]["hypervisor"] is True
    assert all(any(reason.startswith("virtual") for reason in row["reasons"]) for row in document["results"])


# -- losing the device, and the host -------------------------------------------------------------------


@pytest.fixture
def ready(own, artifact, program):
    """A phone that is set up: (its folder, number of adb commands of a whole bench)."""
    folder = own()
    assert invoke("bench", artifact, *SMALL, "--engine", program).exit_code == 0
    total = len(commands(folder))
    (folder / "log").unlink()
    with facts_of(folder) as facts:
        facts["commands"] = 0
    assert invoke("bench", artifact, *SMALL, "--engine", program).exit_code == 0
    setup_free = len(commands(folder))
    assert setup_free < total
    (folder / "log").unlink()
    with facts_of(folder) as facts:
        facts["commands"] = 0
    return folder, setup_free


def complete(done):
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout.splitlines()[-1])
    assert not document["interrupted"]
    assert [len(row["samples_ms"]) for row in document["results"] if row["phase"] == "decode"] == [6, 6]
    return document


@pytest.mark.parametrize("how", ["before", "after", "unwatched"])
def test_a_device_that_vanishes_at_any_command_and_comes_back(ready, artifact, program, how):
    folder, _ = ready
    words = ["bench", artifact, *SMALL, "--loops", "2", "--repetitions", "1", "--engine", program, "--wait", "30"]
    at = 0
    while True:
        at += 1
        with facts_of(folder) as facts:
            facts.update(commands=0, faults=[{"at": at, "how": how, "returns": True}])
        (folder / "log").unlink(missing_ok=True)
        done = invoke(*words)
        assert done.exit_code == 0, (at, done.output)
        document = json.loads(done.stdout.splitlines()[-1])
        assert not document["interrupted"]
        assert [len(row["samples_ms"]) for row in document["results"]] == [1, 1, 1, 3]
        # The probe and the turn; what ended unheard is fetched, not repeated.
        assert measured(folder) == 2 if how != "before" else measured(folder) in (2, 3)
        if document["device"]["losses"] == 0:  # only the command that tidies up was hit, or none
            break
    assert at > 15


def test_a_device_that_vanishes_while_it_is_set_up(own, artifact, program):
    folder = own(faults=[{"at": at, "how": "before", "returns": True} for at in (2, 7, 12, 17, 22)])
    complete(invoke("bench", artifact, *SMALL, "--engine", program, "--wait", "30"))
    assert not [name for name in held(folder) if name.endswith(".part")]


def test_a_device_that_stays_away_and_a_later_command(ready, artifact, program, tmp_path):
    folder, total = ready
    out = tmp_path / "out.json"
    words = ["bench", artifact, *SMALL, "--engine", program, "--json", out, "--wait", "0.3"]
    with facts_of(folder) as facts:
        facts["faults"] = [{"at": total - 8, "how": "before", "returns": False}]
    lost = invoke(*words)
    assert lost.exit_code == 2
    assert f"mobileloop: {SERIAL} vanished while" in lost.stderr
    assert "The same command goes on where this one stopped." in lost.stderr
    partial = read_document(out)
    assert partial.interrupted
    kept = [len(row.samples_ms) for row in partial.results if row.phase == "decode"]
    assert 0 < sum(kept) < 12
    with facts_of(folder) as facts:
        facts.update(away=None, faults=[])
    (folder / "log").unlink()
    document = complete(invoke(*words))
    assert document["id"] == partial.id
    left = TURNS - sum(kept) // 3
    assert measured(folder) in (left, left - 1)  # one may have ended on the device and not been fetched
    assert not out.with_name("out.json.turns").exists()


def test_another_command_does_not_go_on_with_these_turns(ready, artifact, program, tmp_path):
    folder, total = ready
    out = tmp_path / "out.json"
    with facts_of(folder) as facts:
        facts["faults"] = [{"at": total - 8, "how": "before", "returns": False}]
    assert invoke("bench", artifact, *SMALL, "--engine", program, "--json", out, "--wait", "0.1").exit_code == 2
    with facts_of(folder) as facts:
        facts.update(away=None, faults=[])
    said = refused("bench", artifact, *SMALL, "--engine", program, "--json", out, "--max-temperature", "90")
    assert "holds the turns of another run (its temperature differs)" in said


@pytest.mark.parametrize("damage", ["torn", "garbage", "header", "locked"])
def test_the_journal_is_untrusted(ready, artifact, program, tmp_path, damage):
    folder, total = ready
    out, journal = tmp_path / "out.json", tmp_path / "out.json.turns"
    words = ["bench", artifact, *SMALL, "--engine", program, "--json", out, "--wait", "0.1"]
    with facts_of(folder) as facts:
        facts["faults"] = [{"at": total - 3, "how": "before", "returns": False}]
    assert invoke(*words).exit_code == 2
    with facts_of(folder) as facts:
        facts.update(away=None, faults=[])
    content = journal.read_bytes()
    if damage == "torn":  # the host died while it wrote the last turn
        journal.write_bytes(content[:-50])
        complete(invoke(*words))
    elif damage == "locked":
        with journal.open() as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            assert "is in use by another run" in refused(*words)
    else:
        lines = content.split(b"\n")
        lines[0 if damage == "header" else 1] = b'{"number": -1}' if damage == "garbage" else b"[[["
        journal.write_bytes(b"\n".join(lines))
        said = invoke(*words).stderr
        assert "line 1 of" in said if damage == "header" else "line 2 of" in said


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_the_host_stops_and_the_same_command_goes_on(ready, artifact, program, tmp_path, sent):
    folder, _ = ready
    out = tmp_path / "out.json"
    words = ["device", "bench", str(artifact), *SMALL, "--engine", str(program), "--json", str(out)]
    # A shell that starts tests in the background lets them ignore Ctrl-C, which Python would inherit.
    start = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    command = [sys.executable, "-c", f"{start}from mobileloop.cli import main; main()", *words]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        journal = tmp_path / "out.json.turns"
        while not (out.exists() and journal.read_bytes().count(b"\n") >= 3):  # a header and two turns
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(sent)
    assert process.returncode == (130 if sent == signal.SIGINT else -signal.SIGKILL)
    partial = read_document(out)
    assert partial.interrupted
    assert all("interrupted" in row.reasons for row in partial.results)
    (folder / "log").unlink()
    document = complete(CliRunner().invoke(app, words))
    assert document["id"] == partial.id
    assert measured(folder) <= TURNS - 2 + 1


def test_a_device_that_does_not_answer(phones, monkeypatch):
    phones(slow_s=60)
    monkeypatch.setattr(adb_module, "QUICK_S", 0.3)
    with pytest.raises(AdbError, match=f"{SERIAL} did not answer within 0 s while looking") as caught:
        Adb(SERIAL).shell("true", "looking", 0.3)
    assert caught.value.kind == "late"


def test_the_exit_code_of_the_device_is_heard(phones):
    phones()
    adb = Adb(SERIAL)
    assert (adb.shell("echo a; exit 3", "x").code, adb.shell("printf b", "x").out) == (3, "b")
    with pytest.raises(AdbError, match=f"{SERIAL} refused while looking: no such thing"):
        adb.checked("echo no such thing >&2; exit 1", "looking")


# -- several devices, and ARM --------------------------------------------------------------------------


def test_several_devices_at_once(own, artifact, program, tmp_path):
    own("A")
    own("192.168.1.7:5555", faults=[{"at": 20, "how": "before", "returns": True}])
    own("Z", full=True)
    done = invoke("bench", artifact, *SMALL, "--engine", program, "--device", "all", "--json", tmp_path / "o.json")
    assert done.exit_code == 2
    assert "Z has no space left" in done.stderr
    assert sorted(path.name for path in tmp_path.glob("o*")) == ["o-192.168.1.7_5555.json", "o-A.json"]
    for path in tmp_path.glob("o*"):
        assert not read_document(path).interrupted
    documents = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [one["device"]["serial"] for one in documents] == ["192.168.1.7:5555", "A"]


def test_two_devices_of_one_file_name(own, artifact, tmp_path):
    own("A:1")
    own("A_1")
    said = refused("bench", artifact, *SMALL, "--device", "all", "--json", tmp_path / "o.json")
    assert "two devices would both write" in said


def test_the_arm_program_end_to_end(phones, artifact, tmp_path):
    qemu = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    if not qemu:
        pytest.skip("QEMU's user mode emulation (qemu-aarch64) is not installed")
    engine = arm_binary("gcc")
    folder, out = phones(qemu=qemu, faults=[{"at": 25, "how": "unwatched", "returns": True}]), tmp_path / "phone.json"
    assert "ready." in invoke("setup", artifact, "--engine", engine).stdout
    done = invoke("bench", artifact, *SMALL, "--engine", engine, "--json", out)
    document = complete(done)
    assert document["machine"]["architecture"] == "aarch64"
    assert document["machine"]["emulated"] is True
    assert document["device"]["losses"] == 1
    assert read_document(out).id == document["id"]
    for row in document["results"]:
        assert "emulated: the machine's instructions are simulated" in row["reasons"]
        assert row["details"]["kernels"].startswith("neon")
    assert measured(folder) >= TURNS + 1
