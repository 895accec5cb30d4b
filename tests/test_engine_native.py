"""Builds the engine's own tests in build/engine-tests-<kind> and runs them: plain, and under the sanitizers."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
KINDS = {
    "plain": [],
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


@pytest.mark.parametrize("kind", list(KINDS))
def test_engine_tests(kind, tmp_path):
    if kind == "thread-sanitize" and not links("-fsanitize=thread", tmp_path):
        pytest.skip("this compiler does not link ThreadSanitizer")
    folder = ROOT / "build" / f"engine-tests-{kind}"
    options = ["-DML_TESTS=ON", *KINDS[kind]]
    ninja = shutil.which("ninja") or shutil.which("ninja", path=str(Path(sys.executable).parent))
    if ninja and not (folder / "CMakeCache.txt").exists():
        options += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
    cmake = tool("cmake")
    configured = run(cmake, "-S", ROOT / "runtime_bench" / "engine", "-B", folder, *options)
    assert configured.returncode == 0, (
        f"cmake cannot configure the engine (is a C++ compiler installed?)\n{configured.stderr}"
    )
    built = run(
        cmake, "--build", folder, "--target", "engine_tests", "topology_tests", "--parallel", os.cpu_count() or 1
    )
    assert built.returncode == 0, f"the engine's tests do not build\n{built.stdout[-4000:]}\n{built.stderr[-4000:]}"
    assert "warning:" not in built.stdout + built.stderr
    for program in ("engine_tests", "topology_tests"):
        tested = run(folder / program)
        if "ThreadSanitizer: unexpected memory mapping" in tested.stderr:
            pytest.skip("this kernel's address layout does not suit ThreadSanitizer")
        assert tested.returncode == 0, f"{tested.stdout[-4000:]}\n{tested.stderr[-6000:]}"
        assert tested.stdout.rstrip().endswith("passed, 0 failed")
