"""Short fuzzing with a fixed seed under the sanitizers, and tests of sharing between threads; `make fuzz` is longer."""

import os
import subprocess
from pathlib import Path

import pytest
from programs import KINDS, SLOW_S, engine_tests, run, sanitized

ROOT = Path(__file__).resolve().parents[1]
FUZZ = ROOT / "runtime_bench" / "engine" / "fuzz"
pytestmark = [pytest.mark.long, pytest.mark.timeout(SLOW_S)]
# Inputs that take a few seconds each.
INPUTS = {"artifact": 1500, "json": 20000, "loop": 8000, "record": 12000, "session": 8000, "tokenizer": 1500}


@pytest.fixture(scope="module")
def programs():
    return engine_tests("sanitize", *(f"fuzz_{target}" for target in INPUTS))


def last_words(done):
    return f"{done.stdout[-1000:]}\n{done.stderr[-6000:]}"


@pytest.mark.parametrize("target", list(INPUTS))
def test_changed_inputs_do_no_harm(programs, target, tmp_path):
    found = tmp_path / "found"
    corpus = FUZZ / "corpus" / target
    words = ["--inputs", INPUTS[target], "--seed", 1, "--found", found]
    done = run(programs / f"fuzz_{target}", corpus, *words, timeout=SLOW_S)
    assert done.returncode == 0, last_words(done)
    seeds = len(list(corpus.iterdir()))
    assert f"{seeds} inputs of the corpus and {INPUTS[target]} changed ones ran" in done.stdout
    assert not found.exists()


def test_the_corpus_is_small():
    sizes = [path.stat().st_size for path in (FUZZ / "corpus").rglob("*") if path.is_file()]
    assert 20 <= len(sizes) <= 99
    assert sum(sizes) < 300_000


def test_the_driver_keeps_what_crashed(tmp_path):
    """A target that dies of one byte value: the driver finds it and leaves the input behind."""
    source = tmp_path / "target.cpp"
    source.write_text(
        '#include "targets.h"\n'
        "int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {\n"
        '    for (size_t i = 0; i < size; i++) fuzz::must(data[i] != 255, "the byte 255");\n    return 0;\n}\n'
    )
    program, seed, found = tmp_path / "target", tmp_path / "seed", tmp_path / "found"
    seed.write_bytes(bytes(range(64)))
    compiler = os.environ.get("CXX", "c++").split()
    built = run(*compiler, "-std=c++17", "-I", FUZZ, source, FUZZ / "driver.cpp", "-o", program)
    assert built.returncode == 0, built.stderr
    done = run(program, seed, "--inputs", 5000, "--found", found)
    assert done.returncode != 0
    assert "the byte 255" in done.stderr
    assert 255 in found.read_bytes()
    again = subprocess.run([program, found], capture_output=True, text=True, check=False)
    assert again.returncode != 0


@pytest.fixture(params=KINDS)
def folder(request):
    return engine_tests(request.param)


@pytest.mark.parametrize("seed", ["plain", "looped"])
def test_sharing_and_failing_memory(folder, seed):
    tested = sanitized(run(folder / "concurrency_tests", FUZZ / "corpus" / "artifact" / seed, timeout=SLOW_S))
    assert tested.returncode == 0, last_words(tested)
    assert tested.stdout.rstrip().endswith("passed, 0 failed")
