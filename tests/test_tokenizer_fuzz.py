"""Damaged tokenizers, templates, models and texts: a result or one sentence, and nothing on standard error.

`python tests/test_tokenizer_fuzz.py 200000` tries that many inputs.
"""

import copy
import json
import random
import sys
import tempfile
from functools import cache
from pathlib import Path

import pytest
import sentencepiece_models
from chat_forms import FORMS, REFUSING
from nasty_texts import nasty, random_texts
from tokenizers import Tokenizer as Raw
from vocabularies import all_kinds

from mobileloop.checkpoints.sentencepiece import sentencepiece_form, sentencepiece_tokenizer
from mobileloop.errors import MobileloopError
from mobileloop.spec.tokenizer import SentencePieceForm, TokenizerSpec
from mobileloop.tokenizer import TextStream, Tokenizer

VALUES = [
    None,
    True,
    False,
    0,
    1,
    -1,
    3,
    2**31,
    2**40,
    1.5,
    -1e308,
    "",
    "a",
    "▁",
    "é",
    "first",
    "isolated",
    "\ud800",
    [],
    {},
    [[]],
]
PARTS = [
    {"type": "Strip", "content": " ", "start": 2, "stop": 2},
    {"type": "Strip", "strip_left": True, "strip_right": True},
    {"type": "Prepend", "prepend": "▁"},
    {"type": "Replace", "pattern": {"String": ""}, "content": "x"},
    {"type": "Replace", "pattern": {"Regex": "(a|b"}, "content": ""},
    {"type": "Replace", "pattern": {"Regex": "^|$"}, "content": "--"},
    {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
    {"type": "Precompiled", "precompiled_charsmap": "CAAAAP//////////YQA="},
    {"type": "NFKC"},
    {"type": "Nmt"},
    {"type": "Lowercase"},
    {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True},
    {"type": "Digits", "individual_digits": True},
    {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    {"type": "ByteFallback"},
    {"type": "Fuse"},
    {"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": True},
    {"type": "WordPiece", "prefix": "##", "cleanup": True},
    {"type": "BPEDecoder", "suffix": ""},
    {"type": "FixedLength", "length": 0},
    {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}], "pair": [],
     "special_tokens": {}},
]  # fmt: skip
FITTING = {
    "normalizer": "Prepend Replace Precompiled NFKC Nmt Lowercase Strip",
    "pre_tokenizer": "Metaspace Digits ByteLevel FixedLength",
    "decoder": "Strip Replace Metaspace ByteLevel ByteFallback Fuse CTC WordPiece BPEDecoder",
    "post_processor": "ByteLevel TemplateProcessing",
}
KEYS = ("normalizer", "pre_tokenizer", "decoder", "post_processor", "truncation", "padding")


@cache
def originals():
    kinds = [json.loads(raw.to_str()) for raw in all_kinds().values()]
    small = json.loads(Raw.from_str(json.dumps(kinds[0])).to_str())
    small["model"]["vocab"] = {token: n for n, token in enumerate(["<s>", "</s>", "a", "b", "Ġ"])}
    small["added_tokens"] = small["added_tokens"][:2]
    return [*kinds, *[small] * 20]


def nodes(value, path=()):
    """Places of a JSON document, but few of a long list."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items)[:12]:
        yield from nodes(inner, (*path, key))


def changed(document, source):
    """The document with one to three places removed, replaced or swapped."""
    document = copy.deepcopy(document)
    for _ in range(source.choice([1, 1, 1, 2, 3])):
        if source.randrange(3):
            key = source.choice(KEYS[:4])
            fitting = [part for part in PARTS if part["type"] in FITTING[key]] if source.randrange(5) else PARTS
            parts = copy.deepcopy(source.choices(fitting, k=source.randrange(1, 4)))
            inner = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers", "decoder": "decoders"}
            many = {"type": "Sequence", inner.get(key, "processors"): parts}
            document[key] = source.choice([parts[0], many])
            continue
        path = source.choice([path for path in nodes(document) if path])
        holder = document
        for key in path[:-1]:
            holder = holder[key]
        if source.randrange(4) == 0:
            del holder[path[-1]]
        else:
            holder[path[-1]] = copy.deepcopy(source.choice([*VALUES, *PARTS]))
    return document


def used(spec, source):
    """Everything that is done with a tokenizer."""
    tokenizer = Tokenizer(spec)
    for text in ("", "a b", source.choice(nasty())):
        try:
            ids = tokenizer.encode(text)
        except MobileloopError:
            ids = []
        ids += [source.randrange(-1, 300) for _ in range(6)]
        assert isinstance(tokenizer.decode(ids), str)
        stream = TextStream(tokenizer, ids[:2])
        assert isinstance("".join([*map(stream.push, ids[2:]), stream.flush()]), str)


def fuzz_json(source):
    text = json.dumps(changed(source.choice(originals()), source))
    if source.randrange(8) == 0:
        at = source.randrange(len(text))
        text = (
            text[:at] + source.choice(["", "\0", "[[", '"', "}", "\ud800", "9" * 40]) + text[at + source.randrange(9) :]
        )
    used(TokenizerSpec.model_construct(json_text=text, sentencepiece=None, add_bos=False, bos_id=None), source)


def fuzz_template(source):
    text = source.choice(list(FORMS.values()) + list(REFUSING.values()))
    tokens = [
        "{{",
        "}}",
        "{%",
        "%}",
        " for ",
        " in ",
        "messages",
        "|",
        "(",
        ")",
        "'",
        "3",
        "~",
        "\n",
        "é",
        "[0]",
        "**",
        "-%}",
    ]
    for _ in range(source.choice([1, 1, 1, 3])):
        at = source.randrange(len(text) + 1)
        text = text[:at] + source.choice([*tokens, ""]) + text[at + source.choice([0, 0, 1, 4]) :]
    tokenizer().chat_text_of(text, source.choice([None, "Be brief."]))


class Templates:
    """A tokenizer whose template changes."""

    def __init__(self):
        self.spec = TokenizerSpec(json_text=all_kinds()["byte level"].to_str(), bos_token="<s>", eos_token="</s>")
        self.tokenizer = Tokenizer(self.spec)

    def chat_text_of(self, template, system):
        self.tokenizer.spec = self.spec.model_copy(update={"chat_template": template})
        assert isinstance(self.tokenizer.chat_text("hello", system), str)


@cache
def tokenizer():
    return Templates()


@cache
def model_file():
    return Path(tempfile.mkdtemp()) / "tokenizer.model"


SMALL = [
    *(
        sentencepiece_models.piece(text, -n, kind)
        for n, (text, kind) in enumerate([("<unk>", 2), ("<s>", 3), ("a", 1)])
    ),
    *(
        sentencepiece_models.piece(text, -n, kind)
        for n, (text, kind) in enumerate([("▁a", 1), ("b", 4), ("▁", 1), ("c", 5)])
    ),
]


def fuzz_model(source):
    field = sentencepiece_models.field
    charsmap = source.choice([b"", b"\x04\0\0\0abcdx\0", bytes(40), source.randbytes(60)])
    rules = field(2, charsmap) + b"".join(field(n, source.randrange(2)) for n in (3, 4, 5))
    if source.randrange(9) == 0:
        rules += field(source.randrange(1, 9), source.choice([1, b"a"]))
    data = bytearray(b"".join(SMALL) + field(2, field(3, source.choice([1, 2]))) + field(3, rules))
    for _ in range(source.choice([0, 0, 1, 3])):
        at = source.randrange(len(data))
        if source.randrange(2):
            data[at] = source.randrange(256)
        else:
            del data[at : at + source.randrange(5)]
    path = model_file()
    path.write_bytes(data)
    spec = TokenizerSpec(json_text=sentencepiece_tokenizer(path), sentencepiece=sentencepiece_form(path))
    used(spec, source)


@cache
def whole_tokenizers():
    forms = [SentencePieceForm(remove_extra_whitespaces=True, kept=("a b", "<x>"))]
    plain = [TokenizerSpec(json_text=raw.to_str()) for raw in all_kinds().values()]
    return [
        Tokenizer(spec) for spec in [*plain, *(one.model_copy(update={"sentencepiece": forms[0]}) for one in plain)]
    ]


def fuzz_text(source):
    one = source.choice(whole_tokenizers())
    text = next(random_texts(1, source.randrange(1 << 30)))
    if source.randrange(20) == 0:
        text += "\udcff"  # not UTF-8
    one.decode(one.encode(text, special=source.randrange(2) == 0))


FUZZERS = {"JSON": fuzz_json, "template": fuzz_template, "model": fuzz_model, "text": fuzz_text}


def fuzz(name, count, seed):
    """How many inputs were taken, and how many refused with one sentence."""
    source = random.Random(seed)
    taken = refused = 0
    for _ in range(count):
        state = source.getstate()
        try:
            FUZZERS[name](source)
            taken += 1
        except MobileloopError as refusal:
            told = str(refusal)
            assert "\n" not in told, state
            assert told.endswith("."), told
            refused += 1
        except BaseException:
            Path("/tmp/fuzz-state.txt").write_text(repr(state)) if __name__ == "__main__" else None
            raise
    return taken, refused


@pytest.mark.parametrize(("name", "count"), [("JSON", 1500), ("template", 600), ("model", 1500), ("text", 1500)])
def test_everything_is_a_result_or_a_sentence(name, count, capfd):
    taken, refused = fuzz(name, count, 1)
    assert taken > count / 20
    assert refused > count / 200
    assert capfd.readouterr().err == ""


if __name__ == "__main__":
    for kind in FUZZERS:
        print(kind, "taken and refused:", fuzz(kind, int(sys.argv[1]) // len(FUZZERS), 2), flush=True)
