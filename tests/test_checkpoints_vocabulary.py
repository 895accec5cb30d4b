"""GGUF vocabularies by llama.cpp's rules: against a slow reading of them, and what is refused."""

import itertools
import random

import pytest
import sentencepiece
import sentencepiece_models
from nasty_texts import nasty, random_texts

from mobileloop.checkpoints.sentencepiece_model import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, read_model
from mobileloop.checkpoints.vocabulary import byte_level_tokenizer, scored_tokenizer
from mobileloop.errors import MobileloopError
from mobileloop.spec.tokenizer import TokenizerSpec
from mobileloop.tokenizer import Tokenizer

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def slow_merges(text, tokens, scores):
    """SentencePiece BPE said plainly: join the neighbours whose piece scores highest, of equal ones the leftmost."""
    ids = {token: number for number, token in enumerate(tokens)}
    symbols = list(text)
    while True:
        pairs = [(ids.get(a + b), at) for at, (a, b) in enumerate(itertools.pairwise(symbols))]
        known = [(-scores[number], at) for number, at in pairs if number is not None]
        if not known:
            break
        at = min(known)[1]
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
    found = ([ids[s]] if s in ids else [ids[BYTES[b]] for b in s.encode()] for s in symbols)
    return [number for part in found for number in part]


def slow_ids(text, tokens, scores, types, add_space):
    """llama.cpp: tokens that are no text come out first, the longest first; each part between them gets a space."""
    special = [t for t, kind in zip(tokens, types, strict=True) if kind in (CONTROL, USER_DEFINED)]
    parts = [text]
    for token in sorted(special, key=len, reverse=True):
        cut = []
        for part in parts:
            pieces = [part] if part in special else part.split(token)
            cut += [one for n, piece in enumerate(pieces) for one in ([token] * (n > 0) + [piece])]
        parts = [part for part in cut if part]
    ids = []
    for part in parts:
        if part in special:
            ids.append(tokens.index(part))
        else:
            ids += slow_merges(("▁" if add_space else "") + part.replace(" ", "▁"), tokens, scores)
    return ids


def vocabulary(seed):
    """Random pieces under different scores, and marks that come out first."""
    source = random.Random(seed)
    pieces = {"▁", "a", "b", "c", "é", "日"}
    while len(pieces) < 40:
        pieces.add(source.choice(sorted(pieces)) + source.choice(sorted(pieces)))
    normal = sorted(piece for piece in pieces if len(piece) < 9)
    tokens = ["<unk>", "<s>", "</s>", *BYTES, "<user>", "<|end|>", *normal]
    types = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, USER_DEFINED, CONTROL, *[NORMAL] * len(normal)]
    order = source.sample(range(len(normal)), len(normal))
    return tokens, [0.0] * 261 + [-1.0 - rank for rank in order], types


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("add_space", [True, False])
def test_scored_vocabularies_equal_the_slow_reading(seed, add_space):
    tokens, scores, types = vocabulary(seed)
    json_text = scored_tokenizer(tokens, scores, types, "<unk>", add_space)
    ours = Tokenizer(TokenizerSpec(json_text=json_text))
    source = random.Random(seed)
    for _ in range(200):
        parts = source.choices(
            ["a", "b", "c", " ", "é", "日", "x", "🙂", "<user>", "<|end|>", "<s>", "<0x41>", "▁"], k=9
        )
        text = "".join(parts[: source.randrange(10)])
        assert ours.encode(text, special=False) == slow_ids(text, tokens, scores, types, add_space), text


def test_a_scored_vocabulary_of_a_sentencepiece_model_gives_its_ids(tmp_path):
    data = sentencepiece_models.trained("Llama")
    path = tmp_path / "tokenizer.model"
    path.write_bytes(data)
    model, theirs = read_model(path), sentencepiece.SentencePieceProcessor(model_proto=data)
    json_text = scored_tokenizer(model.pieces, model.scores, model.types, "<unk>")
    ours = Tokenizer(TokenizerSpec(json_text=json_text))
    for text in [*nasty(), *random_texts(1000, 3)]:
        if "<s>" not in text and "</s>" not in text:
            assert ours.encode(text, special=False) == theirs.encode(text), text


def test_an_empty_token_gets_a_name_and_keeps_its_id():
    tokens, scores, types = vocabulary(0)
    tokens = [*tokens, "", ""]
    json_text = scored_tokenizer(tokens, [*scores, 0.0, 0.0], [*types, UNUSED, UNUSED], "<unk>")
    raw = Tokenizer(TokenizerSpec(json_text=json_text)).raw
    assert raw.id_to_token(len(tokens) - 1) == f"[EMPTY_{len(tokens) - 1}]"
    assert raw.get_vocab_size() == len(tokens)


@pytest.mark.parametrize("length", [0, 1, 100])
def test_missing_scores_are_refused(length):
    tokens, scores, types = vocabulary(0)
    with pytest.raises(MobileloopError, match=f"pieces and {length} scores"):
        scored_tokenizer(tokens, scores[:length], types, "<unk>")


def test_a_token_that_stands_there_twice_is_refused():
    tokens, scores, types = vocabulary(0)
    with pytest.raises(MobileloopError, match="has the token a twice"):
        scored_tokenizer([*tokens, "a"], [*scores, -1.0], [*types, 1], "<unk>")
    with pytest.raises(MobileloopError, match="has the token x twice, as 0 and 2"):
        byte_level_tokenizer(["x", "y", "x"], [], [1, 1, 1], "gpt-2")


@pytest.mark.parametrize("merges", [["a z"], ["a"], [""], ["a b c"], ["z z"]])
def test_merges_without_tokens_are_a_sentence(merges):
    with pytest.raises(
        MobileloopError, match=r"the merges of the tokenizer do not fit its tokens \(.+\); take another"
    ):
        byte_level_tokenizer(["a", "b", "ab"], merges, [1, 1, 1], "gpt-2")
