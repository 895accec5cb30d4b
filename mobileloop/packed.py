"""The packed model: config, schedule and quantized tensors, and the bytes a token costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mobileloop.checkpoints.checkpoint import Checkpoint
from mobileloop.errors import MobileloopError
from mobileloop.quant import records
from mobileloop.quant.schemes import GROUP, GROUPS, QUANTIZATIONS, SCHEMES, QuantTensor, fitting_group
from mobileloop.spec.config import ModelConfig
from mobileloop.spec.schedule import Schedule

Tensor = QuantTensor | NDArray[np.float32]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class PackedModel:
    """What every exporter starts from.

    Attributes:
        config: dimensions.
        schedule: which block is applied when.
        quantization: the `--quantize` name that made it.
        tensors: the names of `ModelConfig.tensor_shapes`; matrices QuantTensor, norms float32.
        group: the `--group` that was asked for; a matrix whose inputs it does not divide has a smaller one.
    """

    config: ModelConfig
    schedule: Schedule
    quantization: str
    tensors: Mapping[str, Tensor]
    notes: tuple[str, ...] = field(default=())
    group: int = GROUP

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: Checkpoint,
        quantization: str = "int4",
        schedule: Schedule | None = None,
        progress: Progress | None = None,
        group: int = GROUP,
    ) -> PackedModel:
        """Quantize a checkpoint; tensors that already have the wanted number of bits and group are kept as they are.

        Args:
            checkpoint: any loaded source.
            quantization: a key of `QUANTIZATIONS`.
            schedule: overrides the checkpoint's own.
            progress: called with (done, total) tensors.
            group: inputs that share a scale, one of `GROUPS`.

        Raises:
            MobileloopError: for an unknown quantization, or a tensor that cannot be quantized so.
        """
        if quantization not in QUANTIZATIONS:
            raise MobileloopError(
                f"the quantization '{quantization}' is not known; choose one of {', '.join(QUANTIZATIONS)}."
            )
        if group not in GROUPS or (group != GROUP and quantization == "none"):
            raise MobileloopError(
                f"groups of {group} do not go with the quantization '{quantization}'; quantized weights come in groups "
                f"of {', '.join(map(str, GROUPS))}, and unquantized ones have none."
            )
        block_scheme, outer_scheme = QUANTIZATIONS[quantization]
        chosen = schedule or checkpoint.schedule
        chosen.check_blocks(checkpoint.config.num_blocks)
        chosen.check_halting(None, checkpoint.config.exit_gate)
        shapes = checkpoint.config.tensor_shapes()
        tensors: dict[str, Tensor] = {}
        kept = smaller = 0
        for done, (name, shape) in enumerate(shapes.items()):
            tensor = checkpoint.tensors[name]
            if len(shape) == 1:
                tensors[name] = _as_float(tensor)
            else:
                wanted = block_scheme if name.startswith("blocks.") else outer_scheme
                tensors[name], same = _requantize(tensor, wanted, fitting_group(shape[1], group))
                kept += same
                smaller += fitting_group(shape[1], group) != group
            if progress:
                progress(done + 1, len(shapes))
        notes = [f"{kept} matrices kept bit for bit from the checkpoint"] if kept else []
        if smaller:
            notes.append(f"{smaller} matrices are in smaller groups, since {group} does not divide their inputs")
        return cls(checkpoint.config, chosen, quantization, tensors, tuple(notes), group)

    def block(self, index: int) -> dict[str, Tensor]:
        """The tensors of one block under their short names."""
        return {name: self.tensors[f"blocks.{index}.{name}"] for name in self.config.block_tensors()}

    def matrix(self, name: str) -> QuantTensor:
        """`embedding` or `head`; a tied model's head is its embedding."""
        tensor = self.tensors["embedding" if name == "head" and self.config.tie_embeddings else name]
        assert isinstance(tensor, QuantTensor)
        return tensor

    def vector(self, name: str) -> NDArray[np.float32]:
        """A norm's scales [hidden], or a vector of the exit gate; float32."""
        tensor = self.tensors[name]
        assert not isinstance(tensor, QuantTensor)
        return tensor

    def block_record(self, index: int) -> NDArray[np.uint8]:
        """One block, packed (docs/format.md)."""
        return records.block_record(self.config, self.block(index))

    def matrix_record(self, name: str) -> NDArray[np.uint8]:
        """`embedding` or `head`, packed."""
        return records.matrix_record(self.matrix(name))

    def dequantized(self) -> dict[str, NDArray[np.float32]]:
        """Every tensor as float32: the weights of the reference that `verify` compares with."""
        return {name: _as_float(tensor) for name, tensor in self.tensors.items()}

    # -- what a token costs ------------------------------------------------------------------------

    def block_bytes(self, index: int) -> int:
        """Weight bytes that one application of a block reads, padding left out."""
        return sum(_stored_bytes(tensor) for tensor in self.block(index).values())

    def head_bytes(self) -> int:
        """Weight bytes of the head and the final norm, read once per token."""
        return self.matrix("head").stored_bytes() + 4 * self.config.hidden_size

    def embedding_row_bytes(self) -> int:
        """Weight bytes of one looked-up embedding row."""
        return self.matrix("embedding").stored_bytes() // self.config.vocab_size

    def weight_bytes(self) -> int:
        """All distinct weight bytes, padding left out."""
        return sum(_stored_bytes(tensor) for tensor in self.tensors.values())

    def costs(self) -> dict[str, int | list[int]]:
        """The figures an artifact carries so that a bench can count bytes without the weights."""
        return {
            "block_bytes": [self.block_bytes(b) for b in range(self.config.num_blocks)],
            "head_bytes": self.head_bytes(),
            "embedding_row_bytes": self.embedding_row_bytes(),
            "weight_bytes": self.weight_bytes(),
        }


def shape_costs(config: ModelConfig, quantization: str, group: int = GROUP) -> dict[str, int | list[int]]:
    """The `costs` of a model of this shape, without its weights.

    Raises:
        MobileloopError: where its matrices cannot be quantized so.
    """
    block_scheme, outer_scheme = QUANTIZATIONS[quantization]

    def stored(shape: tuple[int, ...], scheme: str) -> int:
        if len(shape) == 1:
            return 4 * shape[0]
        rows, cols = shape
        if scheme != "none" and cols % GROUP:
            raise MobileloopError(
                f"an input dimension of {cols} is not a multiple of the quantization group of {GROUP}; choose "
                "--quantize none."
            )
        return SCHEMES[scheme].stored_bytes(rows, cols, fitting_group(cols, group))

    shapes = config.tensor_shapes()
    block = sum(stored(shape, block_scheme) for shape in config.block_tensors().values())
    embedding = stored(shapes["embedding"], outer_scheme)
    outer = sum(stored(shape, outer_scheme) for name, shape in shapes.items() if not name.startswith("blocks."))
    return {
        "block_bytes": [block] * config.num_blocks,
        "head_bytes": embedding + 4 * config.hidden_size,
        "embedding_row_bytes": embedding // config.vocab_size,
        "weight_bytes": block * config.num_blocks + outer,
    }


def _as_float(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.dequantize() if isinstance(tensor, QuantTensor) else tensor.astype(np.float32, copy=False)


def _stored_bytes(tensor: Tensor) -> int:
    return tensor.stored_bytes() if isinstance(tensor, QuantTensor) else 4 * tensor.size


def _requantize(tensor: Tensor, wanted: str, group: int) -> tuple[QuantTensor, bool]:
    if isinstance(tensor, QuantTensor) and tensor.group == group:
        asked, held = SCHEMES[wanted], SCHEMES[tensor.scheme]
        # `int4` means "4-bit, as good as the source": a symmetric source needs no minimum.
        if held is asked or (asked.name == "int4" and held.name == "int4-symmetric"):
            return tensor, True
    return SCHEMES[wanted].quantize(_as_float(tensor), group), False
