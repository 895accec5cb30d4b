"""The command line as a user meets it: real processes, tiny models, exit codes, and what is left on disk."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import gguf
import numpy as np
import onnx
import pytest
from builders import TINY, add_tokenizer, write_folder

from mobileloop import __version__
from mobileloop.checkpoints.random import random_model
from mobileloop.runtimes import open_session
from mobileloop_export.formats import FORMATS

COMMANDS = (
    "export", "run", "verify", "bench", "bandwidth", "machine", "plan", "simulate", "device", "compare", "results",
    "report", "info", "fetch", "demo",
)  # fmt: skip
CONFIG = TINY.model_copy(update={"vocab_size": 259, "max_position": 128})
CONTEXT = 64
CPU = min(os.sched_getaffinity(0))
BENCH_KEYS = {
    "artifact", "runtime", "model", "quantization", "loops", "threads", "phase", "samples_ms", "median_ms",
    "tokens_per_s", "unique_bytes", "executed_bytes", "kv_bytes", "read_gbps", "valid", "reasons",
}  # fmt: skip


def command(*arguments):
    return [sys.executable, "-m", "mobileloop.cli", *map(str, arguments)]


def cli(*arguments, cwd, **more):
    return subprocess.run(
        command(*arguments), cwd=cwd, capture_output=True, text=True, timeout=120, check=False, **more
    )


def passed(result):
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    return result


def refused(result, words):
    """One sentence on stderr, exit code 2, nothing on stdout."""
    assert result.returncode == 2, (result.stdout, result.stderr)
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("mobileloop: ")
    assert lines[0].endswith(".")
    assert words in lines[0]


def contents(folder):
    """Every file below a folder with its size and time of change."""
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A source with a tokenizer and its artifacts of three formats (loops up to 3), made by the command line."""
    folder = tmp_path_factory.mktemp("world")
    source = add_tokenizer(write_folder(folder / "source", random_model(CONFIG)))
    said, made = {}, {}
    for target, suffix in FORMATS.items():
        made[target] = folder / f"tiny{suffix}"
        options = ["--to", target, "--loops", 3, "--context", CONTEXT, "-o", made[target]]
        said[target] = passed(cli("export", source, *options, cwd=folder))
    return SimpleNamespace(folder=folder, source=source, said=said, **made)


# -- what works ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example(name, tmp_path):
    text = passed(cli(name, "--help", cwd=tmp_path)).stdout
    assert f"mobileloop {name}" in text.split("Example", 1)[1]


def test_help_names_every_command(tmp_path):
    text = passed(cli("--help", cwd=tmp_path)).stdout
    assert "Examples:" in text
    assert "--install-completion" in text
    listed = {line.split()[0] for line in text.split("\nMake:", 1)[1].splitlines() if line.startswith("  ")}
    assert set(COMMANDS) <= listed


def test_version(tmp_path):
    assert passed(cli("--version", cwd=tmp_path)).stdout == f"mobileloop {__version__}\n"


@pytest.mark.parametrize("target", FORMATS)
def test_export_says_what_it_wrote(world, target):
    result = world.said[target]
    assert result.stderr == ""
    assert "int4, schedule immediate:3, context 64" in result.stdout
    assert not list(world.folder.glob("*.part")) + list(world.folder.glob(".*"))


@pytest.mark.parametrize("target", FORMATS)
def test_the_loop_count_costs_no_size(world, target, tmp_path):
    once = tmp_path / f"once{FORMATS[target]}"
    passed(cli("export", world.source, "--to", target, "--loops", 1, "--context", CONTEXT, "-o", once, cwd=tmp_path))
    assert abs(once.stat().st_size - getattr(world, target).stat().st_size) < 4096


def test_export_names_the_file_itself(world, tmp_path):
    facts = json.loads(passed(cli("export", world.source, "--quantize", "int8", "--json", cwd=tmp_path)).stdout)
    assert facts["artifact"] == "source-plain-int8.safetensors"
    assert facts["size_bytes"] == (tmp_path / facts["artifact"]).stat().st_size
    assert facts["context"] == CONFIG.max_position


def test_export_takes_a_kv_cache(world, tmp_path):
    caches = {}
    for kv in ("int8", "float16", "float32"):
        path = tmp_path / f"{kv}.safetensors"
        passed(cli("export", world.source, "--kv", kv, "-o", path, cwd=tmp_path))
        caches[kv] = open_session(path).info.kv_bits
    assert caches == {"int8": 8, "float16": 16, "float32": 32}
    refused(cli("export", world.source, "--kv", "int8", "--to", "onnx", cwd=tmp_path), "KV cache of 8 bits")
    assert not list(tmp_path.glob("*.onnx"))


def test_export_takes_a_group(world, tmp_path):
    path = tmp_path / "a.safetensors"
    said = passed(cli("export", world.source, "--group", 64, "-o", path, cwd=tmp_path)).stdout
    assert "3 matrices are in smaller groups, since 64 does not divide their inputs" in said  # 96 inputs
    assert open_session(path).info.group == 64
    passed(cli("verify", path, "--against", world.source, "--tokens", 20, cwd=tmp_path))
    refused(cli("export", world.source, "--group", 48, cwd=tmp_path), "groups of 48")
    refused(cli("export", world.source, "--group", 64, "--quantize", "none", cwd=tmp_path), "groups of 64")
    refused(cli("export", world.source, "--group", 64, "--to", "onnx", cwd=tmp_path), "in groups of 64, which onnx")


def test_export_again_replaces_the_file(world, tmp_path):
    path = tmp_path / "a.safetensors"
    shutil.copy(world.engine, path)
    before = path.read_bytes()
    passed(cli("export", world.source, "--quantize", "int8", "-o", path, cwd=tmp_path))
    assert path.read_bytes() != before
    assert contents(tmp_path).keys() == {path}


def test_cpus(world, tmp_path):
    """One option of run, verify and bench, for every runtime with kernels of ours; what ran is told."""
    options = ["--prompt", "hello", "--max-tokens", 4, "--json", "--cpus", CPU]
    told = json.loads(passed(cli("run", world.engine, *options, cwd=tmp_path)).stdout)
    assert (told["threads"], told["details"]["cpus"]) == (1, str(CPU))
    free = json.loads(passed(cli("run", world.engine, *options[:-2], "--threads", 1, cwd=tmp_path)).stdout)
    assert free["text"] == told["text"]
    told = json.loads(
        passed(cli("verify", world.engine, "--against", world.source, "--tokens", 4, *options[4:], cwd=tmp_path)).stdout
    )
    assert told["details"]["cpus"] == str(CPU)
    small = ["--prompt-tokens", 2, "--decode-tokens", 2, "--repetitions", 1, "--threads", "1,2"]
    said = passed(cli("bench", world.engine, "--cpus", CPU, *small, cwd=tmp_path)).stdout
    assert f"Threads run on cpus {CPU}." in said
    document = json.loads(said.splitlines()[-1])
    assert document["settings"]["cpus"] == [CPU]
    for row in document["results"]:
        assert row["details"]["cpus"] == str(CPU)
        assert ("2 threads on 1 core" in row["reasons"]) == (row["threads"] == 2)
    (tmp_path / "a.json").write_text(json.dumps(document))
    passed(cli("report", "a.json", "--html", "a.html", cwd=tmp_path))
    assert f"with 1 thread ran on cpus {CPU}." in (tmp_path / "a.html").read_text()


def test_machine(tmp_path):
    text = passed(cli("machine", cwd=tmp_path)).stdout
    assert "Clusters, the strongest first" in text
    assert re.search(r"usable cpus?, .*by default \d+ threads?$", text, re.M)
    assert "Sources" not in text
    told = json.loads(passed(cli("machine", "--json", cwd=tmp_path)).stdout)
    assert told["schema"] == "mobileloop.machine/1"
    assert [cpu["cpu"] for cpu in told["topology"]["cpus"]] == sorted(os.sched_getaffinity(0))
    assert passed(cli("machine", "--json", "this.json", cwd=tmp_path)).stdout == "Wrote this.json\n"
    shown = passed(cli("machine", "this.json", cwd=tmp_path)).stdout
    assert shown.splitlines()[0] == text.splitlines()[0]


def test_shipped_machines(tmp_path):
    names = [line.split()[0] for line in passed(cli("machine", "--list", cwd=tmp_path)).stdout.splitlines()]
    assert "raspberry-pi-5" in names
    text = passed(cli("machine", "raspberry-pi-5", cwd=tmp_path)).stdout
    for part in ("Cortex-A76", "Bandwidth ladder", "in theory", "estimated", "bcm2712.dtsi", "unknown:"):
        assert part in text
    told = json.loads(passed(cli("machine", "raspberry-pi-5", "--json", cwd=tmp_path)).stdout)
    assert told["name"] == "Raspberry Pi 5"


def test_clusters_are_offered_for_completion(tmp_path):
    asked = {
        **os.environ,
        "COMP_WORDS": "mobileloop run --cpus ",
        "COMP_CWORD": "3",
        "_MOBILELOOP_COMPLETE": "complete_bash",
    }
    code = "from mobileloop.cli import app; app(prog_name='mobileloop')"
    said = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=asked)
    clusters = json.loads(passed(cli("machine", "--json", cwd=tmp_path)).stdout)["machine"]["clusters"]
    assert len(said.stdout.split()) == len(clusters)


def test_info(world, tmp_path):
    text = passed(cli("info", world.engine, cwd=tmp_path)).stdout
    assert "immediate:3: 3 loops, up to 3 at run time" in text
    for target in ("engine", "onnx"):
        about = json.loads(passed(cli("info", getattr(world, target), "--json", cwd=tmp_path)).stdout)
        assert about["schedule"]["name"] == "immediate:3"
        assert about["quantization"] == "int4"


@pytest.mark.parametrize("target", FORMATS)
def test_run(world, target, tmp_path):
    options = ["--prompt", "hello", "--max-tokens", 8, "--loops", 2, "--threads", 1]
    result = passed(cli("run", getattr(world, target), *options, cwd=tmp_path))
    assert result.stdout.endswith("\n")
    *_, line = result.stderr.splitlines()
    assert len(result.stderr.splitlines()) == 1
    title = "onnx, (engine kernels|portable function body)" if target == "onnx" else target
    assert re.match(rf"\[{title}, 2 loops, 1 thread\] prefill ", line)
    for words in ("tokens/s, decode", "first token", "GB/s, peak memory"):
        assert words in line


def test_run_as_json_and_seeded(world, tmp_path):
    options = ["--prompt", "hello", "--max-tokens", 8, "--temperature", 1, "--top-p", 0.9, "--json", "--seed"]
    runs = [json.loads(passed(cli("run", world.engine, *options, s, cwd=tmp_path)).stdout) for s in (5, 5, 6)]
    assert runs[0]["text"] == runs[1]["text"]
    assert runs[0]["tokens"] == runs[1]["tokens"] != runs[2]["tokens"]
    assert runs[0]["prompt_tokens"] == 5
    assert runs[0]["generated_tokens"] == len(runs[0]["tokens"]) == 8
    for key in ("prefill_tokens_per_s", "time_to_first_token_ms", "read_gbps", "peak_memory_bytes"):
        assert runs[0][key] > 0


def test_samples_are_the_runs_of_their_seeds(world, tmp_path):
    options = ["--prompt", "hello", "--max-tokens", 12, "--temperature", 1.5, "--json"]
    together = json.loads(passed(cli("run", world.engine, *options, "--seed", 5, "--samples", 3, cwd=tmp_path)).stdout)
    for number, sample in enumerate(together["samples"]):
        alone = json.loads(passed(cli("run", world.engine, *options, "--seed", 5 + number, cwd=tmp_path)).stdout)
        assert sample == {key: alone[key] for key in ("text", "tokens", "stopped")}
    assert together["generated_tokens"] == sum(len(sample["tokens"]) for sample in together["samples"])
    assert together["prompt_tokens"] == alone["prompt_tokens"]


def test_samples_are_labelled(world, tmp_path):
    options = ["--prompt", "hello", "--max-tokens", 3, "--samples", 2]
    result = passed(cli("run", world.engine, *options, cwd=tmp_path))
    assert re.fullmatch(r"--- sample 1 of 2 ---\n.*--- sample 2 of 2 ---\n.*\n", result.stdout, re.DOTALL)
    assert result.stderr.splitlines()[-1].startswith("[engine, 3 loops, ")


def test_run_says_how_often_tokens_looped(world, tmp_path):
    options = ["--prompt", "hello", "--max-tokens", 8]
    plain = json.loads(passed(cli("run", world.engine, *options, "--json", cwd=tmp_path)).stdout)
    stages = CONFIG.num_blocks
    assert plain["applied_loops"] == {"mean": 3.0, "histogram": {"3": 12 * stages}}
    never = json.loads(passed(cli("run", world.engine, *options, "--json", "--halt", "cosine:0", cwd=tmp_path)).stdout)
    assert never["text"] == plain["text"]
    halted = passed(cli("run", world.engine, *options, "--json", "--halt", "cosine:3:2", cwd=tmp_path)).stdout
    twice = passed(cli("run", world.engine, *options, "--json", "--loops", 2, cwd=tmp_path)).stdout
    assert json.loads(halted)["tokens"] == json.loads(twice)["tokens"]
    assert json.loads(halted)["applied_loops"]["mean"] == 2
    assert json.loads(passed(cli("run", world.onnx, *options, "--json", cwd=tmp_path)).stdout)["applied_loops"] is None
    result = passed(cli("run", world.engine, *options, "--halt", "latent_difference:0.5", cwd=tmp_path))
    assert re.search(r", [123]\.\d\d loops applied on average \([123]: \d+, [23]: \d+", result.stderr)


def test_run_stops_where_the_context_is_full(world, tmp_path):
    options = ["--prompt", "x" * 60, "--max-tokens", 100, "--json"]
    facts = json.loads(passed(cli("run", world.onnx, *options, cwd=tmp_path)).stdout)
    assert facts["prompt_tokens"] + facts["generated_tokens"] == CONTEXT
    assert facts["stopped"] == "context"
    plain = passed(cli("run", world.onnx, *options[:-1], cwd=tmp_path))
    assert f"cut at the context of {facts['generated_tokens']} more tokens" in plain.stderr
    short = passed(cli("run", world.onnx, *prompt(), "--max-tokens", 2, "--json", cwd=tmp_path))
    assert json.loads(short.stdout)["stopped"] == "max_tokens"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_encoding_of_the_terminal(world, encoding, tmp_path):
    """A tiny random model says bytes that make up any character: what the terminal lacks is escaped."""
    env = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    result = passed(cli("run", world.engine, *prompt(), "--temperature", 2, cwd=tmp_path, env=env, errors="replace"))
    assert result.stdout


def test_a_full_disk_behind_stdout(world, tmp_path):
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "mobileloop.cli", "info", str(world.engine)]
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr == "mobileloop: the output failed: No space left on device.\n"


def test_run_into_a_pipe_that_closes(world, tmp_path):
    process = subprocess.Popen(
        command("run", world.engine, "--prompt", "hello"),
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 141


@pytest.mark.parametrize("target", FORMATS)
def test_verify(world, target, tmp_path):
    options = ["--against", world.source, "--tokens", 48, "--json"]
    result = passed(cli("verify", getattr(world, target), *options, cwd=tmp_path))
    facts = json.loads(result.stdout)
    assert facts["passed"]
    assert facts["runtime"] == target
    assert facts["loops"] == 3
    assert facts["tokens"] == 48
    assert facts["mean_kl"] < 0.01


def test_verify_beyond_a_limit_is_exit_code_1(world, tmp_path):
    options = ["--against", world.source, "--tokens", 16, "--loops", 1, "--max-kl", 0]
    result = cli("verify", world.engine, *options, cwd=tmp_path)
    assert result.returncode == 1
    assert result.stdout.startswith("FAIL: ")
    assert result.stderr == ""


def test_bench_and_report(world, tmp_path):
    options = ["--threads", "1", "--loops", "1,2", "--prompt-tokens", 8, "--decode-tokens", 4, "--repetitions", 2]
    result = passed(cli("bench", world.engine, world.onnx, *options, "--json", "out.json", cwd=tmp_path))
    document = json.loads(result.stdout.splitlines()[-1])
    assert document == json.loads((tmp_path / "out.json").read_text())
    assert {"schema", "machine", "results"} <= document.keys()
    assert len(document["results"]) == 2 * 2 * 4
    for row in document["results"]:
        assert row.keys() >= BENCH_KEYS
    assert {row["phase"] for row in document["results"]} == {"load", "first_token", "prefill", "decode"}
    passed(cli("report", "out.json", "--html", "page.html", cwd=tmp_path))
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<html" in page
    assert 'src="http' not in page


def test_bench_on_a_terminal_prints_no_samples(world, tmp_path):
    options = ["--threads", 1, "--prompt-tokens", 8, "--decode-tokens", 4, "--repetitions", 1]
    assert on_a_terminal("bench", world.engine, *options, "--json", "out.json", cwd=tmp_path)[-1] == "Wrote out.json"
    assert json.loads((tmp_path / "out.json").read_text())["results"]
    shown = on_a_terminal("bench", world.engine, *options, cwd=tmp_path)
    assert "--json OUT keeps every sample" in shown[-1]
    assert not any("samples_ms" in line for line in shown)


def on_a_terminal(*arguments, cwd):
    """The lines of a command whose standard output is a terminal."""
    leader, follower = pty.openpty()
    with subprocess.Popen(command(*arguments), cwd=cwd, stdout=follower, stderr=subprocess.DEVNULL) as process:
        os.close(follower)
        read = b""
        with contextlib.suppress(OSError):  # how Linux says that the other end was closed
            while chunk := os.read(leader, 1 << 16):
                read += chunk
    os.close(leader)
    assert process.returncode == 0
    return read.decode().splitlines()


# -- what is refused -------------------------------------------------------------------------------


def cut(path, folder, share=0.5):
    """A copy of a file's first part."""
    short = folder / path.name
    data = path.read_bytes()
    short.write_bytes(data[: int(len(data) * share)])
    return short


def write_blockless_gguf(path):
    writer = gguf.GGUFWriter(str(path), "llama")
    for name, value in {"embedding_length": 256, "attention.head_count": 4, "block_count": 1}.items():
        writer.add_uint32(f"llama.{name}", value)
    writer.add_uint32("llama.feed_forward_length", 96)
    kind = gguf.GGMLQuantizationType.Q6_K
    writer.add_tensor("token_embd.weight", np.zeros((67, 210), np.uint8), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def changed_config(world, folder, **changes):
    shutil.copytree(world.source, folder / "changed")
    path = folder / "changed" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder / "changed"


def pickled(folder):
    (folder / "pickled").mkdir()
    (folder / "pickled" / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (folder / "pickled" / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    return folder / "pickled"


def cut_source(world, folder):
    shutil.copytree(world.source, folder / "cut")
    cut(world.source / "model.safetensors", folder / "cut")
    return folder / "cut"


def other_source(folder):
    return write_folder(folder / "other", random_model(CONFIG, seed=1))


def prompt(*more):
    return ["--prompt", "hello", *more]


# name: (arguments of a world and an empty folder, words of the sentence)
REFUSED_SOURCES = {
    "missing": (lambda w, f: [f / "none.gguf"], "does not exist"),
    "unknown preset": (lambda w, f: ["mobilellm-9b"], "does not exist"),
    "truncated safetensors": (lambda w, f: [cut_source(w, f)], "damaged or cut short"),
    "truncated GGUF": (lambda w, f: [cut(write_blockless_gguf(f / "a.gguf"), f)], "damaged"),
    "a GGUF without blocks": (lambda w, f: [write_blockless_gguf(f / "a.gguf")], "lacks the tensor blk.0"),
    "heads": (lambda w, f: [changed_config(w, f, num_attention_heads=5)], "num_heads 5 is not a multiple"),
    "pickle only": (lambda w, f: [pickled(f)], "holds only pickled weights (pytorch_model.bin)"),
    "a pickle": (lambda w, f: [pickled(f) / "pytorch_model.bin"], "is a pickle"),
    "an artifact": (lambda w, f: [w.engine], "without the config.json beside"),
    "loops 0": (lambda w, f: [w.source, "--loops", 0], "loops 0 is outside 1-1024"),
    "loops 2000": (lambda w, f: [w.source, "--loops", 2000], "loops 2000 is outside 1-1024"),
    "loops below 0": (lambda w, f: [w.source, "--loops", -1], "outside 1-1024"),
    "loops and schedule": (lambda w, f: [w.source, "--loops", 2, "--schedule", "plain"], "give one of them"),
    "unknown schedule": (lambda w, f: [w.source, "--schedule", "twice"], "the schedule 'twice' is not known"),
    "range beyond": (lambda w, f: [w.source, "--schedule", "range:1-9:2:0.5"], "blocks 0-2"),
    "missing schedule": (lambda w, f: [w.source, "--schedule", "none.json"], "cannot be read"),
    "long context": (lambda w, f: [w.source, "--context", 129], "context 129 is outside 1-128"),
    "context 0": (lambda w, f: [w.source, "--context", 0], "context 0 is outside 1-128"),
}


@pytest.mark.parametrize("name", REFUSED_SOURCES)
def test_export_refuses(world, name, tmp_path):
    make, words = REFUSED_SOURCES[name]
    (tmp_path / "in").mkdir()
    arguments = make(world, tmp_path / "in")
    before = contents(tmp_path)
    refused(cli("export", *arguments, "--to", "engine", "-o", tmp_path / "out.safetensors", cwd=tmp_path), words)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("target", FORMATS)
def test_export_refuses_the_wrong_suffix(world, target, tmp_path):
    result = cli("export", world.source, "--to", target, "-o", "model.bin", cwd=tmp_path)
    refused(result, f"does not end in {FORMATS[target]}")
    assert not contents(tmp_path)


def test_export_refuses_a_missing_folder(world, tmp_path):
    refused(cli("export", world.source, "-o", "nowhere/a.safetensors", cwd=tmp_path), "the folder nowhere does not")
    assert not contents(tmp_path)


REFUSED_ARTIFACTS = {
    "missing": (lambda w, f: ["run", f / "none.pte", *prompt()], "does not exist"),
    "missing, info": (lambda w, f: ["info", f / "none.onnx"], "does not exist"),
    "missing, bench": (lambda w, f: ["bench", f / "none.safetensors"], "does not exist"),
    "missing, verify": (lambda w, f: ["verify", f / "none.pte", "--against", w.source], "does not exist"),
    "missing, report": (lambda w, f: ["report", f / "none.json"], "none.json"),
    "a source": (lambda w, f: ["run", w.source / "model.safetensors", *prompt()], "a checkpoint and not an artifact"),
    "suffix": (lambda w, f: ["run", w.source / "config.json", *prompt()], "has no known suffix"),
    "loops 0": (lambda w, f: ["run", w.engine, *prompt("--loops", 0)], "loops 0 is outside 1-3"),
    "loops 4": (lambda w, f: ["run", w.engine, *prompt("--loops", 4)], "loops 4 is outside 1-3"),
    "loops 4, onnx": (lambda w, f: ["run", w.onnx, *prompt("--loops", 4)], "loops 4 is outside 1-3"),
    "loops 0, bench": (lambda w, f: ["bench", w.engine, "--loops", "0"], "whole numbers from 1 to 1024"),
    "loops 4, bench": (
        lambda w, f: ["bench", w.engine, "--loops", "4", "--prompt-tokens", 8, "--decode-tokens", 4],
        "loops 4 is outside 1-3",
    ),
    "context, bench": (lambda w, f: ["bench", w.engine, "--prompt-tokens", 61, "--decode-tokens", 4], "context of 64"),
    "output, bench": (lambda w, f: ["bench", w.engine, "--json", "nowhere/out.json"], "the folder nowhere"),
    "long prompt": (lambda w, f: ["run", w.engine, "--prompt", "x" * 65], "the prompt has 65 tokens"),
    "long prompt, onnx": (lambda w, f: ["run", w.onnx, "--prompt", "x" * 64], "the context of"),
    "empty prompt": (lambda w, f: ["run", w.engine, "--prompt", ""], "the prompt is empty"),
    "no template": (lambda w, f: ["run", w.engine, *prompt("--chat")], "no chat template"),
    "no tokens": (lambda w, f: ["run", w.engine, *prompt("--max-tokens", 0)], "max-tokens 0 is outside"),
    "temperature": (lambda w, f: ["run", w.engine, *prompt("--temperature", "nan")], "temperature nan is outside"),
    "onnx kernel, run": (
        lambda w, f: ["run", w.engine, *prompt("--onnx-kernel", "engine")],
        "--onnx-kernel engine is for .onnx artifacts, and",
    ),
    "onnx kernel, verify": (
        lambda w, f: ["verify", w.engine, "--against", w.source, "--onnx-kernel", "stock"],
        "--onnx-kernel stock is for .onnx artifacts, and",
    ),
    "onnx kernel, bench": (lambda w, f: ["bench", w.engine, "--onnx-kernel", "stock"], "is none; leave it out"),
    "halt, what": (
        lambda w, f: ["run", w.engine, *prompt("--halt", "mood:1")],
        "rule 'mood:1' is not known",
    ),
    "halt, not yet": (lambda w, f: ["run", w.engine, *prompt("--halt", "router:1")], "'router:1' is not known"),
    "halt, beyond": (lambda w, f: ["run", w.engine, *prompt("--halt", "cosine:1:4")], "outside 1-3"),
    "halt, no gate": (lambda w, f: ["run", w.engine, *prompt("--halt", "exit_gate:1")], "no norm at its loop ends"),
    "halt, onnx": (
        lambda w, f: ["run", w.onnx, *prompt("--halt", "cosine:1")],
        "a halting rule, which onnx",
    ),
    "halt, pte": (
        lambda w, f: ["run", w.executorch, *prompt("--halt", "cosine:1")],
        "asks for a halting rule, which executorch does not run",
    ),
    "no samples": (lambda w, f: ["run", w.engine, *prompt("--samples", 0)], "samples 0 is outside 1-1024"),
    "samples, onnx": (
        lambda w, f: ["run", w.onnx, *prompt("--samples", 2)],
        "2 sequences at once, which onnx",
    ),
    "samples, pte": (
        lambda w, f: ["run", w.executorch, *prompt("--samples", 2)],
        "2 sequences at once, which",
    ),
    "threads": (lambda w, f: ["run", w.engine, *prompt("--threads", -1)], "threads -1 is outside 0-256"),
    "bench, threads": (lambda w, f: ["bench", w.engine, "--threads", 999], "--threads"),
    "bench, pause": (lambda w, f: ["bench", w.engine, "--cooldown", "nan"], "--cooldown nan is outside 0-86400"),
    "bench, budget": (lambda w, f: ["bench", w.engine, "--time-budget", "inf"], "--time-budget inf is outside 1-86400"),
    "top-k": (lambda w, f: ["run", w.engine, *prompt("--top-k", -1)], "top-k -1 is outside"),
    "min-p": (lambda w, f: ["run", w.engine, *prompt("--min-p", 2)], "min-p 2.0 is outside 0-1"),
    "simulate, threads": (
        lambda w, f: ["simulate", w.engine, "--machine", "raspberry-pi-5", "--threads", 3, "--simulator", "cachegrind"],
        "cachegrind simulates one core",
    ),
    "cpus list": (lambda w, f: ["run", w.engine, *prompt("--cpus", "1-")], "write for example --cpus 4-7,2"),
    "cpus there": (lambda w, f: ["run", w.engine, *prompt("--cpus", 1023)], "cpu 1023 does not exist"),
    "cpus stock": (
        lambda w, f: ["run", w.onnx, *prompt("--cpus", CPU, "--onnx-kernel", "stock")],
        "onnxruntime's own threads",
    ),
    "cpus of bench": (lambda w, f: ["bench", w.engine, "--cpus", 1023], "cpu 1023 does not exist"),
    "machine, name": (lambda w, f: ["machine", "iphone"], "there is no machine 'iphone'; name a file of"),
    "machine, none": (lambda w, f: ["machine", f / "none.json"], "cannot be read"),
    "machine, artifact": (lambda w, f: ["machine", w.engine], "is not text, so it is no result of mobileloop machine"),
    "machine, list": (lambda w, f: ["machine", "x", "--list"], "--list shows the names of all shipped machines"),
    "machine, folder": (lambda w, f: ["machine", "--json", f / "none/m.json"], "does not exist"),
    "other source": (
        lambda w, f: ["verify", w.engine, "--against", other_source(f)],
        "give the source it was made from",
    ),
    "verify 1 token": (lambda w, f: ["verify", w.engine, "--against", w.source, "--tokens", 1], "tokens 1 is outside"),
}


@pytest.mark.parametrize("name", REFUSED_ARTIFACTS)
def test_an_artifact_is_refused(world, name, tmp_path):
    make, words = REFUSED_ARTIFACTS[name]
    (tmp_path / "in").mkdir()
    arguments = make(world, tmp_path / "in")
    before = contents(tmp_path)
    refused(cli(*arguments, cwd=tmp_path), words)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
@pytest.mark.parametrize("target", FORMATS)
def test_truncated_artifacts(world, target, share, tmp_path):
    path = cut(getattr(world, target), tmp_path, share)
    refused(cli("run", path, *prompt(), cwd=tmp_path), path.name)
    assert contents(tmp_path).keys() == {path}


@pytest.mark.parametrize("target", FORMATS)
def test_a_newer_format_version(world, target, tmp_path):
    path = tmp_path / f"newer{FORMATS[target]}"
    if target == "onnx":
        model = onnx.load(world.onnx)
        held = model.metadata_props[0]
        held.value = held.value.replace('"format_version":3', '"format_version":4')
        onnx.save(model, path)
    else:  # the metadata lie in the file as JSON text: of the same length, nothing else need change
        data = getattr(world, target).read_bytes()
        changed = re.sub(rb'(\\?"format_version\\?":)3', rb"\g<1>4", data)
        assert changed != data
        path.write_bytes(changed)
    refused(cli("info", path, cwd=tmp_path), "has format version 4")


def test_weights_that_are_no_artifact_are_not_replaced(world, tmp_path):
    other = shutil.copytree(world.source, tmp_path / "other") / "model.safetensors"
    before = other.read_bytes()
    refused(cli("export", world.source, "--calibrate", "none", "-o", other, cwd=tmp_path), "did not write")
    assert other.read_bytes() == before


def test_a_template_that_fails_is_noted_at_export(world, tmp_path):
    folder = shutil.copytree(world.source, tmp_path / "in")
    (folder / "chat_template.jinja").write_text("{{ raise_exception('never') }}")
    options = ["--calibrate", "none", "-o", tmp_path / "a.safetensors"]
    assert "a chat with this model fails" in passed(cli("export", folder, *options, cwd=tmp_path)).stdout
    assert "a chat with this model fails" in passed(cli("info", folder, cwd=tmp_path)).stdout


def full_disk():
    """No file may grow beyond 16 KiB: the write fails as it does on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, 1 << 14))


@pytest.mark.parametrize("target", FORMATS)
def test_a_full_disk(world, target, tmp_path):
    options = ["--to", target, "-o", f"a{FORMATS[target]}"]
    refused(cli("export", world.source, *options, cwd=tmp_path, preexec_fn=full_disk), "could not be written")
    assert not contents(tmp_path)


@pytest.mark.parametrize(
    "words",
    [
        ("bench", "tiny.safetensors", "--json", "tiny.safetensors"),
        ("bench", "tiny.safetensors", "--machine", "machine.json", "--json", "machine.json"),
        ("report", "run.json", "--html", "run.json"),
        ("report", "run.json", "--markdown", "run.json"),
        ("simulate", "tiny.safetensors", "--machine", "machine.json", "--json", "machine.json"),
        ("simulate", "tiny.safetensors", "--machine", "raspberry-pi-5", "--json", "tiny.safetensors"),
        ("machine", "machine.json", "--json", "machine.json"),
        ("export", "source", "-o", "source/model.safetensors"),
        ("device", "bench", "tiny.safetensors", "--json", "tiny.safetensors"),
    ],
)
def test_an_input_is_never_overwritten(world, words, tmp_path):
    shutil.copy(world.engine, tmp_path / "tiny.safetensors")
    shutil.copytree(world.source, tmp_path / "source")
    for name in ("machine.json", "run.json"):
        (tmp_path / name).write_text("kept")
    before = contents(tmp_path)
    refused(cli(*words, cwd=tmp_path), "would be overwritten; choose another output")
    assert contents(tmp_path) == before


def test_usage_errors_are_exit_code_2(world, tmp_path):
    for arguments in (["export"], ["run", world.engine], ["export", world.source, "--to", "tflite"], ["nonsense"]):
        result = cli(*arguments, cwd=tmp_path)
        assert result.returncode == 2
        assert "Usage: " in result.stderr
        assert "Traceback" not in result.stderr
    assert not contents(tmp_path)


# -- Ctrl-C ----------------------------------------------------------------------------------------


STOPS = {signal.SIGINT: 130, signal.SIGTERM: 143}


def interrupted(process, stop=signal.SIGINT):
    """Press Ctrl-C, or send another signal that stops a command."""
    process.send_signal(stop)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == STOPS[stop], stderr
    assert "Traceback" not in stderr
    assert stderr.splitlines()[-1] == "mobileloop: interrupted."


def started(*arguments, cwd):
    return subprocess.Popen(
        command(*arguments), cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )


@pytest.mark.parametrize("stop", STOPS)
def test_interrupted_while_writing(world, tmp_path, stop):
    process = started("export", world.source, "--to", "executorch", "-o", "a.pte", cwd=tmp_path)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".*.part")):  # from here on it traces and lowers for seconds
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.3)
    interrupted(process, stop)
    assert not contents(tmp_path)


def test_interrupted_while_reading(tmp_path):
    process = started("export", "mobilellm-125m", "-o", "a.safetensors", cwd=tmp_path)
    time.sleep(1.0)
    assert process.poll() is None
    interrupted(process)
    assert not contents(tmp_path)


def test_terminated_while_measuring(world, tmp_path):
    small = ("--prompt-tokens", 8, "--decode-tokens", 8, "--repetitions", 100000)
    process = started("bench", world.engine, *small, "--json", "out.json", cwd=tmp_path)
    assert process.stdout.readline()  # of the card
    process.send_signal(signal.SIGTERM)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 143, stderr
    assert "Traceback" not in stderr
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("target", ["engine", "onnx"])
def test_interrupted_while_generating(target, tmp_path):
    config = CONFIG.model_copy(update={"max_position": 1 << 15, "intermediate_size": 2048})
    source = add_tokenizer(write_folder(tmp_path / "source", random_model(config)))
    path = tmp_path / f"long{FORMATS[target]}"
    passed(cli("export", source, "--to", target, "--context", 1 << 15, "-o", path, cwd=tmp_path))
    before = contents(tmp_path)
    process = started("run", path, "--prompt", "hello", "--max-tokens", 1 << 15, cwd=tmp_path)
    assert process.stdout.read(1)
    interrupted(process)
    assert contents(tmp_path) == before


# -- bandwidth ------------------------------------------------------------------------------------------


def test_bandwidth_writes_a_machine_file(tmp_path):
    words = ("--threads", "1", "--sizes", "16K,32K,64K", "--time-budget", "1", "--json", "machine.json")
    shown = passed(cli("bandwidth", *words, cwd=tmp_path))
    assert "GB/s" in shown.stdout
    assert shown.stderr == ""
    found = json.loads((tmp_path / "machine.json").read_text())
    assert found["schema"] == "mobileloop.machine/1"
    assert {rung["state"] for rung in found["ladder"]["rungs"]} == {"warm", "cold"}
    assert found["ladder"]["steps"] == []  # three sizes tell no levels
    assert "Too few sizes" in shown.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--sizes", "16X"), "--sizes"),
        (("--sizes", "64G"), "memory"),
        (("--threads", "0"), "--threads"),
        (("--cpus", "9-1"), "--cpus"),
        (("--time-budget", "0"), "--time-budget"),
        (("--json", "none/machine.json"), "does not exist"),
    ],
)
def test_bandwidth_refuses_in_one_sentence(words, said, tmp_path):
    refused(cli("bandwidth", *words, cwd=tmp_path), said)
    assert list(tmp_path.iterdir()) == []


def test_bandwidth_that_is_interrupted_at_once_leaves_nothing(tmp_path):
    words = ("--threads", "1", "--time-budget", "600", "--json", "machine.json")
    process = subprocess.Popen(command("bandwidth", *words), cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline().strip()  # the machine; the measurement follows
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert list(tmp_path.iterdir()) == []
