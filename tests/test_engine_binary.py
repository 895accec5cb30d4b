"""mobileloop-engine, the standalone program: built here, compared with the Python side, and run as ARM under QEMU."""

import json
import os
import re
import shutil
import signal
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from builders import TINY, add_tokenizer, packed_model, schedules, write_engine, write_folder
from chat_forms import FORMS
from nasty_texts import nasty
from programs import build as build_targets
from programs import run

from mobileloop import __version__
from mobileloop.chat.turns import chat_turns
from mobileloop.checkpoints.load import load_checkpoint
from mobileloop.checkpoints.random import random_model
from mobileloop.decode.generate import generate
from mobileloop.decode.sampling import Sampler
from mobileloop.packed import PackedModel
from mobileloop.runtimes import open_session
from mobileloop.runtimes.engine import read_info
from mobileloop.spec.halting import Halting
from mobileloop.spec.schedule import Schedule
from mobileloop.tokenizer import Tokenizer as OurTokenizer
from mobileloop_bench.report.page import page
from mobileloop_bench.results.document import read_document

ROOT = Path(__file__).resolve().parents[1]
ENGINE = ROOT / "runtime_bench" / "engine"
SEEDS = ENGINE / "fuzz" / "corpus" / "artifact"
CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\n"
    "You help.<|im_end|>\\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + "
    "'<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def build(folder, target, *options):
    """Build one program of the engine."""
    return build_targets(folder, target, options=options) / target


@pytest.fixture(scope="module")
def binary():
    return build("engine", "mobileloop-engine", "-DML_CLI=ON")


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    """A looped artifact with a byte-level tokenizer of 259 tokens."""
    folder = tmp_path_factory.mktemp("binary")
    config = TINY.model_copy(update={"name": "text", "vocab_size": 259, "num_blocks": 2})
    add_tokenizer(write_folder(folder / "model", random_model(config, None, 5)))
    checkpoint = replace(load_checkpoint(str(folder / "model")), schedule=Schedule.repeat_all_over(2, 3))
    packed = PackedModel.from_checkpoint(checkpoint, "int4")
    return write_engine(folder / "text.safetensors", checkpoint, packed, context=200, kv_bits=16)


def python_generation(path, prompt, count, loops=None, **sampling):
    """(text, tokens) of `mobileloop run --no-chat`."""
    session = open_session(path, threads=1, loops=loops)
    try:
        tokenizer = OurTokenizer(session.info.tokenizer)
        ids, is_end = tokenizer.encode(prompt), session.info.tokenizer.eos_ids.__contains__
        tokens = generate(session, ids, count, Sampler(**sampling), is_end, lambda token: None).tokens
        return tokenizer.decode([*ids, *tokens])[len(tokenizer.decode(ids)) :], tokens
    finally:
        session.close()


def document(done):
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# -- the program ---------------------------------------------------------------------------------------


def program_headers(data):
    """Types of the program headers of a 64-bit little-endian ELF file."""
    start, (size, count) = struct.unpack_from("<Q", data, 32)[0], struct.unpack_from("<HH", data, 54)
    return {struct.unpack_from("<I", data, start + size * i)[0] for i in range(count)}


def test_it_is_static_and_small(binary):
    data = binary.read_bytes()
    assert len(data) < 2_000_000
    load, dynamic, interpreter = 1, 2, 3
    assert load in program_headers(data)
    assert not {dynamic, interpreter} & program_headers(data)


def test_help_and_version(binary):
    assert run(binary, "--version").stdout == f"mobileloop-engine {__version__}\n"
    assert run(binary).returncode == 2
    whole = run(binary, "--help")
    assert whole.returncode == 0
    for command in ("info", "generate", "tokenize", "bench", "bandwidth"):
        assert command in whole.stdout
        helped = run(binary, command, "--help")
        assert helped.returncode == 0
        assert f"mobileloop-engine {command}" in helped.stdout.split("Examples:")[1]
        assert max(map(len, helped.stdout.splitlines())) <= 120


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["dance"], "'dance' is no command"),
        (["info"], "needs an artifact"),
        (["info", "FILE", "again"], "one word too many"),
        (["info", "/nowhere.safetensors"], "cannot be opened"),
        (["info", "/"], "not a regular file"),
        (["generate", "FILE"], "give --prompt or --tokens"),
        (["generate", "FILE", "-p", "x", "--tokens", "1"], "exclude each other"),
        (["generate", "FILE", "-p", ""], "the prompt is empty"),
        (["generate", "FILE", "-p", b"\xff"], "not UTF-8"),
        (["generate", "FILE", "-p", "x" * 400], "the context of"),
        (["generate", "FILE", "-p", "x", "--chat"], "no chat template"),
        (["generate", "FILE", "-p", "x", "--system", "y"], "--system needs --chat"),
        (["generate", "FILE", "-p", "x", "--loops", "9"], "loops 9 is outside 1-3"),
        (["generate", "FILE", "-p", "x", "--loops", "0"], "--loops '0' is not a whole number"),
        (["generate", "FILE", "-p", "x", "--threads", "-1"], "--threads '-1' is not a whole number"),
        (["generate", "FILE", "-p", "x", "--top-p", "nan"], "--top-p 'nan' is not a number"),
        (["generate", "FILE", "--tokens", "1,259"], "--tokens '259' is not a whole number from 0 to 258"),
        (["generate", "FILE", "--max-tokens"], "--max-tokens needs a value"),
        (["generate", "FILE", "--json=1"], "--json takes no value"),
        (["bench", "FILE", "--loops", "7"], "runs up to 3 loops"),
        (["bench", "FILE", "--cpus", "3-1"], "--cpus '1' is not a whole number from 3 to 1023"),
        (["bench", "FILE", "--cpus", "1-"], "--cpus '' is not a whole number"),
        (["bench", "FILE", "--threads", "1", "--cpus", "0,0"], "cpu 0 is listed twice"),
        (["bench", "FILE", "--threads", "1", "--cpus", "1000"], "cpu 1000 "),
        (["bench", "FILE", "--prompt-tokens", "500"], "do not fit the context of 200"),
        (["bandwidth", "--sizes", "1"], "is not a size from 4K to 64G"),
        (["bandwidth", "FILE"], "one word too many"),
    ],
)
def test_a_mistake_is_one_sentence(binary, artifact, words, said):
    done = run(binary, *[artifact if word == "FILE" else os.fsdecode(word) for word in words])
    assert done.returncode == 2
    assert done.stdout == ""
    assert said in done.stderr
    assert done.stderr.startswith("mobileloop-engine: ")
    assert done.stderr.count("\n") == 1


def test_damaged_files_are_refused(binary, artifact, tmp_path):
    data = artifact.read_bytes()
    for name, content in {"cut": data[: len(data) // 2], "empty": b"", "text": b"hello" * 9, "short": data[:8]}.items():
        path = tmp_path / name
        path.write_bytes(content)
        for command in (["info"], ["generate", "--tokens", "1"], ["bench"]):
            done = run(binary, command[0], path, *command[1:])
            assert done.returncode == 2
            assert done.stderr.count("\n") == 1
            if name == "cut":
                assert f"the file holds {len(content)} bytes: it is cut short" in done.stderr


def test_a_full_disk_is_one_sentence(binary, artifact):
    with open("/dev/full", "w") as full:
        done = subprocess.run([binary, "info", artifact], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "mobileloop-engine: the output cannot be written: No space left on device.\n"


def catches_interrupts(pid, program):
    """Whether the process runs `program` by now, and its handler of Ctrl-C is installed."""
    if os.readlink(f"/proc/{pid}/exe") != str(program):
        return False
    caught = re.search(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.M)
    return bool(int(caught[1], 16) >> (signal.SIGINT - 1) & 1)


def test_ctrl_c_ends_it_well(binary, artifact):
    words = [binary, "bench", artifact, "--repetitions", "100000", "--no-bandwidth", "--threads", "1", "--json"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(list(map(str, words)), **pipes) as process:
        while not catches_interrupts(process.pid, binary):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "mobileloop-engine: interrupted.\n"
    measured = json.loads(out)
    assert measured["interrupted"] is True
    assert all(row["valid"] is None for row in measured["results"])


# -- the same answers as the Python side ---------------------------------------------------------------


def test_bytes_of_tokens_that_may_halt(binary, tmp_path):
    """Their executed bytes are a bound in `info`, and unknown in a measurement."""
    looped = Schedule.immediate(3, 3)
    rule = Halting(rule="cosine", threshold=0.5, min_loops=2)
    halting = looped.model_copy(
        update={"stages": tuple(stage.model_copy(update={"halting": rule}) for stage in looped.stages)}
    )
    checkpoint, packed = packed_model(schedule=halting, quantization="int8")
    path = write_engine(tmp_path / "a.safetensors", checkpoint, packed, kv_bits=8)
    told, about = document(run(binary, "info", path, "--json")), read_info(path)
    assert told["executed_bytes"] == about.executed_bytes()
    assert told["kv_bytes"] == about.kv_bytes(about.context - 1)  # with the scales of 8-bit codes
    assert ", executed up to " in run(binary, "info", path).stdout
    options = ["--tokens", "1,2", "--max-tokens", "4", "--json"]
    for loops, known in ((3, False), (2, True)):
        words = document(run(binary, "generate", path, *options, "--loops", loops))
        assert (words["executed_gbps"] is not None) == known
        assert words["read_gbps"] is not None
    sizes = ["--prompt-tokens", "4", "--decode-tokens", "2", "--repetitions", "1"]
    measured = document(run(binary, "bench", path, *sizes, "--threads", "1", "--loops", "2,3", "--json"))
    for row in measured["results"]:
        assert row["executed_bytes"] == (about.executed_bytes(2) if row["loops"] == 2 else None)
        assert (row["executed_gbps"] is not None) == (row["phase"] == "decode" and row["loops"] == 2)


@pytest.mark.parametrize("name", list(schedules()))
def test_info_says_what_python_says(binary, tmp_path, name):
    checkpoint, packed = packed_model(schedule=schedules()[name], quantization="int8")
    path = write_engine(tmp_path / "a.safetensors", checkpoint, packed)
    told, about = document(run(binary, "info", path, "--json")), read_info(path)
    assert told["config"] == about.config.model_dump(mode="json")
    for key in ("format_version", "tool_version", "quantization", "context", "kv_bits", "source", "source_sha256"):
        assert told[key] == getattr(about, key)
    assert told["costs"] == about.costs.model_dump(mode="json")
    assert told["num_parameters"] == about.config.num_parameters()
    assert told["unique_bytes"] == about.unique_bytes()
    assert told["executed_bytes"] == about.executed_bytes()
    assert told["kv_bytes"] == about.kv_bytes(about.context - 1)
    assert told["kv_capacity_bytes"] == about.kv_capacity_bytes()
    assert told["activation_bytes"] == about.activation_bytes()
    assert told["size_on_disk_bytes"] == path.stat().st_size
    assert told["max_loops"] == about.schedule.max_loops
    stages = [stage.model_dump(mode="json") for stage in about.schedule.stages]
    assert told["schedule"]["stages"] == [
        {key: stage[key] for key in told["schedule"]["stages"][0]} for stage in stages
    ]
    lines = run(binary, "info", path)
    assert lines.returncode == 0
    assert f"up to {about.schedule.max_loops} at run time" in lines.stdout


@pytest.mark.parametrize("loops", [None, 1, 2])
def test_greedy_text_is_that_of_run(binary, artifact, loops):
    text, tokens = python_generation(artifact, "Once upon a time", 30, loops)
    more = [] if loops is None else ["--loops", loops]
    for threads in (1, 2):
        words = ["generate", artifact, "-p", "Once upon a time", "-n", 30, "--threads", threads, *more]
        told = document(run(binary, *words, "--json"))
        assert (told["text"], told["tokens"]) == (text, tokens)
        assert told["generated_tokens"] == len(tokens)
        assert told["loops"] == (loops or 3)
        plain = run(binary, *words)
        assert plain.stdout == text + "\n"
        assert "tokens/s" in plain.stderr


@pytest.mark.parametrize("seed", [0, 1, 77, 2**32 + 5, 2**62])
@pytest.mark.parametrize(
    "sampling",
    [
        {"temperature": 1.0},
        {"temperature": 0.7, "top_p": 0.9},
        {"temperature": 5.0, "top_p": 0.5},
        {"temperature": 2.0, "top_k": 5},
        {"temperature": 2.0, "min_p": 0.3},
        {"temperature": 3.0, "top_k": 20, "top_p": 0.8, "min_p": 0.1},
    ],
)
def test_the_same_seed_gives_the_same_text(binary, artifact, seed, sampling):
    text, tokens = python_generation(artifact, "seed", 40, seed=seed, **sampling)
    words = [word for name, value in sampling.items() for word in (f"--{name.replace('_', '-')}", value)]
    words += ["--seed", seed, "-n", 40, "--json"]
    told = document(run(binary, "generate", artifact, "-p", "seed", *words))
    assert (told["text"], told["tokens"]) == (text, tokens)


def test_top_k_keeps_the_likeliest(binary, artifact):
    greedy = document(run(binary, "generate", artifact, "-p", "k", "--json", "-n", 20))
    one = document(run(binary, "generate", artifact, "-p", "k", "--json", "-n", 20, "--temperature", 9, "--top-k", 1))
    two = document(run(binary, "generate", artifact, "-p", "k", "--json", "-n", 20, "--temperature", 9, "--top-k", 2))
    assert one["tokens"] == greedy["tokens"] != two["tokens"]


def test_it_says_what_cut_an_answer(binary, artifact):
    context = read_info(artifact).context
    short = run(binary, "generate", artifact, "-p", "k", "-n", 3)
    assert short.stderr.rstrip().endswith("cut at --max-tokens 3")
    assert document(run(binary, "generate", artifact, "-p", "k", "-n", 3, "--json"))["stopped"] == "max_tokens"
    full = document(run(binary, "generate", artifact, "-p", "k", "-n", 10 * context, "--json"))
    ended = full["prompt_tokens"] + full["generated_tokens"] < context
    assert full["stopped"] == ("end_token" if ended else "context")


def test_tokens_in_place_of_a_prompt(binary, artifact):
    ids = OurTokenizer(read_info(artifact).tokenizer).encode("Once")
    by_text = document(run(binary, "generate", artifact, "-p", "Once", "--json", "-n", 9))
    by_tokens = document(run(binary, "generate", artifact, "--tokens", ",".join(map(str, ids)), "--json", "-n", 9))
    assert by_text["tokens"] == by_tokens["tokens"]
    assert by_text["text"] == by_tokens["text"]


def test_an_artifact_without_a_tokenizer(binary):
    refused = run(binary, "generate", SEEDS / "plain", "-p", "x")
    assert refused.returncode == 2
    assert "give the prompt with --tokens" in refused.stderr
    done = run(binary, "generate", SEEDS / "plain", "--tokens", "1,2", "-n", 4)
    assert done.returncode == 0
    assert len(done.stdout.split()) == 4


def with_metadata(artifact, path, change):
    """The artifact after change(its metadata)."""
    data = artifact.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    about = json.loads(header["__metadata__"]["mobileloop"])
    change(about)
    header["__metadata__"]["mobileloop"] = json.dumps(about)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 64)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
    return path


def with_tokenizer(artifact, path, **changes):
    """The artifact with another tokenizer in its metadata."""
    return with_metadata(artifact, path, lambda about: about["tokenizer"].update(changes))


@pytest.mark.parametrize("bits", [9, 24])
def test_a_cache_of_unknown_bits_is_refused(binary, artifact, tmp_path, bits):
    path = with_metadata(artifact, tmp_path / "bits.safetensors", lambda about: about.update(kv_bits=bits))
    for words in (["info", path], ["bench", path], ["generate", path, "--tokens", "1"]):
        done = run(binary, *words)
        assert done.returncode == 2
        assert f"kv_bits is {bits} where 8, 16 or 32 was expected" in done.stderr


@pytest.mark.parametrize("system", [None, "Be brief."])
def test_chat_in_chatml(binary, artifact, tmp_path, system):
    path = with_tokenizer(artifact, tmp_path / "chat.safetensors", chat_template=CHATML)
    ids = OurTokenizer(read_info(path).tokenizer).chat("Hi {{there}}", system)
    more = [] if system is None else ["--system", system]
    told = document(run(binary, "generate", path, "--chat", "-p", "Hi {{there}}", "-n", 5, "--json", *more))
    expected = document(run(binary, "generate", path, "--tokens", ",".join(map(str, ids)), "-n", 5, "--json"))
    assert told["prompt_tokens"] == len(ids)
    assert told["tokens"] == expected["tokens"]


@pytest.mark.parametrize("form", sorted(FORMS))
def test_chat_of_any_template_is_that_of_run_or_refused(binary, artifact, tmp_path, form):
    """The exporter finds out what a template puts around turns; a template that does more is refused by name."""
    spec = read_info(artifact).tokenizer.model_copy(update={"chat_template": FORMS[form]})
    turns = chat_turns(spec)
    path = with_tokenizer(
        artifact, tmp_path / "chat.safetensors", chat_template=FORMS[form], turns=turns and turns.model_dump()
    )
    tokenizer = OurTokenizer(read_info(path).tokenizer)
    texts = [text for text in nasty() if text.strip()][::5]
    lines = "".join(json.dumps(text) + "\n" for text in texts).encode()
    for system in (None, " Be brief.\n", "x"):
        takes = turns and (system is None or turns.system)
        if takes:
            more = [] if system is None else ["--system", system]
            told = tokenized(binary, path, lines, "--json-lines", "--chat", *more)
            assert told == [tokenizer.chat(text, system) for text in texts]
        else:
            done = run(binary, "generate", path, "--chat", "-p", "x", *([] if system is None else ["--system", system]))
            assert done.returncode == 2
            assert "use mobileloop run" in done.stderr


def test_blank_turns_are_refused_where_a_template_may_look_at_them(binary, artifact, tmp_path):
    template = "{% for m in messages %}[{{ m.role }}]{{ m.content or 'nothing' }}{% endfor %}"
    spec = read_info(artifact).tokenizer.model_copy(update={"chat_template": template})
    turns = chat_turns(spec).model_dump()
    path = with_tokenizer(artifact, tmp_path / "chat.safetensors", chat_template=template, turns=turns)
    for words in (["-p", " \n"], ["-p", "x", "--system", ""]):
        done = run(binary, "generate", path, "--chat", *words)
        assert done.returncode == 2
        assert "use mobileloop run" in done.stderr
    assert run(binary, "generate", path, "--chat", "-p", "x", "--system", "y", "-n", 1).returncode == 0


@pytest.mark.parametrize("template", ["{{ messages }}", CHATML + " ", CHATML.replace("You help.", "{{ x }}")])
def test_other_templates_are_refused(binary, artifact, tmp_path, template):
    path = with_tokenizer(artifact, tmp_path / "chat.safetensors", chat_template=template)
    done = run(binary, "generate", path, "--chat", "-p", "x")
    assert done.returncode == 2
    assert "use mobileloop run" in done.stderr


def test_other_tokenizers_are_refused_by_name(binary, artifact, tmp_path):
    good = json.loads(read_info(artifact).tokenizer.json_text)
    path = with_tokenizer(
        artifact, tmp_path / "t.safetensors", json_text=json.dumps({**good, "decoder": {"type": "WordPiece"}})
    )
    for words in (["generate", path, "-p", "x"], ["tokenize", path]):
        done = run(binary, *words, input="x\n")
        assert done.returncode == 2
        assert "decoder WordPiece is not known to this program; use mobileloop run, or" in done.stderr
    assert run(binary, "generate", path, "--tokens", "5", "-n", 1).returncode == 0


def test_saved_truncation_and_padding_touch_no_prompt(binary, artifact, tmp_path):
    good = json.loads(read_info(artifact).tokenizer.json_text)
    truncation = {"max_length": 2, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    padding = {"strategy": {"Fixed": 64}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 0}
    padding |= {"pad_type_id": 0, "pad_token": "<s>"}
    text = json.dumps({**good, "truncation": truncation, "padding": padding})
    path = with_tokenizer(artifact, tmp_path / "t.safetensors", json_text=text)
    words = ["-p", "Once upon a time", "-n", 5, "--json"]
    assert (
        document(run(binary, "generate", path, *words))["tokens"]
        == (document(run(binary, "generate", artifact, *words))["tokens"])
    )


# -- tokens --------------------------------------------------------------------------------------------


def tokenized(binary, path, given, *options):
    """What `tokenize` prints: one document for each text."""
    done = subprocess.run([binary, "tokenize", path, *options], input=given, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_tokenize_gives_the_tokens_of_run(binary, artifact, tmp_path):
    path = with_tokenizer(artifact, tmp_path / "bos.safetensors", add_bos=True, bos_id=0, chat_template=CHATML)
    tokenizer = OurTokenizer(read_info(path).tokenizer)
    texts = [text for text in nasty() if "\n" not in text and "\0" not in text and text]
    for special, options in ((True, []), (False, ["--plain"])):
        ids = [tokenizer.encode(text, special) for text in texts]
        assert tokenized(binary, path, "\n".join(texts).encode(), *options) == ids
    every = list(nasty())
    ids = [tokenizer.encode(text) for text in every]
    lines = "".join(json.dumps(text) + "\n" for text in every)
    assert tokenized(binary, path, lines.encode(), "--json-lines") == ids
    whole = [text for text in every if "\0" not in text]
    ids = [tokenizer.encode(text) for text in whole]
    assert tokenized(binary, path, b"".join(text.encode() + b"\0" for text in whole), "--null") == ids
    assert tokenized(binary, path, b"Hi\nthere", "--chat", "--system", "x") == (
        [tokenizer.chat("Hi", "x"), tokenizer.chat("there", "x")]
    )
    ids = [tokenizer.encode(text) for text in every]
    lines = "".join(json.dumps(list_of_ids) + "\n" for list_of_ids in [*ids, [300, 2**32 - 1], []])
    texts = [tokenizer.decode(list_of_ids) for list_of_ids in ids]
    assert tokenized(binary, path, lines.encode(), "--decode") == [*texts, "", ""]


def test_tokenize_takes_any_bytes(binary, artifact):
    tokenizer = OurTokenizer(read_info(artifact).tokenizer)
    given = [bytes([byte, 255 - byte]) for byte in range(256) if byte not in (10, 245)]
    ids = [tokenizer.encode(text.decode("utf-8", "replace"), True) for text in given]
    assert tokenized(binary, artifact, b"\n".join(given)) == ids


@pytest.mark.parametrize(
    ("given", "options", "said"),
    [
        ("x", ["--json-lines"], "has a malformed number at byte 0 (text 1 of the standard input)"),
        ('"x"\n3', ["--json-lines"], "the line is not a string (text 2 of the standard input)"),
        ('["x"]', ["--decode"], "a token is not a number (text 1"),
        ("[-1]", ["--decode"], "a token is -1 where a whole number from 0 to 4294967295 was expected"),
        ("", ["--decode", "--null"], "--null, --json-lines and --decode exclude each other"),
        ("", ["--chat", "--plain"], "--chat and --plain exclude each other"),
        ("", ["--system", "x"], "--system needs --chat"),
        ("x", ["--chat"], "no chat template"),
    ],
)
def test_mistakes_of_tokenize(binary, artifact, given, options, said):
    done = run(binary, "tokenize", artifact, *options, input=given)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


# -- measuring -----------------------------------------------------------------------------------------


def test_bench_is_a_document_of_the_report(binary, artifact, tmp_path):
    words = ["--threads", "1,2", "--loops", "1,3,9", "--prompt-tokens", 12, "--decode-tokens", 4, "--repetitions", 2]
    done = run(binary, "bench", artifact, *words, "--no-bandwidth", "--json")
    assert done.returncode == 0, done.stderr
    path = tmp_path / "bench.json"
    path.write_text(done.stdout)
    found, about = read_document(path), read_info(artifact)
    measured = [row for row in found.results if not row.skipped]
    assert {(row.threads, row.loops, row.phase) for row in measured} == {
        (threads, loops, phase)
        for threads in (1, 2)
        for loops in (1, 3)
        for phase in ("load", "first_token", "prefill", "decode")
    }
    assert [row.loops for row in found.results if row.skipped] == [9, 9]
    for row in measured:
        assert len(row.samples_ms) == (8 if row.phase == "decode" else 2) == 2 * row.samples_per_round
        assert row.p90_ms <= row.p99_ms <= max(row.samples_ms)
        assert row.stream is None
        assert row.unique_bytes == about.unique_bytes()
        assert row.executed_bytes == about.executed_bytes(row.loops)
        assert (
            row.kv_bytes
            == {
                "load": None,
                "first_token": None,
                "prefill": about.kv_bytes(11, row.loops),
                "decode": about.kv_bytes(14, row.loops),
            }[row.phase]
        )
        assert (row.loop_tax is not None) == (row.phase == "decode")
        assert not row.valid
        assert "too few samples: of 2 rounds, at least 5 needed" in row.reasons  # judged where it is read
    phases = {(row.threads, row.loops, row.phase): row.samples_ms for row in measured}
    for (threads, loops, phase), opened in phases.items():
        if phase == "load":
            first = phases[threads, loops, "first_token"]
            assert all(less < more for less, more in zip(opened, first, strict=True))
    assert json.loads(done.stdout)["schema"] == "mobileloop.bench/2"
    assert {row["valid"] for row in json.loads(done.stdout)["results"]} == {None}
    assert found.machine.cores_usable == len(os.sched_getaffinity(0))
    assert "Decode time against loops" in page([found])
    table = run(binary, "bench", artifact, *words, "--no-bandwidth")
    assert table.returncode == 0
    assert "skipped: 9 loops" in table.stdout


def test_bench_runs_on_the_chosen_cpus(binary, artifact):
    cpu = max(os.sched_getaffinity(0))
    words = ["--prompt-tokens", 4, "--decode-tokens", 2, "--repetitions", 1, "--no-bandwidth", "--json"]
    told = document(run(binary, "bench", artifact, "--cpus", cpu, *words))
    assert told["settings"]["cpus"] == [cpu]
    assert told["settings"]["threads"] == [1]
    assert {row["details"]["cpus"] for row in told["results"]} == {str(cpu)}


def test_bandwidth(binary):
    told = document(run(binary, "bandwidth", "--threads", "1", "--sizes", "16K,1M", "--seconds", "0.01", "--json"))
    assert [row["size_bytes"] for row in told["bandwidth"]] == [16384, 1 << 20]
    assert all(row["read_gbps"] > 0 for row in told["bandwidth"])
    shown = run(binary, "bandwidth", "--threads", "1", "--sizes", "16K", "--seconds", "0.01").stdout
    assert "16 KiB" in shown
    assert "kernels:" in shown


def test_a_buffer_too_small_for_its_threads_is_left_out(binary):
    """Each thread reads 512 bytes at least; a machine of many cores still measures the other sizes."""
    words = ["bandwidth", "--threads", "2,16", "--sizes", "4K,8K", "--seconds", "0.001"]
    told = document(run(binary, *words, "--json"))["bandwidth"]
    assert [(row["size_bytes"], row["threads"]) for row in told] == [(4096, 2), (8192, 2), (8192, 16)]
    shown = run(binary, *words).stdout
    small = next(line.split() for line in shown.splitlines() if line.split()[:2] == ["4", "KiB"])
    assert small[-1] == "-"
    assert float(small[-2]) > 0


# -- ARM -----------------------------------------------------------------------------------------------


def arm_binary(compiler):
    if compiler == "zig":
        path = ROOT / "build" / "engine-arm64-zig" / "mobileloop-engine"
        if not path.is_file():
            pytest.skip("zig's program is not there: make engine-arm64 ARM64_CXX=zig, which takes minutes")
        return path
    cross = shutil.which("aarch64-linux-gnu-g++")
    if not cross:
        pytest.skip("the cross compiler aarch64-linux-gnu-g++ is not installed")
    target = ("-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64")
    return build("engine-arm64", "mobileloop-engine", "-DML_CLI=ON", *target, f"-DCMAKE_CXX_COMPILER={cross}")


@pytest.mark.parametrize("compiler", ["gcc", "zig"])
def test_arm_gives_the_same_text(binary, artifact, compiler):
    arm = arm_binary(compiler)
    assert arm.stat().st_size < 2_000_000
    qemu = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    if not qemu:
        pytest.skip("QEMU's user mode emulation (qemu-aarch64) is not installed")
    for words in (["-p", "Once upon"], ["-p", "a b", "--temperature", 1, "--seed", 3, "--loops", 2]):
        here = document(run(binary, "generate", artifact, *words, "-n", 12, "--threads", 2, "--json"))
        kernels = set()
        for processor in ("max", "cortex-a76", "cortex-a53"):
            more = ["-n", 12, "--threads", 2, "--json"]
            there = document(run(qemu, "-cpu", processor, arm, "generate", artifact, *words, *more))
            assert (there["text"], there["tokens"]) == (here["text"], here["tokens"])
            kernels.add(there["details"]["kernels"])
        assert len(kernels) >= 2  # old processors have another set
    emulated = document(run(qemu, arm, "bandwidth", "--threads", 1, "--sizes", "16K", "--seconds", "0.01", "--json"))
    assert emulated["machine"]["emulated"] is True


def test_artifacts_without_padding_run(binary):
    seeds = [path for path in SEEDS.iterdir() if not path.name.startswith("found-")]
    assert len(seeds) >= 2
    for seed in seeds:
        assert run(binary, "generate", seed, "--tokens", "1,2,3", "-n", 2).returncode == 0
