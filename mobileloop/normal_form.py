"""The normal form that SentencePiece gives a text before it cuts it into pieces, to the letter.

The `tokenizers` library has parts of it (Precompiled, Strip, Replace), but applies the compiled rules to graphemes,
which loses characters of some, and strips other spaces than SentencePiece does. So where a model has rules, removes
spaces or has user-defined pieces, the text is brought to its normal form here.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable, Iterator

from tokenizers import AddedToken, Tokenizer, models

from mobileloop.spec.tokenizer import SentencePieceForm
from mobileloop.unigram import Unigram

SPACE_MARK = "▁"


class NormalForm:
    """Applies a form to texts."""

    def __init__(self, form: SentencePieceForm) -> None:
        self._form = form
        self._rules = _Rules(form.charsmap)
        longest_first = sorted(form.kept, key=len, reverse=True)
        self._kept = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._space = SPACE_MARK if form.escape_whitespaces else " "

    def __call__(self, text: str, prefix: bool = True) -> str:
        """The normal form of a text; `prefix` allows the space in front that the form may ask for."""
        chunks = list(self._chunks(text))
        if self._form.remove_extra_whitespaces:
            while chunks and chunks[0] == " ":
                chunks.pop(0)
        if not chunks:
            return ""
        made = [self._space] if prefix and self._form.add_dummy_prefix else []
        after_space = self._form.remove_extra_whitespaces
        for chunk in chunks:
            left = chunk.lstrip(" ") if after_space else chunk
            if left:
                made.append(left.replace(" ", self._space))
                after_space = self._form.remove_extra_whitespaces and left.endswith(" ")
        whole = "".join(made)
        return whole.rstrip(self._space) if self._form.remove_extra_whitespaces else whole

    def _chunks(self, text: str) -> Iterator[str]:
        """The text in the pieces in which rules apply to it: a kept piece, what a rule gives, or a character."""
        at = 0
        for match in self._kept.finditer(text):
            yield from self._rules.applied(text[at : match.start()])
            yield match.group()
            at = match.end()
        yield from self._rules.applied(text[at:])


class _Rules:
    """Compiled rules: the length of a double array in bytes, the array (Yata's, in darts-clone's layout), the texts.

    The array is a trie over UTF-8 bytes; the longest sequence that it holds at a place is replaced by its text.
    """

    def __init__(self, charsmap: bytes) -> None:
        self._units: tuple[int, ...] = ()
        self._texts = b""
        if len(charsmap) >= 4:
            size = min(struct.unpack_from("<I", charsmap)[0], len(charsmap) - 4)
            self._units = struct.unpack_from(f"<{size // 4}I", charsmap, 4)
            self._texts = charsmap[4 + size :]

    def applied(self, text: str) -> Iterator[str]:
        """The text in chunks: what a rule gives, or a character."""
        if not self._units:
            yield from text
            return
        data = text.encode("utf-8", "replace")
        at = 0
        while at < len(data):
            length, start = self._longest(data, at)
            if length:
                end = self._texts.find(b"\0", start)
                yield self._texts[start : end if end >= 0 else len(self._texts)].decode("utf-8", "replace")
            else:
                length = _character_length(data[at])
                yield data[at : at + length].decode("utf-8", "replace")
            at += length

    def _longest(self, data: bytes, at: int) -> tuple[int, int]:
        """Bytes of the longest sequence at a place that has a rule, and where its text begins; 0 bytes for none."""
        units, found = self._units, (0, 0)
        node = _offset(units[0])
        for length, byte in enumerate(data[at : at + 256], start=1):
            node ^= byte
            if node >= len(units) or units[node] & 0x800000FF != byte:
                break
            unit = units[node]
            node ^= _offset(unit)
            if unit >> 8 & 1 and node < len(units):
                found = (length, units[node] & 0x7FFFFFFF)
        return found


def _offset(unit: int) -> int:
    return unit >> 10 << ((unit & 512) >> 6)


def _character_length(first: int) -> int:
    return 1 if first < 0x80 else 2 if first < 0xE0 else 3 if first < 0xF0 else 4


class PieceEncoder:
    """Ids of texts: added tokens come out first, and what stands between them is brought to its normal form.

    Args:
        raw: the tokenizer, which from now on takes special tokens in a text as text.
        form: the form.
    """

    def __init__(self, raw: Tokenizer, form: SentencePieceForm) -> None:
        self._raw, self._form = raw, form
        self._normal = NormalForm(form)
        added = raw.get_added_tokens_decoder()
        self._ids = {token.content: number for number, token in added.items()}
        outer = [token for token in added.values() if token.content not in form.kept]
        self._outer = OuterTokens(outer)
        self._before, self._after = self._around()
        raw.encode_special_tokens = True
        self._unigram = None
        if isinstance(raw.model, models.Unigram):
            self._unigram = Unigram(json.loads(raw.to_str())["model"], form.kept)

    def _around(self) -> tuple[list[int], list[int]]:
        """What the tokenizer puts before and behind a text."""
        plain = list(self._raw.encode("a", add_special_tokens=False).ids)
        whole = list(self._raw.encode("a", add_special_tokens=True).ids)
        at = next((n for n in range(len(whole)) if whole[n : n + len(plain)] == plain), 0)
        return whole[:at], whole[at + len(plain) :]

    def encode(self, text: str, special: bool) -> list[int]:
        """Ids of a text; `special` adds what the tokenizer puts around it."""
        ids = list(self._before) if special else []
        at = 0
        for begin, end, content in self._outer.found(text):
            ids += self._between(text[at:begin], at == 0)
            ids.append(self._ids[content])
            at = end
        return ids + self._between(text[at:], at == 0) + (self._after if special else [])

    def _between(self, text: str, first: bool) -> list[int]:
        normal = self._normal(text, prefix=first or self._form.prefix_after_tokens)
        if self._unigram is not None:
            return self._unigram.encode(normal)
        return list(self._raw.encode(normal, add_special_tokens=False).ids)


class OuterTokens:
    """Finds added tokens in a text: the leftmost with the spaces that it takes, and of those the longest.

    A token that takes the spaces in front of it begins at each place among them. So that a run of spaces is walked
    once, it is looked for by itself, from the first space on, and what was found holds for the other places.
    """

    def __init__(self, tokens: Iterable[AddedToken]) -> None:
        longest_first = sorted(tokens, key=lambda token: len(token.content), reverse=True)
        plain = [token for token in longest_first if not token.lstrip]
        self._ranks = {token.content: rank for rank, token in enumerate(longest_first)}
        at_once = re.compile("|".join(map(_pattern, plain)) or "(?!)")
        left = [_pattern(token) for token in longest_first if token.lstrip]
        # What matches here; and elsewhere, where a run of spaces is entered at its beginning only.
        self._patterns = [(at_once, at_once), *((re.compile(one), re.compile(f"(?<!\\s){one}")) for one in left)]

    def found(self, text: str) -> Iterator[tuple[int, int, str]]:
        """Where each token begins and ends, with its spaces, and its content."""
        at = 0
        searches = [_Search(*patterns, text) for patterns in self._patterns]
        while True:
            every = [match for search in searches if (match := search.next(at))]
            if not every:
                return
            begin, end, content = min(every, key=lambda match: (match[0], self._ranks[match[2]]))
            yield begin, end, content
            at = end


class _Search:
    """The next match of a token's pattern in a text, for places that only grow."""

    def __init__(self, pattern: re.Pattern[str], elsewhere: re.Pattern[str], text: str) -> None:
        self._pattern, self._elsewhere, self._text = pattern, elsewhere, text
        self._match: re.Match[str] | None = None
        self._done = False

    def next(self, at: int) -> tuple[int, int, str] | None:
        """Begin, end and content of the first match that begins at `at` or behind it."""
        while not self._done and (self._match is None or _content_begin(self._match) < at):
            self._match = self._search(at)
            self._done = self._match is None
        if self._match is None:
            return None
        return max(self._match.start(), at), self._match.end(), self._match[self._match.lastindex or 0]

    def _search(self, at: int) -> re.Match[str] | None:
        return self._pattern.match(self._text, at) or self._elsewhere.search(self._text, at)


def _content_begin(match: re.Match[str]) -> int:
    return match.start(match.lastindex or 0)


def _pattern(token: AddedToken) -> str:
    """A regular expression of an added token, which captures its text."""
    word = ("(?<!\\w)", "(?!\\w)") if token.single_word else ("", "")
    spaces = ("\\s*" if token.lstrip else "", "\\s*" if token.rstrip else "")
    return f"{spaces[0]}{word[0]}({re.escape(token.content)}){word[1]}{spaces[1]}"
