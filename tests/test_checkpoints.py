import contextlib
import json
import struct

import gguf
import ml_dtypes
import numpy as np
import pytest
import torch
from builders import DATA, TINY, hf_config, write_folder
from gguf_files import Q, write_gguf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from tokenizers import pre_tokenizers

from mobileloop.checkpoints.checkpoint import Checkpoint
from mobileloop.checkpoints.gguf import load_gguf
from mobileloop.checkpoints.load import load_checkpoint
from mobileloop.checkpoints.random import random_checkpoint, random_model
from mobileloop.errors import MobileloopError
from mobileloop.quant.schemes import QuantTensor
from mobileloop.reference.model import ReferenceModel
from mobileloop.spec.schedule import Schedule
from mobileloop.tokenizer import Tokenizer

UNTIED = TINY.model_copy(update={"tie_embeddings": False})


def same_tensors(loaded, original):
    assert set(loaded.tensors) == set(original.tensors)
    return all(np.array_equal(loaded.tensors[name], original.tensors[name]) for name in original.tensors)


# -- Hugging Face folders --------------------------------------------------------------------------


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("config", [TINY, UNTIED], ids=["tied", "untied"])
def test_folder(tmp_path, config, shards):
    original = random_model(config)
    loaded = load_checkpoint(str(write_folder(tmp_path / "my-model", original, shards=shards)))
    assert same_tensors(loaded, original)
    expected = {"name": "my-model", "random_weights": False}
    assert loaded.config == config.model_copy(update=expected)
    assert loaded.schedule == Schedule.plain(3)
    assert len(loaded.sha256) == 64
    assert loaded.tokenizer is None


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_float_types(tmp_path, dtype):
    original = random_model(TINY)
    loaded = load_checkpoint(str(write_folder(tmp_path, original, dtype=dtype)))
    for name, tensor in loaded.tensors.items():
        assert tensor.dtype == np.float32
        assert np.array_equal(tensor, original.tensors[name].astype(dtype).astype(np.float32))


def test_the_hash_is_of_the_weights(tmp_path):
    one = load_checkpoint(str(write_folder(tmp_path / "a", random_model(TINY, seed=1))))
    same = load_checkpoint(str(write_folder(tmp_path / "b", random_model(TINY, seed=1))))
    other = load_checkpoint(str(write_folder(tmp_path / "c", random_model(TINY, seed=2))))
    assert one.sha256 == same.sha256 != other.sha256


def test_untied_config_without_a_head_is_tied_with_a_note(tmp_path):
    loaded = load_checkpoint(str(write_folder(tmp_path, random_model(TINY), tie_word_embeddings=False)))
    assert loaded.config.tie_embeddings
    assert "the folder holds no head, so the embedding serves as the head" in loaded.notes


def test_mobilellm_layer_share(tmp_path):
    folder = write_folder(
        tmp_path, random_model(TINY), model_type="mobilellm", layer_sharing=True, share_embedding=True
    )
    loaded = load_checkpoint(str(folder))
    assert loaded.config.family == "mobilellm"
    assert loaded.schedule == Schedule.immediate(3, 2)
    assert load_checkpoint(str(DATA / "mobilellm_base" / "model")).schedule == Schedule.plain(3)


def test_extra_tensors_and_integer_buffers_are_ignored(tmp_path):
    folder = write_folder(tmp_path, random_model(TINY))
    tensors = load_file(folder / "model.safetensors")
    tensors["model.rotary.position"] = np.arange(4)
    save_file(tensors, folder / "model.safetensors")
    assert same_tensors(load_checkpoint(str(folder)), random_model(TINY))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "gpt2"}, "model_type 'gpt2', which is not supported; supported are llama, mobilellm"),
        ({"model_type": None}, "model_type 'None'"),
        ({"model_type": ["llama"]}, "model_type"),
        ({"hidden_act": "gelu"}, "activation 'gelu'"),
        ({"attention_bias": True}, "attention_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8}}, "'llama3' scaling"),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, "'linear' scaling"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "'yarn' scaling"),
        ({"rope_scaling": "linear"}, "rope_scaling"),
        ({"hidden_size": None}, "lacks hidden_size"),
        ({"num_attention_heads": 3, "head_dim": None}, "hidden_size 64 is not a multiple of num_attention_heads 3"),
        ({"num_attention_heads": 5}, "num_heads 5 is not a multiple of num_kv_heads 2"),
        ({"num_attention_heads": "four"}, "whole numbers above 0"),
        ({"hidden_size": 32}, r"has shape \[67, 64\], but the config asks for \[67, 32\]"),
        ({"num_hidden_layers": 4}, r"lacks the tensor model\.layers\.3\.input_layernorm\.weight"),
        ({"vocab_size": -1}, "vocab_size"),
    ],
)
def test_a_config_that_does_not_fit(tmp_path, changes, words):
    folder = write_folder(tmp_path, random_model(TINY), **changes)
    with pytest.raises(MobileloopError, match=words):
        load_checkpoint(str(folder))


def test_a_class_of_its_own_code_is_refused_and_another_name_noted(tmp_path):
    named = {"architectures": ["ZebraForCausalLM"]}
    loaded = load_checkpoint(str(write_folder(tmp_path / "a", random_model(TINY), **named)))
    assert any("ZebraForCausalLM" in note for note in loaded.notes)
    own = {**named, "auto_map": {"AutoModelForCausalLM": "modeling_zebra.ZebraForCausalLM"}}
    with pytest.raises(MobileloopError, match="ZebraForCausalLM, in code of its own"):
        load_checkpoint(str(write_folder(tmp_path / "b", random_model(TINY), **own)))
    classes = {"architectures": ["LlamaForSequenceClassification"]}
    folder = write_folder(tmp_path / "c", random_model(TINY), **classes)
    with pytest.raises(MobileloopError, match="LlamaForSequenceClassification"):
        load_checkpoint(str(folder))


@pytest.mark.parametrize("content", [b"version https://git-lfs.github.com/spec/v1\noid", b"<!DOCTYPE html>\n<html>"])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_what_stands_in_a_files_place(tmp_path, name, content):
    folder = write_folder(tmp_path, random_model(TINY))
    (folder / name).write_bytes(content)
    with pytest.raises(MobileloopError, match="not the file itself"):
        load_checkpoint(str(folder))


ROPES = [
    {},
    {"rope_theta": 3e4},
    {"rope_theta": 3e4, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
    {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
    {"rope_theta": 5e5, "rope_scaling": {"rope_type": "default", "rope_theta": 7e4}},
    {"rope_parameters": {"rope_theta": 1e6}, "rope_scaling": {"rope_type": "default", "rope_theta": 7e4}},
    {"rope_parameters": {"rope_theta": 1e6}, "rope_scaling": {"rope_type": "default"}, "rope_theta": 3e4},
    {"rope_theta": 3e4, "rope_scaling": {"type": "linear", "factor": 1.0}},
]


@pytest.mark.parametrize("rope", ROPES)
def test_the_rotary_base_is_that_of_transformers(tmp_path, rope):
    from transformers import LlamaConfig

    raw = hf_config(**{"rope_theta": None, **rope})
    theirs = LlamaConfig(**json.loads(json.dumps({key: value for key, value in raw.items() if key != "model_type"})))
    loaded = load_checkpoint(str(write_folder(tmp_path, random_model(TINY), **{"rope_theta": None, **rope})))
    assert loaded.config.rope_theta == theirs.rope_parameters["rope_theta"]
    said = [
        rope.get("rope_theta"),
        *(rope.get(key, {}).get("rope_theta") for key in ("rope_parameters", "rope_scaling")),
    ]
    assert any("rotary base" in note for note in loaded.notes) == (len({base for base in said if base}) > 1)


def test_missing_and_damaged_files(tmp_path):
    with pytest.raises(MobileloopError, match=r"has no config\.json"):
        load_checkpoint(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(MobileloopError, match="is not JSON"):
        load_checkpoint(str(tmp_path))
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(MobileloopError, match="holds a JSON list"):
        load_checkpoint(str(tmp_path))
    (tmp_path / "config.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(MobileloopError, match="is not JSON"):
        load_checkpoint(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(hf_config()))
    with pytest.raises(MobileloopError, match="holds no safetensors file"):
        load_checkpoint(str(tmp_path))
    with pytest.raises(MobileloopError, match=r"does not exist; give a folder, a \.gguf file, .* a preset \(smollm2"):
        load_checkpoint(str(tmp_path / "nothing"))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin"])
def test_pickles_are_never_opened(tmp_path, name):
    (tmp_path / "config.json").write_text(json.dumps(hf_config()))
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'touch /tmp/no'\ntR.")
    with pytest.raises(MobileloopError, match="pickled weights"):
        load_checkpoint(str(tmp_path))
    with pytest.raises(MobileloopError, match="is a pickle"):
        load_checkpoint(str(tmp_path / name))


def test_a_missing_tensor_is_named(tmp_path):
    folder = write_folder(tmp_path, random_model(TINY))
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(MobileloopError, match=r"lacks the tensor model\.layers\.1\.mlp\.up_proj\.weight"):
        load_checkpoint(str(folder))


@pytest.mark.parametrize("keep", [0, 4, 8, 100, 0.5, 0.999])
def test_truncated_safetensors(tmp_path, keep):
    folder = write_folder(tmp_path, random_model(TINY))
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(MobileloopError, match="damaged or cut short"):
        load_checkpoint(str(folder))


def test_shard_index(tmp_path):
    folder = write_folder(tmp_path, random_model(TINY), shards=2)
    index = folder / "model.safetensors.index.json"
    original = json.loads(index.read_text())
    (folder / "model-00002-of-00002.safetensors").rename(tmp_path / "away")
    with pytest.raises(MobileloopError, match=r"lacks the shard model-00002-of-00002\.safetensors"):
        load_checkpoint(str(folder))
    index.write_text(json.dumps({"weight_map": {"x": "../../etc/passwd"}}))
    with pytest.raises(MobileloopError, match="outside its folder"):
        load_checkpoint(str(folder))
    for broken in ({}, {"weight_map": {}}, {"weight_map": [1]}):
        index.write_text(json.dumps({**original, "weight_map": None, **broken}))
        with pytest.raises(MobileloopError, match="no weight_map"):
            load_checkpoint(str(folder))


def test_tokenizer_of_a_folder(tmp_path):
    from test_tokenizer import CHATML, byte_level_spec

    folder = write_folder(tmp_path, random_model(TINY), eos_token_id=2)
    (folder / "tokenizer.json").write_text(byte_level_spec().json_text)
    settings_json = {"chat_template": CHATML, "bos_token": {"content": "<s>"}, "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings_json))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 2]}))
    spec = load_checkpoint(str(folder)).tokenizer
    assert (spec.bos_token, spec.eos_token, spec.eos_ids, spec.chat_template) == ("<s>", "</s>", (1, 2), CHATML)
    (folder / "chat_template.jinja").write_text("other")
    assert load_checkpoint(str(folder)).tokenizer.chat_template == "other"
    for name in ("tokenizer.json", "chat_template.jinja"):
        (folder / name).write_bytes(b"\xff\xfe")
        with pytest.raises(MobileloopError, match="is not UTF-8"):
            load_checkpoint(str(folder))
        (folder / name).unlink()
    (folder / "tokenizer.model").write_bytes(b"not a model")
    with pytest.raises(MobileloopError, match="not a SentencePiece model"):
        load_checkpoint(str(folder))


def test_sentencepiece_model(tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat\nthe dog sat on the log\n" * 20)
    folder = write_folder(tmp_path / "model", random_model(TINY))
    sentencepiece.SentencePieceTrainer.Train(
        input=str(text),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=300,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    spec = load_checkpoint(str(folder)).tokenizer
    ours = Tokenizer(spec)
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    for sample in ("the cat sat", "dog log mat", "the zebra 日"):
        assert ours.encode(sample, special=False) == theirs.Encode(sample)
        assert ours.decode(theirs.Encode(sample)) == sample


# -- presets ---------------------------------------------------------------------------------------


def test_random_models_say_so_and_repeat():
    one, same, other = random_model(TINY, seed=1), random_model(TINY, seed=1), random_model(TINY, seed=2)
    assert same_tensors(one, same)
    assert not same_tensors(one, other)
    assert one.config.random_weights
    assert one.sha256 == "random"
    assert "random" in one.notes[0]
    with pytest.raises(MobileloopError, match="is not known"):
        random_checkpoint("nothing")


def test_check_shapes_names_the_tensor():
    original = random_model(TINY)
    short = {name: tensor for name, tensor in original.tensors.items() if name != "final_norm"}
    with pytest.raises(MobileloopError, match="lacks the tensor final_norm"):
        Checkpoint(TINY, original.schedule, short, None, "x", "y").check_shapes()
    wrong = {**original.tensors, "final_norm": np.ones(3, np.float32)}
    with pytest.raises(MobileloopError, match=r"final_norm has shape \[3\], but the config asks for \[64\]"):
        Checkpoint(TINY, original.schedule, wrong, None, "x", "y").check_shapes()


# -- GGUF ------------------------------------------------------------------------------------------


def expected_values(tensor, kind):
    if tensor.ndim == 1 or kind == Q.F32:
        return tensor
    if kind == Q.F16:
        return tensor.astype(np.float16).astype(np.float32)
    return gguf.quants.dequantize(gguf.quants.quantize(tensor, kind), kind)


@pytest.mark.parametrize("kind", [Q.F32, Q.F16, Q.Q8_0, Q.Q4_0, Q.Q4_1], ids=lambda kind: kind.name)
@pytest.mark.parametrize("config", [TINY, UNTIED], ids=["tied", "untied"])
def test_gguf_holds_the_same_weights(tmp_path, kind, config):
    original = random_model(config)
    loaded = load_checkpoint(str(write_gguf(tmp_path / "tiny.gguf", original, kind)))
    scheme = {Q.Q8_0: "int8", Q.Q4_0: "int4-symmetric", Q.Q4_1: "int4"}.get(kind)
    for name, tensor in loaded.tensors.items():
        expected = expected_values(original.tensors[name], kind)
        if scheme and expected.ndim == 2:
            assert isinstance(tensor, QuantTensor)
            assert tensor.scheme == scheme
            tensor = tensor.dequantize()
        assert np.array_equal(tensor, expected), name
    assert loaded.config == config.model_copy(update={"random_weights": False, "name": "tiny"})


def test_gguf_answers_as_the_folder_does(tmp_path):
    original = random_model(TINY)
    folder = ReferenceModel.from_checkpoint(load_checkpoint(str(write_folder(tmp_path / "f", original))))
    file = ReferenceModel.from_checkpoint(load_checkpoint(str(write_gguf(tmp_path / "f.gguf", original))))
    tokens = torch.arange(8)[None, :]
    assert torch.equal(folder.forward(tokens), file.forward(tokens))


@pytest.mark.parametrize("kind", [Q.Q5_0, Q.BF16, Q.Q5_1], ids=lambda kind: kind.name)
def test_gguf_types_beside_our_schemes_become_floats(tmp_path, kind):
    original = random_model(TINY)
    loaded = load_gguf(write_gguf(tmp_path / "x.gguf", original, kind))
    for name, tensor in loaded.tensors.items():
        assert np.array_equal(tensor, expected_values(original.tensors[name], kind)), name
    repacked = [note for note in loaded.notes if "packed again" in note]
    assert [kind.name in note for note in repacked] == ([True] if kind != Q.BF16 else [])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"architecture": "gpt2"}, "architecture 'gpt2'"),
        ({"rope.scaling.type": "yarn"}, "scaling of the rotary embedding"),
        ({"rope.dimension_count": 8}, r"rope\.dimension_count 8 where heads have 16"),
        ({"attention.head_count": None}, r"lacks llama\.attention\.head_count"),
        ({"embedding_length": None}, r"embedding_length"),
        ({"attention.head_count": 3}, "embedding_length 64 is not a multiple of head_count 3"),
        ({"attention.head_count": 8, "rope.dimension_count": 8}, r"has shape \[32, 64\], but the config asks for \[16"),
        ({"block_count": 4}, r"lacks the tensor blk\.3\.attn_norm\.weight"),
        ({"block_count": None}, r"lacks llama\.block_count"),
        ({"skip": ("token_embd.weight",)}, r"lacks the tensor token_embd\.weight"),
        ({"skip": ("blk.1.ffn_up.weight",)}, r"lacks the tensor blk\.1\.ffn_up\.weight"),
    ],
)
def test_gguf_that_does_not_fit(tmp_path, fields, words):
    path = write_gguf(tmp_path / "x.gguf", random_model(TINY), **fields)
    with pytest.raises(MobileloopError, match=words):
        load_gguf(path)


@pytest.mark.parametrize("count", [2**20, 2**40, 2**63, 2**64 - 1])
@pytest.mark.parametrize("kind", [4, 6, 8, 9])
def test_a_gguf_array_that_claims_more_than_the_file_holds(tmp_path, kind, count):
    """The package would make as many objects as are claimed, until the memory is full."""
    path = write_gguf(tmp_path / "x.gguf", random_model(TINY), extra_key=("zoo.list", [1.0, 2.0]))
    data = path.read_bytes()
    at = data.index(b"zoo.list") + 8
    path.write_bytes(data[: at + 4] + struct.pack("<IQ", kind, count) + data[at + 16 :])
    with pytest.raises(MobileloopError, match=r"damaged or cut short: the key zoo\.list"):
        load_gguf(path)


@pytest.mark.parametrize("share", [0, 3, 0.01, 0.3, 0.7, 0.99])
def test_truncated_gguf(tmp_path, share):
    path = write_gguf(tmp_path / "x.gguf", random_model(TINY), Q.Q8_0)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data)) if isinstance(share, float) else share])
    with pytest.raises(MobileloopError, match=r"damaged.* cut short"):
        load_gguf(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_gguf_headers_never_escape_as_other_errors(tmp_path, data):
    path = tmp_path / "x.gguf"
    if not path.exists():
        write_gguf(path, random_model(TINY), Q.Q8_0, tokenizer=byte_level_fields)
        (tmp_path / "good").write_bytes(path.read_bytes())
    whole = bytearray((tmp_path / "good").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(4, min(3000, len(whole) - 1)))] = data.draw(st.integers(0, 255))
    path.write_bytes(whole)
    with contextlib.suppress(MobileloopError):
        load_gguf(path)


def byte_level_fields(writer):
    tokens = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "he"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3] + [1] * (len(tokens) - 2))
    writer.add_token_merges(["h e"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_chat_template("{{ messages[0]['content'] }}")


def scored_fields(writer):
    from test_tokenizer import sentencepiece_like

    tokens, scores, types, _ = sentencepiece_like()
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)


def test_gguf_byte_level_tokenizer(tmp_path):
    spec = load_gguf(write_gguf(tmp_path / "x.gguf", random_model(TINY), tokenizer=byte_level_fields)).tokenizer
    assert (spec.bos_id, spec.eos_ids, spec.bos_token, spec.add_bos) == (0, (1,), "<s>", False)
    tokenizer = Tokenizer(spec)
    ids = tokenizer.encode("hehe 12")
    assert [tokenizer.raw.id_to_token(i) for i in ids] == ["he", "he", "Ġ", "1", "2"]  # digits stand alone
    assert tokenizer.decode(tokenizer.chat("日本 he")) == "日本 he"


def test_gguf_scored_tokenizer(tmp_path):
    spec = load_gguf(write_gguf(tmp_path / "x.gguf", random_model(TINY), tokenizer=scored_fields)).tokenizer
    assert spec.add_bos
    tokenizer = Tokenizer(spec)
    assert tokenizer.encode("ab")[0] == 1
    assert [tokenizer.raw.id_to_token(i) for i in tokenizer.encode("abc", special=False)] == ["▁ab", "c"]
    assert tokenizer.decode(tokenizer.encode("ab 日")) == "ab 日"


BROKEN_TOKENIZERS = {
    "no tokens": lambda w: w.add_tokenizer_model("llama"),
    "merge without a space": lambda w: (
        w.add_tokenizer_model("gpt2"),
        w.add_token_list(["a", "b"]),
        w.add_token_merges(["ab"]),
    ),
    "merge of unknown tokens": lambda w: (
        w.add_tokenizer_model("gpt2"),
        w.add_token_list(["a", "b"]),
        w.add_token_merges(["x y"]),
    ),
    "no scores": lambda w: (w.add_tokenizer_model("llama"), w.add_token_list(["<unk>", "a", "b", "ab"])),
    "unknown id outside": lambda w: (
        w.add_tokenizer_model("llama"),
        w.add_token_list(["a"]),
        w.add_token_scores([0.0]),
        w.add_unk_token_id(7),
    ),
    "another kind": lambda w: w.add_tokenizer_model("t5"),
    "another pre-tokenizer": lambda w: (
        w.add_tokenizer_model("gpt2"),
        w.add_tokenizer_pre("mystery"),
        w.add_token_list(["a"]),
        w.add_token_merges([""]),
    ),
}


@pytest.mark.parametrize("name", sorted(BROKEN_TOKENIZERS))
def test_broken_gguf_tokenizers(tmp_path, name):
    path = write_gguf(tmp_path / "x.gguf", random_model(TINY), tokenizer=BROKEN_TOKENIZERS[name])
    with pytest.raises(MobileloopError, match="tokenizer"):
        load_gguf(path)


@pytest.mark.real
def test_the_real_checkpoint_loads(real_source):
    loaded = load_gguf(real_source)
    assert (loaded.config.num_blocks, loaded.config.hidden_size, loaded.config.vocab_size) == (30, 576, 49152)
    tokenizer = Tokenizer(loaded.tokenizer)
    assert tokenizer.decode(tokenizer.encode("Gravity is 9.81 m/s².")) == "Gravity is 9.81 m/s²."
