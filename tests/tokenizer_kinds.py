"""Small tokenizers of every kind that the standalone program reads, as the `tokenizers` library's JSON."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable, Iterable
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import sentencepiece
from nasty_texts import nasty
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

import mobileloop
from mobileloop.checkpoints import vocabulary

Part = dict[str, Any]
CHATML_MARKS = ("<|im_start|>", "<|im_end|>")
META = "\u2581"


def _lines() -> list[str]:
    """A text to train on, of many scripts."""
    plain = (Path(mobileloop.__file__).parent / "data" / "verify.txt").read_text(encoding="utf-8")
    texts = [plain, *nasty()]
    lines = [line.replace("\0", "") for text in texts for line in text.splitlines()]
    return [line for line in lines if line.strip()]


def changed(json_text: str, **parts: Any) -> str:
    """A tokenizer with other parts; those of the model are named model_..."""
    document = json.loads(json_text)
    for name, value in parts.items():
        if name.startswith("model_"):
            document["model"][name.removeprefix("model_")] = value
        else:
            document[name] = value
    return json.dumps(document)


def added(content: str, token: int, **flags: bool) -> Part:
    """An added token; it is special and matches as it is where nothing else is said."""
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": token, "content": content, **plain, **flags}


def sequence(kind: str, *parts: Part) -> Part:
    """A Sequence of normalizers, pretokenizers or decoders."""
    return {"type": "Sequence", kind: list(parts)}


def metaspace(scheme: str, split: bool = True) -> Part:
    """SentencePiece's handling of spaces; a pre-tokenizer and a decoder."""
    return {"type": "Metaspace", "replacement": META, "prepend_scheme": scheme, "split": split}


def replace(pattern: str, content: str, kind: str = "String") -> Part:
    """A normalizer or decoder."""
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


@cache
def byte_level(pre: str = "gpt-2") -> str:
    """A byte-level BPE tokenizer with merges."""
    base = Tokenizer(models.BPE())
    base.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=list(CHATML_MARKS), initial_alphabet=alphabet, show_progress=False
    )
    base.train_from_iterator(_lines(), trainer)
    model = json.loads(base.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    merges = [" ".join(pair) for pair in model["merges"]]
    return vocabulary.byte_level_tokenizer(tokens, merges, [3, 3] + [1] * (len(tokens) - 2), pre)


@cache
def sentencepiece_model(kind: str, rules: str = "nmt_nfkc", byte_fallback: bool = True) -> Any:
    """The trained model's proto."""
    out = BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_lines()),
        model_writer=out,
        vocab_size=1000,
        model_type=kind,
        byte_fallback=byte_fallback,
        normalization_rule_name=rules,
        character_coverage=0.98,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
    )
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(out.getvalue())
    return proto


@cache
def scored(add_space: bool = True) -> str:
    """A SentencePiece BPE tokenizer with byte tokens, as `mobileloop export` makes it."""
    pieces = sentencepiece_model("bpe").pieces
    kinds = [{2: 2, 3: 3}.get(piece.type, 1) for piece in pieces]
    names, scores = [piece.piece for piece in pieces], [piece.score for piece in pieces]
    return vocabulary.scored_tokenizer(names, scores, kinds, "<unk>", add_space)


@cache
def charsmap(rules: str = "nmt_nfkc") -> Part:
    """The normalizer of a trained model."""
    raw = sentencepiece_model("unigram", rules).normalizer_spec.precompiled_charsmap
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(raw).decode()}


@cache
def unigram(byte_fallback: bool = True) -> str:
    """A Unigram tokenizer as people convert it from SentencePiece."""
    pieces = sentencepiece_model("unigram", byte_fallback=byte_fallback).pieces
    steps = [{"type": "ByteFallback"}] if byte_fallback else []
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [added(name, at) for at, name in enumerate(("<unk>", "<s>", "</s>"))],
            "normalizer": sequence("normalizers", charsmap(), replace(" {2,}", " ", "Regex")),
            "pre_tokenizer": metaspace("always"),
            "post_processor": None,
            "decoder": sequence("decoders", *steps, metaspace("always")),
            "model": {
                "type": "Unigram",
                "unk_id": 0,
                "vocab": [[piece.piece, piece.score] for piece in pieces],
                "byte_fallback": byte_fallback,
            },
        }
    )


def trie(keys: dict[bytes, int]) -> bytes:
    """A double array as SentencePiece's: keys to values, one block of 256 units for each node."""
    nodes: list[dict[int, int]] = [{}]
    leaves: dict[int, int] = {}
    for key, value in keys.items():
        at = 0
        for byte in key:
            if byte not in nodes[at]:
                nodes.append({})
                nodes[at][byte] = len(nodes) - 1
            at = nodes[at][byte]
        leaves[at] = value
    units = [0] * (256 * (len(nodes) + 1))

    def link(unit: int, node: int) -> int:
        """The offset from a unit to the block of a node."""
        return (unit ^ 256 * (node + 1)) << 10 | (1 << 8 if node in leaves else 0)

    units[0] = link(0, 0)
    for node, children in enumerate(nodes):
        for byte, child in children.items():
            unit = 256 * (node + 1) ^ byte
            units[unit] = link(unit, child) | byte
        if node in leaves:
            units[256 * (node + 1)] = 1 << 31 | leaves[node]
    return struct.pack(f"<I{len(units)}I", 4 * len(units), *units)


def own_charsmap(rules: dict[str, str]) -> Part:
    """A character map of these texts and what replaces them."""
    texts, keys = b"\0", {}
    for text, replacement in rules.items():
        keys[text.encode()] = len(texts)
        texts += replacement.encode() + b"\0"
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(trie(keys) + texts).decode()}


# Replacements of all lengths, of parts of grapheme clusters and of what lies in longer ones.
CLUSTERS = {
    **{c: c.upper() * 2 for c in "abcxyz"},
    "e\u0301": "\u00e9",
    "\u00a9": "(c)",
    "\u0600": "?",
    "\u0915": "k",
    "\u1161": "V",
    "\u0301": "",
    "\n": " ",
    "\r": "R",
    "\u200d": "",
    " ": META,
    "\U0001f642": ":)",
}


def template(marks: Iterable[str] = CHATML_MARKS) -> Part:
    """A post-processor that puts the tokens 0 and 1 around a text."""
    first, last = marks
    around = {first: 0, last: 1}
    return {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": first, "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": last, "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {name: {"id": name, "ids": [id], "tokens": [name]} for name, id in around.items()},
    }


def _with_added(json_text: str, **parts: Any) -> str:
    """Added tokens of every flag, in the vocabulary and beyond it."""
    flags: list[tuple[str, dict[str, bool]]] = [
        ("<mask>", {"lstrip": True}),
        ("<r>", {"rstrip": True}),
        ("<both>", {"lstrip": True, "rstrip": True}),
        ("cat", {"single_word": True, "special": False}),
        ("the", {"single_word": True, "special": False, "normalized": True}),
        ("\u00c9T\u00c9", {"normalized": True, "special": False}),
        ("<|im_start|>", {"normalized": True}),
        ("<|im_end|>", {}),
        ("  ", {"special": False}),
        ("\u65e5", {"special": False, "lstrip": True, "normalized": True}),
        ("ab", {"normalized": True}),
    ]
    tokens = json.loads(json_text)["added_tokens"]
    names = {token["content"] for token in tokens}
    more = [added(content, 5000 + at, **flag) for at, (content, flag) in enumerate(flags) if content not in names]
    return changed(json_text, added_tokens=[*tokens, *more], **parts)


def _byte_level(**settings: bool) -> Part:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True, **settings}


def _split(pattern: Part, behavior: str, invert: bool = False) -> Part:
    return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}


def _splits() -> dict[str, Callable[[], str]]:
    kinds = {}
    for behavior in ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
        for name, pattern in (("space", {"String": " "}), ("a", {"String": "aa"}), ("spaces", {"Regex": r"\s+"})):
            for invert in (False, True):
                step = _split(pattern, behavior, invert)
                kinds[f"split {behavior} {name} {invert}"] = lambda step=step: changed(
                    byte_level(),
                    pre_tokenizer=sequence("pretokenizers", step, _byte_level(use_regex=False)),
                )
    return kinds


def _normalized(*steps: Part) -> Callable[[], str]:
    """A byte-level tokenizer, which keeps every character, behind normalizers."""
    return lambda: changed(byte_level(), normalizer=sequence("normalizers", *steps))


# The three classes as people have them.
CLASSES: dict[str, Callable[[], str]] = {
    "byte-level BPE": lambda: byte_level("llama-bpe"),
    "SentencePiece BPE": scored,
    "Unigram": unigram,
}

VARIANTS: dict[str, Callable[[], str]] = {
    "gpt-2": byte_level,
    "smollm": lambda: byte_level("smollm"),
    "qwen2": lambda: byte_level("qwen2"),
    "template": lambda: changed(byte_level(), post_processor=template()),
    "prefix": lambda: changed(byte_level(), pre_tokenizer=_byte_level(add_prefix_space=True)),
    "no regex": lambda: changed(byte_level(), pre_tokenizer=_byte_level(use_regex=False, add_prefix_space=True)),
    "bare": lambda: changed(byte_level(), pre_tokenizer=None, decoder=None),
    "truncated and padded": lambda: changed(
        byte_level(),
        truncation={"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        padding={
            "strategy": {"Fixed": 32},
            "direction": "Left",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "<|im_start|>",
        },
    ),
    **{form: _normalized({"type": form}) for form in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents")},
    "Nmt": _normalized({"type": "Nmt"}),
    "strip": _normalized({"type": "Strip", "strip_left": True, "strip_right": True}),
    "strip left": _normalized({"type": "Strip", "strip_left": True, "strip_right": False}),
    "strip right": _normalized({"type": "Strip", "strip_left": False, "strip_right": True}),
    "replace": _normalized(replace("a", "bb"), replace(" ", ""), {"type": "Prepend", "prepend": "x "}),
    "replace spaces": _normalized(replace(r"\s+", "_", "Regex")),
    "byte-level normalizer": lambda: changed(byte_level(), normalizer={"type": "ByteLevel"}, pre_tokenizer=None),
    "charsmap": lambda: changed(byte_level(), normalizer=charsmap()),
    "charsmap nfkc": lambda: changed(byte_level(), normalizer=charsmap("nfkc")),
    "charsmap case folded": lambda: changed(byte_level(), normalizer=charsmap("nmt_nfkc_cf")),
    "clusters": lambda: changed(byte_level(), normalizer=own_charsmap(CLUSTERS)),
    "ALBERT": lambda: changed(
        unigram(),
        normalizer=sequence(
            "normalizers",
            replace("``", '"'),
            replace("''", '"'),
            {"type": "NFKD"},
            {"type": "StripAccents"},
            {"type": "Lowercase"},
            charsmap(),
            {"type": "Strip", "strip_left": False, "strip_right": True},
            replace(" {2,}", META, "Regex"),
        ),
    ),
    "T5": lambda: changed(
        unigram(False), pre_tokenizer=sequence("pretokenizers", {"type": "WhitespaceSplit"}, metaspace("always"))
    ),
    "whitespace": lambda: changed(
        unigram(), pre_tokenizer=sequence("pretokenizers", {"type": "Whitespace"}, metaspace("first"))
    ),
    "Unigram without unknown bytes": lambda: unigram(False),
    "Unigram whole": lambda: changed(
        unigram(), pre_tokenizer=metaspace("first", False), normalizer=None, decoder=metaspace("first")
    ),
    "Unigram never": lambda: changed(unigram(), pre_tokenizer=metaspace("never"), decoder=metaspace("never")),
    "Unigram old metaspace": lambda: changed(
        unigram(), pre_tokenizer={"type": "Metaspace", "replacement": META, "add_prefix_space": True}
    ),
    "Unigram first behind strip": lambda: _with_added(
        unigram(),
        normalizer={"type": "Strip", "strip_left": True, "strip_right": False},
        pre_tokenizer=metaspace("first"),
    ),
    "Unigram first behind a character map": lambda: _with_added(unigram(), pre_tokenizer=metaspace("first")),
    "Unigram first behind NFKC": lambda: _with_added(
        unigram(), normalizer={"type": "NFKC"}, pre_tokenizer=metaspace("first")
    ),
    "Unigram with equal pieces": lambda: changed(
        unigram(), model_vocab=[*json.loads(unigram())["model"]["vocab"], ["the", -1.5], ["the", -0.5], ["", -1.0]]
    ),
    "Unigram with few digits": lambda: changed(
        unigram(),
        model_vocab=[
            [piece, round(score, 1) if at % 3 else score / 3e5]
            for at, (piece, score) in enumerate(json.loads(unigram())["model"]["vocab"])
        ],
    ),
    "SentencePiece bare": lambda: scored(False),
    "SentencePiece unknown": lambda: changed(scored(), model_byte_fallback=False),
    "SentencePiece unknown apart": lambda: changed(scored(), model_byte_fallback=False, model_fuse_unk=False),
    "SentencePiece dropped": lambda: changed(scored(), model_byte_fallback=False, model_unk_token=None),
    "SentencePiece by Metaspace": lambda: changed(
        scored(),
        normalizer=None,
        pre_tokenizer=metaspace("first", False),
        decoder=sequence("decoders", replace(META, " "), {"type": "ByteFallback"}, {"type": "Fuse"}),
    ),
    "Gemma": lambda: changed(
        scored(False),
        normalizer=replace(" ", META),
        pre_tokenizer=_split({"String": " "}, "MergedWithPrevious"),
        decoder=sequence("decoders", replace(META, " "), {"type": "ByteFallback"}, {"type": "Fuse"}),
    ),
    "added": lambda: _with_added(byte_level()),
    "added lowercase": lambda: _with_added(byte_level(), normalizer={"type": "Lowercase"}),
    "added SentencePiece": lambda: _with_added(scored()),
    "added Unigram": lambda: _with_added(unigram()),
    "stripped answers": lambda: changed(
        scored(),
        decoder=sequence(
            "decoders",
            replace(META, " "),
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 2, "stop": 0},
        ),
    ),
    "replaced answers": lambda: changed(
        scored(), decoder=sequence("decoders", {"type": "Fuse"}, replace(META, " "), replace("  ", "_"))
    ),
    "stripped tokens": lambda: changed(
        scored(),
        decoder=sequence("decoders", replace(META, "  "), {"type": "Strip", "content": " ", "start": 1, "stop": 0}),
    ),
    "answers of bytes": lambda: changed(
        scored(), decoder=sequence("decoders", {"type": "ByteFallback"}, metaspace("always"))
    ),
    "old merges": lambda: changed(
        byte_level(), model_merges=[" ".join(pair) for pair in json.loads(byte_level())["model"]["merges"]]
    ),
    "holes": lambda: changed(
        byte_level(),
        model_vocab={token: id * 3 for token, id in json.loads(byte_level())["model"]["vocab"].items()},
        added_tokens=[added("<|im_start|>", 0), added("<|im_end|>", 3), added("<new>", 9000)],
    ),
    **_splits(),
}
KINDS = CLASSES | VARIANTS


def document(name: str) -> str:
    """The JSON of a tokenizer of KINDS."""
    return KINDS[name]()


def pieces(json_text: str) -> list[str]:
    """Pieces of a vocabulary, to make texts of."""
    vocab = json.loads(json_text)["model"]["vocab"]
    tokens = list(vocab) if isinstance(vocab, dict) else [piece for piece, _ in vocab]
    stand_ins = {"\u0120": " ", "\u010a": "\n", META: " "}
    return ["".join(stand_ins.get(c, c) for c in token) for token in tokens][:2000]
