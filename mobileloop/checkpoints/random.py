"""A preset with random weights: for timing and tests; every output says that the weights are random."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mobileloop.checkpoints.checkpoint import Checkpoint
from mobileloop.families.registry import preset
from mobileloop.spec.config import ModelConfig
from mobileloop.spec.schedule import Schedule


def random_tensors(config: ModelConfig, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Normal weights scaled by 1 / sqrt(inputs), norms near one; the same for the same seed."""
    generator = np.random.default_rng(seed)
    tensors: dict[str, NDArray[np.float32]] = {}
    for name, shape in config.tensor_shapes().items():
        values = generator.standard_normal(shape, dtype=np.float32)
        norm = name.endswith("norm")
        tensors[name] = 1 + 0.1 * values if norm else values / np.float32(np.sqrt(shape[-1]))
    return tensors


def random_model(config: ModelConfig, schedule: Schedule | None = None, seed: int = 0) -> Checkpoint:
    """A checkpoint of any shape with random weights."""
    config = config.model_copy(update={"random_weights": True})
    return Checkpoint(
        config=config,
        schedule=schedule or Schedule.plain(config.num_blocks),
        tensors=random_tensors(config, seed),
        tokenizer=None,
        source=config.name,
        sha256="random",
        notes=("the weights are random: timings are meaningful, the text is not",),
    )


def random_checkpoint(name: str, seed: int = 0) -> Checkpoint:
    """A preset by name with random weights."""
    config, schedule = preset(name)
    return random_model(config, schedule, seed)
