"""A model as its source holds it: config, schedule, tensors, and the tokenizer that travels with it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mobileloop.console import visible
from mobileloop.errors import MobileloopError
from mobileloop.files import file_sha256
from mobileloop.quant.schemes import QuantTensor
from mobileloop.spec.config import ModelConfig
from mobileloop.spec.schedule import Schedule
from mobileloop.spec.tokenizer import TokenizerSpec


@dataclass(frozen=True)
class Checkpoint:
    """A model as a source holds it.

    Attributes:
        config, schedule: the model's shape and its own sharing.
        tensors: the names of `ModelConfig.tensor_shapes`; float32 arrays, or QuantTensor where the source is quantized.
        tokenizer: None where the source has none.
        source: path or preset name, for messages.
        sha256: `weights_sha256` of the files, or "random".
        notes: what the loader decided and the user should know.
        published: the pinned name of a model on the hub; None for what lies here.
    """

    config: ModelConfig
    schedule: Schedule
    tensors: Mapping[str, QuantTensor | NDArray[np.float32]]
    tokenizer: TokenizerSpec | None
    source: str
    sha256: str
    notes: tuple[str, ...] = field(default=())
    published: str | None = None

    @property
    def label(self) -> str:
        """The source as an artifact names it: as it is published, or without its folders."""
        return self.published or visible(Path(self.source).name)

    def check_shapes(self) -> Checkpoint:
        """Return self, or raise MobileloopError naming the first tensor that is missing or has a wrong shape."""
        for name, shape in self.config.tensor_shapes().items():
            if name not in self.tensors:
                raise MobileloopError(f"{self.source} lacks the tensor {name}; the download may be incomplete.")
            tensor = self.tensors[name]
            if tuple(tensor.shape) != shape:
                raise MobileloopError(
                    f"{self.source}: the tensor {name} has shape {list(tensor.shape)}, but the config asks "
                    f"for {list(shape)}."
                )
        return self


def weights_sha256(files: Sequence[Path]) -> str:
    """What tells one source's weights from another's: the file's hash, or that of the hashes of several, in order."""
    digests = [file_sha256(path) for path in files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
