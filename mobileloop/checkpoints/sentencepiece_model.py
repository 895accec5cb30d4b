"""Reads a SentencePiece `tokenizer.model`: the pieces and the rules by which it turns text into them.

The file is one protocol buffer message (sentencepiece_model.proto). Only the fields that decide over ids are read, by
a reader that checks every length; a field that it does not know is refused where it could change the normal form.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mobileloop.errors import MobileloopError, printable

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # of a piece; GGUF's token types are the same
_KINDS = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}

# Field numbers of the messages.
_PIECES, _TRAINER, _NORMALIZER, _SELF_TEST, _DENORMALIZER = 1, 2, 3, 4, 5
_MODEL_TYPE, _WHITESPACE_AS_SUFFIX, _BYTE_FALLBACK = 3, 24, 35
_RULE_NAME, _CHARSMAP, _DUMMY_PREFIX, _REMOVE_SPACES, _ESCAPE_SPACES, _RULE_TSV = 1, 2, 3, 4, 5, 6

_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5


@dataclass(frozen=True)
class SentencePieceModel:
    """What the file says.

    Attributes:
        pieces, scores, types: by id.
        kind: unigram, bpe, word or char.
        byte_fallback: whether characters without a piece become byte pieces.
        charsmap: the compiled rules of the normal form; empty where texts stay as they are.
        add_dummy_prefix: whether a text gets a space in front.
        remove_extra_whitespaces: whether spaces at the ends go, and several become one.
        escape_whitespaces: whether spaces are written as U+2581.
    """

    pieces: tuple[str, ...]
    scores: tuple[float, ...]
    types: tuple[int, ...]
    kind: str
    byte_fallback: bool
    charsmap: bytes
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    escape_whitespaces: bool

    @property
    def unknown(self) -> int:
        """The id of the unknown piece."""
        return self.types.index(UNKNOWN)

    def texts(self, *types: int) -> list[str]:
        """The pieces of some types."""
        return [piece for piece, kind in zip(self.pieces, self.types, strict=True) if kind in types]


def read_model(path: Path) -> SentencePieceModel:
    """Read and check a `tokenizer.model`.

    Raises:
        MobileloopError: where the file is damaged, or asks for what mobileloop does not do.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MobileloopError(f"{path} cannot be read ({error.strerror}); check the path.") from None
    try:
        model = _model(data, path)
    except (ValueError, struct.error) as error:  # UnicodeDecodeError is one
        raise MobileloopError(
            f"{path} is not a SentencePiece model, or is damaged ({error}); download it again."
        ) from None
    _check(model, path)
    return model


def _fields(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Number and value of each field of a message, in order."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, form = key >> 3, key & 7
        if form == _VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        length = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}.get(form, 0)
        if form == _BYTES:
            length, at = _varint(data, at)
        if form not in (_EIGHT_BYTES, _FOUR_BYTES, _BYTES) or number == 0:
            raise ValueError(f"a field of an unknown form at byte {at}")
        if length > len(data) - at:
            raise ValueError(f"the field at byte {at} is cut short")
        yield number, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("it is cut short")
        byte = data[at]
        value, at = value | (byte & 127) << shift, at + 1
        if byte < 128:
            return value, at
    raise ValueError(f"a number of more than 64 bits at byte {at}")


def _message(data: bytes) -> dict[int, bytes | int]:
    """The last value of each field."""
    return dict(_fields(data))


def _whole(fields: dict[int, bytes | int], number: int, default: int) -> int:
    value = fields.get(number, default)
    if not isinstance(value, int):
        raise ValueError(f"field {number} is no number")
    return value


def _data(fields: dict[int, bytes | int], number: int) -> bytes:
    value = fields.get(number, b"")
    if not isinstance(value, bytes):
        raise ValueError(f"field {number} is no text")
    return value


def _model(data: bytes, path: Path) -> SentencePieceModel:
    pieces: list[tuple[str, float, int]] = []
    parts: dict[int, bytes] = {}
    for number, value in _fields(data):
        if not isinstance(value, bytes):
            raise ValueError(f"field {number} is no message")
        if number == _PIECES:
            pieces.append(_piece(value))
        else:  # a message that comes twice is merged, as protocol buffers are
            parts[number] = parts.get(number, b"") + value
    trainer, normalizer = _message(parts.get(_TRAINER, b"")), _message(parts.get(_NORMALIZER, b""))
    _refuse_unsupported(path, trainer, normalizer, _message(parts.get(_DENORMALIZER, b"")))
    return SentencePieceModel(
        pieces=tuple(piece for piece, _, _ in pieces),
        scores=tuple(score for _, score, _ in pieces),
        types=tuple(kind for _, _, kind in pieces),
        kind=_KINDS.get(_whole(trainer, _MODEL_TYPE, 1), "unknown"),
        byte_fallback=bool(_whole(trainer, _BYTE_FALLBACK, 0)),
        charsmap=_data(normalizer, _CHARSMAP),
        add_dummy_prefix=bool(_whole(normalizer, _DUMMY_PREFIX, 1)),
        remove_extra_whitespaces=bool(_whole(normalizer, _REMOVE_SPACES, 1)),
        escape_whitespaces=bool(_whole(normalizer, _ESCAPE_SPACES, 1)),
    )


def _piece(data: bytes) -> tuple[str, float, int]:
    fields = _message(data)
    score = fields.get(2, b"\0\0\0\0")
    if not isinstance(score, bytes) or len(score) != 4:
        raise ValueError("the score of a piece is no number")
    return _data(fields, 1).decode("utf-8"), struct.unpack("<f", score)[0], _whole(fields, 3, NORMAL)


def _refuse_unsupported(
    path: Path, trainer: dict[int, bytes | int], normalizer: dict[int, bytes | int], back: dict[int, bytes | int]
) -> None:
    advice = "give the folder a tokenizer.json"
    if _whole(trainer, _WHITESPACE_AS_SUFFIX, 0):
        raise MobileloopError(
            f"{path} puts spaces behind words (treat_whitespace_as_suffix), which is not supported; {advice}."
        )
    if _data(back, _CHARSMAP):
        raise MobileloopError(f"{path} changes decoded text (denormalizer_spec), which is not supported; {advice}.")
    known = {_RULE_NAME, _CHARSMAP, _DUMMY_PREFIX, _REMOVE_SPACES, _ESCAPE_SPACES, _RULE_TSV}
    unknown = sorted(set(normalizer) - known)
    if unknown:
        raise MobileloopError(
            f"{path} has a rule for its normal form that mobileloop does not know (field {unknown[0]}); {advice}."
        )


def _check(model: SentencePieceModel, path: Path) -> None:
    """Raise MobileloopError where SentencePiece itself would not load the model, or we do not know the kind."""
    if model.kind not in ("unigram", "bpe"):
        raise MobileloopError(
            f"{path} is a {model.kind} model, and only BPE and unigram are supported; give the folder a tokenizer.json."
        )
    problem = _problem(model)
    if problem:
        raise MobileloopError(f"{path} is damaged: {problem}; download it again.")
    if model.kind == "bpe" and UNUSED in model.types:
        piece = printable(model.texts(UNUSED)[0])
        raise MobileloopError(
            f"{path} has unused pieces ({piece}) in a BPE vocabulary, which is not supported; give the folder a "
            "tokenizer.json."
        )


def _problem(model: SentencePieceModel) -> str | None:
    if not model.pieces:
        return "it has no pieces"
    if "" in model.pieces:
        return f"piece {model.pieces.index('')} is empty"
    if len(set(model.pieces)) != len(model.pieces):
        seen: set[str] = set()
        twice = next(piece for piece in model.pieces if piece in seen or seen.add(piece))  # type: ignore[func-returns-value]
        return f"the piece {printable(twice)} stands there twice"
    if model.types.count(UNKNOWN) != 1:
        return f"it has {model.types.count(UNKNOWN)} unknown pieces where one is needed"
    if not set(model.types) <= {NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE}:
        return f"a piece has the type {max(model.types)}, which does not exist"
    if not all(abs(score) < float("inf") for score in model.scores):
        return "a score is no number"
    bytes_there = set(model.texts(BYTE))
    missing = [byte for byte in range(256) if f"<0x{byte:02X}>" not in bytes_there]
    if model.byte_fallback and missing:
        return f"the byte piece <0x{missing[0]:02X}> is missing"
    return None
