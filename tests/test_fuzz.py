"""Short fuzzing with a fixed seed under the sanitizers, and tests of sharing between threads; `make fuzz` is longer."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from test_engine_native import KINDS, build, links, run

ROOT = Path(__file__).resolve().parents[1]
FUZZ = ROOT / "runtime_bench" / "engine" / "fuzz"
# Inputs that take a few seconds each.
INPUTS = {"artifact": 1500, "json": 20000, "loop": 8000, "record": 12000, "session": 8000, "tokenizer": 1500}


@pytest.fixture(scope="session")
def fuzzers():
    """The targets' folder, built once, and whether libFuzzer drives them: where clang++ has it."""
    targets = [f"fuzz_{target}" for target in INPUTS]
    if clang := shutil.which("clang++"):
        folder = build("fuzz", *targets, options=["-DML_FUZZ=ON", f"-DCMAKE_CXX_COMPILER={clang}"])
        return folder, (folder / "libfuzzer").is_file()
    return build("fuzz-short", *targets, options=["-DML_FUZZ=ON", "-DML_HAVE_LIBFUZZER=OFF"]), False


def last_words(done):
    return f"{done.stdout[-1000:]}\n{done.stderr[-6000:]}"


@pytest.mark.parametrize("target", list(INPUTS))
def test_changed_inputs_do_no_harm(fuzzers, target, tmp_path):
    folder, libfuzzer = fuzzers
    corpus, count = FUZZ / "corpus" / target, INPUTS[target]
    if libfuzzer:
        options = [f"-runs={count}", "-seed=1", "-entropic=0", "-max_len=20000", f"-artifact_prefix={tmp_path}/"]
        environment = {**os.environ, "ASAN_OPTIONS": "malloc_context_size=4:quarantine_size_mb=16"}
        (tmp_path / "grown").mkdir()
        done = run(folder / f"fuzz_{target}", *options, tmp_path / "grown", corpus, env=environment)
        assert done.returncode == 0, last_words(done)
        assert f"Done {count} runs" in done.stderr
        assert [path.name for path in tmp_path.iterdir()] == ["grown"]
        return
    found = tmp_path / "found"
    done = run(folder / f"fuzz_{target}", corpus, "--inputs", count, "--seed", 1, "--found", found)
    assert done.returncode == 0, last_words(done)
    seeds = len(list(corpus.iterdir()))
    assert f"{seeds} inputs of the corpus and {count} changed ones ran" in done.stdout
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


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "clang"])
def test_sharing_and_failing_memory(kind, tmp_path):
    if kind == "thread-sanitize" and not links("-fsanitize=thread", tmp_path):
        pytest.skip("this compiler does not link ThreadSanitizer")
    folder = build(f"engine-tests-{kind}", "concurrency_tests", options=["-DML_TESTS=ON", *KINDS[kind]])
    for seed in ("plain", "looped"):
        tested = run(folder / "concurrency_tests", FUZZ / "corpus" / "artifact" / seed)
        if "ThreadSanitizer: unexpected memory mapping" in tested.stderr:
            pytest.skip("this kernel's address layout does not suit ThreadSanitizer")
        assert tested.returncode == 0, last_words(tested)
        assert tested.stdout.rstrip().endswith("passed, 0 failed")
