"""`tokenizer.model` files: ids equal to SentencePiece's own, added tokens, and what is refused.

`python tests/test_checkpoints_sentencepiece.py 10000` compares that many random texts for every kind of model.
"""

import re
import struct
import sys
import tempfile
from functools import cache
from pathlib import Path

import pytest
import sentencepiece
from nasty_texts import nasty, random_texts
from sentencepiece_models import KINDS, field, folder_spec, piece, trained
from tokenizers import AddedToken

from mobileloop.checkpoints.sentencepiece import sentencepiece_form, sentencepiece_tokenizer, settled
from mobileloop.checkpoints.sentencepiece_model import read_model
from mobileloop.errors import MobileloopError
from mobileloop.spec.tokenizer import TokenizerSpec
from mobileloop.tokenizer import Tokenizer

CONTROL = re.compile("<s>|</s>|<unk>|<ctl>")


@cache
def file_of(kind):
    """The model's file; kept for the whole run."""
    path = Path(tempfile.mkdtemp()) / "tokenizer.model"
    path.write_bytes(trained(kind))
    return path


def ours_of(path, legacy=False):
    text = sentencepiece_tokenizer(path, legacy)
    return Tokenizer(TokenizerSpec(json_text=text, sentencepiece=sentencepiece_form(path, legacy)))


def theirs_of(data):
    return sentencepiece.SentencePieceProcessor(model_proto=data)


def check(kind, count, seed):
    """Ids of nasty and random texts, and the text of ids."""
    ours, theirs = ours_of(file_of(kind)), theirs_of(trained(kind))
    pieces = [theirs.id_to_piece(i).replace("▁", " ") for i in range(theirs.get_piece_size())]
    compared = 0
    for text in [*nasty(), *random_texts(count, seed, pieces)]:
        if CONTROL.search(text):  # tokens here, as in transformers; text in SentencePiece
            continue
        assert ours.encode(text, special=False) == theirs.encode(text), (kind, text)
        compared += 1
    assert compared > 0.9 * (200 + count)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_ids_equal_sentencepiece(kind):
    check(kind, 10_000 if kind in ("Llama", "defaults", "unigram") else 1000, 5)


@pytest.mark.parametrize("kind", ["Llama", "no space in front", "digits and spaces", "unigram, plain"])
def test_text_comes_back(kind):
    ours, theirs = ours_of(file_of(kind)), theirs_of(trained(kind))
    for text in ["the cat", " the cat", "a  b ", "日本 🙂", "línea\nñ", "<0x41>", "", "▁"]:
        ids = theirs.encode(text)
        assert ours.decode(ids) == text.replace("▁", " ")


@pytest.mark.parametrize("kind", ["user-defined", "user-defined and rules", "unigram, user-defined"])
def test_user_defined_pieces_are_one_token_wherever_they_stand(kind):
    ours, theirs = ours_of(file_of(kind)), theirs_of(trained(kind))
    for mark in ("<|im_start|>", "<|im_end|>"):
        for text in (
            mark,
            f"{mark}the cat",
            f"the{mark}",
            f"the {mark} cat",
            f"{mark}{mark}",
            f" {mark} ",
            f"a{mark}b",
        ):
            ids = ours.encode(text, special=False)
            assert ids == theirs.encode(text), text
            assert ids.count(theirs.piece_to_id(mark)) == text.count(mark)


# -- control and added tokens ----------------------------------------------------------------------------


def added(path, *texts, special=True, **flags):
    size = len(read_model(path).pieces)
    tokens = (AddedToken(text, special=special, normalized=False, **flags) for text in texts)
    return [(size + index, token) for index, token in enumerate(tokens)]


@pytest.mark.parametrize("kind", ["Llama", "no space in front", "defaults", "user-defined and rules", "unigram"])
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("special", [False, True])
def test_added_tokens_have_their_ids_and_cut_the_text(tmp_path, kind, legacy, special):
    path, theirs = file_of(kind), theirs_of(trained(kind))
    tokens = added(path, "<|user|>", "<|end|>", special=special)
    ours = Tokenizer(folder_spec(tmp_path, trained(kind), tokens, legacy))
    first, last = (number for number, _ in tokens)
    bare = theirs_of(without_prefix(trained(kind)))
    behind = theirs if legacy else bare
    for left, right in (("the cat", "sat"), ("", "the cat"), ("", ""), ("a", ""), (" a ", " b "), ("日", "🙂")):
        ids = ours.encode(f"{left}<|user|>{right}<|end|>", special=False)
        assert ids == [*theirs.encode(left), first, *behind.encode(right), last]
    assert ours.encode("x<s>y", special=False) == [*theirs.encode("x"), theirs.bos_id(), *behind.encode("y")]


def without_prefix(data):
    """The same model without a space in front: a later field of a message overrules an earlier one."""
    return data + field(3, field(3, 0))


def test_tokens_that_are_added_later_are_settled():
    from tokenizers import Tokenizer as Raw

    path = file_of("Llama")
    raw = Raw.from_str(sentencepiece_tokenizer(path))
    raw.add_special_tokens([AddedToken("<|x|>", special=True, normalized=False), AddedToken("<s>", special=True)])
    text = settled(raw.to_str())
    assert text == settled(text)
    ours = Tokenizer(TokenizerSpec(json_text=text))
    size = len(read_model(path).pieces)
    bare = theirs_of(without_prefix(trained("Llama")))
    assert ours.encode("<|x|>the", special=False) == [size, *bare.encode("the")]
    assert ours.decode([size, *bare.encode("the")]) == "the"


@pytest.mark.parametrize("gap", [1, 5])
def test_an_added_token_that_does_not_follow_is_refused(tmp_path, gap):
    size = len(read_model(file_of("Llama")).pieces)
    with pytest.raises(MobileloopError, match=f"has the id {size + gap}, where {size} is the next one free"):
        folder_spec(tmp_path, trained("Llama"), [(size + gap, AddedToken("<|x|>", special=True))])


def test_an_added_token_under_another_id_is_refused(tmp_path):
    with pytest.raises(MobileloopError, match=r"gives <s> the id 1, and the added tokens the id 7"):
        folder_spec(tmp_path, trained("Llama"), [(7, AddedToken("<s>", special=True))])


@pytest.mark.parametrize("flags", [{"lstrip": True}, {"rstrip": True}, {"single_word": True}])
def test_the_flags_of_an_added_token_count_with_rules_too(tmp_path, flags):
    path = file_of("defaults")
    tokens = added(path, "<mask>", **flags)
    ours = Tokenizer(folder_spec(tmp_path, trained("defaults"), tokens))
    theirs = theirs_of(without_prefix(trained("defaults")))
    number = tokens[0][0]
    ids = ours.encode("<mask>  the", special=False)
    assert ids == [number, *theirs.encode("the")]
    assert (number in ours.encode("a<mask>b", special=False)) != flags.get("single_word", False)


# -- rare models -----------------------------------------------------------------------------------------

BYTES = [piece(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]


def model(tmp_path, pieces, kind=1, normalizer=b"", trainer=b"", more=b""):
    """A model written by hand: unknown, then `pieces`."""
    data = b"".join([piece("<unk>", 0.0, 2), *pieces, field(2, field(3, kind) + trainer), field(3, normalizer), more])
    path = tmp_path / "tokenizer.model"
    path.write_bytes(data)
    return path, data


BARE = field(3, 0) + field(4, 0)  # no space in front, none removed


@pytest.mark.parametrize("escape", [0, 1])
def test_unused_pieces_of_a_unigram_model_are_never_found(tmp_path, escape):
    letters = [piece(one, score, kind) for one, score, kind in (("a", -2.0, 1), ("b", -3.0, 5), ("ab", -1.0, 5))]
    path, data = model(tmp_path, [*letters, piece("ba", -2.5, 1), *BYTES], 1, BARE + field(5, escape), field(35, 1))
    ours, theirs = ours_of(path), theirs_of(data)
    for text in ("a", "b", "ab", "aba", "bab", "abab a"):
        assert ours.encode(text, special=False) == theirs.encode(text), text
    assert ours.decode([2, 3]) == "bab"  # their texts are there, should a model say them


@pytest.mark.parametrize("kind", [1, 2])
def test_spaces_that_are_not_escaped(tmp_path, kind):
    scores = [(" ", -1.0), ("a", -2.0), ("b", -3.0), (" a", -0.5), ("ab", -0.7)]
    for prefix in (0, 1):
        rules = field(3, prefix) + field(4, 0) + field(5, 0)
        path, data = model(
            tmp_path, [*(piece(text, score, 1) for text, score in scores), *BYTES], kind, rules, field(35, 1)
        )
        ours, theirs = ours_of(path), theirs_of(data)
        for text in ("a", " a", "ab a", "  ", "▁a", "日"):
            assert ours.encode(text, special=False) == theirs.encode(text), text


def test_runs_of_unknown_characters_are_one_token(tmp_path):
    for kind in (1, 2):
        path, data = model(tmp_path, [piece("a", -1.0, 1)], kind, BARE)
        ours, theirs = ours_of(path), theirs_of(data)
        for text in ("xyz", "axya", "日本a🙂"):
            assert ours.encode(text, special=False) == theirs.encode(text) != [], text


A, B = piece("a", -1.0, 1), piece("b", -2.0, 1)


@pytest.mark.parametrize(
    ("pieces", "settings", "words"),
    [
        ([A], {"kind": 3}, "is a word model, and only BPE and unigram are supported"),
        ([A], {"kind": 4}, "is a char model"),
        ([A], {"kind": 9}, "is a unknown model"),
        ([A, piece("b", -1.0, 5)], {"kind": 2}, "has unused pieces"),
        ([A], {"trainer": field(24, 1)}, "treat_whitespace_as_suffix"),
        ([A], {"normalizer": field(9, 1)}, "a rule for its normal form that mobileloop does not know"),
        ([A], {"more": field(5, field(2, b"\1\2"))}, "denormalizer_spec"),
        ([A, A], {}, "the piece a stands there twice"),
        ([A, piece("", 0.0, 1)], {}, "is empty"),
        ([A, piece("<other>", 0.0, 2)], {}, "2 unknown pieces"),
        ([A, piece("c", 0.0, 8)], {}, "has the type 8"),
        ([A, piece("c", float("nan"), 1)], {}, "a score is no number"),
        ([A, *BYTES[1:]], {"trainer": field(35, 1)}, "the byte piece <0x00> is missing"),
    ],
)
def test_what_is_not_supported_or_damaged_is_refused_by_name(tmp_path, pieces, settings, words):
    path, _ = model(tmp_path, pieces, **settings)
    with pytest.raises(MobileloopError, match=re.escape(words)):
        sentencepiece_tokenizer(path)


@pytest.mark.parametrize(
    "data",
    [b"", b"\0", b"hello world", b"\x0a\xff", b"\xff" * 40, b"\x0a\x05ab", struct.pack("<f", 1.0) * 9, b"PK\x03\x04"],
)
def test_what_is_no_model_is_a_sentence(tmp_path, data):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(data)
    with pytest.raises(MobileloopError, match=r"damaged|not a SentencePiece model"):
        sentencepiece_tokenizer(path)


def test_a_missing_file_is_a_sentence(tmp_path):
    with pytest.raises(MobileloopError, match="cannot be read"):
        sentencepiece_tokenizer(tmp_path / "tokenizer.model")


def test_the_reader_reads_what_the_library_reads():
    for kind in sorted(KINDS):
        read, theirs = read_model(file_of(kind)), theirs_of(trained(kind))
        size = theirs.get_piece_size()
        assert list(read.pieces) == [theirs.id_to_piece(i) for i in range(size)]
        assert list(read.scores) == [theirs.get_score(i) for i in range(size)]
        assert read.unknown == theirs.unk_id()
        assert [t == 3 for t in read.types] == [theirs.is_control(i) for i in range(size)]
        assert [t == 6 for t in read.types] == [theirs.is_byte(i) for i in range(size)]


if __name__ == "__main__":
    for each in KINDS:
        check(each, int(sys.argv[1]), 7)
        print(f"{each}: {sys.argv[1]} random texts and {len(nasty())} nasty ones", flush=True)
