"""Nothing of a source is dropped without a word: keys and tensors that nobody knows are noted or refused by name."""

import itertools
import json
import string

import numpy as np
import pytest
from builders import TINY, add_tokenizer, hf_config, write_folder
from gguf_files import write_gguf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from mobileloop.checkpoints import known_keys
from mobileloop.checkpoints.account import Account
from mobileloop.checkpoints.load import load_checkpoint
from mobileloop.checkpoints.random import random_model
from mobileloop.errors import MobileloopError

TOKENIZER_FILES = ("tokenizer_config.json", "generation_config.json", "special_tokens_map.json", "tokenizer.json")
LETTERS = string.ascii_lowercase + string.digits + "_"
NAMES = st.text(LETTERS, min_size=4, max_size=24)
# What people's keys are made of, so that those which can change the arithmetic come up as well.
PARTS = ["rope", "scale", "norm", "eps", "attention", "bias", "expert", "loop", "zebra", "window", "share", "theta"]
SPOKEN = st.lists(st.sampled_from(PARTS), min_size=2, max_size=3).map("_".join)
ON = st.one_of(st.integers(2, 9), st.floats(1.5, 9.0), st.just(True), st.text(LETTERS, min_size=1, max_size=9))
OFF = st.sampled_from([None, False, 0, "", [], {}])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with every file that is read."""
    folder = write_folder(
        tmp_path_factory.mktemp("whole") / "m", random_model(TINY.model_copy(update={"vocab_size": 259}))
    )
    add_tokenizer(folder)
    for name in TOKENIZER_FILES[:3]:
        (folder / name).write_text("{}")
    return folder


def word_about(load, name):
    """What is said of `name`: "refused" by name, or "noted" by name; the test fails where it is dropped."""
    notes, refusal = (), None
    try:
        notes = load().notes
    except MobileloopError as error:
        refusal = str(error)
    if refusal is not None:
        assert name in refusal, f"{name} is refused without its name: {refusal}"
        assert "\n" not in refusal
        return "refused"
    assert any(name in note for note in notes), f"{name} is dropped without a word: {notes}"
    return "noted"


def changed(folder, name, **keys):
    """Loads the folder with more keys in one of its files, and restores the file."""

    def load():
        path = folder / name
        before = path.read_text()
        path.write_text(json.dumps({**json.loads(before), **keys}))
        try:
            return load_checkpoint(str(folder))
        finally:
            path.write_text(before)

    return load


def knows(key):
    tables = (known_keys.CONFIG, known_keys.GENERATION, known_keys.TOKENIZER_CONFIG, known_keys.TOKENIZER_JSON)
    return any(rules.knows(key) for rules in tables) or key in hf_config() or key.endswith("_token")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.one_of(NAMES, SPOKEN), value=st.one_of(ON, OFF), name=st.sampled_from(("config.json", *TOKENIZER_FILES)))
def test_a_key_that_nobody_knows(whole, key, value, name):
    if not knows(key):
        word_about(changed(whole, name, **{key: value}), key)


@pytest.mark.parametrize("part", ["rope", "rotary", "scale", "norm", "eps", "attention", "bias", "expert", "loop"])
def test_keys_of_the_arithmetic_are_refused_unless_off(whole, part):
    for value, expected in ((3, "refused"), (True, "refused"), ("x", "refused"), (None, "noted"), (False, "noted")):
        assert word_about(changed(whole, "config.json", **{f"zebra_{part}": value}), f"zebra_{part}") == expected
    assert word_about(changed(whole, "config.json", zebra=3), "zebra") == "noted"


@pytest.mark.parametrize("rules", ["CONFIG", "GENERATION", "TOKENIZER_CONFIG", "TOKENIZER_JSON"])
def test_known_keys_have_a_reason_and_say_nothing(rules):
    table = getattr(known_keys, rules)
    account = Account("x.json", dict.fromkeys(table.without_effect, 7))
    assert account.settle(table) == []
    assert all(len(reason) > 10 for reason in table.without_effect.values())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=NAMES, block=st.integers(0, 3), integer=st.booleans(), shape=st.sampled_from([(1,), (3, 2), (64,)]))
def test_a_tensor_that_nobody_knows(whole, name, block, integer, shape):
    path = whole / "model.safetensors"
    before = path.read_bytes()
    added = f"model.layers.{block}.{name}"
    value = np.ones(shape, np.int32 if integer else np.float32)
    save_file({**load_file(path), added: value}, path)
    try:
        said = word_about(lambda: load_checkpoint(str(whole)), added)
    finally:
        path.write_bytes(before)
    assert said == ("noted" if integer else "refused")


def test_biases_that_are_zero_are_noted_and_others_refused(whole, tmp_path):
    folder = write_folder(tmp_path / "m", random_model(TINY))
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.bias"
    for value, expected in ((0.0, "noted"), (1.0, "refused")):
        save_file({**tensors, name: np.full(64, value, np.float32)}, folder / "model.safetensors")
        assert word_about(lambda: load_checkpoint(str(folder)), name) == expected


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_gguf_key_or_tensor_that_nobody_knows(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("gguf") / "x.gguf"
    prefix = data.draw(st.sampled_from(["llama.", "llama.attention.", "general.", "tokenizer.ggml.", "", "zoo."]))
    key, value = prefix + data.draw(st.one_of(NAMES, SPOKEN)), data.draw(st.one_of(ON, st.sampled_from([0, False])))
    tensor = data.draw(st.sampled_from([None, "zebra.weight", "blk.0.attn_q.bias", "blk.0.ffn_gate_exps.weight"]))
    if known_keys.gguf_rules("llama").knows(key):
        return
    write_gguf(path, random_model(TINY), extra_key=(key, value), extra_tensor=tensor)
    if tensor is None:
        word_about(lambda: load_checkpoint(str(path)), key)
    else:
        with pytest.raises(MobileloopError, match=f"{tensor}|{key}"):
            load_checkpoint(str(path))


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("llama.expert_count", 8, "refused"),
        ("llama.expert_count", 0, "noted"),
        ("llama.attention.sliding_window", 512, "refused"),
        ("llama.logit_scale", 0.5, "refused"),
        ("llama.logit_scale", 1.0, "noted"),
        ("llama.attention.causal", False, "refused"),
        ("llama.attention.causal", True, "noted"),
        ("llama.zebra", 3, "refused"),
        ("adapter.lora.alpha", 3.0, "refused"),
        ("zoo.name", "zebra", "noted"),
        ("tokenizer.ggml.remove_extra_whitespaces", True, "refused"),
    ],
)
def test_gguf_keys(tmp_path, key, value, expected):
    path = write_gguf(tmp_path / "x.gguf", random_model(TINY), extra_key=(key, value))
    assert word_about(lambda: load_checkpoint(str(path)), key) == expected


def test_a_key_that_stands_twice_is_refused(whole, tmp_path):
    folder = write_folder(tmp_path / "m", random_model(TINY))
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text[:-1] + ', "rms_norm_eps": 0.5}')
    with pytest.raises(MobileloopError, match="rms_norm_eps"):
        load_checkpoint(str(folder))


def test_notes_of_many_keys_are_one_sentence():
    account = Account("x.json", {f"zebra{n}": n for n in range(400)})
    (note,) = account.settle(known_keys.GENERATION)
    assert "zebra99 and 300 more" in note
    assert list(itertools.islice(account, 2)) == ["zebra0", "zebra1"]
