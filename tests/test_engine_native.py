"""Builds the engine's own tests in build/engine-tests-<kind> and runs them: plain, and under the sanitizers."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ENGINE = ROOT / "runtime_bench" / "engine"
KINDS = {
    "plain": [],
    "clang": ["-DCMAKE_CXX_COMPILER=clang++"],
    "sanitize": ["-DML_SANITIZE=ON", "-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS=-O1"],
    "thread-sanitize": ["-DML_THREAD_SANITIZE=ON", "-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS=-O1"],
}


def run(*command, **more):
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=500, check=False, **more
    )


def tool(name):
    """A build tool on the path, or beside the interpreter (a pip-installed one)."""
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    assert found, f"{name} was not found; the engine's tests need it"
    return found


def links(flag, folder):
    source = folder / "probe.cpp"
    source.write_text("int main() {}\n")
    return run(os.environ.get("CXX", "c++"), flag, source, "-o", folder / "probe").returncode == 0


def build(folder, *targets, options):
    """Configure and build targets of the engine in build/`folder`, without a warning."""
    folder = ROOT / "build" / folder
    more = []
    if not (folder / "CMakeCache.txt").exists():
        more = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}"]
    configured = run(tool("cmake"), "-S", ENGINE, "-B", folder, *options, *more)
    assert configured.returncode == 0, (
        f"cmake cannot configure the engine (is a C++ compiler installed?)\n{configured.stderr}"
    )
    built = run(tool("cmake"), "--build", folder, "--target", *targets, "--parallel", os.cpu_count() or 1)
    assert built.returncode == 0, f"{built.stdout[-4000:]}\n{built.stderr[-4000:]}"
    assert "warning:" not in built.stdout + built.stderr
    return folder


def needs(*programs):
    for program in programs:
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed")


def bits_of(*command):
    """Kernel sets and the hash of all that sessions over the fuzzers' artifacts give."""
    corpus = sorted((ENGINE / "fuzz" / "corpus" / "artifact").iterdir())
    told = run(*command, *corpus)
    assert told.returncode == 0, told.stderr
    return dict(line.split() for line in told.stdout.splitlines())


def test_both_compilers_give_the_same_bits():
    needs("clang++")
    plain = build("engine-tests-plain", "bits", options=["-DML_TESTS=ON"])
    clang = build("engine-tests-clang", "bits", options=["-DML_TESTS=ON", *KINDS["clang"]])
    bits = bits_of(plain / "bits")
    assert bits == bits_of(clang / "bits")
    assert len(set(bits.values())) == 1
    assert "scalar" in bits


def test_both_compilers_give_the_same_bits_on_arm():
    needs("aarch64-linux-gnu-g++", "clang++", "qemu-aarch64")
    arm = ["-DML_TESTS=ON", "-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64"]
    arm += ["-DCMAKE_EXE_LINKER_FLAGS=-static"]
    gcc = ["-DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++"]
    clang = ["-DCMAKE_CXX_COMPILER=clang++", "-DCMAKE_CXX_COMPILER_TARGET=aarch64-linux-gnu"]
    bits = [
        bits_of(
            "qemu-aarch64", "-cpu", "max", build(f"engine-bits-arm-{name}", "bits", options=[*arm, *chosen]) / "bits"
        )
        for name, chosen in (("gcc", gcc), ("clang", clang))
    ]
    assert bits[0] == bits[1]
    assert bits[0].keys() == {"i8mm", "dotprod", "neon", "scalar"}
    assert len(set(bits[0].values())) == 1


@pytest.mark.parametrize("kind", list(KINDS))
def test_engine_tests(kind, tmp_path):
    if kind == "clang":
        needs("clang++")
    if kind == "thread-sanitize" and not links("-fsanitize=thread", tmp_path):
        pytest.skip("this compiler does not link ThreadSanitizer")
    folder = build(f"engine-tests-{kind}", "engine_tests", "topology_tests", options=["-DML_TESTS=ON", *KINDS[kind]])
    for program in ("engine_tests", "topology_tests"):
        tested = run(folder / program)
        if "ThreadSanitizer: unexpected memory mapping" in tested.stderr:
            pytest.skip("this kernel's address layout does not suit ThreadSanitizer")
        assert tested.returncode == 0, f"{tested.stdout[-4000:]}\n{tested.stderr[-6000:]}"
        assert tested.stdout.rstrip().endswith("passed, 0 failed")
