"""What several files of a folder say about text: the order is that of docs/checkpoints.md, and of transformers."""

import json

import pytest
from builders import TINY, write_folder
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors
from tokenizers import Tokenizer as RustTokenizer

from mobileloop.checkpoints.load import load_checkpoint
from mobileloop.checkpoints.random import random_model
from mobileloop.errors import MobileloopError
from mobileloop.tokenizer import Tokenizer

SPECIAL = ["<s>", "</s>", "<|end_of_text|>", "<|im_end|>"]
SIZE = 300  # of the embedding, with room for added tokens


def vocabulary(extra=()):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*SPECIAL, *alphabet, *extra]
    made = RustTokenizer(models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=[]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return made


def folder_of(tmp_path, made=None, config=None, **files):
    """A folder with these files; `generation_config={}` writes generation_config.json."""
    model = random_model(TINY.model_copy(update={"vocab_size": SIZE}))
    folder = write_folder(tmp_path / "m", model)
    raw = {**json.loads((folder / "config.json").read_text()), **(config or {})}
    (folder / "config.json").write_text(json.dumps(raw))
    (made or vocabulary()).save(str(folder / "tokenizer.json"))
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


def spec_and_notes(folder):
    loaded = load_checkpoint(str(folder))
    return loaded.tokenizer, loaded.notes


# -- what ends a turn -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "generation", "eos", "expected"),
    [
        (None, None, "<|im_end|>", (3,)),
        (None, 3, "<|im_end|>", (3,)),
        (3, None, None, (3,)),
        (2, 2, "<|im_end|>", (2, 3)),
        (2, [2, 3], "<|end_of_text|>", (2, 3)),
        ([2, 3], None, "<|end_of_text|>", (2, 3)),
        (-1, -1, "<|im_end|>", (3,)),
        ([-1, 2], None, None, (2,)),
        (True, None, "</s>", (1,)),
        (None, None, None, ()),
        (999, 2, None, (2,)),
    ],
)
def test_the_union_of_what_ends_a_turn(tmp_path, config, generation, eos, expected):
    folder = folder_of(
        tmp_path,
        config={"eos_token_id": config},
        generation_config={"eos_token_id": generation},
        tokenizer_config={"eos_token": eos},
    )
    spec, notes = spec_and_notes(folder)
    assert spec.eos_ids == expected
    assert any("runs to --max-tokens" in note for note in notes) == (not expected)
    assert any("999" in note for note in notes) == (config == 999)


def test_without_generation_config(tmp_path):
    spec, _ = spec_and_notes(folder_of(tmp_path, config={"eos_token_id": 3}))
    assert spec.eos_ids == (3,)


def test_an_end_token_that_is_not_in_the_vocabulary_takes_the_next_id_as_in_transformers(tmp_path):
    spec, notes = spec_and_notes(folder_of(tmp_path, tokenizer_config={"eos_token": "<|eot|>"}))
    assert spec.eos_ids == (len(SPECIAL) + 256,)
    assert any("<|eot|>" in note for note in notes)


# -- names of tokens --------------------------------------------------------------------------------

BOS = {"content": "<s>", "lstrip": False, "rstrip": False, "single_word": False, "normalized": False}


@pytest.mark.parametrize(
    ("settings", "mapped", "expected"),
    [
        ({"bos_token": "<s>"}, None, "<s>"),
        ({"bos_token": BOS}, None, "<s>"),
        ({"bos_token": {**BOS, "__type": "AddedToken"}}, None, "<s>"),
        ({}, {"bos_token": "<s>"}, "<s>"),
        ({}, {"bos_token": BOS}, "<s>"),
        ({"bos_token": None}, {"bos_token": "<s>"}, "<s>"),
        ({"bos_token": "<s>"}, {"bos_token": "</s>"}, "<s>"),
        ({}, None, None),
    ],
)
def test_the_begin_token_has_a_name(tmp_path, settings, mapped, expected):
    files = {"tokenizer_config": settings} | ({} if mapped is None else {"special_tokens_map": mapped})
    spec, notes = spec_and_notes(folder_of(tmp_path, **files))
    assert spec.bos_token == expected
    disagree = bool(settings.get("bos_token") and mapped)
    assert any("special_tokens_map.json says bos_token '</s>'" in note for note in notes) == disagree


@pytest.mark.parametrize("add_bos", [None, True, False])
@pytest.mark.parametrize("processor", [True, False])
def test_the_post_processor_puts_the_begin_token(tmp_path, processor, add_bos):
    from transformers import AutoTokenizer

    made = vocabulary()
    if processor:
        made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>"}
    if add_bos is not None:
        settings["add_bos_token"] = add_bos
    folder = folder_of(tmp_path, made, tokenizer_config=settings)
    spec, notes = spec_and_notes(folder)
    assert Tokenizer(spec).encode("hi") == AutoTokenizer.from_pretrained(folder)("hi").input_ids
    assert any("around texts" in note for note in notes) == (add_bos is not None and add_bos != processor)


# -- added tokens -----------------------------------------------------------------------------------

NEXT = len(SPECIAL) + 256
MARK = {
    "content": "<|im_start|>",
    "special": True,
    "normalized": False,
    "lstrip": False,
    "rstrip": False,
    "single_word": False,
}


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config": {"added_tokens_decoder": {str(NEXT): MARK}}},
        {"added_tokens": {"<|im_start|>": NEXT}},
        {"tokenizer_config": {"added_tokens_decoder": {str(NEXT): MARK}}, "added_tokens": {"<|im_start|>": NEXT}},
        {"tokenizer_config": {"additional_special_tokens": ["<|im_start|>"]}},
        {"tokenizer_config": {"extra_special_tokens": {"mark_token": "<|im_start|>"}}},
        {"tokenizer_config": {"mark_token": "<|im_start|>"}},
        {"special_tokens_map": {"additional_special_tokens": ["<|im_start|>"]}},
    ],
)
def test_added_tokens_are_whole_in_a_prompt(tmp_path, files):
    from transformers import AutoTokenizer

    files.setdefault("tokenizer_config", {}).setdefault("tokenizer_class", "PreTrainedTokenizerFast")
    folder = folder_of(tmp_path, **files)
    spec, _ = spec_and_notes(folder)
    ids = Tokenizer(spec).encode("<|im_start|>ab")
    assert ids[0] == NEXT
    theirs = AutoTokenizer.from_pretrained(folder)
    assert ids == theirs("<|im_start|>ab").input_ids
    assert Tokenizer(spec).decode(ids) == theirs.decode(ids, skip_special_tokens=True)


def test_two_added_tokens_of_one_id_are_refused(tmp_path):
    with pytest.raises(MobileloopError, match="does not fit"):
        load_checkpoint(str(folder_of(tmp_path, added_tokens={"<a>": NEXT, "<b>": NEXT})))


def test_the_lists_of_both_files_are_joined(tmp_path):
    files = {"tokenizer_config": {"additional_special_tokens": ["<a>"]}}
    files["special_tokens_map"] = {"additional_special_tokens": ["<b>"]}
    spec, _ = spec_and_notes(folder_of(tmp_path, **files))
    assert Tokenizer(spec).encode("<a><b>") == [NEXT, NEXT + 1]


def test_dropout_is_of_training(tmp_path):
    made = vocabulary()
    made.model.dropout = 0.5
    spec, notes = spec_and_notes(folder_of(tmp_path, made))
    assert any("dropout 0.5" in note for note in notes)
    assert (
        "dropout" not in json.loads(spec.json_text)["model"] or json.loads(spec.json_text)["model"]["dropout"] is None
    )


@pytest.mark.parametrize("part", ["model", "pre_tokenizer", "decoder"])
def test_a_key_inside_the_tokenizer_gets_a_word(tmp_path, part):
    folder = folder_of(tmp_path)
    held = json.loads((folder / "tokenizer.json").read_text())
    held[part]["zebra"] = 3
    (folder / "tokenizer.json").write_text(json.dumps(held))
    if part == "model":
        with pytest.raises(MobileloopError, match="zebra"):
            load_checkpoint(str(folder))
    else:
        _, notes = spec_and_notes(folder)
        assert any(f"{part}.zebra" in note for note in notes)


def test_a_part_that_stands_twice_is_refused(tmp_path):
    folder = folder_of(tmp_path)
    text = (folder / "tokenizer.json").read_text().rstrip()
    (folder / "tokenizer.json").write_text(text[:-1] + ', "added_tokens": []}')
    with pytest.raises(MobileloopError, match="added_tokens"):
        load_checkpoint(str(folder))


@pytest.mark.parametrize("file", ["generation_config", "config"])
def test_what_changes_answers_is_told(tmp_path, file):
    asked = {"stop_strings": ["x"], "suppress_tokens": [3], "no_repeat_ngram_size": 2}
    folder = folder_of(tmp_path, **({"config": asked} if file == "config" else {file: asked}))
    _, notes = spec_and_notes(folder)
    assert any(f"{file}.json asks for stop_strings, suppress_tokens, no_repeat_ngram_size" in note for note in notes)


@pytest.mark.parametrize("said", [True, False])
def test_the_space_before_texts(tmp_path, said):
    folder = folder_of(tmp_path, tokenizer_config={"add_prefix_space": said})
    _, notes = spec_and_notes(folder)
    assert any("puts no space before texts" in note for note in notes) == said


def test_a_plain_token_that_is_named_special_becomes_one(tmp_path):
    spec, _ = spec_and_notes(folder_of(tmp_path, vocabulary(["<|eot|>"]), tokenizer_config={"eos_token": "<|eot|>"}))
    assert Tokenizer(spec).encode("a<|eot|>")[-1:] == [NEXT]
    assert spec.eos_ids == (NEXT,)
    assert Tokenizer(spec).decode([NEXT]) == ""


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"tokenizer_config": {"added_tokens_decoder": {"290": MARK}}}, "the id 290, where 260"),
        ({"tokenizer_config": {"added_tokens_decoder": {"7": {**MARK, "content": "<s>"}}}}, "the id 0, and the added"),
        ({"tokenizer_config": {"added_tokens_decoder": {"x": MARK}}}, "no token"),
        ({"tokenizer_config": {"added_tokens_decoder": {"260": 3}}}, "no token"),
        ({"tokenizer_config": {"added_tokens_decoder": [MARK]}}, "no object"),
        ({"added_tokens": {"<|im_start|>": "x"}}, "does not fit"),
        ({"added_tokens": {"<|im_start|>": -4}}, "does not fit"),
        ({"tokenizer_config": {"bos_token": 7}}, "bos_token is 7"),
        ({"tokenizer_config": {"chat_template": 7}}, r"chat_template that is no text \(int\)"),
        ({"tokenizer_config": {"split_special_tokens": True}}, "split_special_tokens"),
        ({"tokenizer_config": {"do_lower_case": True}}, "do_lower_case"),
    ],
)
def test_what_cannot_be_followed_is_refused(tmp_path, files, words):
    with pytest.raises(MobileloopError, match=words):
        load_checkpoint(str(folder_of(tmp_path, **files)))


# -- prompts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("saved", ["truncation", "padding"])
def test_what_batches_were_saved_with_never_touches_a_prompt(tmp_path, saved):
    made = vocabulary()
    if saved == "truncation":
        made.enable_truncation(4)
    else:
        made.enable_padding(length=64, pad_id=2, pad_token="<|end_of_text|>")
    spec, notes = spec_and_notes(folder_of(tmp_path, made))
    assert Tokenizer(spec).encode("tell me a story") == vocabulary().encode("tell me a story").ids
    assert any(saved in note for note in notes)
    held = json.loads(spec.json_text)
    assert held["truncation"] is None
    assert held["padding"] is None


# -- chat templates ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "file", "expected", "noted"),
    [
        ("one", None, "one", None),
        ("one", "two", "two", None),
        (None, "two", "two", None),
        ([{"name": "default", "template": "one"}, {"name": "tool_use", "template": "t"}], None, "one", "tool_use"),
        ({"default": "one", "rag": "r"}, None, "one", "rag"),
        ({"tool_use": "t"}, None, "t", None),
        ({"tool_use": "t", "rag": "r"}, None, None, "tool_use"),
        (None, None, None, None),
    ],
)
def test_the_chat_template(tmp_path, said, file, expected, noted):
    folder = folder_of(tmp_path, tokenizer_config={"chat_template": said})
    if file:
        (folder / "chat_template.jinja").write_text(file)
    spec, notes = spec_and_notes(folder)
    assert spec.chat_template == expected
    assert any("chat templates" in note and (noted or "") in note for note in notes) == bool(noted)


def test_recommended_sampling_is_told(tmp_path):
    _, notes = spec_and_notes(
        folder_of(tmp_path, generation_config={"temperature": 0.6, "top_p": 0.9, "do_sample": True})
    )
    assert any("--temperature 0.6, --top-p 0.9" in note for note in notes)


@pytest.mark.parametrize("name", ["vocab.json", "tiktoken.model", None])
def test_a_folder_without_a_vocabulary_says_so(tmp_path, name):
    folder = folder_of(tmp_path)
    (folder / "tokenizer.json").unlink()
    if name:
        (folder / name).write_text("{}")
    spec, notes = spec_and_notes(folder)
    assert spec is None
    assert any("carries no tokenizer" in note and (name or "") in note for note in notes)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"model": 3}', '{"model": {"type": "BPE"}}', '"x"', "[" * 9000])
def test_a_damaged_tokenizer_is_one_sentence(tmp_path, text):
    folder = folder_of(tmp_path)
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(MobileloopError, match=r"tokenizer\.json") as caught:
        load_checkpoint(str(folder))
    assert "\n" not in str(caught.value)
