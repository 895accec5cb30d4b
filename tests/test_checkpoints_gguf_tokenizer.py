"""What a GGUF file says about text, with llama.cpp's defaults where it is silent."""

import pytest
from builders import TINY
from gguf_files import write_gguf
from tokenizers import pre_tokenizers

from mobileloop.checkpoints.load import load_checkpoint
from mobileloop.checkpoints.random import random_model
from mobileloop.errors import MobileloopError
from mobileloop.tokenizer import Tokenizer

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
SPECIAL = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
TOKENS = [*SPECIAL, *ALPHABET, "he"]
TYPES = [3, 3, 3] + [1] * 257
PIECES = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "h", "e", "▁he"]
PIECE_TYPES = [2, 3, 3] + [6] * 256 + [1] * 4


def gguf_of(tmp_path, tokens=TOKENS, types=TYPES, model="gpt2", pre="llama-bpe", **keys):
    """A file with this vocabulary; `keys` are of tokenizer.ggml, those of chat templates of tokenizer."""

    def tokenizer(writer):
        writer.add_tokenizer_model(model)
        if pre:
            writer.add_tokenizer_pre(pre)
        writer.add_token_list(tokens)
        if types is not None:
            writer.add_token_types(types)
        if model == "gpt2":
            writer.add_token_merges(["h e"])
        else:
            writer.add_token_scores([-float(n) for n in range(len(tokens))])
        for key, value in keys.items():
            name = f"tokenizer.{key}" if key.startswith("chat_template") else f"tokenizer.ggml.{key}"
            add = {bool: writer.add_bool, int: writer.add_uint32, str: writer.add_string}[type(value)]
            add(name, value)

    config = TINY.model_copy(update={"vocab_size": len(tokens)})
    return write_gguf(tmp_path / "x.gguf", random_model(config), tokenizer=tokenizer)


def spec_and_notes(path):
    loaded = load_checkpoint(str(path))
    return loaded.tokenizer, loaded.notes


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"eos_token_id": 1}, (1, 2)),
        ({"eos_token_id": 1, "eot_token_id": 2}, (1, 2)),
        ({"eos_token_id": 1, "eom_token_id": 0}, (0, 1, 2)),
        ({}, (1, 2)),
        ({"eos_token_id": 0xFFFFFFFF}, (1, 2)),
        ({"eos_token_id": 9999}, (1, 2)),
    ],
)
def test_what_ends_a_turn(tmp_path, keys, expected):
    spec, notes = spec_and_notes(gguf_of(tmp_path, **keys))
    assert spec.eos_ids == expected
    assert any("9999" in note for note in notes) == (keys.get("eos_token_id") == 9999)


def test_only_control_tokens_end_a_turn_by_their_text(tmp_path):
    spec, _ = spec_and_notes(gguf_of(tmp_path, types=[3, 3, 1] + [1] * 257, eos_token_id=1))
    assert spec.eos_ids == (1,)


@pytest.mark.parametrize(
    ("pre", "said", "expected"),
    [
        ("llama-bpe", None, True),
        ("llama-bpe", True, True),
        ("llama-bpe", False, False),
        ("smollm", None, False),
        ("smollm", True, True),
        ("gpt-2", None, False),
        ("qwen2", None, False),
        (None, None, False),
    ],
)
def test_the_begin_token_by_the_pre_tokenizer(tmp_path, pre, said, expected):
    keys = {} if said is None else {"add_bos_token": said}
    spec, notes = spec_and_notes(gguf_of(tmp_path, pre=pre, bos_token_id=0, eos_token_id=1, **keys))
    assert (Tokenizer(spec).encode("he said")[0] == 0) == expected
    assert any("no pre-tokenizer" in note for note in notes) == (pre is None)


@pytest.mark.parametrize("said", [None, True, False])
def test_the_begin_token_of_sentencepiece(tmp_path, said):
    keys = {} if said is None else {"add_bos_token": said}
    path = gguf_of(tmp_path, PIECES, PIECE_TYPES, "llama", None, bos_token_id=1, eos_token_id=2, **keys)
    spec, _ = spec_and_notes(path)
    assert (Tokenizer(spec).encode("he")[0] == 1) == (said is not False)


def test_sentencepiece_names_its_usual_tokens(tmp_path):
    spec, notes = spec_and_notes(gguf_of(tmp_path, PIECES, PIECE_TYPES, "llama", None))
    assert Tokenizer(spec).encode("he")[0] == 1
    assert spec.eos_ids == (2,)
    assert any("bos_token_id" in note for note in notes)


def test_a_setting_that_is_no_flag_is_refused(tmp_path):
    with pytest.raises(MobileloopError, match="add_bos_token to false, but true or false"):
        load_checkpoint(str(gguf_of(tmp_path, eos_token_id=1, add_bos_token="false")))


def test_an_end_token_behind_every_text(tmp_path):
    spec, _ = spec_and_notes(gguf_of(tmp_path, pre="smollm", eos_token_id=1, add_eos_token=True))
    assert Tokenizer(spec).encode("he") == [len(TOKENS) - 1, 1]
    with pytest.raises(MobileloopError, match="names none"):
        load_checkpoint(str(gguf_of(tmp_path, pre="smollm", add_eos_token=True)))


def test_chat_templates_under_other_names_are_noted(tmp_path):
    keys = {"chat_template": "{{ messages[0].content }}", "chat_template.tool_use": "t"}
    spec, notes = spec_and_notes(gguf_of(tmp_path, eos_token_id=1, **keys))
    assert spec.chat_template == "{{ messages[0].content }}"
    assert any("tool_use" in note for note in notes)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"model": "bert"}, "of kind 'bert'"),
        ({"model": "rwkv"}, "of kind 'rwkv'"),
        ({"pre": "zebra"}, "zebra"),
        ({"types": [1, 2]}, "another number of token types"),
        ({"tokens": ["a"] * 260}, "tokenizer"),
    ],
)
def test_vocabularies_that_cannot_be_read(tmp_path, given, words):
    path = gguf_of(tmp_path, **{"eos_token_id": 1, **given})
    with pytest.raises(MobileloopError, match=words) as caught:
        load_checkpoint(str(path))
    assert "\n" not in str(caught.value)
