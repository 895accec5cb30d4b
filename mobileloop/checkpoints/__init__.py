"""Sources: a container (folder, GGUF) is one file that knows how bytes are stored; `load_checkpoint` opens either.

What a family's names and config mean is in `mobileloop.families`; what is read from which file, in docs/checkpoints.md.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    """`load_checkpoint`, imported when it is asked for: artifacts need the checkpoint's type without any reader."""
    if name != "load_checkpoint":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mobileloop.checkpoints.load import load_checkpoint

    return load_checkpoint
