"""64-bit ARM without a phone: every kernel set on emulated processors, and what simulate and count promise.

All of it needs a cross compiler and QEMU, and is skipped with that reason where one is missing.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest

from mobileloop.artifact import ArtifactInfo, Costs
from mobileloop.errors import MobileloopError
from mobileloop.spec.schedule import Schedule
from mobileloop_bench.simulate import qemu as emulation
from mobileloop_bench.simulate.arm import misses, products
from mobileloop_bench.simulate.arm.__main__ import main
from mobileloop_bench.simulate.caches import Cache, Phone, is_resident
from mobileloop_bench.simulate.qemu import Emulator, build

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "arm-tests"
pytestmark = pytest.mark.long
KIB, MIB = 1 << 10, 1 << 20
# What each processor has: both extensions, the dot products of Armv8.2, neither.
SETS = {
    "max": ["neon-i8mm", "neon-dotprod", "neon", "scalar"],
    "cortex-a76": ["neon-dotprod", "neon", "scalar"],
    "cortex-a53": ["neon", "scalar"],
}


@pytest.fixture(scope="module")
def arm():
    try:
        return Emulator(FOLDER)
    except MobileloopError as error:
        if "was not found" in str(error):
            pytest.skip(str(error))
        raise


@pytest.fixture(scope="module")
def engine_tests(arm):
    options = [f"-DCMAKE_CXX_COMPILER={arm.compiler}", "-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64"]
    static = "-DCMAKE_EXE_LINKER_FLAGS=-static"
    return build(FOLDER / "engine-aarch64", "engine_tests", ["-DML_TESTS=ON", static, *options])


@pytest.fixture(scope="module")
def artifact(arm, tmp_path_factory):
    """Four blocks of the real size, up to four times in a row each, behind a tiny head.

    All four are beyond every cache of these tests, so that a token finds nothing of the one before.
    """
    path = tmp_path_factory.mktemp("arm") / "four-blocks.safetensors"
    return path, misses.write_artifact(path, "immediate", 4, vocab_size=64)


def emulated(arm, processor, *command, **environment):
    return subprocess.run(
        [arm.qemu, "-cpu", processor, *map(str, command)],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
        env={**os.environ, **environment},
    )


# -- kernel sets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("processor", list(SETS))
def test_every_kernel_set_equals_the_scalar_one(arm, engine_tests, processor):
    # A set's instructions are the same everywhere: the newest processor runs every set, the others their own best.
    done = emulated(arm, processor, engine_tests, *([] if processor == "max" else SETS[processor][:1]))
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    assert done.stdout.rstrip().endswith("passed, 0 failed")


@pytest.mark.parametrize("processor", list(SETS))
def test_a_processor_is_offered_what_it_has(arm, processor):
    command = (arm.program, "product", "int4", 16, 64, 3)
    done = emulated(arm, processor, *command, MOBILELOOP_KERNELS="")
    assert done.stdout.strip() == f"{SETS[processor][0]} of {','.join(SETS[processor])}"
    for name in SETS["max"]:
        done = emulated(arm, processor, *command, MOBILELOOP_KERNELS=name)
        if name in SETS[processor]:
            assert done.stdout.startswith(f"{name} of ")
        else:
            assert done.returncode == 2
            assert f"'{name}' is not one this processor can run" in done.stderr


def test_the_emulator_tells_what_a_processor_lacks(arm):
    # The tests above mean something only if code for a newer processor does not run on an older one.
    source, program = FOLDER / "newer.cpp", FOLDER / "newer"
    source.write_text(
        "#include <arm_neon.h>\nint main(int argc, char **) {\n"
        "  const int8x16_t x = vdupq_n_s8((signed char)argc);\n"
        "  return vgetq_lane_s32(vmmlaq_s32(vdupq_n_s32(0), x, x), 0) != 8;\n}\n"
    )
    emulation.run(arm.compiler, "-static", "-march=armv8.2-a+i8mm", source, "-o", program)
    assert emulated(arm, "max", program).returncode == 0
    assert emulated(arm, "cortex-a76", program).returncode not in (0, 1)


# -- the simulated caches ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "passes", "expected"),
    [
        (MIB, 1, 1),  # every line once
        (MIB, 4, 1),  # then from the cache
        (4 * MIB, 4, 4),  # in order, a buffer beyond the cache is never there when it is asked for again
    ],
)
def test_misses_of_a_stream(arm, size, passes, expected):
    counts = arm.count(
        "stream", size, passes, l1=Cache(32 * KIB, 4), l2=Cache(2 * MIB, 8), last=Cache(8 * MIB, 16, None)
    )
    lines = size // 64 - 1
    assert counts.misses["l1"]["weights"] == lines * passes
    assert counts.misses["l2"]["weights"] == lines * expected
    assert counts.misses["last"]["weights"] == lines
    assert counts.bytes["weights"] == lines * passes * 8
    assert counts.bytes["kv"] == 0


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("loops", [1, 2, 4])
def test_a_resident_block_leaves_memory_once(arm, artifact, threads, loops):
    path, info = artifact
    phone = Phone("test", Cache(64 * KIB, 4), Cache(2 * MIB, 8), Cache(3 * MIB, 12, None), "made up")
    l2, last = misses.token_misses(arm, path, info, phone, threads, loops, prefix=2)
    # 2.2 MB: too large for one core's L2, but not for two, and not for the last level.
    assert last["resident_by_size"]
    assert l2["resident_by_size"] is (threads == 2 or loops == 1)
    assert last["predicted_lines"] == round(info.unique_bytes() / 64)
    assert last["weights_over_predicted"] == pytest.approx(1, abs=0.02)
    assert last["all_over_predicted"] == pytest.approx(1, abs=0.1)
    if l2["resident_by_size"]:
        assert l2["all_over_predicted"] == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("loops", [2, 4])
def test_a_block_beyond_the_cache_is_read_again(arm, artifact, loops):
    path, info = artifact
    phone = Phone("test", Cache(32 * KIB, 4), Cache(256 * KIB, 8), Cache(MIB, 16, None), "made up")
    for row in misses.token_misses(arm, path, info, phone, 1, loops, prefix=2):
        assert not row["resident_by_size"]
        assert row["predicted_lines"] == round(info.executed_bytes(loops) / 64)
        assert row["weights_over_predicted"] == pytest.approx(1, abs=0.02)
        assert row["miss_lines"]["kv"] > 0


def test_resident_by_size():
    costs = Costs(block_bytes=(3 * MIB, 2 * MIB), head_bytes=1, embedding_row_bytes=1, weight_bytes=1)
    apart = ArtifactInfo.model_construct(costs=costs, schedule=Schedule.immediate(2, 2))
    assert is_resident(apart, Cache(3 * MIB, 8), 1)
    assert not is_resident(apart, Cache(2 * MIB, 8), 1)
    assert is_resident(apart, Cache(2 * MIB, 8), 2)  # each core has its half
    assert not is_resident(apart, Cache(2 * MIB, 8, None), 4)  # one cache for all
    assert not is_resident(apart, Cache(2 * MIB, 8, 2), 2)
    assert is_resident(apart, Cache(2 * MIB, 8, 2), 4)
    together = ArtifactInfo.model_construct(costs=costs, schedule=Schedule.repeat_all_over(2, 2))
    assert not is_resident(together, Cache(4 * MIB, 8), 1)
    assert is_resident(together, Cache(5 * MIB, 10), 1)


# -- instructions --------------------------------------------------------------------------------------


def test_instructions_of_products(arm):
    rows = {(row["kernels"], row["scheme"], row["tokens"]): row for row in products.own_products(arm)}
    assert len(rows) == 18
    for (kernels, scheme, tokens), row in rows.items():
        per_weight = row["instructions_per_weight_and_token"]
        assert row["instructions"] == pytest.approx(per_weight * products.ROWS * products.COLS * tokens)
        # Two planes on two multiply-adds of 16 products are an eighth of an instruction per weight; the rest of ours
        # is less than three times that. Compilers differ.
        limit = 1.5 if kernels == "neon" else 0.5
        assert 0.06 < per_weight < limit, (kernels, scheme, tokens)
    for scheme in ("int4-symmetric", "int4", "int8"):
        assert rows["neon-dotprod", scheme, 1]["instructions"] * 2 < rows["neon", scheme, 1]["instructions"]


# -- the command ---------------------------------------------------------------------------------------


def test_command(arm, tmp_path, capsys):
    output = tmp_path / "misses.json"
    few = ["--phones", "d9300", "--threads", "1", "--loops", "1,2", "--blocks", "1", "--output", str(output)]
    assert main(["--folder", str(FOLDER), "misses", *few]) == 0
    table = capsys.readouterr().out
    assert "Dimensity 9300" in table
    document = json.loads(output.read_text())
    assert "no phone" in document["note"]
    assert document["phones"][0]["source"].count("not verified") == 1
    rows = document["misses"]
    assert [(row["loops"], row["level"], row["schedule"]) for row in rows] == [
        (1, "l2", "immediate"),
        (1, "last", "immediate"),
        (2, "l2", "immediate"),
        (2, "last", "immediate"),
        (2, "l2", "all"),
        (2, "last", "all"),
    ]
    assert all(row["all_over_predicted"] == pytest.approx(1, abs=0.1) for row in rows)
    assert main(["--folder", str(FOLDER), "misses", "--phones", "nokia"]) == 2
    assert "'nokia' is not known" in capsys.readouterr().err
    assert main(["--folder", str(FOLDER), "products", "--llama-cpp", str(tmp_path)]) == 2
    assert "not a source tree of llama.cpp" in capsys.readouterr().err


def test_missing_tools(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("MOBILELOOP_QEMU", "no-such-emulator")
    assert main(["--folder", str(tmp_path), "misses"]) == 2
    said = capsys.readouterr().err
    assert "'no-such-emulator' was not found" in said
    assert "apt-get install qemu-user" in said
    monkeypatch.setattr(emulation, "ENGINE", tmp_path)
    with pytest.raises(MobileloopError, match="needs a checkout"):
        Emulator(tmp_path)


def test_the_plugin_refuses_what_it_does_not_know(arm):
    for wrong in ("l1=100:4", "l2=1000000", "line=32", "out=/nowhere/counts"):
        done = emulated(arm, "max", "-plugin", f"{arm.plugin},{wrong}", arm.program, "stream", 4096, 1)
        assert done.returncode != 0
        assert f"'{wrong}' is not" in done.stderr
