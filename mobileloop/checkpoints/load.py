"""One door for every source: a Hugging Face folder, a GGUF file, or a preset with random weights."""

from __future__ import annotations

from pathlib import Path

from mobileloop.checkpoints.checkpoint import Checkpoint
from mobileloop.checkpoints.folder import load_folder
from mobileloop.checkpoints.gguf import load_gguf
from mobileloop.checkpoints.random import random_checkpoint
from mobileloop.errors import MobileloopError
from mobileloop.families.registry import preset_names


def load_checkpoint(source: str, seed: int = 0) -> Checkpoint:
    """Load a source.

    Args:
        source: a folder with config.json and safetensors, a .gguf file, or a preset's name (random weights).
        seed: of a preset's random weights.

    Raises:
        MobileloopError: where the source is missing, damaged, unsupported, or only holds pickled weights.
    """
    if source in preset_names():
        return random_checkpoint(source, seed)
    path = Path(source)
    if path.is_dir():
        return load_folder(path)
    if path.is_file():
        if path.suffix in (".bin", ".pt", ".pth", ".ckpt"):
            raise MobileloopError(
                f"{path} is a pickle, which can run code when it is opened; convert it to safetensors first."
            )
        if path.suffix != ".gguf":
            raise MobileloopError(
                f"{path} is not a source: give a folder with config.json and safetensors, or a .gguf file."
            )
        return load_gguf(path)
    raise MobileloopError(
        f"{source} does not exist: give a folder, a .gguf file or a preset ({', '.join(preset_names())})."
    )
