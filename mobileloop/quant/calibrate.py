"""Quantization with a calibration text: each matrix is fitted to the inputs that it meets.

One run of the reference over the text does it: before a matrix is first multiplied, the second moments of its inputs
are taken and it is replaced by its quantized self (`feedback.py`), so all that follows sees what the artifact will
compute, within a block too. The moments of one matrix are in memory at a time.

A matrix that is applied again (loops), or is looked up before it is multiplied (the head of a tied model), meets inputs
that are not known yet when it is first needed. A run of the float model before the other gathers those; they wait in a
temporary folder.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mobileloop.checkpoints.checkpoint import Checkpoint
from mobileloop.errors import MobileloopError
from mobileloop.packed import Choice, keeps
from mobileloop.quant.feedback import check_finite, with_feedback
from mobileloop.quant.schemes import QuantTensor
from mobileloop.quant.search import searched
from mobileloop.reference.model import ReferenceModel, float_tensors
from mobileloop.spec.schedule import Schedule

WINDOW = 256  # tokens that see each other
MAX_TOKENS = 8192
Progress = Callable[[str, float], None]
F32 = NDArray[np.float32]


def windows(tokens: Sequence[int], most: int = MAX_TOKENS, width: int = WINDOW) -> torch.Tensor:
    """[windows, tokens] of a text, its rest left out; one shorter window where it has no whole one."""
    kept = list(tokens[:most])
    width = min(width, len(kept))
    count = len(kept) // width
    return torch.tensor(kept[: count * width]).reshape(count, width)


def window_of(checkpoint: Checkpoint) -> int:
    """Tokens of a window: `WINDOW`, or the positions that a model was made for where those are fewer."""
    return min(WINDOW, checkpoint.config.max_position)


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
        schedule: how the artifact runs.
        tokens: of the calibration text, in its order.
        loops: that looped stages run over the text; None is their own count.
        progress: called with a step and the share done.
    """
    todo = {name: choice for name, choice in plan.items() if not keeps(checkpoint.tensors[name], choice)}
    batch = windows(tokens, width=window_of(checkpoint))
    with scratch_moments() as later:
        applied = [application.block for application in schedule.applications(loops)]
        again = {f"blocks.{block}" for block in applied if applied.count(block) > 1}
        wanted = {name for name in todo if name == "embedding" or name.rpartition(".")[0] in again}
        if wanted:
            later.gather(checkpoint, schedule, batch, loops, wanted, progress, skip_first=True)
        return _Fitting(checkpoint, schedule, todo, later, progress).result(batch, loops)


def moments_of(inputs: torch.Tensor) -> F32:
    """[batch, tokens, cols] -> [cols, cols]: the mean of x x^T over the tokens.

    Raises:
        MobileloopError: where they are not finite, as of a damaged model.
    """
    flat = inputs.reshape(-1, inputs.shape[-1])
    moments: F32 = (flat.T @ flat / flat.shape[0]).numpy()
    check_finite(moments)
    return moments


@contextmanager
def scratch_moments() -> Iterator[Moments]:
    """Moments in a temporary folder, which vanishes when the block ends, however it ends.

    Raises:
        MobileloopError: where the folder refuses (full, read-only).
    """
    try:
        with tempfile.TemporaryDirectory(prefix="mobileloop-") as folder:
            yield Moments(Path(folder))
    except OSError as error:
        raise MobileloopError(
            f"the calibration's scratch files in {tempfile.gettempdir()} could not be written "
            f"({error.strerror or error}); free some space there, or name another folder in TMPDIR."
        ) from None


class Moments:
    """The second moments of matrices' inputs, one file each, summed over applications."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npy"

    def add(self, name: str, moments: F32) -> None:
        """Add to what is there."""
        held = self.of(name)
        np.save(self._path(name), moments if held is None else held + moments)

    def of(self, name: str) -> F32 | None:
        """[cols, cols], or None where there are none."""
        if not self._path(name).exists():
            return None
        moments: F32 = np.load(self._path(name))
        return moments

    def gather(
        self,
        checkpoint: Checkpoint,
        schedule: Schedule,
        batch: torch.Tensor,
        loops: int | None,
        wanted: set[str],
        progress: Progress,
        skip_first: bool = False,
    ) -> None:
        """Run the source's own weights over a text.

        Args:
            checkpoint, schedule, batch, loops: what is run.
            wanted: names of the matrices whose inputs count.
            progress: called with a step and the share done, up to a tenth.
            skip_first: leave out the inputs that a block's matrix meets at its first application.
        """
        _Gathering(checkpoint, schedule, self, wanted, progress, skip_first).forward(batch, loops=loops, logits=False)


class _Watching(ReferenceModel):
    """A reference whose products are looked at; several matrices that share inputs share their moments."""

    def __init__(self, checkpoint: Checkpoint, schedule: Schedule, progress: Progress) -> None:
        super().__init__(checkpoint.config, schedule, float_tensors(checkpoint))
        self.progress = progress
        self._last: tuple[torch.Tensor, F32] | None = None

    def moments(self, inputs: torch.Tensor) -> F32:
        """Of the inputs at hand, made once for all matrices that are multiplied with them."""
        if self._last is None or self._last[0] is not inputs:
            self._last = inputs, moments_of(inputs)
        return self._last[1]


class _Gathering(_Watching):
    """The float model."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        schedule: Schedule,
        into: Moments,
        wanted: set[str],
        progress: Progress,
        skip_first: bool,
    ) -> None:
        super().__init__(checkpoint, schedule, progress)
        self.into, self.wanted = into, wanted
        self.met: set[str] = set() if skip_first else set(wanted)
        self.done: set[str] = set()

    def _product(self, name: str, inputs: torch.Tensor, wanted: bool = True) -> torch.Tensor:
        if name in self.wanted:
            if name in self.met or name == "embedding":
                self.into.add(name, self.moments(inputs))
                self.done.add(name)
                self.progress("running the float model", 0.1 * len(self.done) / len(self.wanted))
            self.met.add(name)
        return super()._product(name, inputs, wanted)


class _Fitting(_Watching):
    """The model whose matrices are replaced one after the other by what the artifact will hold."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        schedule: Schedule,
        todo: Mapping[str, Choice],
        later: Moments,
        progress: Progress,
    ) -> None:
        super().__init__(checkpoint, schedule, progress)
        self.todo, self.later = todo, later
        self.made: dict[str, QuantTensor] = {}

    def result(self, batch: torch.Tensor, loops: int | None) -> dict[str, QuantTensor]:
        """Run it once, and give what was made."""
        if "embedding" in self.todo:
            self._replace("embedding", self.later.of("embedding"))
        self.forward(batch, loops=loops, logits=False)
        for name in self.todo:  # what the schedule leaves out
            if name not in self.made:
                self._replace(name, None)
        return self.made

    def _product(self, name: str, inputs: torch.Tensor, wanted: bool = True) -> torch.Tensor:
        if name in self.todo and name not in self.made:
            first, later = self.moments(inputs), self.later.of(name)
            self._replace(name, first if later is None else first + later)
        return super()._product(name, inputs, wanted)

    def _replace(self, name: str, moments: F32 | None) -> None:
        choice, weights = self.todo[name], self.tensors[name].numpy()
        if moments is None:
            made = searched(weights, choice.scheme, choice.group)
        else:
            made = with_feedback(weights, moments, choice.scheme, choice.group)
        self.made[name] = made
        self.tensors[name] = torch.from_numpy(made.dequantize())
        self.progress(f"fitting {name}", 0.1 + 0.9 * len(self.made) / len(self.todo))
