"""Programs of the engine that tests run: each is built once, in build/, and used again until its sources change.

Workers of one run, and a second run, wait for each other's build instead of repeating it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ENGINE = ROOT / "runtime_bench" / "engine"
BUILD = ROOT / "build"
# The engine's own tests, in build/engine-tests-<kind>: of which options, and which programs. The fuzz targets of the
# short run are of the same sanitized objects; libFuzzer, which not every compiler has, is for `make fuzz`.
SANITIZED = ("-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS=-O1")
KINDS = {
    "plain": (),
    "sanitize": ("-DML_FUZZ=ON", "-DML_HAVE_LIBFUZZER=OFF", *SANITIZED),
    "thread-sanitize": ("-DML_THREAD_SANITIZE=ON", *SANITIZED),
}
PROGRAMS = ("engine_tests", "topology_tests", "concurrency_tests")
SLOW_S = 3000  # a machine that is busy with other work, or of one core


def run(*command, timeout=500, **more):
    """A finished process with its output as text."""
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=timeout, check=False, **more
    )


def tool(name):
    """A build tool on the path, or beside the interpreter (a pip-installed one)."""
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    assert found, f"{name} was not found; the engine's tests need it"
    return found


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file against the other workers and runs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@cache
def sources_key() -> str:
    """What every program is built from: the engine's sources and the package's version, which is compiled in."""
    key = hashlib.sha256()
    for path in [ROOT / "mobileloop" / "__init__.py", *sorted(ENGINE.rglob("*"))]:
        if path.is_file() and "corpus" not in path.parts:
            key.update(f"{path.relative_to(ROOT)}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return key.hexdigest()


def _text(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


def build(folder, *targets, options=()):
    """Build programs of the engine in build/`folder` without a warning; returns that folder.

    Nothing is asked of CMake where the same sources, options and compiler have built them before.
    """
    folder = BUILD / folder
    compiler = os.environ.get("CXX", "c++")
    key = "\n".join([sources_key(), compiler, *map(str, options)])
    with locked(folder.with_name(f"{folder.name}.lock")):
        stamps = {target: folder / f"{target}.built" for target in targets}
        needed = [name for name, stamp in stamps.items() if not (folder / name).exists() or _text(stamp) != key]
        if needed:
            more = []
            if not (folder / "CMakeCache.txt").exists():
                more = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}"]
            configured = run(tool("cmake"), "-S", ENGINE, "-B", folder, *options, *more)
            assert configured.returncode == 0, (
                f"cmake cannot configure the engine (is a C++ compiler installed?)\n{configured.stderr}"
            )
            command = (tool("cmake"), "--build", folder, "--target", *needed, "--parallel", os.cpu_count() or 1)
            built = run(*command, timeout=SLOW_S)
            said = built.stdout + built.stderr
            assert built.returncode == 0, f"{folder.name} does not build\n{said[-8000:]}"
            assert "warning:" not in said, said[-8000:]
            for name in needed:
                stamps[name].write_text(key)
    return folder


@cache
def links(flag: str) -> bool:
    """Whether the compiler links a program with this flag, such as a sanitizer's, and an `operator new` of its own.

    The engine's tests have one; clang's ThreadSanitizer is linked whole, with another.
    """
    probe = BUILD / "probes" / f"{hashlib.sha256(flag.encode()).hexdigest()[:8]}-{os.getpid()}"
    probe.parent.mkdir(parents=True, exist_ok=True)
    source = probe.with_suffix(".cpp")
    source.write_text(
        "#include <cstdlib>\n#include <new>\n"
        "void *operator new(size_t size) {\n    if (void *made = std::malloc(size)) return made;\n"
        "    throw std::bad_alloc();\n}\n"
        "void operator delete(void *made) noexcept { std::free(made); }\nint main() { delete new int; }\n"
    )
    done = run(*os.environ.get("CXX", "c++").split(), flag, source, "-o", probe)
    source.unlink()
    probe.unlink(missing_ok=True)
    return done.returncode == 0


def engine_tests(kind, *more):
    """Folder of the engine's own tests of one of KINDS, and `more`; skips where the compiler cannot make them."""
    if kind == "thread-sanitize" and not links("-fsanitize=thread"):
        pytest.skip("this compiler does not link ThreadSanitizer")
    return build(f"engine-tests-{kind}", *PROGRAMS, *more, options=["-DML_TESTS=ON", *KINDS[kind]])


def sanitized(done):
    """A finished program; skips where the kernel did not let ThreadSanitizer start."""
    if "ThreadSanitizer: unexpected memory mapping" in done.stderr:
        pytest.skip("this kernel's address layout does not suit ThreadSanitizer")
    return done
