"""From a checkpoint and a calibration text to the matrices of an artifact."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

import numpy as np

from mobileloop.checkpoints.checkpoint import Checkpoint
from mobileloop.errors import MobileloopError
from mobileloop.packed import Choice, Fitted, keeps, planned
from mobileloop.quant.budget import allocate, choices
from mobileloop.quant.calibrate import calibrated, scratch_moments, window_of, windows
from mobileloop.quant.feedback import check_finite
from mobileloop.quant.schemes import GROUPS, QuantTensor
from mobileloop.quant.sensitivity import Sensing, damages
from mobileloop.reference.model import float_tensors
from mobileloop.spec.calibration import Calibration
from mobileloop.spec.schedule import Schedule
from mobileloop.tokenizer import Tokenizer

PACKAGED = "packaged"
LEAST_TOKENS = 64
SENSED_TOKENS = 1024  # a mean over whole matrices needs fewer than the moments of inputs
SENSED_WINDOW = 128  # each window is one draw of the gradients
Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Text:
    """A calibration text.

    Attributes:
        name: `packaged`, or the file's name.
        text: its contents.
    """

    name: str
    text: str

    @classmethod
    def packaged(cls) -> Text:
        """The one that ships with the package; `verify` and its perplexities have another."""
        return cls(PACKAGED, resources.files("mobileloop.data").joinpath("calibrate.txt").read_text(encoding="utf-8"))

    @property
    def sha256(self) -> str:
        """Of its UTF-8 bytes."""
        return hashlib.sha256(self.text.encode("utf-8")).hexdigest()


@dataclass(frozen=True)
class Wanted:
    """What is asked of the weights.

    Attributes:
        quantization: a key of `QUANTIZATIONS`; not used under a budget.
        group: inputs that share a scale; not used under a budget.
        budget_bytes: what all weights may take; the choice of bits per matrix follows from it.
        groups: that a budget may choose from.
    """

    quantization: str = "int4"
    group: int = 32
    budget_bytes: int | None = None
    groups: tuple[int, ...] = GROUPS


def fit(
    checkpoint: Checkpoint,
    schedule: Schedule,
    wanted: Wanted,
    text: Text,
    loops: int | None = None,
    progress: Progress = lambda step, done: None,
) -> Fitted:
    """Fit every matrix to a text.

    Args:
        checkpoint: a source with a tokenizer.
        schedule: how the artifact runs.
        wanted: schemes and groups, or a budget.
        text: the calibration text.
        loops: that looped stages run over it; None is their own count.
        progress: called with a step and the share done.

    Raises:
        MobileloopError: where the text is too short, the source has no tokenizer, or the budget is too small.
    """
    tokens = _tokens_of(checkpoint, text)
    share = 0.0
    if wanted.budget_bytes is None:
        plan = planned(checkpoint, wanted.quantization, wanted.group)
    else:
        share = 0.5
        plan = _within(checkpoint, schedule, wanted, wanted.budget_bytes, tokens, loops, progress)
    made = calibrated(
        checkpoint, plan, schedule, tokens, loops, lambda step, done: progress(step, share + (1 - share) * done)
    )
    calibration = Calibration(
        text=text.name,
        text_sha256=text.sha256,
        tokens=int(windows(tokens, width=window_of(checkpoint)).numel()),
        weights_sha256=weights_sha256(made),
        loops=loops,
        budget_bytes=wanted.budget_bytes,
    )
    return Fitted(plan, made, calibration)


def _tokens_of(checkpoint: Checkpoint, text: Text) -> list[int]:
    """A text's tokens that the model knows, or MobileloopError where they are too few."""
    if checkpoint.tokenizer is None:
        raise MobileloopError(
            f"{checkpoint.source} has no tokenizer, so no text can calibrate it; leave it out with --calibrate none."
        )
    size = checkpoint.config.vocab_size  # some tokenizers know more tokens than their model
    tokens = [token for token in Tokenizer(checkpoint.tokenizer).encode(text.text) if token < size]
    if len(tokens) < LEAST_TOKENS:
        raise MobileloopError(
            f"the calibration text {text.name} has {len(tokens)} tokens, and at least {LEAST_TOKENS} are needed; give "
            "a longer one, some thousand tokens at best."
        )
    return tokens


def weights_sha256(tensors: Mapping[str, QuantTensor]) -> str:
    """Of names, schemes, groups, codes, scales and minimums, in the order of names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.scheme} {tensor.group} {tensor.shape}\n".encode())
        for part in (tensor.codes, tensor.scale, tensor.minimum):
            if part is not None:
                digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


def _within(
    checkpoint: Checkpoint,
    schedule: Schedule,
    wanted: Wanted,
    budget_bytes: int,
    tokens: list[int],
    loops: int | None,
    progress: Progress,
) -> dict[str, Choice]:
    """A choice for every matrix under a budget, by the divergence that each would add."""
    shapes = {name: shape for name, shape in checkpoint.config.tensor_shapes().items() if len(shape) == 2}
    vectors = sum(4 * shape[0] for shape in checkpoint.config.tensor_shapes().values() if len(shape) == 1)
    offered = {name: choices(shape[1], wanted.groups) for name, shape in shapes.items()}
    for name, found in offered.items():
        if not found:
            raise MobileloopError(
                f"the {shapes[name][1]} inputs of {name} are in no group of {' or '.join(map(str, wanted.groups))}, so "
                "this model has no quantized size; leave the budget out and export with --quantize none."
            )
    # Too small a budget is refused before anything is measured.
    allocate(shapes, {name: dict.fromkeys(found, 0.0) for name, found in offered.items()}, budget_bytes - vectors)
    costs = _costs(checkpoint, schedule, offered, tokens, loops, progress)
    return allocate(shapes, costs, budget_bytes - vectors)


def _costs(
    checkpoint: Checkpoint,
    schedule: Schedule,
    offered: Mapping[str, Sequence[Choice]],
    tokens: list[int],
    loops: int | None,
    progress: Progress,
) -> dict[str, dict[Choice, float]]:
    """The divergence that every choice offered for every matrix would add."""
    progress("measuring sensitivities", 0.0)
    sensing = Sensing(checkpoint.config, schedule, float_tensors(checkpoint))
    sensing.sense(windows(tokens, SENSED_TOKENS, min(SENSED_WINDOW, window_of(checkpoint))), loops)
    costs: dict[str, dict[Choice, float]] = {}
    with scratch_moments() as moments:
        batch = windows(tokens, width=window_of(checkpoint))
        moments.gather(
            checkpoint, schedule, batch, loops, set(offered), lambda step, done: progress(step, 0.1 + 2 * done)
        )
        for name, found in offered.items():
            columns = (sensing.looked_up / sensing.tokens).numpy() if name == "embedding" else None
            rows = np.zeros(checkpoint.tensors[name].shape[0], np.float32)  # of what the schedule leaves out
            if name in sensing.rows:
                rows = (sensing.rows[name] / sensing.tokens).numpy()
                check_finite(rows)
            costs[name] = damages(sensing.tensors[name].numpy(), moments.of(name), rows, found, columns)
            for choice in found:
                if keeps(checkpoint.tensors[name], choice):
                    costs[name][choice] = 0.0
            progress(f"measuring {name}", 0.3 + 0.2 * len(costs) / len(offered))
    return costs
