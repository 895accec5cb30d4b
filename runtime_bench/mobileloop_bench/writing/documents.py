"""JSON documents with a schema name and a version: written whole or not at all, read back as strictly as written."""

from __future__ import annotations

import json
import math
import re
import warnings
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import Self

from mobileloop import __version__
from mobileloop.errors import MobileloopError, validated
from mobileloop.files import written_whole

MAX_BYTES = 256 << 20
MAX_DEPTH = 32


class VersionedDocument(BaseModel):
    """The base of every JSON file that mobileloop writes for others to read.

    A subclass sets NAME, VERSION and ORIGIN and fills `schema` with `schema_field`. Keys are fixed; others may be
    added and are kept. An unknown figure is null, never infinity or NaN.
    """

    model_config = ConfigDict(extra="allow", populate_by_name=True)

    NAME: ClassVar[str]
    VERSION: ClassVar[int]
    ORIGIN: ClassVar[str]  # the command that writes it

    schema_: str = Field(default="", alias="schema")

    def model_post_init(self, context: Any) -> None:
        """Name the schema."""
        self.schema_ = f"{self.NAME}/{self.VERSION}"

    @classmethod
    def upgraded(cls, data: dict[str, Any], version: int) -> dict[str, Any]:
        """`data` of an older `version` as the current one has it."""
        return data

    def to_json(self) -> str:
        """One compact line."""
        return json.dumps(self.model_dump(mode="json", by_alias=True), allow_nan=False, separators=(",", ":"))

    def write(self, path: Path) -> None:
        """Write the document whole or not at all, checked once more against its own schema.

        Raises:
            MobileloopError: for a place that cannot be written, or a figure that could not be read back.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of pydantic about wrong types; the check below names them
                text = self.to_json()
        except ValueError as error:
            raise MobileloopError(f"{path} was not written: {error}.") from None
        validated(type(self), json.loads(text), f"{path} was not written: the document")
        with written_whole(path) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a document back, upgraded where it is of an older version.

        Raises:
            MobileloopError: for a file that cannot be read, is not such a document, or is of a newer version.
        """
        return cls.parse(read_json(path, cls.ORIGIN), str(path))

    @classmethod
    def parse(cls, data: Any, where: str) -> Self:
        """A document from its JSON value, upgraded where it is of an older version.

        Raises:
            MobileloopError: naming `where`, as `read` does.
        """
        return validated(cls, cls.upgraded(data, cls._version(data, where)), where)

    @classmethod
    def _version(cls, data: Any, where: str) -> int:
        schema = data.get("schema") if isinstance(data, dict) else None
        match = re.fullmatch(rf"{re.escape(cls.NAME)}/([1-9]\d{{0,8}})", schema) if isinstance(schema, str) else None
        if not match:
            raise MobileloopError(f"{where} is no result of {cls.ORIGIN}; its schema is not {cls.NAME}.")
        if int(match[1]) > cls.VERSION:
            raise MobileloopError(
                f"{where} has schema {schema}, but this mobileloop {__version__} reads up to "
                f"{cls.NAME}/{cls.VERSION}; upgrade mobileloop."
            )
        return int(match[1])


def read_json(path: Path, origin: str) -> Any:
    """The JSON value in a file, no larger and no deeper than any document of ours.

    What JSON allows and a reader could take in two ways is refused: a key twice in one object, a number that is not
    finite or has more than 64 bits, half a character.

    Raises:
        MobileloopError: for a file that cannot be read or holds no such JSON; `origin` is the command that writes it.
    """
    try:
        with Path(path).open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise MobileloopError(f"{path} cannot be read: {error.strerror}.") from None
    if len(content) > MAX_BYTES:
        raise MobileloopError(f"{path} is larger than {MAX_BYTES >> 20} MiB, so it is no result of {origin}.")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise MobileloopError(f"{path} is not text, so it is no result of {origin}.") from None
    try:
        data = json.loads(
            text, parse_constant=_refuse, parse_float=_finite, parse_int=_whole, object_pairs_hook=_each_key_once
        )
        _check_depth(data)
    except (ValueError, RecursionError) as error:
        raise MobileloopError(f"{path} is not JSON ({error}); make it again with {origin}.") from None
    return data


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"it holds {constant}")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse("a number beyond 1e308")


def _whole(text: str) -> int:
    if len(text) > 20 or not -(1 << 63) <= (value := int(text)) < 1 << 63:
        _refuse("a whole number of more than 64 bits")
    return value


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        _refuse("a key twice in one object")
    return found


def _check_depth(data: Any) -> None:
    """Also looks at every text, since half of a surrogate pair can be read and never written again."""
    level = [data]
    for _ in range(MAX_DEPTH):
        for value in level:
            texts = value if isinstance(value, dict) else (value,)
            for text in texts:
                if isinstance(text, str):
                    text.encode("utf-8")
        level = [
            inner
            for value in level
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return
    _refuse(f"more than {MAX_DEPTH} levels")
