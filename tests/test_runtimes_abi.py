"""The ctypes mirror of mobileloop.h against the header itself: every struct, field, offset, size and number."""

import ctypes
import os
import re
import sys
from pathlib import Path

import pytest
from test_engine_native import run

from mobileloop.runtimes import abi
from mobileloop.runtimes.native import LIBRARY
from mobileloop.runtimes.streaming import MODES
from mobileloop_bench.bandwidth.memory import MEMORY_STATES

HEADER = Path(__file__).resolve().parents[1] / "runtime_bench" / "engine" / "include" / "mobileloop.h"
STRUCTS = {
    "ml_record": abi.Record,
    "ml_halting": abi.HaltingArgs,
    "ml_sequence": abi.SequenceArgs,
    "ml_loop_args": abi.LoopArgs,
    "ml_run_args": abi.RunArgs,
}
NUMBERS = {
    "ML_ABI_VERSION": abi.ABI_VERSION,
    "ML_OK": 0,
    "ML_FAILED": 1,
    **{f"ML_KV_{kind}{bits}": bits for kind, bits in (("F", 32), ("F", 16), ("I", 8))},  # kv_bits of an artifact
    **{f"ML_STREAM_{mode.upper()}": place for place, mode in enumerate(MODES)},
    **{f"ML_HALT_{name.upper()}": value for name, value in abi.HALTING_RULES.items()},
    "ML_WARM": MEMORY_STATES["warm"],
    "ML_COLD_FLUSHED": MEMORY_STATES["flushed"],
    "ML_COLD_READ": MEMORY_STATES["evicted"],
}


def declared():
    """Fields of every struct in the order of the header."""
    text = re.sub(r"/\*.*?\*/", "", HEADER.read_text(encoding="utf-8"), flags=re.S)
    found = re.findall(r"typedef struct \{(.*?)\} (\w+);", text, re.S)
    return {name: re.findall(r"(\w+)\s*;", body) for body, name in found}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """What the compiler makes of the header: a number by name."""
    folder = tmp_path_factory.mktemp("abi")
    lines = [f'printf("{name} %zu\\n", (size_t){name});' for name in NUMBERS]
    for struct, fields in declared().items():
        lines.append(f'printf("{struct} %zu\\n", sizeof({struct}));')
        for field in fields:
            place = f"offsetof({struct}, {field}), sizeof((({struct} *)0)->{field})"
            lines.append(f'printf("{struct}.{field} %zu %zu\\n", {place});')
    body = "\n    ".join(lines)
    source = folder / "table.cpp"
    source.write_text(f'#include <cstdio>\n#include "mobileloop.h"\nint main() {{\n    {body}\n}}\n')
    compiler = os.environ.get("CXX", "c++").split()
    built = run(*compiler, "-I", HEADER.parent, source, "-o", folder / "table")
    assert built.returncode == 0, built.stderr
    words = [line.split() for line in run(folder / "table").stdout.splitlines()]
    return {name: tuple(map(int, numbers)) for name, *numbers in words}


def test_every_struct_of_the_header_is_mirrored():
    assert declared().keys() == STRUCTS.keys()


@pytest.mark.parametrize("struct", list(STRUCTS))
def test_every_field_lies_where_the_compiler_puts_it(compiled, struct):
    mirror = STRUCTS[struct]
    names = [name for name, *_ in mirror._fields_]
    assert names == declared()[struct]
    assert compiled[struct] == (ctypes.sizeof(mirror),)
    for name in names:
        field = getattr(mirror, name)
        assert compiled[f"{struct}.{name}"] == (field.offset, field.size), name


def test_the_numbers_are_the_headers(compiled):
    enumerated = set(re.findall(r"\b(ML_\w+) = \d", HEADER.read_text(encoding="utf-8")))
    assert {"ML_ABI_VERSION"} | enumerated == NUMBERS.keys()
    assert {name: compiled[name] for name in NUMBERS} == {name: (value,) for name, value in NUMBERS.items()}


@pytest.mark.parametrize("version", [abi.ABI_VERSION, abi.ABI_VERSION + 1])
def test_a_library_of_another_version_is_refused_with_a_sentence(tmp_path, version):
    """One that says so, and one of the same ABI version that lacks what was added since."""
    source = tmp_path / "old.cpp"
    source.write_text(f'extern "C" unsigned ml_abi_version() {{ return {version}; }}\n')
    compiler = os.environ.get("CXX", "c++").split()
    built = run(*compiler, "-shared", "-fPIC", source, "-o", tmp_path / LIBRARY)
    assert built.returncode == 0, built.stderr
    asked = "from mobileloop.runtimes.native import kernels; kernels()"
    done = run(sys.executable, "-c", asked, env={**os.environ, "MOBILELOOP_LIBRARY_DIR": str(tmp_path)})
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(
        "MobileloopError: the engine library belongs to another version of mobileloop; reinstall mobileloop."
    )


def test_every_function_that_is_called_is_declared():
    """What an older library lacks is then seen where it is loaded, and not at the first call."""
    declared_names = set(re.findall(r"\bml_\w+", Path(abi.__file__).read_text(encoding="utf-8")))
    root = HEADER.parents[3]
    called = set()
    for folder in ("mobileloop", "export", "runtime_bench"):
        for path in (root / folder).rglob("*.py"):
            if path != Path(abi.__file__):
                text = path.read_text(encoding="utf-8")
                called |= set(re.findall(r"\b(?:engine|library\(\))\.(ml_\w+)", text))
    assert len(called) > 30
    assert called - declared_names == {"ml_abi_version"}  # asked for first
