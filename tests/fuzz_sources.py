"""Hands damaged and foreign bytes to every reader of a source; anything but a sentence is a fault.

    python tests/fuzz_sources.py --inputs 200000 --boundary gguf

Each input is a small good file with bytes, values or parts exchanged, made from its number alone: a fault is found
again by `--first NUMBER --inputs 1`.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from builders import TINY, add_tokenizer, hf_config, write_folder
from gguf_files import write_gguf
from safetensors.numpy import save_file
from tokenizers import pre_tokenizers

from mobileloop.checkpoints.folder import load_folder
from mobileloop.checkpoints.gguf import load_gguf
from mobileloop.checkpoints.random import random_model
from mobileloop.checkpoints.weights import StoredTensors
from mobileloop.errors import MobileloopError
from mobileloop.tokenizer import Tokenizer

SMALL = TINY.model_copy(update={"num_blocks": 1, "vocab_size": 259, "hidden_size": 32, "intermediate_size": 32})
SMALL = SMALL.model_copy(update={"num_heads": 2, "num_kv_heads": 1})
VALUES = [None, True, False, 0, 1, -1, 2**31, 2**64, -(2**70), 1e308, 1e-320, "", "x", "\ud800", [], {}, [[]], {"a": 1}]
NAMES = ["rope_scaling", "bias", "vocab_size", "content", "special", "\0", "é", "a.b", "__type", "type", "model"]


def mutated_bytes(chance: random.Random, raw: bytes) -> bytes:
    """A few bytes exchanged, a stretch repeated, taken out or cut off; mostly near the beginning, where sizes stand."""
    data = bytearray(raw)
    for _ in range(chance.choice([1, 1, 2, 4, 16])):
        reach = len(data) if chance.random() < 0.3 else min(len(data), 2048)
        if reach < 2:
            break
        at = chance.randrange(reach)
        match chance.randrange(6):
            case 0:
                data[at] = chance.randrange(256)
            case 1:
                data[at : at + 8] = chance.choice([b"\xff" * 8, b"\0" * 8, b"\x01" + b"\0" * 7, b"\0" * 7 + b"\x80"])
            case 2:
                del data[at : at + chance.randrange(1, 64)]
            case 3:
                data[at:at] = data[at : at + chance.randrange(1, 64)]
            case 4:
                data[at] ^= 1 << chance.randrange(8)
            case _:
                del data[at:]
    return bytes(data)


def mutated_value(chance: random.Random, value: object, depth: int = 0) -> object:
    """A JSON value with one part exchanged."""
    if isinstance(value, dict) and value and depth < 8 and chance.random() < 0.85:
        changed = dict(value)
        key = chance.choice(list(changed))
        match chance.randrange(8):
            case 0:
                del changed[key]
            case 1:
                changed[chance.choice(NAMES)] = chance.choice(VALUES)
            case 2:
                changed[chance.choice(NAMES)] = changed.pop(key)
            case _:
                changed[key] = mutated_value(chance, changed[key], depth + 1)
        return changed
    if isinstance(value, list) and value and depth < 8 and chance.random() < 0.85:
        items = list(value)
        at = chance.randrange(len(items))
        match chance.randrange(4):
            case 0:
                del items[at]
            case 1:
                items.insert(at, items[chance.randrange(len(items))])
            case _:
                items[at] = mutated_value(chance, items[at], depth + 1)
        return items
    return chance.choice(VALUES)


class Boundary:
    """One reader: the good file, how an input is made of it, and what reads it."""

    def __init__(self, path: Path, read: Callable[[], object], values: bool) -> None:
        self.path, self.read, self.values = path, read, values
        self.good = path.read_bytes()

    def write(self, chance: random.Random) -> None:
        """Put one input in the good file's place."""
        if self.values and chance.random() < 0.8:
            value = json.loads(self.good)
            for _ in range(chance.choice([1, 1, 2, 3])):
                value = mutated_value(chance, value)
            self.path.write_bytes(json.dumps(value).encode())
        else:
            self.path.write_bytes(mutated_bytes(chance, self.good))


@contextmanager
def boundaries() -> Iterator[dict[str, Boundary]]:
    """Every boundary, on small files in memory where the system has such a place."""
    base = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    try:
        yield _boundaries(base)
    finally:
        shutil.rmtree(base)


def _boundaries(base: Path) -> dict[str, Boundary]:
    model = random_model(SMALL)
    folder = add_tokenizer(write_folder(base / "m", model))
    settings = {
        "bos_token": "<s>",
        "eos_token": {"content": "</s>", "lstrip": False, "normalized": False},
        "added_tokens_decoder": {"0": {"content": "<s>", "special": True}},
        "additional_special_tokens": ["<pad>"],
        "chat_template": [{"name": "default", "template": "{{ messages[0].content }}"}],
        "add_bos_token": True,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 2], "temperature": 0.6}))
    (folder / "special_tokens_map.json").write_text(json.dumps({"bos_token": {"content": "<s>"}, "pad_token": "<pad>"}))
    (folder / "added_tokens.json").write_text(json.dumps({"<pad>": 2}))
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    (folder / "config.json").write_text(json.dumps({**hf_config(SMALL), "rope_parameters": rope, "eos_token_id": 1}))
    sharded = write_folder(base / "s", model, shards=2)
    tensors = base / "t"
    tensors.mkdir()
    save_file({"a": np.ones((2, 3), np.float32), "b": np.ones(4, np.float16)}, tensors / "model.safetensors")

    def loaded() -> None:
        spec = load_folder(folder).tokenizer
        if spec is not None:
            tokenizer = Tokenizer(spec)
            tokenizer.decode(tokenizer.encode("a b\n<s>é"))

    def stored() -> None:
        held = StoredTensors(tensors)
        for name in held.dtypes:
            held.read(name)

    names = ("config", "tokenizer", "tokenizer_config", "generation_config", "special_tokens_map", "added_tokens")
    made = {name: Boundary(folder / f"{name}.json", loaded, True) for name in names}
    index = sharded / "model.safetensors.index.json"
    made["index"] = Boundary(index, lambda: load_folder(sharded), True)
    made["safetensors"] = Boundary(tensors / "model.safetensors", stored, False)
    path = write_gguf(base / "x.gguf", model, tokenizer=_gguf_tokenizer)
    made["gguf"] = Boundary(path, lambda: load_gguf(path), False)
    return made


def _gguf_tokenizer(writer) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(["<s>", "</s>", *alphabet, "he"])
    writer.add_token_types([3, 3] + [1] * 257)
    writer.add_token_merges(["h e"])
    writer.add_eos_token_id(1)
    writer.add_chat_template("{{ messages[0].content }}")


def run(boundary: Boundary, first: int, inputs: int) -> tuple[int, int]:
    """Try inputs `first` ... ; returns how many were read and how many refused. What else happens is raised."""
    read = refused = 0
    for number in range(first, first + inputs):
        boundary.write(random.Random(number))
        try:
            boundary.read()
            read += 1
        except MobileloopError as error:
            if "\n" in str(error) or len(str(error)) > 1000:
                raise AssertionError(f"input {number}: no sentence: {error}") from error
            refused += 1
        except BaseException:
            print(f"input {number} of {boundary.path.name}:", file=sys.stderr)
            raise
    boundary.path.write_bytes(boundary.good)
    return read, refused


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=20_000, help="of each boundary")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--boundary", action="append", help="only this one; may be given several times")
    given = parser.parse_args()
    failed = 0
    with boundaries() as known:
        for name in given.boundary or known:
            try:
                read, refused = run(known[name], given.first, given.inputs)
                print(f"{name}: {given.inputs} inputs, {read} read, {refused} refused", flush=True)
            except (Exception, KeyboardInterrupt):
                traceback.print_exc()
                failed += 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
