"""The standalone program's tokenizer, under the sanitizers: ids, texts and streams of the `tokenizers` library."""

import base64
import json
import random
import subprocess
import unicodedata
from pathlib import Path

import pytest
import sentencepiece
import sentencepiece_models
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nasty_texts import nasty, random_texts
from programs import SLOW_S, engine_tests
from tokenizer_kinds import (
    CLASSES,
    CLUSTERS,
    KINDS,
    META,
    VARIANTS,
    added,
    byte_level,
    changed,
    charsmap,
    document,
    metaspace,
    own_charsmap,
    pieces,
    scored,
    sequence,
    unigram,
)
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from mobileloop.checkpoints.load import load_checkpoint
from mobileloop.checkpoints.sentencepiece import sentencepiece_form, sentencepiece_tokenizer
from mobileloop.spec.tokenizer import TokenizerSpec
from mobileloop.tokenizer import Tokenizer as OurTokenizer

ROOT = Path(__file__).resolve().parents[1]
TABLES = ROOT / "runtime_bench" / "engine" / "tokenizer" / "unicode_tables.h"
pytestmark = pytest.mark.timeout(SLOW_S)


@pytest.fixture(scope="module")
def program():
    return engine_tests("sanitize", "tokenize_lines") / "tokenize_lines"


@pytest.fixture
def answers_of(program, tmp_path):
    """answers_of(spec, texts) -> one document per text; texts are lists of ids where `ids` is set."""

    def of(spec, texts, ids=False):
        (tmp_path / "spec.json").write_text(json.dumps(spec))
        given = [json.dumps(text).encode() if ids else text.encode() for text in texts]
        given = b"".join(b"%d\n" % len(text) + text for text in given)
        words = [program, tmp_path / "spec.json", *(["ids"] if ids else [])]
        done = subprocess.run(words, input=given, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode(errors="replace")[-4000:]
        return [json.loads(line) for line in done.stdout.splitlines()]

    return of


@pytest.fixture
def answers(answers_of):
    """The same of a tokenizer's JSON alone."""
    return lambda json_text, texts, ids=False: answers_of({"json_text": json_text, "add_bos": False}, texts, ids)


def library(json_text):
    """The library's tokenizer; truncation and padding that were saved never touch a prompt."""
    made = Tokenizer.from_str(json_text)
    made.no_truncation()
    made.no_padding()
    return made


def check_text(theirs, ids, told):
    """The text of ids at once, streamed, and streamed behind the first half of them."""
    whole, half = theirs.decode(ids), theirs.decode(ids[: len(ids) // 2])
    assert told["text"] == whole, ids
    assert told["streamed"] == whole, ids
    assert told["behind"] == half, ids
    assert told["streamed_behind"] == whole[len(half) :], ids


def check_texts(answers, json_text, texts):
    """Ids and texts are the library's for each of these texts."""
    theirs = library(json_text)
    for text, told in zip(texts, answers(json_text, texts), strict=True):
        ids = theirs.encode(text).ids
        assert told.get("ids") == ids, (text, told)
        check_text(theirs, ids, told)


@pytest.mark.parametrize("name", CLASSES)
def test_ids_are_those_of_the_library(answers, name):
    json_text = document(name)
    check_texts(answers, json_text, [*nasty(), *random_texts(10_000, 1, pieces(json_text))])


@pytest.mark.parametrize("name", VARIANTS)
def test_ids_of_variants_are_those_of_the_library(answers, name):
    json_text = document(name)
    check_texts(answers, json_text, [*nasty(), *random_texts(500, 2, pieces(json_text))])


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(max_size=40), min_size=40, max_size=120), name=st.sampled_from(list(KINDS)))
def test_ids_of_any_text(answers, texts, name):
    check_texts(answers, document(name), texts)


@pytest.mark.parametrize("name", KINDS)
def test_text_of_any_ids_is_that_of_the_library(answers, name):
    """Byte tokens and what is in them, special ones, holes and ids beyond the vocabulary."""
    json_text = document(name)
    theirs, source = library(json_text), random.Random(name)
    odd = [id for token, id in theirs.get_vocab().items() if token[:1] == "<" or len(token) < 3 or not token.isascii()]
    most = max(theirs.get_vocab().values()) + 9
    sequences = [
        [source.choice(odd) if source.random() < 0.7 else source.randrange(most) for _ in range(source.randrange(14))]
        for _ in range(1000 if name in CLASSES else 250)
    ]
    for ids, told in zip(sequences, answers(json_text, sequences, ids=True), strict=True):
        check_text(theirs, ids, told)


def focused(letters, count=3000, longest=9):
    """Random short texts of few letters, which meet each other in many ways."""
    source = random.Random("".join(letters))
    return ["".join(source.choices(letters, k=source.randrange(1, longest))) for _ in range(count)]


CLUSTER_LETTERS = [
    *"ax\r\n\0 \u0301\u0300\u0600\u200d\u200c\u00a9\u00ae\u2764\u0915\u094d\u093c\u0903\u1100\u1161\u11a8\uac00\uac01",
    *"\u0d4e\u00ad\u200b\U0001f642\U0001f468\U0001f1e6\U000e0031\U00011357",
]
MARKS = [
    *"\u0301\u0323\u0307\u0300\u0344\u3099\u0345\u0334\u1161\u11a8\u1100\uac00\u0d3e\u09beeas\u1e9b\u017f\u2126\u212b",
    *"\ufb01\ufdfa\u3300\u304b\uff76\uff9e\u0fb2\u0f71\u0f80\U0001d15e\u0958",
]


@pytest.mark.parametrize("name", ["NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "ALBERT"])
def test_marks_are_ordered_and_joined_as_by_the_library(answers, name):
    check_texts(answers, document(name), focused(MARKS))


@pytest.mark.parametrize("name", ["clusters", "charsmap", "charsmap case folded"])
def test_grapheme_clusters_are_those_of_the_library(answers, name):
    check_texts(answers, document(name), focused(CLUSTER_LETTERS, 6000))


ADDED_LETTERS = ["the", "cat", "<r>", "<mask>", "<both>", "\u00c9T\u00c9", "\u00e9t\u00e9", *"  abdT\n_\u3000\u65e5"]


@pytest.mark.parametrize("name", ["added", "added lowercase", "added SentencePiece", "added Unigram"])
def test_added_tokens_are_found_as_by_the_library(answers, name):
    check_texts(answers, document(name), focused(ADDED_LETTERS))


def test_where_a_piece_began_is_known_through_every_change(answers):
    """Only the piece at the very beginning gets a space, whatever the normalizers made of it."""
    tokens = json.loads(unigram())["added_tokens"]

    def first(normalizer, *contents):
        more = [
            added(content, 9, normalized=True, lstrip=at % 2 == 0, rstrip=at % 3 == 0, single_word=at % 5 == 4)
            for at, content in enumerate(contents)
        ]
        return changed(
            unigram(), normalizer=normalizer, pre_tokenizer=metaspace("first"), added_tokens=[*tokens, *more]
        )

    check_texts(answers, first(own_charsmap(CLUSTERS), "AA", "BB", "A", "C", "f"), focused([*CLUSTER_LETTERS, *"bcf"]))
    check_texts(answers, first({"type": "NFKC"}, "f", "i", "s", "\u0323", "\u1161"), focused([*MARKS, *"fi\ufb03"]))
    every = sequence(
        "normalizers",
        {"type": "Strip", "strip_left": True, "strip_right": True},
        {"type": "Prepend", "prepend": "xy"},
        {"type": "Replace", "pattern": {"String": "y"}, "content": "zz"},
        {"type": "Nmt"},
        {"type": "StripAccents"},
        {"type": "Lowercase"},
    )
    check_texts(answers, first(every, "x", "zz", "a", "b", "i", "\u0130"), focused([*"  ab\x01\u0301xy\u0130i\t"]))


@pytest.mark.parametrize(
    "name",
    ["llama-3", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt", "charsmap", "clusters", "whitespace"],
)
def test_every_character(answers, name):
    json_text = byte_level("llama-bpe") if name == "llama-3" else document(name)
    alike = [(0x3400, 0xA000), (0xAC00, 0xE000), (0x17000, 0x18B00), (0x20000, 0x2F800), (0x2FA20, 0x40000)]
    codes = [code for code in range(0x110000) if code % 37 == 0 or not any(a <= code < b for a, b in alike)]
    codes = [code for code in codes if not 0xD800 <= code < 0xE000]
    assigned = [chr(code) for code in codes if unicodedata.category(chr(code)) not in ("Cn", "Co") or code % 97 == 0]
    texts = ["a".join(assigned[at : at + 500]) for at in range(0, len(assigned), 500)]
    theirs = library(json_text)
    for text, told in zip(texts, answers(json_text, texts), strict=True):
        assert told["ids"] == theirs.encode(text).ids, hex(ord(text[0]))


# -- SentencePiece's own normal form -------------------------------------------------------------------

FORM_TOKENS = [
    AddedToken("<mask>", lstrip=True, special=True),
    AddedToken("<r>", rstrip=True),
    AddedToken("word", single_word=True),
    AddedToken("<both>", lstrip=True, rstrip=True, special=True, normalized=False),
]


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kind", sentencepiece_models.KINDS)
def test_ids_of_sentencepiece_models_are_those_of_run(answers_of, tmp_path, kind, legacy):
    """What `mobileloop run` makes of a text and of ids, whose equality with SentencePiece is tested there."""
    path = tmp_path / "tokenizer.model"
    path.write_bytes(sentencepiece_models.trained(kind))
    first = sentencepiece.SentencePieceProcessor(model_proto=path.read_bytes()).get_piece_size()
    more = list(enumerate(FORM_TOKENS, first)) if legacy else []
    spec = sentencepiece_models.folder_spec(tmp_path / "folder", path.read_bytes(), more, legacy)
    spec = spec.model_copy(update={"bos_id": 1, "add_bos": True})
    ours, made = OurTokenizer(spec), pieces(spec.json_text)
    marks = ["<mask>", "<r>", "word", "<both>", "  <mask>", " <r>\u3000 ", "\x1c<mask>"] * 40
    texts = [*nasty(), *random_texts(800, 11, [*made, *marks])]
    for text, told in zip(texts, answers_of(json.loads(spec.model_dump_json()), texts), strict=True):
        ids = ours.encode(text)
        assert told.get("ids") == ids, (text, told)
        check_text(ours, ids, told)


@pytest.mark.parametrize(
    "tokens",
    [
        [AddedToken("<mask>", lstrip=True)],
        [AddedToken(" ", lstrip=True)],
        [AddedToken(" ", lstrip=True, rstrip=True)],
        [AddedToken("<mask>", lstrip=True), AddedToken(" ")],
        [AddedToken("Xq", lstrip=True, single_word=True), AddedToken("    ", rstrip=True)],
    ],
)
def test_runs_of_spaces_are_walked_once_by_added_tokens(answers_of, tmp_path, tokens):
    """A run so long that walking it from each of its places would not end in time, and its shape in short."""
    data = sentencepiece_models.trained("defaults")
    first = sentencepiece.SentencePieceProcessor(model_proto=data).get_piece_size()
    spec = sentencepiece_models.folder_spec(tmp_path / "folder", data, list(enumerate(tokens, first)))
    ours = OurTokenizer(spec)
    texts = [before + " " * count + behind for count in (9, 100_000) for before, behind in (("", ""), ("a", "<mask>b"))]
    texts += [" Xq \u3000 XqXq   Xq  <mask> ", " " * 100_000 + "aXq"]
    for text, told in zip(texts, answers_of(json.loads(spec.model_dump_json()), texts), strict=True):
        assert told["ids"] == ours.encode(text)
        assert told["streamed"] == told["text"]


@pytest.mark.parametrize("flags", [{"lstrip": True}, {"rstrip": True}, {"lstrip": True, "rstrip": True}])
def test_runs_of_spaces_are_walked_once_without_a_form(answers, flags):
    """The library walks each run many times, so that only a short one is compared with it."""
    made = Tokenizer.from_str(document("SentencePiece BPE"))
    made.add_tokens([AddedToken(" ", normalized=False, **flags), AddedToken("<m>", normalized=False, lstrip=True)])
    texts = [f"a{' ' * 20}<m>{' ' * 20}b", f"a{' ' * 100_000}<m>{' ' * 100_000}b"]
    short, long = answers(made.to_str(), texts)
    assert short["ids"] == made.encode(texts[0]).ids
    assert len(long["ids"]) > 2


@pytest.mark.parametrize("form", [{}, {"prepend_scheme": "never"}])
@pytest.mark.parametrize("strip", [0, 1, 3])
def test_a_stream_of_texts_of_nothing_stays_in_a_small_window(answers, form, strip):
    """Tokens whose text, each alone, is nothing: so many that decoding all again for each would not end in time."""
    made = Tokenizer(models.BPE(vocab={"<unk>": 0, "▁": 1, "x": 2, "": 3}, merges=[], unk_token="<unk>"))
    steps = [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", strip, 0)] if strip else []
    made.decoder = decoders.Sequence(steps) if steps else decoders.Metaspace(**form)
    for ids in ([1] * 40_000, [2, *[1] * 40_000, 2], [1, 1, 1, 1, 2] * 4000, [1, 3] * 20, [*[1] * 9, 3, 3, 1, 2, 1]):
        check_text(made, ids, answers(made.to_str(), [ids], ids=True)[0])


def test_damaged_rules_do_no_harm(answers_of, tmp_path):
    """Rules that lead astray give some text, the same as `mobileloop run` makes of them."""
    path = tmp_path / "tokenizer.model"
    path.write_bytes(sentencepiece_models.trained("unigram"))
    form, json_text = sentencepiece_form(path), sentencepiece_tokenizer(path)
    source = random.Random(6)
    for _ in range(5):
        rules = bytearray(form.charsmap)
        for _ in range(2000):
            rules[source.randrange(4, len(rules))] = source.randrange(256)
        spec = TokenizerSpec(
            json_text=json_text, sentencepiece={**form.model_dump(), "charsmap": base64.b64encode(rules)}
        )
        ours = OurTokenizer(spec)
        for text, told in zip(nasty(), answers_of(json.loads(spec.model_dump_json()), nasty()), strict=True):
            assert told.get("ids") == ours.encode(text), (text, told)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"charsmap": "x"}, "are not base64"),
        ({"charsmap": "/////w=="}, "are cut short"),
        ({"kept": [1]}, "a kept piece is not a string"),
        ({"add_dummy_prefix": None}, "add_dummy_prefix is not true or false"),
    ],
)
def test_a_damaged_form_is_refused(answers_of, changes, said):
    form = json.loads(TokenizerSpec(json_text="", sentencepiece={}).model_dump_json())["sentencepiece"]
    (told,) = answers_of({"json_text": scored(), "add_bos": False, "sentencepiece": {**form, **changes}}, ["x"])
    assert said in told["refused"]


# -- what is refused -----------------------------------------------------------------------------------


def _model(**changes):
    return {**json.loads(byte_level())["model"], **changes}


REFUSED = {
    "model": ({"model": {"type": "WordPiece", "vocab": {}}}, "the tokenizer's model is WordPiece"),
    "dropout": ({"model": _model(dropout=0.1)}, "drops merges at random"),
    "affix": ({"model": _model(end_of_word_suffix="</w>")}, "sets end_of_word_suffix"),
    "merge": ({"model": _model(merges=[["zz", "yy"]])}, "merge 0 of the tokenizer names a token outside"),
    "same id": ({"model": _model(vocab={"a": 1, "b": 1}, merges=[])}, "two tokens have the id 1"),
    "no vocabulary": ({"model": {"type": "Unigram", "unk_id": 0, "vocab": []}}, "vocabulary is empty"),
    "unk_id": ({"model": {"type": "Unigram", "unk_id": 3, "vocab": [["a", 0.0]]}}, "unk_id is 3 where"),
    "score": ({"model": {"type": "Unigram", "unk_id": 0, "vocab": [["a", "b"]]}}, "the score of a token is not"),
    "pair": ({"model": {"type": "Unigram", "unk_id": 0, "vocab": [["a"]]}}, "is not a text and its score"),
    "normalizer": ({"normalizer": {"type": "BertNormalizer"}}, "normalizer BertNormalizer is not known"),
    "nothing put in front": ({"normalizer": {"type": "Prepend", "prepend": ""}}, "Prepend puts nothing"),
    "regex": (
        {"normalizer": {"type": "Replace", "pattern": {"Regex": "a|b"}, "content": ""}},
        "the regular expression a|b, which this program does not know",
    ),
    "empty pattern": (
        {"normalizer": {"type": "Replace", "pattern": {"String": ""}, "content": "x"}},
        "looks for an empty text",
    ),
    "pre-tokenizer": ({"pre_tokenizer": {"type": "Punctuation"}}, "pre-tokenizer Punctuation is not known"),
    "words": (
        {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "\\w"}, "behavior": "Isolated", "invert": False}},
        "splits words by a regular expression other than",
    ),
    "behavior": (
        {"pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "Other", "invert": False}},
        "splits by the behavior Other",
    ),
    "scheme": ({"pre_tokenizer": metaspace("last")}, "prepend_scheme last is not known"),
    "two schemes": (
        {"pre_tokenizer": {"type": "Metaspace", "replacement": META, "add_prefix_space": False}},
        "add_prefix_space and prepend_scheme contradict each other",
    ),
    "two characters": ({"pre_tokenizer": {**metaspace("first"), "replacement": "ab"}}, "not one character"),
    "decoder": ({"decoder": {"type": "CTC"}}, "decoder CTC is not known"),
    "post-processor": ({"post_processor": {"type": "BertProcessing"}}, "post-processor BertProcessing is not known"),
    "empty added token": (
        {
            "normalizer": {"type": "Strip", "strip_left": True, "strip_right": True},
            "added_tokens": [added(" ", 9, normalized=True)],
        },
        "nothing is left of the added token",
    ),
    "equal added tokens": (
        {
            "normalizer": {"type": "Lowercase"},
            "added_tokens": [added("A", 9, normalized=True), added("a", 8, normalized=True)],
        },
        "two added tokens stand for the text 'a'",
    ),
    "deep": (
        {"decoder": json.loads('{"type": "Sequence", "decoders": [' * 6 + '{"type": "Fuse"}' + "]}" * 6)},
        "nest too deep",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_done_exactly_is_refused_by_name(answers, name):
    parts, said = REFUSED[name]
    (told,) = answers(changed(byte_level(), **parts), ["x"])
    assert said in told["refused"]


CHARSMAP = base64.b64decode(charsmap()["precompiled_charsmap"])
DAMAGED = {
    "none": b"",
    "short": b"\x01",
    "cut": CHARSMAP[: len(CHARSMAP) // 8],
    "no units": b"\0\0\0\0abc",
    "too long": b"\xff\xff\xff\xff" + CHARSMAP[4:],
    "not UTF-8": CHARSMAP + b"\xff",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_character_map_is_refused(answers, name):
    part = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(DAMAGED[name]).decode()}
    (told,) = answers(changed(unigram(), normalizer=part), ["x"])
    assert "the tokenizer's normalizer Precompiled is damaged: its character map" in told["refused"]


@pytest.mark.parametrize("text", ["A", "AAA", "AA=A", "A===", "AB==", "A\u00e9==", "AAAAA"])
def test_base64_is_read_strictly(answers, text):
    part = {"type": "Precompiled", "precompiled_charsmap": text}
    (told,) = answers(changed(unigram(), normalizer=part), ["x"])
    assert "is damaged" in told["refused"]


def test_a_character_map_that_leads_astray_does_no_harm(answers):
    """Changed bytes of its double array: each text has tokens or a refusal that names the map."""
    source, end = random.Random(4), 4 + int.from_bytes(CHARSMAP[:4], "little")
    for _ in range(12):
        data = bytearray(CHARSMAP)
        for _ in range(3000):
            data[source.randrange(4, end)] = source.randrange(256)
        part = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(data).decode()}
        for told in answers(changed(unigram(), normalizer=part), nasty()):
            assert "ids" in told or "Precompiled is damaged" in told["error"]


@pytest.mark.parametrize(
    ("json_text", "text", "fine"),
    [
        (lambda: changed(unigram(), model_unk_id=None, model_byte_fallback=False), "a \U0001f9ff", "a the"),
        (lambda: changed(scored(), model_unk_token="<none>", model_byte_fallback=False), "a \U0001f9ff", "a the"),
    ],
)
def test_a_text_without_tokens_is_refused_where_the_library_fails(answers, json_text, text, fine):
    theirs = library(json_text())
    with pytest.raises(Exception, match=r"unk|Unk"):
        theirs.encode(text)
    known, unknown = answers(json_text(), [fine, text])
    assert known["ids"] == theirs.encode(fine).ids
    assert "has no token for '\U0001f9ff', and its" in unknown["error"]


def test_strange_strips_lose_no_more_than_the_token(answers):
    """The library panics at tokens shorter than what is to be stripped."""
    strip = {"type": "Strip", "content": "a", "start": 2, "stop": 3}
    json_text = changed(byte_level(), decoder=strip)
    ids = [library(json_text).token_to_id(token) for token in ("a", "b", "a", "a")]
    (told,) = answers(json_text, [ids], ids=True)
    assert (told["text"], told["streamed"]) == ("b", "b")


def test_rules_that_make_endless_texts_are_stopped(answers):
    doubling = [{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}] * 60
    refused = "the tokenizer makes a text of more than 16 MiB"
    (told,) = answers(changed(byte_level(), normalizer=sequence("normalizers", *doubling)), ["a"])
    assert told["error"] == refused
    ids = [[library(byte_level()).token_to_id("a")]]
    (told,) = answers(changed(byte_level(), decoder=sequence("decoders", *doubling)), ids, ids=True)
    assert told["error"] == refused
    long = own_charsmap({"a": "x" * 1_000_000})
    (told,) = answers(changed(byte_level(), normalizer=long), ["a" * 5000])
    assert told["error"] == refused


# -- tables and real files -----------------------------------------------------------------------------


def test_the_character_tables_are_those_of_the_library():
    """Of characters that this interpreter knows; a later Unicode may add others."""
    source = TABLES.read_text()

    def table(name):
        body = source.split(f" {name}[] = {{")[1].split("};")[0]
        numbers = [int(number, 16) for number in body.replace("{", " ").replace("}", " ").replace(",", " ").split()]
        return {code for first, last in zip(*[iter(numbers)] * 2, strict=True) for code in range(first, last + 1)}

    known = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000 and unicodedata.category(chr(c)) != "Cn"]
    for name, pattern in (("kLetters", r"\p{L}"), ("kNumbers", r"\p{N}"), ("kSpaces", r"\s")):
        split = pre_tokenizers.Split(Regex(pattern), behavior="removed")
        kept = {ord(c) for piece, _ in split.pre_tokenize_str("".join(map(chr, known))) for c in piece}
        assert table(name) & set(known) == set(known) - kept
    digits = {code for code in known if unicodedata.category(chr(code)) in ("Nd", "Nl", "No")}
    assert table("kDigits") & set(known) == digits


@pytest.mark.real
def test_the_real_tokenizer(answers, real_source):
    json_text = load_checkpoint(str(real_source)).tokenizer.json_text
    check_texts(answers, json_text, [*nasty(), *random_texts(2000, 3)])
