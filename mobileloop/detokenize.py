"""Tokens to text, token by token: the decoders of the `tokenizers` library as steps that each hold back little.

What a decoder makes of a token may depend on its neighbours: bytes of one character, the first token's space, the last
token's end mark. Each step here passes on what no later token can change, and the rest at the end, so that the pieces
join to exactly what the library makes of all tokens at once (tests compare them). A run of byte tokens is held until
it ends, because the library replaces the whole run where any byte of it is wrong.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Mapping
from typing import Any, Protocol

from tokenizers import Regex, decoders

REPLACEMENT = "\ufffd"


class Step(Protocol):
    """One decoder; `push` and `end` give tokens, or parts of the one token where an earlier step joined them all."""

    def push(self, token: str) -> list[str]:
        """What is certain after one more token."""

    def end(self) -> list[str]:
        """What was held back."""


class _Mapped:
    """Each token by itself; the library's own decoder says how the first one and a later one look."""

    def __init__(self, decoder: Any) -> None:
        self._decoder, self._first = decoder, True

    def push(self, token: str) -> list[str]:
        before = [] if self._first else [""]
        self._first = False
        return [str(self._decoder.decode([*before, token]))]

    def end(self) -> list[str]:
        return []


class _Replace:
    """A text in each token by itself."""

    def __init__(self, pattern: str, content: str) -> None:
        self._pattern, self._content = pattern, content

    def push(self, token: str) -> list[str]:
        return [token.replace(self._pattern, self._content)]

    def end(self) -> list[str]:
        return []


class _FusedReplace(_Replace):
    """A text in the joined text: holds back what may be the beginning of it."""

    def __init__(self, pattern: str, content: str) -> None:
        super().__init__(pattern, content)
        self._held = ""

    def push(self, token: str) -> list[str]:
        *done, rest = (self._held + token).split(self._pattern)
        held = next(n for n in range(len(self._pattern) - 1, -1, -1) if rest.endswith(self._pattern[:n]))
        self._held = rest[len(rest) - held :]
        return [self._content.join([*done, rest[: len(rest) - held]])]

    def end(self) -> list[str]:
        return [self._held]


class _ByteFallback:
    """Tokens such as <0x41> are bytes; a run of them that is no UTF-8 gives one U+FFFD for each byte."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def push(self, token: str) -> list[str]:
        byte = _byte(token)
        if byte is not None:
            self._bytes.append(byte)
            return []
        return [*self.end(), token]

    def end(self) -> list[str]:
        run, self._bytes = self._bytes, bytearray()
        try:
            return [run.decode("utf-8")] if run else []
        except UnicodeDecodeError:
            return [REPLACEMENT] * len(run)


def _byte(token: str) -> int | None:
    if len(token) != 6 or not token.isascii() or not token.startswith("<0x") or not token.endswith(">"):
        return None
    digits = token[3:5].removeprefix("+")  # the library's parser of numbers allows the sign
    allowed = digits and all(digit in "0123456789abcdefABCDEF" for digit in digits)
    return int(digits, 16) if allowed else None


class _Strip:
    """Characters at the ends of each token by itself."""

    def __init__(self, content: str, start: int, stop: int) -> None:
        self._content, self._start, self._stop = content, start, stop

    def push(self, token: str) -> list[str]:
        first = _run(token, self._content, self._start)
        last = _run(token[first:][::-1], self._content, self._stop)
        return [token[first : len(token) - last]]

    def end(self) -> list[str]:
        return []


class _FusedStrip(_Strip):
    """Characters at the ends of the joined text."""

    def __init__(self, content: str, start: int, stop: int) -> None:
        super().__init__(content, start, stop)
        self._held = ""

    def push(self, token: str) -> list[str]:
        if self._start:
            first = _run(token, self._content, self._start)
            self._start = self._start - first if first == len(token) else 0
            token = token[first:]
        token = self._held + token
        last = _run(token[::-1], self._content, self._stop)
        self._held = token[len(token) - last :]
        return [token[: len(token) - last]]

    def end(self) -> list[str]:
        return []


def _run(text: str, character: str, most: int) -> int:
    """How often, up to `most` times, a character stands at the beginning."""
    return next((n for n, other in enumerate(text[:most]) if other != character), min(most, len(text)))


class _Fuse:
    """Joins all tokens; from here on there is one, which comes in parts."""

    def push(self, token: str) -> list[str]:
        return [token]

    def end(self) -> list[str]:
        return []


class _ByteLevel(_Fuse):
    """Characters that stand for bytes (GPT-2); a token with another character is text itself."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: str) -> list[str]:
        try:
            found = bytes(_BYTES[character] for character in token)
        except KeyError:
            found = token.encode("utf-8")
        return [self._decoder.decode(found)]

    def end(self) -> list[str]:
        return [self._decoder.decode(b"", final=True)]


def _byte_alphabet() -> dict[str, int]:
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTES = _byte_alphabet()


class _Suffixed:
    """Tokens that end a word carry a suffix, which becomes a space except in the last token."""

    def __init__(self, suffix: str) -> None:
        self._suffix = suffix
        self._held: str | None = None

    def push(self, token: str) -> list[str]:
        held, self._held = self._held, token
        return [] if held is None else [held.replace(self._suffix, " ")]

    def end(self) -> list[str]:
        return [] if self._held is None else [self._held.replace(self._suffix, "")]


class _Spaced:
    """No decoder: tokens with spaces between them."""

    def __init__(self) -> None:
        self._before = ""

    def push(self, token: str) -> list[str]:
        before, self._before = self._before, " "
        return [before + token]

    def end(self) -> list[str]:
        return []


def steps(decoder: Any) -> list[Step] | None:
    """Steps that do together what a decoder of the library does; None where it cannot be done token by token.

    Args:
        decoder: a decoder of the `tokenizers` library, or None.
    """
    if decoder is None:
        return [_Spaced()]
    made: list[Step] = []
    fused = False
    for part in _parts(json.loads(decoder.__getstate__())):
        step = _fused_step(part) if fused else _step(part)
        if step is None:
            return None
        fused = fused or isinstance(step, _Fuse)
        made.append(step)
    return made


def _parts(decoder: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if decoder["type"] != "Sequence":
        return [decoder]
    return [part for inner in decoder["decoders"] for part in _parts(inner)]


def _step(part: Mapping[str, Any]) -> Step | None:
    kind = part["type"]
    if kind == "Replace" and part["pattern"].get("String"):
        return _Replace(part["pattern"]["String"], part["content"])
    if kind == "Replace" and part["pattern"].get("Regex"):
        return _Mapped(decoders.Replace(Regex(part["pattern"]["Regex"]), part["content"]))
    if kind == "Metaspace":
        return _Mapped(decoders.Metaspace(part["replacement"], part["prepend_scheme"], part["split"]))
    if kind == "WordPiece":
        return _Mapped(decoders.WordPiece(part["prefix"], part["cleanup"]))
    if kind == "Strip":
        return _Strip(part["content"], part["start"], part["stop"])
    if kind == "BPEDecoder" and part["suffix"]:
        return _Suffixed(part["suffix"])
    simple: dict[str, Step] = {"ByteFallback": _ByteFallback(), "Fuse": _Fuse(), "ByteLevel": _ByteLevel()}
    return simple.get(kind)


def _fused_step(part: Mapping[str, Any]) -> Step | None:
    """A step behind one that joined all tokens."""
    if part["type"] == "Replace" and part["pattern"].get("String"):
        return _FusedReplace(part["pattern"]["String"], part["content"])
    if part["type"] == "Strip":
        return _FusedStrip(part["content"], part["start"], part["stop"])
    return _Fuse() if part["type"] == "Fuse" else None


def push(chain: list[Step], token: str) -> str:
    """The text that is certain after one more token."""
    return _through(chain, [token])


def end(chain: list[Step]) -> str:
    """The text that was held back."""
    text = ""
    for index, step in enumerate(chain):
        text += _through(chain[index + 1 :], step.end())
    return text


def _through(chain: list[Step], tokens: list[str]) -> str:
    for step in chain:
        tokens = [made for token in tokens for made in step.push(token)]
    return "".join(tokens)
