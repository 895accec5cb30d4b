"""`mobileloop run`: the text that it prints is the text of its tokens behind the prompt; what it refuses of a chat."""

import json
import os
import subprocess
import sys

import pytest
from builders import TINY, write_engine, write_folder
from tokenizers import Tokenizer, decoders, pre_tokenizers
from vocabularies import pieces

from mobileloop.checkpoints import load_checkpoint
from mobileloop.checkpoints.random import random_model
from mobileloop.packed import PackedModel
from mobileloop.tokenizer import Tokenizer as Ours

DEAF = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"
TEMPLATES = {
    "takes": "{% for m in messages %}{{ m.role }}:{{ m.content }}{% endfor %}",
    "drops": DEAF,
    "refuses": "{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}" + DEAF,
    "fails": "{{ 1 / 0 }}",
}


def llama() -> Tokenizer:
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer = pieces(decoders.Sequence(steps))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return tokenizer


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    """One artifact with random weights for each template: its answers are random tokens."""
    folder = tmp_path_factory.mktemp("run")
    config = TINY.model_copy(update={"vocab_size": llama().get_vocab_size()})
    model = write_folder(folder / "model", random_model(config))
    llama().save(str(model / "tokenizer.json"))
    made = {}
    for name, template in TEMPLATES.items():
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": template, "pad_token": "<s>"}
        (model / "tokenizer_config.json").write_text(json.dumps(settings))
        checkpoint = load_checkpoint(str(model))
        packed = PackedModel.from_checkpoint(checkpoint, "int8")
        made[name] = write_engine(folder / f"{name}.safetensors", checkpoint, packed, 512), checkpoint.tokenizer
    return made


def run(artifact, *options, **environment):
    command = [sys.executable, "-m", "mobileloop.cli", "run", str(artifact), "--threads", "1", *options]
    return subprocess.run(command, capture_output=True, env={**os.environ, **environment}, timeout=300)


def answered(artifact, *options):
    done = run(artifact, "--json", *options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("prompt", ["ab a", "日", "a b  ▁"])
@pytest.mark.parametrize("seed", ["1", "2", "3"])
def test_prompt_and_text_are_the_text_of_all_tokens(artifacts, prompt, seed):
    artifact, spec = artifacts["takes"]
    tokenizer = Ours(spec)
    ids = tokenizer.encode(prompt)
    said = answered(artifact, "--no-chat", "-p", prompt, "-n", "40", "--temperature", "3", "--seed", seed)
    assert said["prompt_tokens"] == len(ids)
    assert tokenizer.decode(ids) + said["text"] == tokenizer.decode([*ids, *said["tokens"]]) or "\ufffd" in said["text"]
    assert said["text"] == tokenizer.decode([*ids, *said["tokens"]])[len(tokenizer.decode(ids)) :]


def test_samples_have_the_text_of_their_tokens(artifacts):
    artifact, spec = artifacts["takes"]
    tokenizer = Ours(spec)
    ids = tokenizer.encode("ab")
    said = answered(artifact, "--no-chat", "-p", "ab", "-n", "20", "--temperature", "3", "--samples", "3")
    assert len(said["samples"]) == 3
    for sample in said["samples"]:
        assert sample["text"] == tokenizer.decode([*ids, *sample["tokens"]])[len(tokenizer.decode(ids)) :]


def test_a_system_turn_reaches_a_template_that_takes_it(artifacts):
    artifact, _ = artifacts["takes"]
    plain, system = (answered(artifact, "-p", "ab", "-n", "1", *more) for more in ([], ["--system", "a a a"]))
    assert system["prompt_tokens"] > plain["prompt_tokens"]


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("drops", ["--system", "ab"], "has no system message and would drop it; run it without --system."),
        ("refuses", ["--system", "ab"], "refuses a system message (no system here); run it without --system."),
        ("fails", [], "chat template failed (division by zero); run it with --no-chat."),
        ("fails", ["--system", "ab"], "chat template failed (division by zero); run it with --no-chat."),
        ("takes", ["--no-chat", "--system", "ab"], "--system is part of a chat"),
    ],
)
def test_what_a_template_does_not_do_is_one_sentence(artifacts, name, options, words):
    done = run(artifacts[name][0], "-p", "ab", *options)
    assert done.returncode == 2
    assert done.stdout == b""
    told = done.stderr.decode()
    assert told.count("\n") == 1
    assert words in told


@pytest.mark.parametrize("name", ["drops", "refuses"])
def test_without_a_system_turn_they_work(artifacts, name):
    assert answered(artifacts[name][0], "-p", "ab", "-n", "1")["prompt_tokens"] > 0


def test_the_template_sees_every_special_token(artifacts):
    assert artifacts["takes"][1].special_texts["pad_token"] == "<s>"
