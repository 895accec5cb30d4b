"""Damaged and foreign sources, each made by a small function: what people give to `export` that is no model of ours.

A case is a name, what is done to a copy of a good folder or file, and a pattern that the refusal must hold.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from builders import TINY, add_tokenizer, hf_config, write_folder
from safetensors.numpy import load_file, save_file

from mobileloop.checkpoints.random import random_model

CONFIG = TINY.model_copy(update={"vocab_size": 259, "max_position": 64})
EMBEDDING, NORM = "model.embed_tokens.weight", "model.norm.weight"
QUERY, DOWN = "model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight"


class Case(NamedTuple):
    """`make` changes the good folder at the given path, or puts something else there; `words` is a pattern."""

    name: str
    make: Callable[[Path], Any]
    words: str
    source: str = "m"


def good_folder(path: Path) -> Path:
    """A folder that is exported without a word."""
    written("generation_config.json", {"eos_token_id": 1})(write_folder(path, random_model(CONFIG)))
    return add_tokenizer(path)


# -- small tools -----------------------------------------------------------------------------------


def configured(**changes: Any) -> Callable[[Path], None]:
    """config.json with other values; `...` leaves a key out."""

    def make(folder: Path) -> None:
        raw = {**hf_config(CONFIG), **changes}
        text = json.dumps({key: value for key, value in raw.items() if value is not ...})
        (folder / "config.json").write_text(text)

    return make


def written(name: str, content: bytes | str | dict | list) -> Callable[[Path], None]:
    """A file of the folder with this content."""
    data = content if isinstance(content, (bytes, str)) else json.dumps(content)
    return lambda folder: (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)


def only(*files: tuple[str, bytes | str | dict], config: bool = True) -> Callable[[Path], None]:
    """A folder without weights, but for these files."""

    def make(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        if not config:
            (folder / "config.json").unlink()
        for name, content in files:
            (folder / name).parent.mkdir(exist_ok=True)
            written(name, content)(folder)

    return make


def tensors(change: Callable[[dict[str, np.ndarray]], Any]) -> Callable[[Path], None]:
    """The weights, changed in place."""

    def make(folder: Path) -> None:
        held = dict(load_file(folder / "model.safetensors"))
        change(held)
        save_file({name: np.ascontiguousarray(tensor) for name, tensor in held.items()}, folder / "model.safetensors")

    return make


def having(name: str, value: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    """One tensor, changed."""
    return tensors(lambda held: held.update({name: value(held[name])}))


def raw_weights(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """The bytes of model.safetensors, changed."""
    return lambda folder: written("model.safetensors", change((folder / "model.safetensors").read_bytes()))(folder)


def header(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """The header of model.safetensors, changed in place or replaced."""

    def make(content: bytes) -> bytes:
        length = struct.unpack("<Q", content[:8])[0]
        held = json.loads(content[8 : 8 + length])
        text = json.dumps(change(held) or held).encode()
        return struct.pack("<Q", len(text)) + text + content[8 + length :]

    return raw_weights(make)


def in_place_of(name: str, what: str) -> Callable[[Path], None]:
    """Something that is no file where `name` belongs."""

    def make(folder: Path) -> None:
        path = folder / name
        path.unlink(missing_ok=True)
        if what == "folder":
            path.mkdir()
        elif what == "pipe":
            os.mkfifo(path)
        else:
            path.symlink_to("nowhere" if what == "dangling" else path.name)

    return make


def instead(content: bytes | None, name: str = "m") -> Callable[[Path], None]:
    """A file in the place of the folder."""

    def make(folder: Path) -> None:
        shutil.rmtree(folder)
        if content is not None:
            (folder.parent / name).write_bytes(content)

    return make


def sharded(index: Any) -> Callable[[Path], None]:
    """The index of shards, which `index` makes of the right one; the shards are right."""

    def make(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        write_folder(folder, random_model(CONFIG), shards=2)
        path = folder / "model.safetensors.index.json"
        changed = index(json.loads(path.read_text()))
        path.write_bytes(changed if isinstance(changed, bytes) else json.dumps(changed).encode())

    return make


def remapped(**changes: Any) -> Callable[[Path], None]:
    """An index with other shards for some tensors: `embedding`, `norm`, or all of them."""
    names = {"embedding": EMBEDDING, "norm": NORM}

    def change(index: dict[str, Any]) -> dict[str, Any]:
        for name, shard in changes.items():
            index["weight_map"][names.get(name, name)] = shard
        return index

    return sharded(change)


# -- folders ---------------------------------------------------------------------------------------

SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_hidden_layers": "num_hidden_layers|num_blocks",
    "num_attention_heads": "num_attention_heads|num_heads",
}
MORE_SIZES = {
    "num_key_value_heads": "num_key_value_heads|num_kv_heads",
    "max_position_embeddings": "max_position",
    "head_dim": "head_dim",
}
NUMBERS = {"rms_norm_eps": "rms_norm_eps", "rope_theta": "rope_theta"}
WRONG = {"text": "many", "list": [64], "object": {"a": 1}, "negative": -4, "zero": 0, "fraction": 64.5}


def config_cases() -> Iterator[Case]:
    """config.json that is none, or says something that cannot be."""
    yield Case("config missing", lambda folder: (folder / "config.json").unlink(), r"config\.json")
    for name, content in {
        "empty": b"",
        "half": b'{"model_type": "llama"',
        "binary": bytes(range(256)),
        "utf-16": '{"model_type": "llama"}'.encode("utf-16"),
        "nested": b"[" * 200_000,
        "nested objects": b'{"a":' * 100_000,
        "two values": b"{} {}",
        "a long number": b'{"model_type": "llama", "vocab_size": 1' + b"0" * 5000 + b"}",
    }.items():
        yield Case(f"config {name}", written("config.json", content), r"config\.json.*(JSON|UTF-8|vocab_size|digits)")
    for name, content in {"array": b"[]", "text": b'"llama"', "number": b"3", "null": b"null"}.items():
        yield Case(f"config {name}", written("config.json", content), r"config\.json.*(object|JSON)")
    for key, word in SIZES.items():
        yield Case(f"{key} missing", configured(**{key: ...}), word)
    for key, word in {**SIZES, **MORE_SIZES}.items():
        for kind, value in WRONG.items():
            if (key, kind) not in {("head_dim", "zero"), ("num_key_value_heads", "zero")}:
                yield Case(f"{key} {kind}", configured(**{key: value}), word)
        yield Case(f"{key} absurd", configured(**{key: 10**12}), f"{word}|shape|larger|memory|multiple|positions")
        yield Case(f"{key} beyond 64 bits", configured(**{key: 10**30}), f"{word}|shape|larger|memory|multiple|JSON")
    for key, word in NUMBERS.items():
        for kind, value in {**WRONG, "NaN": float("nan"), "infinity": float("inf")}.items():
            if kind != "fraction":
                yield Case(f"{key} {kind}", configured(**{key: value}), f"{word}|NaN|Infinity")
    for value in ("yes", 3, [], {}):
        word = "tie_word_embeddings|tie_embeddings"
        yield Case(f"tie_word_embeddings {value!r}", configured(tie_word_embeddings=value), word)
    yield Case("heads do not divide", configured(hidden_size=66, head_dim=...), "multiple|divide|head")
    yield Case(
        "key heads do not divide", configured(num_key_value_heads=3), "num_key_value_heads|num_kv_heads|multiple"
    )
    yield Case("odd head", configured(head_dim=15), "head_dim")
    yield Case("many blocks", configured(num_hidden_layers=10**9), "layer|block|lacks|larger")
    yield Case("activation", configured(hidden_act="gelu"), "hidden_act|gelu")
    yield Case("activation number", configured(hidden_act=3), "activation")
    yield Case("biases", configured(attention_bias=True), "bias")
    yield Case("mlp biases", configured(mlp_bias=True), "bias")
    for kind in ("yarn", "longrope", "dynamic", "spiral"):
        scaling = {"rope_type": kind, "factor": 4.0}
        yield Case(f"rope {kind}", configured(rope_scaling=scaling), f"rope_scaling|rotary|{kind}")
    yield Case("rope scaling text", configured(rope_scaling="linear"), "rope_scaling|rotary")
    yield Case("rope factor zero", configured(rope_scaling={"type": "linear", "factor": 0}), "rope|factor|rotary")
    yield Case("experts", configured(num_local_experts=8, num_experts_per_tok=2), "expert")


def foreign_cases() -> Iterator[Case]:
    """Models of other kinds."""
    for value in (..., None, 3, "", ["llama"], {"a": 1}, "llama9", "x" * 5000, "a\nb\x1b[31m"):
        yield Case(f"model_type {str(value)[:12]!r}", configured(model_type=value), "model_type")
    for kind in ("bert", "roberta", "vit", "clip", "whisper", "t5", "mamba", "mixtral", "gpt2", "llava", "siglip"):
        yield Case(f"{kind} model", configured(model_type=kind, architectures=[f"{kind}X"]), kind)
    text = {"text_config": {"model_type": "llama"}, "vision_config": {"hidden_size": 32}}
    yield Case("vision model", configured(model_type="llava", **text), "llava")
    for name, said in {
        "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 128},
        "awq": {"quant_method": "awq", "bits": 4},
        "bitsandbytes": {"quant_method": "bitsandbytes", "load_in_4bit": True},
        "fp8": {"quant_method": "fp8", "weight_block_size": [128, 128]},
        "compressed-tensors": {"quant_method": "compressed-tensors", "format": "pack-quantized"},
        "mxfp4": {"quant_method": "mxfp4"},
        "hqq": {"quant_method": "hqq"},
        "unnamed": {"bits": 4},
    }.items():
        words = "quantiz" if name == "unnamed" else name
        yield Case(f"quantized {name}", configured(quantization_config=said), f"(?i){words}")
        yield Case(f"packed {name}", chain(configured(quantization_config=said), packed_weights), f"(?i){words}")
    mlx = configured(quantization={"group_size": 64, "bits": 4})
    yield Case("quantized MLX", chain(mlx, packed_weights), "(?i)quantiz|mlx")
    yield Case(
        "quantized by a file",
        chain(written("quantize_config.json", {"bits": 4}), packed_weights),
        "(?i)quantiz|qweight|dtype|int32|I32",
    )
    yield Case(
        "diffusers",
        only(("model_index.json", {"_class_name": "StableDiffusionPipeline"}), config=False),
        "model_index|config",
    )
    adapter = ("adapter_config.json", {"peft_type": "LORA", "base_model_name_or_path": "a/b"})
    yield Case("adapter", only(adapter, ("adapter_model.safetensors", b""), config=False), "adapter|config")
    yield Case("adapter beside a config", only(adapter, ("adapter_model.safetensors", b"")), "adapter")
    for file in (
        "tf_model.h5",
        "flax_model.msgpack",
        "model.onnx",
        "model.pte",
        "rust_model.ot",
        "model.npz",
        "model.gguf",
    ):
        yield Case(f"only {file}", only((file, b"x")), "safetensors")
    for file in ("pytorch_model.bin", "pytorch_model-00001-of-00002.bin"):
        yield Case(f"only {file}", only((file, pickle.dumps({}))), "--weights-only-bin")
    for file in ("model.pt", "consolidated.00.pth", "model.ckpt"):
        yield Case(f"only {file}", only((file, pickle.dumps({}))), "pickle|safetensors")
    yield Case("weights in a folder below", only(("weights/model.safetensors", b"x")), "safetensors")
    yield Case("no weights", only(), "safetensors")
    two = chain(lambda folder: (folder / "model.safetensors").rename(folder / "a.safetensors"),
                lambda folder: shutil.copy(folder / "a.safetensors", folder / "b.safetensors"))  # fmt: skip
    yield Case("two candidates", two, r"a\.safetensors.*b\.safetensors")
    loose = lambda folder: [(folder / f"model-0000{n}-of-00002.safetensors").write_bytes(b"") for n in (1, 2)]  # noqa: E731
    yield Case("shards without an index", chain(only(), loose), r"index|-of-00002")


def packed_weights(folder: Path) -> None:
    """Weights as a quantizer leaves them: integers with scales beside them."""

    def change(held: dict[str, np.ndarray]) -> None:
        for name in [name for name in held if name.endswith("_proj.weight")]:
            rows, columns = held.pop(name).shape
            stem = name.removesuffix("weight")
            held[f"{stem}qweight"] = np.zeros((columns // 8, rows), np.int32)
            held[f"{stem}scales"] = np.ones((1, rows), np.float16)

    tensors(change)(folder)


def chain(*steps: Callable[[Path], Any]) -> Callable[[Path], None]:
    """One after the other."""

    def make(folder: Path) -> None:
        for step in steps:
            step(folder)

    return make


def offsets(name: str, begin: int, end: int) -> Callable[[Path], None]:
    """A tensor at other bytes."""
    return header(lambda held: held[name].update(data_offsets=[begin, end]))


def weight_cases() -> Iterator[Case]:
    """Weights that are damaged, or another model's."""
    file = r"model\.safetensors"
    for name, change in {
        "empty": lambda content: b"",
        "five bytes": lambda content: content[:5],
        "header cut": lambda content: content[:100],
        "last byte lost": lambda content: content[:-1],
        "half": lambda content: content[: len(content) // 2],
        "bytes behind": lambda content: content + b"x" * 8,
        "header longer than the file": lambda content: struct.pack("<Q", len(content) * 2) + content[8:],
        "header of 2^63": lambda content: struct.pack("<Q", 1 << 63) + content[8:],
        "header of 2^64-1": lambda content: b"\xff" * 8 + content[8:],
        "header of nothing": lambda content: bytes(8) + content[8:],
        "header one short": lambda content: struct.pack("<Q", struct.unpack("<Q", content[:8])[0] - 1) + content[8:],
        "git lfs pointer": lambda content: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
        "html": lambda content: b"<!DOCTYPE html><html>Sign in</html>",
        "zip": lambda content: b"PK\x03\x04" + content,
        "pickle": lambda content: pickle.dumps({"a": 1}),
        "gguf": lambda content: b"GGUF" + content,
        "header not JSON": lambda content: struct.pack("<Q", 16) + b"not JSON at all!" + content[8:],
        "header nested": lambda content: struct.pack("<Q", 100_000) + b"[" * 100_000,
        "header not UTF-8": lambda content: struct.pack("<Q", 8) + b'{"\xff": 1',
    }.items():
        yield Case(f"weights {name}", raw_weights(change), file)
    for name, change in {
        "overlap": offsets(QUERY, 0, 16384),
        "reversed": offsets(QUERY, 16384, 0),
        "negative": offsets(QUERY, -16384, 0),
        "beyond the file": offsets(QUERY, 10**12, 10**12 + 16384),
        "beyond 64 bits": offsets(QUERY, 10**30, 10**30 + 16384),
        "not numbers": header(lambda held: held[QUERY].update(data_offsets=["a", "b"])),
        "missing": header(lambda held: held[QUERY].pop("data_offsets")),
    }.items():
        yield Case(f"offsets {name}", change, file)
    yield Case("header an array", header(lambda held: [1, 2]), file)
    for name, shape in {"negative": [-1, 64], "huge": [1 << 40, 1 << 40], "text": "64", "other": [1, 64]}.items():
        yield Case(f"stored shape {name}", header(lambda held, shape=shape: held[QUERY].update(shape=shape)), file)
    for kind in ("F4", "X99", "", 3, None):
        yield Case(f"stored dtype {kind}", header(lambda held, kind=kind: held[QUERY].update(dtype=kind)), file)
    for name, kind in {"int32": np.int32, "int8": np.int8, "bool": bool, "uint8": np.uint8, "int64": np.int64}.items():
        yield Case(f"dtype {name}", having(QUERY, lambda t, kind=kind: t.astype(kind)), rf"q_proj|(?i:{name})|dtype")
    for name in ("F8_E4M3", "F8_E5M2", "F8_E8M0"):
        fp8 = chain(
            having(QUERY, lambda t: t.astype(np.uint8)), header(lambda held, name=name: held[QUERY].update(dtype=name))
        )
        yield Case(f"dtype {name}", fp8, r"(?i)q_proj|f8|float8|fp8|dtype")
    yield Case(
        "complex",
        chain(having(QUERY, lambda t: t[:, ::2]), header(lambda held: held[QUERY].update(dtype="C64", shape=[64, 16]))),
        "q_proj|(?i:c64)|complex|dtype",
    )
    for name in (EMBEDDING, NORM, QUERY, DOWN):
        yield Case(f"lacks {name}", tensors(lambda held, name=name: held.pop(name)), name.replace(".", r"\."))
        yield Case(
            f"turned {name}",
            having(name, lambda t: t.T if t.ndim > 1 and t.shape[0] != t.shape[1] else t[:-1]),
            "shape",
        )
        yield Case(f"flat {name}", having(name, lambda t: t.reshape(-1, 1, 1)), "shape")
        yield Case(f"empty {name}", having(name, lambda t: t[:0]), "shape")
        for value in (np.nan, np.inf, -np.inf):
            words = rf"(?i)nan|inf|finite.*|{name.rpartition('.')[0]}"
            yield Case(
                f"{value} in {name}",
                having(name, lambda t, value=value: np.concatenate([t[:-1], t[-1:] * value])),
                words,
            )
    half = lambda t: np.where(np.arange(t.size).reshape(t.shape) == 7, np.nan, t).astype(ml_dtypes.bfloat16)  # noqa: E731
    yield Case("NaN in bfloat16", having(QUERY, half), "(?i)nan|finite")
    for name in (
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.0.block_sparse_moe.gate.weight",
        "model.layers.0.mlp.experts.0.w1.weight",
        "model.layers.9.self_attn.q_proj.weight",
        "model.layers.0.self_attn.q_norm.weight",
        "vision_tower.patch_embed.weight",
        "base_model.model.lora_A.weight",
        "x",
        "",
    ):
        extra = tensors(lambda held, name=name: held.update({name: np.ones((4, 4), np.float32)}))
        yield Case(f"extra {name!r}", extra, name.replace(".", r"\.") or "tensor")
    yield Case("no tensors", tensors(lambda held: held.clear()), "embed_tokens|tensor")


def shard_cases() -> Iterator[Case]:
    """An index that does not fit its shards."""
    index = r"index\.json"
    for name, content in {"half": b"{", "empty": b"", "array": b"[]", "binary": b"\xff\xfe"}.items():
        yield Case(f"index {name}", sharded(lambda right, content=content: content), index)
    for name, value in {
        "missing": {},
        "empty": {"weight_map": {}},
        "list": {"weight_map": ["a"]},
        "text": {"weight_map": "a"},
    }.items():
        yield Case(f"weight_map {name}", sharded(lambda right, value=value: value), "weight_map")
    for shard in ("../model.safetensors", "/etc/passwd", "a/b.safetensors", "..", ""):
        yield Case(f"shard at {shard!r}", remapped(embedding=shard), "outside|not followed|index|shard")
    for shard in (3, None, ["a"], {"a": 1}):
        yield Case(f"shard {shard!r}", remapped(embedding=shard), "index|shard")
    yield Case("shard missing", remapped(embedding="model-00009-of-00002.safetensors"), "00009")
    yield Case("shard with escapes", remapped(embedding="a\x1b[31m\n.safetensors"), "shard|index")
    swapped = {"embedding": "model-00002-of-00002.safetensors"}
    yield Case("tensor in another shard", remapped(**swapped), "embed_tokens|index|shard")
    yield Case(
        "tensor in no shard",
        remapped(**{"model.layers.7.mlp.up_proj.weight": "model-00001-of-00002.safetensors"}),
        "layers\\.7|index|shard",
    )
    gone = chain(sharded(lambda right: right), lambda folder: (folder / "model-00002-of-00002.safetensors").unlink())
    yield Case("second shard gone", gone, "00002-of-00002")
    cut = chain(
        sharded(lambda right: right), lambda folder: os.truncate(folder / "model-00002-of-00002.safetensors", 99)
    )
    yield Case("second shard cut", cut, "00002-of-00002")


def sentencepiece_instead(content: bytes) -> Callable[[Path], None]:
    return chain(lambda folder: (folder / "tokenizer.json").unlink(), written("tokenizer.model", content))


def tokenizer_cases() -> Iterator[Case]:
    """Tokenizers and what stands beside them."""
    for name, content in {
        "empty": b"",
        "half": b'{"version": "1.0"',
        "no tokenizer": b"{}",
        "array": b"[]",
        "number": b"3",
        "binary": bytes(range(256)),
        "nested": b"[" * 200_000,
        "unknown model": b'{"version": "1.0", "model": {"type": "Rosetta", "vocab": {}}}',
        "no model": b'{"version": "1.0", "added_tokens": []}',
        "vocabulary a number": b'{"version": "1.0", "model": {"type": "BPE", "vocab": 3, "merges": []}}',
        "merges of nothing": b'{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["b c"]}}',
        "id negative": b'{"version": "1.0", "model": {"type": "WordLevel", "vocab": {"a": -1}, "unk_token": "a"}}',
        "git lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
    }.items():
        yield Case(f"tokenizer.json {name}", written("tokenizer.json", content), "tokenizer")
    for file in ("tokenizer_config.json", "generation_config.json", "special_tokens_map.json"):
        for name, content in {
            "half": b"{",
            "array": b"[]",
            "binary": b"\xff\x00\xff",
            "nested": b"[" * 200_000,
        }.items():
            yield Case(f"{file} {name}", written(file, content), file.replace(".", r"\."))
    for value in (3, {"a": 1}, [3], True):
        yield Case(
            f"chat_template {value!r}", written("tokenizer_config.json", {"chat_template": value}), "chat_template"
        )
    yield Case(
        "chat_template.jinja not UTF-8",
        written("chat_template.jinja", b"\xff\xfe{{ messages }}"),
        r"chat_template\.jinja",
    )
    for value in ("x", -7, [1, "x"], {"a": 1}, 1.5):
        yield Case(f"eos_token_id {value!r}", written("generation_config.json", {"eos_token_id": value}), "eos|end")
    for name, content in {
        "empty": b"",
        "random": bytes(range(255, 0, -1)),
        "text": b"hello",
        "cut": b"\n\x0e\n\x05<unk>",
    }.items():
        yield Case(f"tokenizer.model {name}", sentencepiece_instead(content), r"tokenizer\.model")


def odd_file_cases() -> Iterator[Case]:
    """What is no file where one belongs."""
    for name in (
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
    ):
        for what in ("folder", "pipe", "dangling", "loop"):
            words = r"safetensors" if name == "model.safetensors" else name.replace(".", r"\.")
            yield Case(f"{what} in place of {name}", in_place_of(name, what), words)
    for what in ("folder", "pipe", "dangling", "loop"):
        index = chain(sharded(lambda right: right), in_place_of("model.safetensors.index.json", what))
        yield Case(f"{what} in place of the index", index, "index|safetensors")


def source_cases() -> Iterator[Case]:
    """Sources that are no folder and no GGUF file."""
    for name in (
        "m.pt", "m.pth", "m.ckpt", "m.bin", "m.onnx", "m.pte", "m.safetensors", "m.json", "m.txt", "m.zip", "m.h5",
        "m.msgpack", "m.tflite", "m.tar.gz", "m",
    ):  # fmt: skip
        yield Case(f"source {name}", instead(b"x" * 100, name), r"^m|give|folder|gguf", name)
    yield Case("missing", instead(None), "does not exist", "m")
    yield Case("missing gguf", instead(None), "does not exist", "a/m.gguf")
    yield Case("missing with folders", instead(None), "does not exist", "./a/b/c")
    yield Case("empty name", instead(None), "name|give", "")
    yield Case("long name", instead(None), "name|exist", "n" * 5000)
    yield Case("a file as a folder", lambda folder: None, "exist|folder|directory", "m/config.json/x")
    yield Case("the config", lambda folder: None, "folder", "m/config.json")
    yield Case("the folder above", lambda folder: None, r"config\.json", ".")
    yield Case("a device", lambda folder: None, "device|source", "/dev/null")
    yield Case("names that lead out", lambda folder: None, "exist|config", "../../nothing/here")
    yield Case("a link", lambda folder: instead(None)(folder) or folder.symlink_to("nowhere"), "link|exist")
    yield Case("a loop of links", lambda folder: instead(None)(folder) or folder.symlink_to("m"), "link|exist|opened")
    yield Case("a pipe", lambda folder: instead(None)(folder) or os.mkfifo(folder), "pipe|source")
    yield Case(
        "a pipe with the name of a GGUF", lambda folder: os.mkfifo(folder.parent / "p.gguf"), "pipe|source", "p.gguf"
    )
    yield Case(
        "a folder with the name of a GGUF", lambda folder: (folder.parent / "d.gguf").mkdir(), r"config\.json", "d.gguf"
    )
    yield Case(
        "an archive", lambda folder: zipfile.ZipFile(folder.parent / "z.gguf", "w").close(), "GGUF|gguf", "z.gguf"
    )


def folder_cases() -> list[Case]:
    """All of them."""
    kinds = (config_cases, foreign_cases, weight_cases, shard_cases, tokenizer_cases, odd_file_cases, source_cases)
    return [
        Case("empty folder", lambda folder: [path.unlink() for path in folder.iterdir()], r"config\.json"),
        *(case for kind in kinds for case in kind()),
    ]


def noted_cases() -> Iterator[Case]:
    """What is taken in although something is odd: `words` are those of a note."""
    prefixed = tensors(lambda held: [held.update({f"wrapped.{name}": held.pop(name)}) for name in list(held)])
    yield Case("names with a prefix", prefixed, r"wrapped\.")
    words = {f"t{n}": n for n in range(999)}
    larger = {"version": "1.0", "model": {"type": "WordLevel", "vocab": words, "unk_token": "t0"}}
    yield Case("more tokens than rows", written("tokenizer.json", larger), "999 tokens")
    yield Case("eos beyond the vocabulary", written("generation_config.json", {"eos_token_id": 2**40}), str(2**40))
    yield Case("a key that nobody knows", configured(colour="blue"), "colour")
    yield Case("weights of another kind beside", written("tf_model.h5", b"x"), r"tf_model\.h5")
