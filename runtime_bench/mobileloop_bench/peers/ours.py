"""Our artifacts of the very weights that the peers run, for the recipe: bit for bit, the embedding in 4 bits too."""

from __future__ import annotations

from pathlib import Path

from mobileloop.errors import MobileloopError
from mobileloop_bench.peers import llama, weights
from mobileloop_bench.peers.builds import Say, Store

BLOCKWISE, WHOLE_STACK = f"immediate:{weights.MAX_LOOPS}", "all:2"


def artifact(store: Store, schedule: str = BLOCKWISE) -> Path:
    """Where the file of a schedule is."""
    kind = "" if schedule == BLOCKWISE else f".{schedule.replace(':', '-')}"
    return store.models / f"SmolLM2-135M-Instruct.Q4_0{kind}.safetensors"


def artifacts(store: Store, say: Say) -> list[Path]:
    """Both files, each block up to four times in a row and the whole stack twice; exported where they are missing.

    Raises:
        MobileloopError: where the GGUF that they are made from was not built.
    """
    if not llama.gguf(store).is_file():
        raise MobileloopError(f"there is nothing to measure: {llama.gguf(store).name} is not built; {llama.HOW}.")
    paths = []
    for schedule in (BLOCKWISE, WHOLE_STACK):
        path = artifact(store, schedule)
        if not path.is_file():
            say(f"exporting the Q4_0 weights to our engine, bit for bit, {schedule}")
            weights.write_engine(llama.gguf(store), path, schedule)
        paths.append(path)
    return paths
