"""GGUF files that are damaged or another model's, written byte by byte, so that every length in them can lie."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from foreign import CONFIG, Case

from mobileloop.checkpoints.random import random_model

U8, U32, I32, F32, BOOL, STRING, ARRAY, U64 = 0, 4, 5, 6, 7, 8, 9, 10
_PACKED = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
NAME = "m.gguf"


class Raw(bytes):
    """Bytes that stand where a value belongs."""


@dataclass
class Tensor:
    """One entry of the table of tensors; `extents` from the fastest on."""

    name: bytes
    extents: list[int]
    kind: int
    data: bytes
    offset: int | None = None


@dataclass
class File:
    """A file in parts: (name, type, value) of the metadata, tensors, and what the header says of both."""

    fields: list[tuple[bytes, int, Any]] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    magic: bytes = b"GGUF"
    version: bytes = struct.pack("<I", 3)
    tensor_count: int | None = None
    field_count: int | None = None
    alignment: int = 32

    def set(self, name: str, kind: int, value: Any) -> None:
        """Add a field, or give it another value."""
        self.drop(name)
        self.fields.append((name.encode(), kind, value))

    def drop(self, name: str) -> None:
        self.fields = [one for one in self.fields if one[0] != name.encode()]

    def tensor(self, name: str) -> Tensor:
        return next(one for one in self.tensors if one.name == name.encode())

    def to_bytes(self) -> bytes:
        counts = (self.tensor_count, len(self.tensors)), (self.field_count, len(self.fields))
        head = (
            self.magic
            + self.version
            + b"".join(struct.pack("<Q", told if told is not None else n) for told, n in counts)
        )
        head += b"".join(
            string(name) + struct.pack("<I", kind) + value_bytes(kind, value) for name, kind, value in self.fields
        )
        at, table, data = 0, b"", b""
        for one in self.tensors:
            table += string(one.name) + struct.pack("<I", len(one.extents))
            table += b"".join(struct.pack("<Q", extent % (1 << 64)) for extent in one.extents)
            table += struct.pack("<IQ", one.kind, at if one.offset is None else one.offset)
            padded = one.data + bytes(-len(one.data) % self.alignment)
            data, at = data + padded, at + len(padded)
        head += table
        return head + bytes(-len(head) % self.alignment) + data


def string(text: bytes) -> bytes:
    return text if isinstance(text, Raw) else struct.pack("<Q", len(text)) + text


def value_bytes(kind: int, value: Any) -> bytes:
    if isinstance(value, Raw):
        return bytes(value)
    if kind == STRING:
        return string(value)
    if kind == ARRAY:
        inner, items = value
        return struct.pack("<IQ", inner, len(items)) + b"".join(value_bytes(inner, item) for item in items)
    return struct.pack(f"<{_PACKED[kind]}", value)


def good_file() -> File:
    """A llama of the tests' size with a vocabulary of scored pieces."""
    model = random_model(CONFIG)
    made = File()
    for name, value in {
        "block_count": CONFIG.num_blocks, "context_length": 64, "embedding_length": CONFIG.hidden_size,
        "feed_forward_length": CONFIG.intermediate_size, "attention.head_count": CONFIG.num_heads,
        "attention.head_count_kv": CONFIG.num_kv_heads, "rope.dimension_count": CONFIG.head_dim,
    }.items():  # fmt: skip
        made.set(f"llama.{name}", U32, value)
    made.set("general.architecture", STRING, b"llama")
    made.set("llama.attention.layer_norm_rms_epsilon", F32, 1e-5)
    made.set("llama.rope.freq_base", F32, 10000.0)
    tokens = [b"<unk>", b"<s>", b"</s>", *(f"<0x{byte:02X}>".encode() for byte in range(256))]
    made.set("tokenizer.ggml.model", STRING, b"llama")
    made.set("tokenizer.ggml.tokens", ARRAY, (STRING, tokens))
    made.set("tokenizer.ggml.scores", ARRAY, (F32, [0.0] * len(tokens)))
    made.set("tokenizer.ggml.token_type", ARRAY, (I32, [2, 3, 3, *[6] * 256]))
    made.set("tokenizer.ggml.bos_token_id", U32, 1)
    made.set("tokenizer.ggml.eos_token_id", U32, 2)
    short = {
        "q_proj": "attn_q",
        "k_proj": "attn_k",
        "v_proj": "attn_v",
        "o_proj": "attn_output",
        "gate_proj": "ffn_gate",
        "up_proj": "ffn_up",
        "down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    outer = {"embedding": "token_embd.weight", "final_norm": "output_norm.weight", "head": "output.weight"}
    for name, tensor in model.tensors.items():
        parts = name.split(".")
        stored = outer.get(name) or f"blk.{parts[1]}.{short[parts[2]]}.weight"
        values = np.asarray(tensor, np.float32)
        made.tensors.append(Tensor(stored.encode(), list(reversed(values.shape)), 0, values.tobytes()))
    return made


def changed(change: Callable[[File], Any]) -> Callable[[Path], None]:
    """m.gguf beside the folder, from the good file."""

    def make(folder: Path) -> None:
        made = deepcopy(good_file())
        change(made)
        (folder.parent / NAME).write_bytes(made.to_bytes())

    return make


def bytes_of(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda folder: (folder.parent / NAME).write_bytes(change(good_file().to_bytes()))


def case(name: str, change: Callable[[File], Any], words: str = "gguf|GGUF") -> Case:
    return Case(f"gguf {name}", changed(change), words, NAME)


def setting(name: str, kind: int, value: Any) -> Callable[[File], None]:
    return lambda made: made.set(name, kind, value)


def of_tensor(name: str, **changes: Any) -> Callable[[File], None]:
    return lambda made: made.tensor(name).__dict__.update(changes)


QUERY, EMBEDDING = "blk.0.attn_q.weight", "token_embd.weight"


def byte_cases() -> Iterator[Case]:
    """Files that are no GGUF, or end too early."""
    for name, content in {
        "empty": b"",
        "text": b"hello",
        "ggml": b"ggml" * 100,
        "ggjt": b"tjgg" * 100,
        "zeros": bytes(5000),
        "safetensors": b"\x02" + bytes(7) + b"{}",
        "html": b"<!DOCTYPE html>",
        "zip": b"PK\x03\x04" * 50,
        "git lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
        "magic alone": b"GGUF",
    }.items():
        yield Case(
            f"gguf {name}",
            bytes_of(lambda _, content=content: content),
            r"m\.gguf.*(GGUF|damaged|cut|web page|Git LFS)",
            NAME,
        )
    for size in (4, 7, 8, 12, 20, 24, 25, 40, 60, 100, 200, 500, 1000, 3000, 6000):
        yield Case(f"gguf cut at {size}", bytes_of(lambda whole, size=size: whole[:size]), r"m\.gguf", NAME)
    for share in (0.1, 0.3, 0.5, 0.7, 0.9, 0.999):
        yield Case(
            f"gguf cut at {share:.1%}",
            bytes_of(lambda whole, share=share: whole[: int(share * len(whole))]),
            r"m\.gguf",
            NAME,
        )
    for version in (0, 1, 4, 99, 2**31):
        packed = struct.pack("<I", version)
        yield case(
            f"version {version}", lambda made, packed=packed: setattr(made, "version", packed), "version|damaged"
        )
    yield case(
        "big endian", lambda made: setattr(made, "version", struct.pack(">I", 3)), "endian|byte order|version|damaged"
    )
    for name in ("tensor_count", "field_count"):
        for value in (10**6, 2**40, 2**63, 2**64 - 1):
            yield case(f"{name} {value}", lambda made, name=name, value=value: setattr(made, name, value))
    yield case("field_count short", lambda made: setattr(made, "field_count", 3))
    yield case("tensor_count short", lambda made: setattr(made, "tensor_count", 3), "lacks|gguf")


def field_cases() -> Iterator[Case]:
    """Metadata that lies, or asks for another model."""
    for length in (10**6, 2**40, 2**63, 2**64 - 1):
        lie = Raw(struct.pack("<Q", length) + b"x")
        yield case(f"key of {length} bytes", lambda made, lie=lie: made.fields.insert(0, (lie, U32, 3)))
        yield case(
            f"text of {length} bytes", lambda made, lie=lie: made.fields.insert(0, (b"general.name", STRING, lie))
        )
        array = Raw(struct.pack("<IQ", U32, length))
        yield case(f"array of {length}", lambda made, array=array: made.fields.insert(0, (b"a.b", ARRAY, array)))
        texts = Raw(struct.pack("<IQ", STRING, length))
        yield case(f"array of {length} texts", lambda made, texts=texts: made.fields.insert(0, (b"a.b", ARRAY, texts)))
    for kind in (13, 99, 2**32 - 1):
        yield case(
            f"field of type {kind}", lambda made, kind=kind: made.fields.insert(0, (b"a.b", kind, Raw(bytes(8))))
        )
    nested = Raw(b"".join(struct.pack("<IQ", ARRAY, 1) for _ in range(3000)) + struct.pack("<IQ", U8, 1) + b"x")
    yield case("arrays in arrays", lambda made: made.fields.insert(0, (b"a.b", ARRAY, nested)))
    yield case(
        "a field twice", lambda made: made.fields.append((b"llama.block_count", U32, 1)), "gguf|twice|block_count"
    )
    yield case("key not UTF-8", lambda made: made.fields.append((b"\xff\xfe.x", U32, 1)))
    yield case("alignment 0", setting("general.alignment", U32, 0))
    yield case("alignment 3", setting("general.alignment", U32, 3))
    yield case("alignment 2^31", setting("general.alignment", U32, 2**31))
    yield case("alignment a text", setting("general.alignment", STRING, b"32"))
    for name in ("qwen2", "gpt2", "mamba", "bert", "clip", "gemma3", "", "llama\x1b[31m\n", "x" * 3000):
        yield case(
            f"architecture {name[:12]!r}", setting("general.architecture", STRING, name.encode()), "architecture"
        )
    yield case("architecture missing", lambda made: made.drop("general.architecture"), "architecture")
    yield case("architecture a number", setting("general.architecture", U32, 3), "architecture")
    yield case("adapter", setting("general.type", STRING, b"adapter"), "adapter")
    yield case("mmproj", setting("general.type", STRING, b"mmproj"), "mmproj|projector|vision")
    yield case("imatrix", setting("general.type", STRING, b"imatrix"), "imatrix")
    for key in ("block_count", "embedding_length", "feed_forward_length", "attention.head_count"):
        yield case(
            f"{key} missing", lambda made, key=key: made.drop(f"llama.{key}"), f"{key}|num_blocks|intermediate_size"
        )
        for name, kind, value in (("text", STRING, b"3"), ("zero", U32, 0), ("huge", U32, 2**31), ("half", F32, 1.5),
                                  ("array", ARRAY, (U32, [1, 2, 3])), ("negative", I32, -1)):  # fmt: skip
            words = f"{key}|{key.replace('_', ' ')}|num_|size|lacks|shape|multiple|block"
            yield case(f"{key} {name}", setting(f"llama.{key}", kind, value), words)
    for key, values in {
        "attention.head_count_kv": ((U32, 3), (U32, 0), (STRING, b"x")),
        "context_length": ((U32, 0), (STRING, b"x")),
        "attention.layer_norm_rms_epsilon": ((F32, float("nan")), (F32, -1.0), (STRING, b"x"), (F32, float("inf"))),
        "rope.freq_base": ((F32, float("nan")), (F32, 0.0), (F32, float("inf")), (STRING, b"x")),
        "rope.dimension_count": ((U32, 8), (U32, 0), (STRING, b"x")),
    }.items():
        for kind, value in values:
            yield case(f"{key} {value!r}", setting(f"llama.{key}", kind, value), r"(?i)gguf|" + key)
    yield case("key length odd", setting("llama.attention.key_length", U32, 15), "key_length|head_dim|dimension")
    yield case("value length other", setting("llama.attention.value_length", U32, 8), "value_length")
    yield case("experts", setting("llama.expert_count", U32, 8), "expert")
    yield case("sliding window", setting("llama.attention.sliding_window", U32, 32), "sliding|window")
    yield case("yarn", setting("llama.rope.scaling.type", STRING, b"yarn"), "rope|rotary|yarn")
    yield case("scaling unknown", setting("llama.rope.scaling.type", STRING, b"spiral"), "rope|rotary|spiral")
    yield case("logit scale", setting("llama.logit_scale", F32, 0.5), "logit_scale")
    yield case("split", chain(setting("split.count", 2, 3), setting("split.no", 2, 0)), "split|part|-of-")


def chain(*steps: Callable[[File], Any]) -> Callable[[File], None]:
    def change(made: File) -> None:
        for step in steps:
            step(made)

    return change


def tensor_cases() -> Iterator[Case]:
    """A table of tensors that does not fit the model, or the file."""
    yield case("vocabulary only", lambda made: made.tensors.clear(), "vocab|lacks|token_embd|tensor")
    for name in (EMBEDDING, QUERY, "output_norm.weight", "blk.2.ffn_down.weight"):
        yield case(
            f"lacks {name}", lambda made, name=name: made.tensors.remove(made.tensor(name)), name.replace(".", r"\.")
        )
    for name in (
        "blk.0.attn_q.bias",
        "blk.7.attn_q.weight",
        "blk.0.ffn_gate_inp.weight",
        "rope_freqs.weight",
        "x",
        "v.patch_embd.weight",
    ):
        extra = Tensor(name.encode(), [8], 0, bytes(32))
        yield case(
            f"extra {name}",
            lambda made, extra=extra: made.tensors.append(extra),
            "rope|rotary" if "rope" in name else name,
        )
    yield case(
        "a tensor twice", lambda made: made.tensors.append(deepcopy(made.tensor(QUERY))), "attn_q|twice|duplicate|gguf"
    )
    yield case("a name not UTF-8", lambda made: made.tensors.append(Tensor(b"\xff\xfe", [8], 0, bytes(32))))
    yield case("turned", of_tensor("blk.0.ffn_up.weight", extents=[96, 64]), "shape|ffn_up")
    yield case("one row less", of_tensor(QUERY, extents=[64, 63]), "shape|attn_q|rows")
    for extents in ([], [0, 64], [64] * 5, [1] * 100, [2**40, 2**40], [2**63, 2], [-1, 64], [4096]):
        yield case(f"extents {str(extents)[:20]}", of_tensor(QUERY, extents=extents), "gguf|shape|attn_q")
    for extents in ([], [64], [2**40, 2], [0, 0]):
        yield case(
            f"embedding of extents {extents}", of_tensor(EMBEDDING, extents=extents), "gguf|shape|token_embd|vocab"
        )
    for kind in (4, 5, 24, 26, 31, 36, 99, 2**32 - 1):
        yield case(f"type {kind}", of_tensor(QUERY, kind=kind), "gguf|type|attn_q")
    for offset in (1, 31, 2**20, 2**40, 2**63, 2**64 - 32):
        yield case(f"offset {offset}", of_tensor("blk.2.ffn_down.weight", offset=offset), "gguf|ffn_down|nan|finite")
    yield case("two at one place", of_tensor(QUERY, offset=0), "gguf|attn_q|overlap")
    for value in (float("nan"), float("inf")):
        for name in (QUERY, EMBEDDING, "output_norm.weight"):

            def poisoned(made: File, name: str = name, value: float = value) -> None:
                one = made.tensor(name)
                one.data = one.data[:-4] + struct.pack("<f", value)

            yield case(f"{value} in {name}", poisoned, r"(?i)nan|inf\b|finite")


def vocabulary_cases() -> Iterator[Case]:
    """Vocabularies that cannot be read, or belong to another model."""
    prefix = "tokenizer.ggml."
    for value in (b"bert", b"rwkv", b"", b"plamo2", b"x\x1b[31m"):
        yield case(f"tokenizer model {value!r}", setting(f"{prefix}model", STRING, value), "tokenizer|vocab")
    yield case("tokenizer model a number", setting(f"{prefix}model", U32, 3), "tokenizer|vocab")
    for name, value in {"short": (STRING, [b"a"] * 10), "numbers": (U32, [1] * 259), "empty": (STRING, [])}.items():
        yield case(f"tokens {name}", setting(f"{prefix}tokens", ARRAY, value), "token|vocab")
    yield case("tokens a text", setting(f"{prefix}tokens", STRING, b"a"), "token|vocab")
    yield case("scores short", setting(f"{prefix}scores", ARRAY, (F32, [0.0])), "score|token|vocab")
    yield case("types short", setting(f"{prefix}token_type", ARRAY, (I32, [1])), "type|token|vocab")
    gpt2 = chain(setting(f"{prefix}model", STRING, b"gpt2"), setting(f"{prefix}merges", ARRAY, (STRING, [b"no such"])))
    yield case("merges of nothing", gpt2, "merge|token|vocab")
    yield case("merges numbers", chain(gpt2, setting(f"{prefix}merges", ARRAY, (U32, [1]))), "merge|token|vocab")
    yield case(
        "pre-tokenizer unknown",
        chain(gpt2, setting(f"{prefix}merges", ARRAY, (STRING, [])), setting(f"{prefix}pre", STRING, b"rosetta")),
        "rosetta|pre",
    )
    yield case("chat template a number", setting("tokenizer.chat_template", U32, 3), "chat.template|tokenizer")
    yield case(
        "chat template not UTF-8",
        setting("tokenizer.chat_template", STRING, b"\xff\xfe"),
        "chat_template|tokenizer|UTF-8|utf-8",
    )


def gguf_cases() -> list[Case]:
    """All of them."""
    return [case for kind in (byte_cases, field_cases, tensor_cases, vocabulary_cases) for case in kind()]


def noted_cases() -> Iterator[Case]:
    """What is taken in although something is odd: `words` are those of a note."""
    for key in ("bos_token_id", "eos_token_id"):
        for kind, value in ((U32, 259), (U32, 2**31), (STRING, b"x")):
            yield case(f"{key} {value!r}", setting(f"tokenizer.ggml.{key}", kind, value), key)
    yield case("fewer rows than tokens", of_tensor(EMBEDDING, extents=[64, 258]), "258")
    yield case("a key that nobody knows", setting("mine.colour", STRING, b"blue"), "colour")
