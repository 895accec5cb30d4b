"""Files: read with a sentence for what fails, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mobileloop.errors import MobileloopError


def cache_path(*parts: str) -> Path:
    """A place of ours under `$XDG_CACHE_HOME`, or ~/.cache: what can be made again."""
    return _own("XDG_CACHE_HOME", ".cache", parts)


def data_path(*parts: str) -> Path:
    """A place of ours under `$XDG_DATA_HOME`, or ~/.local/share: what a user keeps."""
    return _own("XDG_DATA_HOME", ".local/share", parts)


def _own(variable: str, usual: str, parts: Iterable[str]) -> Path:
    base = os.environ.get(variable) or Path.home() / usual
    return Path(base, "mobileloop", *parts)


def check_output(path: Path, inputs: Iterable[str | Path | None] = ()) -> None:
    """Raise MobileloopError, before any work, where `path` cannot become a file, or would replace an input.

    Args:
        path: the file to be written.
        inputs: what the command reads. Of a folder every file in it counts; None and names of what is no file do not.
    """
    if not path.parent.is_dir():
        raise MobileloopError(f"the folder {path.parent} does not exist; create it or choose another output.")
    if path.exists() and not path.is_file():
        raise MobileloopError(f"{path} is a folder or a device, not a file; choose another output.")
    if not path.exists():
        return
    for read in (Path(one) for one in inputs if one is not None):
        if read.exists() and (path.samefile(read) or path.parent.samefile(read)):
            belongs = f"belongs to the input {read}" if read.is_dir() else "is an input of this command"
            raise MobileloopError(f"{path} {belongs} and would be overwritten; choose another output.")


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that becomes `path` when the block ends well, and vanishes when it does not.

    Raises:
        MobileloopError: where the folder is missing or the disk refuses (full, read-only).
    """
    path = Path(path)
    check_output(path)
    try:
        prefix = re.sub(r"[^A-Za-z0-9._-]", "_", path.name)[:60]  # a name that every library opens, and not too long
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{prefix}.", suffix=".part")
        os.close(handle)
    except OSError as error:
        raise MobileloopError(f"nothing can be written in {path.parent}: {error.strerror}.") from None
    temporary = Path(name)
    try:
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
            # What was written lies in the page cache in small pages. Dropped from there, it is read back in large ones
            # by a reader that asks for them, as the engine does.
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        temporary.replace(path)
    except OSError as error:
        raise MobileloopError(
            f"{path} could not be written ({error.strerror or error}); nothing was left behind. Free some space "
            "or choose another output."
        ) from None
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def text_of(path: str | Path) -> str:
    """A path as text that JSON and every terminal can hold: bytes that are not UTF-8 are written as `\\xe8`.

    A document holds this, since a lone surrogate in it is read back by no other program.
    """
    return str(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def utf8_path(path: str | Path, program: str) -> str:
    """The path for a library that takes UTF-8 only, whatever the locale is.

    Raises:
        MobileloopError: naming `program`, which opens no other names.
    """
    try:
        return os.fsencode(path).decode("utf-8")
    except UnicodeError:
        raise MobileloopError(
            f"{text_of(path)} has a name that is not UTF-8, and {program} opens no such file; rename it."
        ) from None


def text_sha256(text: str) -> str:
    """SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def check_content(path: Path) -> None:
    """Raise MobileloopError where a file holds what stands in its place before, or instead of, a download."""
    try:
        with path.open("rb") as stream:
            head = stream.read(64).lstrip().lower()
    except OSError as error:
        raise MobileloopError(f"{path} cannot be read: {error.strerror}.") from None
    if head.startswith(b"version https://git-lfs"):
        raise MobileloopError(f"{path} is a pointer of Git LFS, not the file itself; fetch it with: git lfs pull.")
    if head.startswith((b"<!doctype html", b"<html")):
        raise MobileloopError(f"{path} is a web page, not the file itself; download it from its own address.")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        MobileloopError: where the file cannot be read or holds something else.
    """
    check_content(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise MobileloopError(f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise MobileloopError(f"{path} is not JSON: {error}.") from None
    return parse_json(text, str(path))


def parse_json(text: str, where: str) -> dict[str, Any]:
    """A JSON object from a text; no key stands in it twice, and every text in it is one.

    Raises:
        MobileloopError: naming `where`.
    """
    try:
        data = json.loads(text, object_pairs_hook=_once)
        json.dumps(data, ensure_ascii=False).encode("utf-8")  # an escaped half of a character is no text anywhere else
    except UnicodeEncodeError:
        raise MobileloopError(
            f"{where} holds half a character (a lone surrogate), which is no text; correct it."
        ) from None
    except (ValueError, RecursionError) as error:
        raise MobileloopError(f"{where} is not JSON: {error}.") from None
    if not isinstance(data, dict):
        raise MobileloopError(f"{where} holds a JSON {type(data).__name__}, but an object was expected.")
    return data


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys all stand once: of a key that stands twice a reader would drop one value without a word."""
    held = dict(pairs)
    if len(held) != len(pairs):
        names = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in names if names.count(key) > 1)!r} stands in it twice")
    return held


def read_text(path: Path) -> str:
    """A UTF-8 text file.

    Raises:
        MobileloopError: where the file cannot be read or is not text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise MobileloopError(f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise MobileloopError(f"{path} is not UTF-8 text; convert it, or download it again.") from None


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()
