"""Write the seed corpus: small real records, files and tokenizers, without the padding that only pages need.

    python runtime_bench/engine/fuzz/make_corpus.py

Inputs that fuzzing has found are kept beside the seeds: `found-...` once crashed, `grown-...` reach what seeds do not.
"""

from __future__ import annotations

import base64
import json
import struct
import tempfile
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from mobileloop.artifact import ArtifactInfo
from mobileloop.checkpoints import vocabulary
from mobileloop.checkpoints.random import random_model
from mobileloop.packed import PackedModel
from mobileloop.spec.config import ModelConfig
from mobileloop.spec.schedule import Halting, Schedule, Stage
from mobileloop_export.formats import exporter

CORPUS = Path(__file__).with_name("corpus")
CONFIG = ModelConfig(
    name="seed",
    vocab_size=19,
    hidden_size=32,
    intermediate_size=32,
    num_blocks=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=16,
    max_position=64,
)
SCHEMES = ("int4", "int4-symmetric", "int8", "none")
SCHEDULES = {
    "plain": Schedule.plain(2),
    "looped": Schedule(
        name="looped",
        stages=(
            Stage(blocks=(0,), loops=2, max_loops=3, damping=0.5),
            Stage(blocks=(1, 0), loops=1, max_loops=2, loop_end_norm=True),
        ),
    ),
    "halting": Schedule(
        name="halting",
        stages=(
            Stage(
                blocks=(0, 1),
                loops=2,
                max_loops=3,
                loop_end_norm=True,
                halting=Halting(rule="exit_gate", threshold=0.6),
            ),
        ),
    ),
    "wide": Schedule(
        name="wide",
        stages=(
            Stage(blocks=(0,), loops=2, max_loops=2, causal=False, halting=Halting(rule="cosine", threshold=0.1)),
            Stage(blocks=(1,)),
        ),
    ),
}
KV_BITS = {"wide": 8}

TEXT = "The 3 cafés aren't open, 日本 x = 'y'\n  it's 1234 😀\r\n"


def trimmed(record: bytes) -> bytes:
    """A record without the padding behind its last tensor."""
    count = struct.unpack_from("<I", record, 12)[0]
    entries = [struct.unpack_from("<IIIIQQ", record, 64 + 32 * i) for i in range(count)]
    end = max(offset + size for *_, offset, size in entries)
    return record[:16] + struct.pack("<Q", end) + record[24:end]


def repacked(path: Path) -> bytes:
    """An engine artifact with trimmed records and an unpadded header; readers need no alignment beyond 4."""
    data = path.read_bytes()
    size = struct.unpack_from("<Q", data)[0]
    header = json.loads(data[8 : 8 + size])
    parts, offset = [], 0
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        begin, end = tensor["data_offsets"]
        part = data[8 + size + begin : 8 + size + end]
        floats = tensor["dtype"] == "F32"
        part = part if floats else trimmed(part)
        tensor["data_offsets"] = [offset, offset + len(part)]
        tensor["shape"] = [len(part) // 4 if floats else len(part)]
        offset += len(part)
        parts.append(part)
    text = json.dumps(header, separators=(",", ":")).encode()
    text = text.ljust(-(-(8 + len(text)) // 64) * 64 - 8)
    return struct.pack("<Q", len(text)) + text + b"".join(parts)


def put(target: str, name: str, content: bytes) -> None:
    """Write one input."""
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


def models_and_records() -> None:
    """Artifacts of every schedule, and the records of every scheme."""
    for scheme in SCHEMES:
        checkpoint = random_model(CONFIG, SCHEDULES["looped"], 0)
        packed = PackedModel.from_checkpoint(checkpoint, scheme)
        block = trimmed(bytes(packed.block_record(0)))
        matrix = trimmed(bytes(packed.matrix_record("embedding")))
        if scheme != "none":  # the largest
            put("record", f"block-{scheme}", block)
        put("record", f"matrix-{scheme}", matrix)
        # blocks, loops, damping, eps, norm, in place, tokens, sequences, position, slots, capacity, KV type, cache
        # bytes, halting rule, least loops, threshold, bias, filled loops, gate, hidden size, full attention, streaming
        # mode and threads, threads
        for name, tokens, damping, rule in (("decode", 1, 0xEF, 0), ("prefill", 3, 0x80, 1), ("batch", 2, 0xEF, 3)):
            for kv, attention, mode, threads in ((1, 0, 0, 0), (2, 1, 1, 14), (0, 0, 2, 15)):
                call = bytes([2, 2, damping, 1, 1, 0, tokens, 2, 2, 6, 8, kv]) + struct.pack("<I", 1 << 15)
                call += bytes([rule, rule > 0, 0x40, 0x10, 3, rule == 3, 1, attention, mode, 1, threads])
                if (scheme == "int4" and kv != 0) or (scheme == "int8" and kv == 1 and name == "decode"):
                    put("loop", f"{name}-{scheme}-{kv}", call + block)
    for name, schedule in SCHEDULES.items():
        gate = schedule.name == "halting"
        checkpoint = random_model(CONFIG.model_copy(update={"exit_gate": gate}), schedule, 0)
        packed = PackedModel.from_checkpoint(checkpoint, "int4")
        bits = KV_BITS.get(name, 16)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "seed.safetensors"
            exporter("engine")(
                packed, ArtifactInfo.describe(checkpoint, packed, 16, bits), path, lambda step, share: None
            )
            put("artifact", name, repacked(path))
    put("json", "metadata", ArtifactInfo.describe(checkpoint, packed, 16, 16).model_dump_json().encode())


def sessions() -> None:
    """Calls on a session over every artifact: the model, then operations with their numbers (session.cpp)."""
    run = bytes([6, 8, 3, 1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9])  # 3 sequences, 3 tokens each, all logits
    twins = bytes([5, 0, 1, 7, 9, 2])
    halt = bytes([1, 1, 1, 40, 1])
    calls = {
        "forks": run + bytes([0, 0, 2]) + twins + run,
        "halts": halt + run + bytes([1, 3, 1, 90, 1]) + twins + bytes([1, 0, 0, 0, 0]) + run,
        "streams": bytes([3, 1, 1, 4, 1]) + run + bytes([3, 2, 1]) + twins,
        "resets": run + bytes([2, 1, 0, 2, 0, 2]) + twins,
    }
    for number, (name, content) in enumerate(calls.items()):
        put("session", name, bytes([number]) + content)
        put("session", f"{name}-2-threads", bytes([0xF0 + number]) + content)


def tokenizers() -> None:
    """One of every kind, with a text behind it."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.train_from_iterator([TEXT] * 3, trainers.BpeTrainer(vocab_size=90, special_tokens=["<s>", "</s>"]))
    model = json.loads(trained.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    merges = [" ".join(pair) for pair in model["merges"]]
    kinds = [vocabulary.CONTROL] * 2 + [1] * (len(tokens) - 2)
    for pre in ("gpt-2", "llama-bpe", "smollm"):
        made = vocabulary.byte_level_tokenizer(tokens, merges, kinds, pre)
        put("tokenizer", pre, made.encode() + b"\0" + TEXT.encode())
    pieces = ["<unk>", "<s>", "</s>", "<0x0A>", "<0xC3>", "<0xA9>", "▁the", "▁", "th", "he", *"theca, 3"]
    pieces = list(dict.fromkeys(pieces))
    kinds = [2, 3, 3] + [1] * (len(pieces) - 3)
    scores = [-float(i) for i in range(len(pieces))]
    made = vocabulary.scored_tokenizer(pieces, scores, kinds, "<unk>")
    put("tokenizer", "sentencepiece", made.encode() + b"\0the caf\xc3\xa9\nthe")
    document = json.loads(made)
    document["normalizer"] = {"type": "NFC"}
    document["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
    }
    put("tokenizer", "template", json.dumps(document).encode() + b"\0the the")
    put("tokenizer", "unigram", json.dumps(unigram()).encode() + b"\0 the  cafe\xcc\x81\r\n<s>  th")
    document = unigram() | {"normalizer": {"type": "NFKC"}, "added_tokens": added()}
    document["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": " {2,}"}, "behavior": "MergedWithNext", "invert": False},
            {"type": "Whitespace"},
            {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False},
        ],
    }
    document["decoder"] = {"type": "Strip", "content": "▁", "start": 1, "stop": 1}
    put("tokenizer", "added", json.dumps(document).encode() + "\0 a  <m> thé the \ufb01".encode())

    document = unigram() | {"normalizer": None, "pre_tokenizer": None, "sentencepiece": sentencepiece_form()}
    put("tokenizer", "form", json.dumps(document).encode() + "\0 a  <s>the thé  fee ".encode())


def sentencepiece_form() -> dict[str, Any]:
    """SentencePiece's normal form, as an artifact's metadata holds it."""
    flags = ["add_dummy_prefix", "prefix_after_tokens", "remove_extra_whitespaces", "escape_whitespaces"]
    return {"charsmap": charsmap(), "kept": ["fe", "  "], **dict.fromkeys(flags, True)}


def charsmap() -> str:
    """A character map that makes "he" of "t", and nothing of a combining accent, in base64."""
    # Unit 0 leads to 256 ^ byte; the accent's two bytes go on in the next block. Values are places in the texts.
    units = [0] * 1024
    units[0] = 256 << 10
    units[256 ^ 0x74] = (256 ^ 0x74 ^ 768) << 10 | 1 << 8 | 0x74
    units[768] = 1 << 31
    units[256 ^ 0xCC] = (256 ^ 0xCC ^ 512) << 10 | 0xCC
    units[512 ^ 0x81] = (512 ^ 0x81 ^ 769) << 10 | 1 << 8 | 0x81
    units[769] = 1 << 31 | 2
    return base64.b64encode(struct.pack(f"<I{len(units)}I", 4 * len(units), *units) + b"he\0").decode()


def unigram() -> dict[str, Any]:
    """A Unigram tokenizer."""
    pieces = ["<unk>", "<s>", "</s>", "<0x0A>", "<0xC3>", "<0xA9>", "▁", "▁the", "th", "he", "▁ca", "fe", "f", "e", "t"]
    return {
        "added_tokens": [],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Precompiled", "precompiled_charsmap": charsmap()},
                {"type": "Strip", "strip_left": False, "strip_right": True},
                {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
                {"type": "Lowercase"},
            ],
        },
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "ByteFallback"},
                {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
            ],
        },
        "model": {
            "type": "Unigram",
            "unk_id": 0,
            "byte_fallback": True,
            "vocab": [[piece, -1.5 * at - 0.37] for at, piece in enumerate(pieces)],
        },
    }


def added() -> list[dict[str, Any]]:
    """Added tokens of every flag."""
    flags = ["lstrip", "rstrip", "single_word", "normalized", "special"]
    return [
        {"id": at, "content": content, **{flag: flag in flags[at:] for flag in flags}}
        for at, content in enumerate(["<m>", "the", "a", "<s>", "f"])
    ]


def texts() -> None:
    """JSON of every kind of value."""
    every = r'{"a":[1,-2.5e-3,0,1E+2,true,false,null,"\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00é"],"b":{"":{}},"c":[[],[[]]]}'
    put("json", "every", every.encode())
    put("json", "number", b"-0.0e-0")
    put("json", "deep", b"[" * 31 + b"]" * 31)
    put("json", "broken", b'{"a":"\\ud800"}')


if __name__ == "__main__":
    models_and_records()
    sessions()
    tokenizers()
    texts()
    total = sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file())
    print(f"{sum(1 for path in CORPUS.rglob('*') if path.is_file())} inputs, {total} bytes")
