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
from mobileloop.spec.calibration import Calibration
from mobileloop.spec.config import ModelConfig
from mobileloop.spec.schedule import Schedule

Tensor = QuantTensor | NDArray[np.float32]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Choice:
    """How one matrix is to be stored.

    Attributes:
        scheme: a key of `SCHEMES`.
        group: inputs that share a scale; divides the matrix's inputs.
    """

    scheme: str
    group: int


def planned(checkpoint: Checkpoint, quantization: str = "int4", group: int = GROUP) -> dict[str, Choice]:
    """How `--quantize` and `--group` store every matrix of a checkpoint, by name.

    Args:
        checkpoint: any loaded source.
        quantization: a key of `QUANTIZATIONS`.
        group: inputs that share a scale, one of `GROUPS`; a matrix whose inputs it does not divide has a smaller one.

    Raises:
        MobileloopError: for an unknown quantization, or a group that does not go with it.
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
    return {
        name: Choice(block_scheme if name.startswith("blocks.") else outer_scheme, fitting_group(shape[1], group))
        for name, shape in checkpoint.config.tensor_shapes().items()
        if len(shape) > 1
    }


@dataclass(frozen=True)
class Fitted:
    """Matrices that were made with a calibration text.

    Attributes:
        plan: of every matrix of the model.
        tensors: those that the source does not hold as planned.
        calibration: what made them, for the artifact.
    """

    plan: Mapping[str, Choice]
    tensors: Mapping[str, QuantTensor]
    calibration: Calibration

    @property
    def budget(self) -> int | None:
        """The size in bytes that the plan was made for."""
        return self.calibration.budget_bytes


@dataclass(frozen=True)
class PackedModel:
    """What every exporter starts from.

    Attributes:
        config: dimensions.
        schedule: which block is applied when.
        quantization: the `--quantize` name that made it.
        tensors: the names of `ModelConfig.tensor_shapes`; matrices QuantTensor, norms float32.
        group: the `--group` that was asked for; a matrix whose inputs it does not divide has a smaller one.
        calibration: what the weights were fitted with; None where they were rounded.
    """

    config: ModelConfig
    schedule: Schedule
    quantization: str
    tensors: Mapping[str, Tensor]
    notes: tuple[str, ...] = field(default=())
    group: int = GROUP
    calibration: Calibration | None = None

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: Checkpoint,
        quantization: str = "int4",
        schedule: Schedule | None = None,
        progress: Progress | None = None,
        group: int = GROUP,
        fitted: Fitted | None = None,
    ) -> PackedModel:
        """Quantize a checkpoint; tensors that already have the wanted number of bits and group are kept as they are.

        Args:
            checkpoint: any loaded source.
            quantization: a key of `QUANTIZATIONS`.
            schedule: overrides the checkpoint's own.
            progress: called with (done, total) tensors.
            group: inputs that share a scale, one of `GROUPS`.
            fitted: what was made with a calibration text (`quant/calibrate.py`), instead of by rounding.

        Raises:
            MobileloopError: for an unknown quantization, or a tensor that cannot be quantized so.
        """
        plan = fitted.plan if fitted else planned(checkpoint, quantization, group)
        chosen = schedule or checkpoint.schedule
        chosen.check_blocks(checkpoint.config.num_blocks)
        chosen.check_halting(None, checkpoint.config.exit_gate)
        shapes = checkpoint.config.tensor_shapes()
        tensors: dict[str, Tensor] = {}
        for done, name in enumerate(shapes):
            tensor = checkpoint.tensors[name]
            if name not in plan:
                tensors[name] = _as_float(tensor)
            elif keeps(tensor, plan[name]):
                tensors[name] = tensor
            elif fitted:
                tensors[name] = fitted.tensors[name]
            else:
                tensors[name] = SCHEMES[plan[name].scheme].quantize(_as_float(tensor), plan[name].group)
            if progress:
                progress(done + 1, len(shapes))
        kept = sum(keeps(checkpoint.tensors[name], choice) for name, choice in plan.items())
        notes = [f"{kept} matrices kept bit for bit from the checkpoint"] if kept else []
        smaller = sum(choice.group != group for choice in plan.values()) if not fitted or not fitted.budget else 0
        if smaller:
            notes.append(f"{smaller} matrices are in smaller groups, since {group} does not divide their inputs")
        calibration = fitted.calibration if fitted else None
        return cls(checkpoint.config, chosen, quantization, tensors, tuple(notes), group, calibration)

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


def keeps(tensor: Tensor, choice: Choice) -> bool:
    """Whether a source's tensor is kept bit for bit: it is stored as chosen already."""
    if not isinstance(tensor, QuantTensor) or tensor.group != choice.group:
        return False
    # `int4` means "4-bit, as good as the source": a symmetric source needs no minimum.
    return tensor.scheme == choice.scheme or (choice.scheme == "int4" and tensor.scheme == "int4-symmetric")
