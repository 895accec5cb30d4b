"""Small tokenizers of every kind of vocabulary and decoder, and random sequences of their ids."""

from __future__ import annotations

import random
from collections.abc import Iterator

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from mobileloop.checkpoints.vocabulary import scored_tokenizer

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
PIECES = ["▁", "▁▁", "▁▁▁", "a", "b", "ab", "▁a", "▁ab", "b▁", "é", "▁é", "日", "▁日", "🙂", "\ufffd", " ", "  ", "."]
ODD = [
    "##a",
    "##",
    "a</w>",
    "</w>",
    "n't",
    "<0x4>",
    "<0x+A>",
    "<0x0a>",
    "<0xZZ>",
    "|",
    "xy",
    "x",
    "y",
    "<pad>",
    "<0xé>",
]


def byte_level() -> Tokenizer:
    """The bytes, some merged ones, tokens with characters beyond the alphabet, and specials."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<s>", "</s>", *alphabet, "Ġa", "Ã©", "æĹ", "¥", "ðŁĻ", "日本", "▁a", "<x>"]
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(dict.fromkeys(tokens))}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<s>", "</s>", "<more>")])
    tokenizer.add_tokens([AddedToken("<x>", normalized=False), AddedToken("日 é", normalized=False)])
    return tokenizer


def pieces(decoder: object, unigram: bool = False, byte_fallback: bool = True) -> Tokenizer:
    """Bytes and pieces under any decoder."""
    tokens = ["<unk>", "<s>", "</s>", *BYTES, *PIECES, *ODD]
    if unigram:
        model = models.Unigram([(t, -1.0 - i) for i, t in enumerate(tokens)], unk_id=0, byte_fallback=byte_fallback)
    else:
        vocabulary = {t: i for i, t in enumerate(tokens)}
        model = models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=byte_fallback)
    tokenizer = Tokenizer(model)
    if decoder is not None:
        tokenizer.decoder = decoder
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<s>", "</s>")])
    tokenizer.add_tokens([AddedToken("<|user|>", normalized=False), AddedToken(" ▁x", normalized=False)])
    return tokenizer


def _scored(add_space: bool) -> Tokenizer:
    tokens = ["<unk>", "<s>", "</s>", *BYTES, *PIECES]
    types = [2, 3, 3, *[6] * 256, *[1] * len(PIECES)]
    scores = [0.0] * 259 + [-1.0 - i for i in range(len(PIECES))]
    return Tokenizer.from_str(scored_tokenizer(tokens, scores, types, "<unk>", add_space))


def _chain(*steps: object) -> object:
    return decoders.Sequence(list(steps))


def all_kinds() -> dict[str, Tokenizer]:
    """Every kind that a tokenizer.json can hold, by name; the last ones are strange on purpose."""
    replace, fallback, fuse = decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()
    return {
        "byte level": byte_level(),
        "SentencePiece BPE": _scored(True),
        "SentencePiece BPE without a space in front": _scored(False),
        "Llama": pieces(_chain(replace, fallback, fuse, decoders.Strip(" ", 1, 0))),
        "Gemma": pieces(_chain(replace, fallback, fuse)),
        "Unigram, Metaspace": pieces(decoders.Metaspace(), unigram=True, byte_fallback=False),
        "Unigram, bytes, Metaspace": pieces(_chain(fallback, decoders.Metaspace()), unigram=True),
        "Metaspace that never prepends": pieces(decoders.Metaspace(prepend_scheme="never"), unigram=True),
        "Metaspace first": pieces(decoders.Metaspace(prepend_scheme="first")),
        "WordPiece": pieces(decoders.WordPiece()),
        "WordPiece without cleaning": pieces(decoders.WordPiece(cleanup=False)),
        "end of word": pieces(decoders.BPEDecoder()),
        "bytes only": pieces(fallback),
        "bytes, then the level of bytes": pieces(_chain(fallback, decoders.ByteLevel())),
        "level of bytes, stripped": pieces(_chain(decoders.ByteLevel(), decoders.Strip("a", 2, 0))),
        "no decoder": pieces(None),
        "CTC": pieces(decoders.CTC()),
        "replaced after joining": pieces(_chain(fuse, decoders.Replace("aab", "X"), decoders.Replace("xy", ""))),
        "regular expression": pieces(_chain(decoders.Replace(Regex("[ab]+"), "-"), fallback)),
        "stripped at both ends": pieces(_chain(replace, fuse, decoders.Strip(" ", 2, 0), fuse)),
        "each stripped": pieces(_chain(replace, decoders.Strip(" ", 1, 0), fallback)),
        "sequences of sequences": pieces(_chain(_chain(replace, fallback), _chain(fuse))),
        "bytes after joining": pieces(_chain(fuse, fallback)),
    }


def sequences(tokenizer: Tokenizer, count: int, seed: int) -> Iterator[list[int]]:
    """Random ids: plain ones, runs of bytes, specials, ids that the vocabulary lacks."""
    source = random.Random(seed)
    size = tokenizer.get_vocab_size()
    byte_ids = [tokenizer.token_to_id(t) for t in BYTES if tokenizer.token_to_id(t) is not None]
    bytes_of_text = [3 + byte for byte in "é日🙂ß€".encode()] if byte_ids else list(range(2, 258))
    spaces = [i for i in range(size) if "▁" in (tokenizer.id_to_token(i) or "")] or [0]
    outside = [size, size + 7, 1 << 24, (1 << 32) - 1, 1 << 32, 1 << 70, -1]
    choices = [list(range(size)), bytes_of_text, spaces, [0, 1, 2], outside, list(range(max(size - 40, 0), size))]
    for _ in range(count):
        kinds = source.choices(choices, weights=[4, 4, 2, 1, 0.3, 4], k=source.randrange(1, 4))
        yield [source.choice(source.choice(kinds)) for _ in range(source.randrange(0, 14))]
