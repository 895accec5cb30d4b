"""Opens a tokenizer's JSON with the `tokenizers` library, after what would end the whole process is refused."""

from __future__ import annotations

import json
import re
from typing import Any

from tokenizers import Tokenizer

from mobileloop.quiet import muted_stderr

# Escapes of letters and of the underscore: no writer makes them, and they would hide a key from the search below.
_HIDDEN = re.compile(r"\\u00(?:[4-7][0-9a-fA-F])")
_PREFIX = "continuing_subword_prefix"
_NO_PREFIX = re.compile(rf'"{_PREFIX}"\s*:\s*(?:null|"")')


def open_tokenizer(text: str) -> Tokenizer:
    """The tokenizer that a JSON describes; call it inside `library_errors`, for the library raises anything.

    Raises:
        ValueError: where the library would abort the process.
    """
    text.encode("utf-8")  # a lone surrogate is said here, as Python says it
    if text.count(_PREFIX) != len(_NO_PREFIX.findall(text)) or _HIDDEN.search(text):
        _check_merges(json.loads(text))
    with muted_stderr():  # a panic of Rust code writes there before it is raised
        return Tokenizer.from_str(text)


def _check_merges(data: Any) -> None:
    """Raise ValueError where a merge's second part lacks the prefix of parts inside words: the library cuts it off
    unseen, and where it cuts into a character the error that follows ends the process.
    """
    model = data.get("model") if isinstance(data, dict) else None
    if not isinstance(model, dict):
        return
    prefix, merges = model.get(_PREFIX), model.get("merges")
    if not isinstance(prefix, str) or not prefix:
        return
    for merge in merges if isinstance(merges, list) else ():
        parts = merge.split(" ") if isinstance(merge, str) else merge
        second = parts[1] if isinstance(parts, list) and len(parts) > 1 else ""
        if not isinstance(second, str) or not second.startswith(prefix):
            raise ValueError(f"the merge {str(merge)[:60]!r} lacks the prefix {prefix[:60]!r}")
