"""The one exception a user's mistake becomes, and the helpers that word it."""

from __future__ import annotations

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
        field = ".".join(_printable(str(part)) for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        named = f"{field}: " if field else ""
        raise MobileloopError(f"{where} is not valid: {named}{reason}.") from None


def _printable(key: str) -> str:
    """A key of an untrusted file, safe to show in one line of a terminal."""
    shown = key if key.isprintable() else repr(key)
    return shown if len(shown) <= 80 else shown[:77] + "..."
