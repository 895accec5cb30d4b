"""Text that grows token by token against the library's decoding of all tokens at once.

`python tests/test_detokenize.py 200000` tries that many sequences.
"""

import random
import sys

import pytest
from vocabularies import all_kinds, sequences

from mobileloop import detokenize
from mobileloop.spec.tokenizer import TokenizerSpec
from mobileloop.tokenizer import TextStream, Tokenizer

KINDS = all_kinds()
TOKENIZERS = {name: Tokenizer(TokenizerSpec(json_text=raw.to_str())) for name, raw in KINDS.items()}
AT_ONCE = {"CTC", "bytes after joining"}  # decoders that need all tokens


def check(name: str, count: int, seed: int) -> None:
    """Pieces and decoding equal the library's, and behind a prompt what comes after it."""
    tokenizer, raw = TOKENIZERS[name], KINDS[name]
    source = random.Random(seed)
    for ids in sequences(raw, count, seed):
        whole = raw.decode([i for i in ids if 0 <= i < 1 << 32], skip_special_tokens=True)
        assert tokenizer.decode(ids) == whole, (name, ids)
        stream = TextStream(tokenizer)
        assert "".join([*map(stream.push, ids), stream.flush()]) == whole, (name, ids)
        cut = source.randrange(len(ids) + 1)
        prompt, answer = ids[:cut], ids[cut:]
        stream = TextStream(tokenizer, prompt)
        text = "".join([*map(stream.push, answer), stream.flush()])
        assert text == whole[len(tokenizer.decode(prompt)) :], (name, prompt, answer)


@pytest.mark.parametrize("name", sorted(KINDS))
def test_pieces_join_to_the_whole(name):
    check(name, 400, 1)


@pytest.mark.parametrize("name", sorted(KINDS))
def test_only_strange_decoders_wait_for_the_end(name):
    assert (TOKENIZERS[name].decoder_steps() is None) == (name in AT_ONCE)


@pytest.mark.parametrize(
    ("name", "texts", "pieces"),
    [
        ("byte level", "aé", ["a", "", "é"]),
        ("byte level", "🙂b", ["", "", "", "🙂", "b"]),
        ("SentencePiece BPE", "<0xE6> <0x97> <0xA5> a", ["", "", "", "日a"]),
        ("SentencePiece BPE", "<0xE6> <0x97> a", ["", "", "\ufffd\ufffda"]),
        ("SentencePiece BPE", "▁ab ▁a ▁ b", ["ab", " a", " ", "b"]),
        ("SentencePiece BPE without a space in front", "▁ab b", [" ab", "b"]),
        ("Unigram, Metaspace", "▁ab ▁a", ["ab", " a"]),
        ("end of word", "a</w> b", ["", "a ", "b"]),
        ("WordPiece", "a ##a b .", ["a", "a", " b", "."]),
        ("no decoder", "a b", ["a", " b"]),
    ],
)
def test_pieces_come_as_soon_as_they_are_certain(name, texts, pieces):
    raw, tokenizer = KINDS[name], TOKENIZERS[name]
    ids = raw.encode(texts).ids if name == "byte level" else [raw.token_to_id(t) for t in texts.split(" ")]
    stream = TextStream(tokenizer)
    got = [stream.push(i) for i in ids]
    end = stream.flush()
    assert (got if not end else [*got, end]) == pieces


@pytest.mark.parametrize("end", [[0xE6], [0xE6, 0x97], [0xF0, 0x9F, 0x99], [0xFF], [0x80, 0xC3]])
@pytest.mark.parametrize("name", ["byte level", "Llama", "Gemma", "SentencePiece BPE"])
def test_an_answer_cut_inside_a_character_ends_with_the_replacement(name, end):
    raw, tokenizer = KINDS[name], TOKENIZERS[name]
    byte_of = {value: key for key, value in detokenize._BYTES.items()}
    tokens = [byte_of[b] if name == "byte level" else f"<0x{b:02X}>" for b in end]
    ids = [raw.token_to_id(token) for token in tokens]
    stream = TextStream(tokenizer)
    assert [stream.push(i) for i in ids[:1]] == [""] or end[0] in (0xFF, 0x80)
    text = "".join([*map(stream.push, ids[1:]), stream.flush()])
    assert tokenizer.decode(ids).endswith("\ufffd")
    assert text.endswith("\ufffd") or name == "byte level"


def test_an_answer_begins_with_its_space_behind_a_prompt():
    tokenizer, raw = TOKENIZERS["Llama"], KINDS["Llama"]
    prompt, answer = [raw.token_to_id(t) for t in ("▁a", "b")], [raw.token_to_id("▁ab")]
    assert TextStream(tokenizer).push(answer[0]) == "ab"
    assert TextStream(tokenizer, prompt).push(answer[0]) == " ab"
    assert TextStream(tokenizer, [1]).push(answer[0]) == "ab"  # a special token is no text


def test_a_long_answer_costs_no_more_per_token():
    tokenizer, raw = TOKENIZERS["Llama"], KINDS["Llama"]
    counted = 0

    class Counting:
        def push(self, token):
            nonlocal counted
            counted += len(token)
            return [token]

        def end(self):
            return []

    stream = TextStream(tokenizer)
    stream._steps.insert(0, Counting())
    ids = [raw.token_to_id("▁a")] * 5000
    assert len("".join(map(stream.push, ids))) == 9999
    assert counted == 10_000


@pytest.mark.parametrize(
    "decoder",
    [
        '{"type":"Strip","content":" ","start":1,"stop":1}',
        '{"type":"Sequence","decoders":[{"type":"Fuse"},{"type":"Strip","content":" ","start":3,"stop":3}]}',
        '{"type":"Replace","pattern":{"String":""},"content":"-"}',
        '{"type":"CTC","pad_token":"","word_delimiter_token":"","cleanup":true}',
    ],
)
def test_decoders_that_panic_or_are_strange_raise_nothing(decoder, capfd):
    raw = KINDS["Gemma"]
    import json

    data = json.loads(raw.to_str())
    data["decoder"] = json.loads(decoder)
    tokenizer = Tokenizer(TokenizerSpec(json_text=json.dumps(data)))
    for ids in sequences(raw, 300, 3):
        stream = TextStream(tokenizer)
        assert "".join([*map(stream.push, ids), stream.flush()]) == tokenizer.decode(ids)
    assert capfd.readouterr().err == ""


if __name__ == "__main__":
    each = int(sys.argv[1]) // len(KINDS) + 1
    for kind in KINDS:
        check(kind, each, 7)
        print(f"{kind}: {each} sequences", flush=True)
