"""Lists and shares that a command line gives."""

from __future__ import annotations

from mobileloop.errors import MobileloopError

MAX_NUMBER = 1024


def numbers(text: str, option: str, least: int = 1, most: int = MAX_NUMBER) -> list[int]:
    """`1,2,4` as numbers, repeats dropped.

    Raises:
        MobileloopError: naming the option, where an entry is not a whole number from `least` to `most`.
    """
    found: dict[int, None] = {}
    for entry in text.split(","):
        stripped = entry.strip()
        if not (stripped.isascii() and stripped.isdigit() and least <= int(stripped[:9]) <= most):
            raise MobileloopError(
                f"{option} '{text}' holds '{stripped}', but whole numbers from {least} to {most} with commas "
                f"between them were expected; write for example {option} {least},{least + 1}."
            )
        found[int(stripped)] = None
    return list(found)


def percentage(text: str) -> float:
    """`5%` or `0.05` as a share.

    Raises:
        ValueError: for anything that is no share of at least 0 and below 100%.
    """
    value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    if not 0 <= value < 1:
        raise ValueError(f"{text} is outside 0%-100%")
    return value
