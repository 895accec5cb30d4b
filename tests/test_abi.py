"""The ctypes mirror of mobileloop.h against the header itself: every struct, field, offset, size and number."""

import ctypes
import os
import re
from pathlib import Path

import pytest
from test_engine_native import run

from mobileloop.runtimes import abi
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
    assert {name: compiled[name] for name in NUMBERS} == {name: (value,) for name, value in NUMBERS.items()}
