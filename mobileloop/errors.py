"""The one exception a user's mistake becomes, and the helpers that word it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:  # every command raises these; few validate anything before they start
    from pydantic import BaseModel


class MobileloopError(Exception):
    """A mistake the user can mend: one sentence that says what, where, why and the way out.

    The command line prints it without a traceback and exits with `exit_code`.
    """

    exit_code = 2


Model = TypeVar("Model", bound="BaseModel")


def validated(model: type[Model], data: Any, where: str) -> Model:
    """Validate `data` as `model`.

    Raises:
        MobileloopError: naming `where`, the field, what it holds and what was expected.
    """
    from pydantic import ValidationError

    try:
        return model.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(printable(str(part)) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        named = f"{field}: " if field else ""
        raise MobileloopError(f"{where} is not valid: {named}{reason}.") from None


@contextmanager
def library_errors(what: str, remedy: str, fails: str = "cannot be read") -> Iterator[None]:
    """Turn whatever a library raises inside the block into one sentence; our own errors pass through as they are.

    Around every call that hands a library bytes, texts or tokens from outside: such libraries raise anything, down to
    bare exceptions and the panics of Rust code, which are no `Exception`.

    Args:
        what: what fails, as the sentence's beginning, such as "the header of model.gguf".
        remedy: the way out, as its end.
        fails: what became of it.

    Raises:
        MobileloopError: `<what> <fails> (<the library's first line>); <remedy>.`
    """
    try:
        yield
    except MobileloopError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        lines = str(error).strip().splitlines()
        reason = printable(lines[0].rstrip(".")) if lines else type(error).__name__
        raise MobileloopError(f"{what} {fails} ({reason}); {remedy}.") from None


def printable(key: str) -> str:
    """A text of an untrusted file, safe to show in one line of a terminal."""
    shown = key if key.isprintable() else repr(key)
    return shown if len(shown) <= 120 else shown[:117] + "..."
