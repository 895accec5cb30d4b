"""Runs the engine's own tests: plain, and under the sanitizers; and compares what two compilers make of it."""

import shutil

import pytest
from programs import ENGINE, KINDS, SLOW_S, build, engine_tests, run, sanitized

pytestmark = [pytest.mark.long, pytest.mark.timeout(SLOW_S)]  # sanitizers on a busy machine take minutes
ARM = ("-DML_TESTS=ON", "-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64")
STATIC = "-DCMAKE_EXE_LINKER_FLAGS=-static"
CLANG = "-DCMAKE_CXX_COMPILER=clang++"


@pytest.fixture(params=KINDS)
def folder(request):
    return engine_tests(request.param)


@pytest.mark.parametrize("name", ["engine_tests", "topology_tests"])
def test_engine_tests(folder, name):
    tested = sanitized(run(folder / name, timeout=SLOW_S))
    assert tested.returncode == 0, f"{tested.stdout[-4000:]}\n{tested.stderr[-6000:]}"
    assert tested.stdout.rstrip().endswith("passed, 0 failed")


def needs(*programs):
    for program in programs:
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed")


def bits_of(*command):
    """Kernel sets and the hash of all that sessions over the fuzzers' artifacts give."""
    told = run(*command, *sorted((ENGINE / "fuzz" / "corpus" / "artifact").iterdir()), timeout=SLOW_S)
    assert told.returncode == 0, told.stderr
    return dict(line.split() for line in told.stdout.splitlines())


def test_both_compilers_give_the_same_bits():
    needs("clang++")
    bits = bits_of(engine_tests("plain", "bits") / "bits")
    assert bits == bits_of(build("engine-bits-clang", "bits", options=["-DML_TESTS=ON", CLANG]) / "bits")
    assert len(set(bits.values())) == 1
    assert "scalar" in bits


def test_both_compilers_give_the_same_bits_on_arm():
    needs("aarch64-linux-gnu-g++", "clang++", "qemu-aarch64")
    both = (
        ("gcc", ["-DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++"]),
        ("clang", [CLANG, "-DCMAKE_CXX_COMPILER_TARGET=aarch64-linux-gnu"]),
    )
    bits = []
    for name, compiler in both:
        made = build(f"engine-bits-arm-{name}", "bits", options=[*ARM, STATIC, *compiler])
        bits.append(bits_of("qemu-aarch64", "-cpu", "max", made / "bits"))
    assert bits[0] == bits[1]
    assert bits[0].keys() == {"neon-i8mm", "neon-dotprod", "neon", "scalar"}
    assert len(set(bits[0].values())) == 1
