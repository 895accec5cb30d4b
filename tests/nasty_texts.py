"""Texts that tokenizers get wrong: 200 and more nasty ones, written down, and any number of random ones by a seed.

Shared by every test that compares ids, in Python and in the standalone program. All are valid Unicode (no lone
surrogate); some hold NUL or control characters, which a command line cannot pass: `passes_a_command_line` says which.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

_SPACES = "\t\n\x0b\x0c\r\x85\xa0\u1680\u2000\u2003\u2007\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
_INVISIBLE = "\x00\x01\x08\x1b\x7f\x80\x9f\xad\u034f\u061c\u180e\u200b\u200c\u200d\u200e\u200f\u2060\u2066\ufe0f\ufeff"
_WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "The",
    "HELLO",
    "can't",
    "it's",
    "O'Neil",
    "naïve",
    "Straße",
    "don't",
    "y'all'd've",
]
_FOREIGN = [
    "日本語",
    "中文字",
    "한국어",
    "русский",
    "ελληνικά",
    "עברית",
    "العربية",
    "हिन्दी",
    "ไทย",
    "தமிழ்",
    "ქართული",
    "አማርኛ",
]
_PIECES = [
    *("a", "b", "z", "A", "Z", "0", "1", "9", "42", "007", "1234567890", "3.14", "1,000", "½", "²", "Ⅷ", "٣", "५"),
    *(" ", "  ", "   ", "\n", "\n\n", "\t", "\r\n", " \n ", "\xa0", "\u3000", "\u200b", "\ufeff", "▁", "▁▁"),
    *(
        "'s",
        "'S",
        "'ll",
        "'",
        '"',
        "``",
        "''",
        "`",
        "-",
        "--",
        "—",
        "…",
        "...",
        "!?",
        "/",
        "\\",
        "_",
        "__",
        "#",
        "@",
        "&",
    ),
    *("é", "e\u0301", "ñ", "n\u0303", "Å", "A\u030a", "\u212b", "ﬁ", "ﬀ", "ǆ", "İ", "ı", "ß", "ẞ", "ς", "Σ", "\u0345"),
    *(
        "ｆｕｌｌ",
        "ＡＢＣ",
        "１２",
        "ｶﾞ",
        "㌔",
        "㈱",
        "①",
        "㎏",
        "\ufdfa",
        "\u1e9b\u0323",
        "\uac00",
        "\u1100\u1161",
        "\u1112\u1161\u11ab",
    ),
    *(
        "🙂",
        "👍🏽",
        "👨\u200d👩\u200d👧",
        "🇫🇷",
        "🏴\U000e0067\U000e0062\U000e007f",
        "❤\ufe0f",
        "𝔘𝔫𝔦",
        "𐍈",
        "\U0010ffff",
    ),
    *("<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>", "<0x0A>", "<0xE6>", "[INST]", "<pad>", "<|endoftext|>"),
    *_WORDS,
    *_FOREIGN,
]


def _around(character: str) -> list[str]:
    return [character, f"a{character}b", f" {character} {character}{character}"]


def _spaces() -> Iterator[str]:
    yield from (
        "",
        " ",
        "  ",
        "   ",
        "    ",
        " " * 7,
        " " * 8,
        " " * 33,
        "a ",
        " a",
        " a ",
        "a  b",
        "a   b",
        "  a  b  ",
    )
    yield from ("\n", "\n\n", "\n \n", " \n", "\n ", "a\n\nb", "a \n b", "\t\t", "a\t\tb", "\r\n\r\n", "  \n\n  a")
    for character in _SPACES:
        yield from _around(character)


def _marks() -> Iterator[str]:
    yield from (
        "<s>",
        "<s>a",
        "a<s>",
        "a <s> b",
        "<s><s>",
        "</s>",
        "</s> </s>",
        "<unk>",
        "a<unk>b",
        "<|im_start|>user\nhi<|im_end|>",
    )
    yield from (
        "<",
        "<s",
        "s>",
        "< s >",
        "<S>",
        "<s >",
        "<<s>>",
        "<|",
        "|>",
        "<|im_start",
        "<0x0A>",
        "<0x41>",
        "a<0xFF>b",
        "<0x0a>",
    )
    yield from ("▁", "▁a", "a▁b", "▁▁", " ▁", "▁ ", "Ġ", "Ġa", "aĠb", "Ċ", "Ã©", "##a", "@@", "</w>", "�", "a�b", "��")


def _scripts() -> Iterator[str]:
    yield from _FOREIGN
    yield from (f"{word} {word}" for word in _FOREIGN)
    yield from (
        "日本 語",
        "日a本b語",
        "abc日本語def",
        "мама мыла раму",
        "שלום עולם",
        "\u202bשלום\u202c",
        "a\u0301\u0301\u0301",
        "e\u0301e\u0300",
    )
    yield from (
        "Ǆ",
        "ŉ",
        "ſ",
        "ﬃ",
        "ĳ",
        "Ω",
        "Å",
        "K",
        "µ",
        "＠",
        "１２３",
        "ｱｲｳ",
        "ｶﾞｷﾞ",
        "㍿",
        "㈠",
        "①②③",
        "ª",
        "º",
        "¼",
        "x²",
        "H₂O",
    )
    yield from (
        "\uac01",
        "\u1100\u1161\u11a8",
        "\u0958",
        "\u0915\u093c",
        "\u0fb2\u0f71\u0f80",
        "\u0f73",
        "\u1e9b\u0323",
        "\ufb2c",
        "\ufdfa",
    )
    yield from (
        "q\u0307\u0323",
        "q\u0323\u0307",
        "\u0344",
        "\u2126",
        "\U0002f800",
        "\U0001d15e",
        "\u0301a",
        " \u0301",
        "\u0301",
    )


def _pictures() -> Iterator[str]:
    yield from (
        "🙂",
        "🙂🙂",
        "a🙂b",
        " 🙂",
        "👍🏽",
        "👩\u200d🚀",
        "👨\u200d👩\u200d👧\u200d👦",
        "🇫🇷🇩🇪",
        "❤️",
        "❤",
        "☎\ufe0e",
        "1️⃣",
        "🏳️\u200d🌈",
    )
    yield from (
        "\U0010ffff",
        "\U0010fffd",
        "\ue000",
        "\U000f0000",
        "\ufdd0",
        "\ufffe",
        "\uffff",
        "\U0001f9ff",
        "𝒳",
        "𠀋",
        "𓀀",
    )


def _plain() -> Iterator[str]:
    yield from (
        "a",
        "ab",
        "abc",
        "the cat",
        "the cat sat on the mat",
        "The Cat",
        "THE CAT",
        "who   sat",
        "it's",
        "IT'S",
        "'s",
        "'S's",
        "they'll",
    )
    yield from (
        "don't've",
        "''''",
        "'t",
        "a'b",
        "’s",
        "it’s",
        "0",
        "00",
        "1234",
        "12345678901",
        "1 2 3",
        "3.14159",
        "1e-5",
        "0x1F",
        "½",
        "１２",
        "٣٤",
    )
    yield from (
        "a1b2",
        "a_b",
        "a-b",
        "snake_case",
        "camelCase",
        "C++",
        "#!/bin/sh",
        "http://a.b/c?d=e&f=g#h",
        "me@example.org",
        "a/b\\c",
        "{}[]()",
        "<>&\"'",
    )
    yield from (
        "def f(x):\n    return x + 1\n",
        "if (a) {\n\tb();\n}",
        "- item\n- item",
        "| a | b |",
        "```\ncode\n```",
        "$x^2$",
        "100%",
        "%s",
        "{{ a }}",
    )
    yield from (
        "a" * 100,
        "ab" * 100,
        "a" * 1000,
        " a" * 200,
        "é" * 64,
        "日" * 100,
        "🙂" * 50,
        "\u0301" * 50,
        "1" * 200,
        "!" * 100,
        "\n" * 100,
        "aA" * 33,
    )


def nasty() -> list[str]:
    """More than 200 different texts, always the same."""
    groups = (_plain(), _spaces(), _marks(), _scripts(), _pictures(), (t for c in _INVISIBLE for t in _around(c)))
    return list(dict.fromkeys(text for group in groups for text in group))


def random_texts(count: int, seed: int, pieces: Sequence[str] = ()) -> Iterator[str]:
    """`count` texts of up to about 60 characters: words of all scripts, spaces, marks and any code point.

    Args:
        count: how many.
        seed: the same seed gives the same texts.
        pieces: of the vocabulary under test, mixed in so that its own merges and marks are met.
    """
    source = random.Random(seed)
    plain = [*_WORDS, " ", " ", " ", "a", "b", "c"]
    for _ in range(count):
        kind = source.randrange(4)
        parts = (plain, _PIECES, list(pieces) or _PIECES, [])[kind]
        length = source.randrange(1, 13)
        yield "".join(source.choice(parts) if parts and source.randrange(8) else _any(source) for _ in range(length))


def _any(source: random.Random) -> str:
    """Some code point; small ones as likely as large ones, never a surrogate."""
    limit = source.choice((0x80, 0x250, 0x3000, 0x10000, 0x110000))
    point = source.randrange(limit)
    return "\ufffd" if 0xD800 <= point < 0xE000 else chr(point)


def passes_a_command_line(text: str) -> bool:
    """Whether a text can be an argument of a program (no NUL)."""
    return "\x00" not in text
