"""Quantization with a calibration text: each matrix is fitted to the inputs that it meets.

One run of the reference over the text does it: before a matrix is first multiplied, the second moments of its inputs
are taken and it is replaced by its quantized self (`feedback.py`), so all that follows sees what the artifact will
compute, within a block too. Moments of one matrix at a time are in memory.

A matrix that is applied again (loops), or as the head of a tied model, meets inputs that are not known yet when it is
first needed. A run of the float model before the other gathers those; they wait in a temporary folder.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mobileloop.checkpoints.checkpoint import Checkpoint
from mobileloop.packed import Choice, keeps
from mobileloop.quant.feedback import with_feedback
from mobileloop.quant.schemes import QuantTensor
from mobileloop.quant.search import searched
from mobileloop.reference.model import ReferenceModel
from mobileloop.spec.schedule import Schedule

WINDOW = 256  # tokens that see each other
MAX_TOKENS = 8192
Progress = Callable[[str, float], None]
F32 = NDArray[np.float32]


def windows(tokens: Sequence[int], window: int = WINDOW) -> torch.Tensor:
    """[windows, tokens] of a text, its rest left out; one shorter window where it has no whole one."""
    kept = list(tokens[:MAX_TOKENS])
    width = min(window, len(kept))
    count = len(kept) // width
    return torch.tensor(kept[: count * width]).reshape(count, width)


def calibrated(
    checkpoint: Checkpoint,
    plan: Mapping[str, Choice],
    schedule: Schedule,
    tokens: Sequence[int],
    loops: int | None = None,
    progress: Progress = lambda step, done: None,
) -> dict[str, QuantTensor]:
    """The matrices of a plan that the source does not hold already, each fitted to the inputs it meets.

    Args:
        checkpoint: the source.
        plan: of every matrix, as `packed.planned` gives it.
        schedule: how the artifact runs, with its own loop counts.
        tokens: of the calibration text, in its order.
        loops: that looped stages run over the text; None is their own count.
        progress: called with a step and the share done.
    """
    todo = {name: choice for name, choice in plan.items() if not keeps(checkpoint.tensors[name], choice)}
    model = ReferenceModel.from_checkpoint(checkpoint, schedule)
    batch = windows(tokens)
    with tempfile.TemporaryDirectory() as folder:
        run = _Run(model, todo, batch, loops, Path(folder), progress)
        return run.result()


class _Run:
    """The state of one calibration."""

    def __init__(
        self,
        model: ReferenceModel,
        todo: Mapping[str, Choice],
        batch: torch.Tensor,
        loops: int | None,
        folder: Path,
        progress: Progress,
    ) -> None:
        self.model, self.todo, self.batch, self.loops = model, todo, batch, loops
        self.folder, self.progress = folder, progress
        self.made: dict[str, QuantTensor] = {}
        self.last: tuple[torch.Tensor, F32] | None = None  # inputs and their moments: several matrices share them
        self.later: dict[str, Path] = {}
        self.met: set[str] = set()
        applied = [application.block for application in model.schedule.applications(loops)]
        self.repeated = {f"blocks.{block}." for block in set(applied) if applied.count(block) > 1}

    def result(self) -> dict[str, QuantTensor]:
        """Run the model, twice where something meets inputs of later."""
        tied = self.model.config.tie_embeddings and "embedding" in self.todo
        if tied or any(name.startswith(tuple(self.repeated)) for name in self.todo):
            self.model.on_input = self._gather
            self._run()
        if "embedding" in self.todo:
            self._quantize("embedding", self._of_later("embedding"))
        self.model.on_input = self._fit
        self._run()
        for name in self.todo:  # what the schedule leaves out, or is never multiplied
            if name not in self.made:
                self._quantize(name, None)
        return self.made

    def _run(self) -> None:
        self.last = None
        self.model.forward(self.batch, loops=self.loops, logits=False)

    def _gather(self, name: str, inputs: torch.Tensor) -> None:
        """Keep the moments of inputs that a matrix meets after it was first needed."""
        if name not in self.todo:
            return
        first = name not in self.met and name != "embedding"
        self.met.add(name)
        self.progress("running the float model", 0.1 * len(self.met) / len(self.todo))
        if first:
            return
        moments = self._moments(inputs)
        path = self.later.setdefault(name, self.folder / f"{name}.npy")
        if path.exists():
            moments = moments + np.load(path)
        np.save(path, moments)

    def _of_later(self, name: str) -> F32 | None:
        if name not in self.later:
            return None
        moments: F32 = np.load(self.later[name])
        return moments

    def _fit(self, name: str, inputs: torch.Tensor) -> None:
        """Quantize a matrix that is about to be multiplied for the first time."""
        if name not in self.todo or name in self.made:
            return
        moments, later = self._moments(inputs), self._of_later(name)
        self._quantize(name, moments if later is None else moments + later)

    def _moments(self, inputs: torch.Tensor) -> F32:
        """[cols, cols]: the mean of x x^T."""
        if self.last is None or self.last[0] is not inputs:
            flat = inputs.reshape(-1, inputs.shape[-1])
            self.last = inputs, (flat.T @ flat / flat.shape[0]).numpy()
        return self.last[1]

    def _quantize(self, name: str, moments: F32 | None) -> None:
        choice, weights = self.todo[name], self.model.tensors[name].numpy()
        if choice.scheme == "none" or moments is None:
            made = searched(weights, choice.scheme, choice.group)
        else:
            made = with_feedback(weights, moments, choice.scheme, choice.group)
        self.made[name] = made
        self.model.tensors[name] = torch.from_numpy(made.dequantize())
        self.progress(f"fitting {name}", 0.1 + 0.9 * len(self.made) / len(self.todo))
