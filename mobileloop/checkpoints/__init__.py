"""Sources: a Hugging Face folder, a GGUF file, or a preset with random weights.

A family (Llama, MobileLLM, ...) is one file here that maps a source's config and tensor names to ours; a
container (folder, GGUF) is one file that knows how bytes are stored.
"""

from __future__ import annotations

from pathlib import Path

from mobileloop.errors import MobileloopError
from mobileloop.model import Checkpoint
from mobileloop.presets import preset_names


def load_checkpoint(source: str, seed: int = 0) -> Checkpoint:
    """Load a source.

    Args:
        source: a folder with config.json and safetensors, a .gguf file, or a preset's name (random weights).
        seed: of a preset's random weights.

    Raises:
        MobileloopError: where the source is missing, damaged, unsupported, or only holds pickled weights.
    """
    if source in preset_names():
        from mobileloop.checkpoints.random import random_checkpoint

        return random_checkpoint(source, seed)
    path = Path(source)
    if path.is_dir():
        from mobileloop.checkpoints.folder import load_folder

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
        from mobileloop.checkpoints.gguf import load_gguf

        return load_gguf(path)
    raise MobileloopError(
        f"{source} does not exist: give a folder, a .gguf file or a preset ({', '.join(preset_names())})."
    )
