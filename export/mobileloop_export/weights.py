"""How an export makes its weights: rounded, or fitted to a calibration text, and what that costs."""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mobileloop.checkpoints.checkpoint import Checkpoint
from mobileloop.errors import MobileloopError
from mobileloop.files import read_text, text_of
from mobileloop.packed import PackedModel, keeps, planned
from mobileloop.quant.schemes import SCHEMES
from mobileloop.spec.capabilities import CAPABILITIES
from mobileloop.spec.config import ModelConfig
from mobileloop.spec.schedule import Schedule

AUTO, NONE, PACKAGED = "auto", "none", "packaged"
AUTO_PARAMETERS = 200e6  # fitting 135 million took 2.1 and 2.4 minutes on two shared cores (lab log)
MINUTES_PER_PARAMETER = 2.25 / 135e6
Progress = Callable[[str, float], None]

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


@dataclass(frozen=True)
class Ask:
    """What the user said of the weights.

    Attributes:
        quantization: a key of `QUANTIZATIONS`.
        group: inputs that share a scale.
        calibrate: `auto`, `none`, `packaged` or the name of a text file.
        budget_bytes: what all weights may take.
        price: whether to measure what packing cost.
    """

    quantization: str
    group: int
    calibrate: str = AUTO
    budget_bytes: int | None = None
    price: bool = True


def parse_size(text: str) -> int:
    """A size such as 70MB (millions of bytes), 66.5MiB or 70000000, in bytes.

    Raises:
        MobileloopError: for anything else.
    """
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([a-zA-Z]*)", text.strip(), re.ASCII)
    if match is None or match[2].upper() not in _UNITS or float(match[1]) <= 0:
        raise MobileloopError(
            f"the budget {text!r} is no size; give a number of bytes, or one with a unit, such as 70MB or 66MiB."
        )
    return int(float(match[1]) * _UNITS[match[2].upper()])


def pack(
    checkpoint: Checkpoint, schedule: Schedule, target: str, ask: Ask, progress: Progress = lambda step, done: None
) -> tuple[PackedModel, tuple[str, ...]]:
    """The packed model of an export, and what should be said of its weights beside the model's own notes.

    Args:
        checkpoint: the source.
        schedule: how the artifact runs.
        target: the artifact's format.
        ask: what the user said.
        progress: called with a step and the share done.

    Raises:
        MobileloopError: where the calibration or the budget asked for is not possible.
    """
    loops = trained_loops(checkpoint, schedule)
    fits, notes = _decided(checkpoint, ask)
    packed = None
    if fits:
        try:
            packed = _fitted(checkpoint, schedule, target, ask, loops, lambda step, done: progress(step, 0.9 * done))
            of = f"{packed.calibration.tokens} tokens of " if packed.calibration else ""
            of += "the packaged text" if ask.calibrate in (AUTO, PACKAGED) else text_of(Path(ask.calibrate).name)
            notes.append(f"the weights, {packed.weight_bytes() / 1e6:.2f} MB, were fitted to {of}")
        except MobileloopError as error:
            if ask.calibrate != AUTO or ask.budget_bytes is not None:
                raise
            notes.append(
                f"the weights were rounded, since they could not be fitted to a text: {str(error).rstrip('.')}"
            )
    if packed is None:
        packed = PackedModel.from_checkpoint(
            checkpoint, ask.quantization, schedule, lambda done, total: progress("quantizing", done / total), ask.group
        )
    if ask.price:
        notes += _priced(checkpoint, packed, loops, progress)
    return packed, tuple(notes)


def _fitted(
    checkpoint: Checkpoint, schedule: Schedule, target: str, ask: Ask, loops: int | None, progress: Progress
) -> PackedModel:
    """Fit to the text that was asked for."""
    from mobileloop.quant.fit import Text, Wanted, fit

    named = ask.calibrate not in (AUTO, PACKAGED)
    text = Text(text_of(Path(ask.calibrate).name), read_text(Path(ask.calibrate))) if named else Text.packaged()
    wanted = Wanted(ask.quantization, ask.group, ask.budget_bytes, CAPABILITIES[target].groups)
    fitted = fit(checkpoint, schedule, wanted, text, loops, progress)
    return PackedModel.from_checkpoint(checkpoint, ask.quantization, schedule, None, ask.group, fitted)


def trained_loops(checkpoint: Checkpoint, schedule: Schedule) -> int | None:
    """The loops that a calibration runs: None is the schedule's own count, of models that keep their text with it.

    An undamped schedule with more loops than the checkpoint's own is for speed alone, and nothing can be learnt from
    what such a model computes.
    """
    damped = any(stage.damping < 1 for stage in schedule.stages)
    own = checkpoint.schedule.default_loops
    return own if not damped and schedule.default_loops > own else None


def _decided(checkpoint: Checkpoint, ask: Ask) -> tuple[bool, list[str]]:
    """Whether the weights are fitted, and a note where a wish was not possible by default."""
    told = ask.calibrate != AUTO
    if ask.budget_bytes is not None and ask.calibrate == NONE:
        raise MobileloopError("--budget measures what each choice costs with a text; leave out --calibrate none.")
    if ask.calibrate == NONE:
        return False, []
    plan = planned(checkpoint, ask.quantization, ask.group)
    todo = [choice for name, choice in plan.items() if not keeps(checkpoint.tensors[name], choice)]
    if ask.budget_bytes is None:
        if not told and not any(SCHEMES[choice.scheme].bits == 4 for choice in todo):
            return False, []  # 8 bits are as good as the source already
        if ask.quantization == "none" or not todo:
            return False, ["there was nothing to calibrate: every matrix is kept as the source has it"]
    wanted = told or ask.budget_bytes is not None
    random = checkpoint.config.random_weights
    if random or checkpoint.tokenizer is None:
        reason = "random weights, which no text can calibrate" if random else "no tokenizer, which a text needs"
        if wanted:
            raise MobileloopError(
                f"{checkpoint.source} has {reason}; leave out --budget, and --calibrate or give it as none."
            )
        return False, []
    if importlib.util.find_spec("torch") is None:
        if wanted:
            raise MobileloopError("calibrating needs PyTorch; install it with: pip install '.[torch]'.")
        return False, ["the weights were rounded, since fitting them to a text needs PyTorch: pip install '.[torch]'"]
    parameters = _parameters(checkpoint.config)
    if not wanted and parameters > AUTO_PARAMETERS:
        minutes = max(1, round(parameters * MINUTES_PER_PARAMETER))
        return False, [
            f"the weights were rounded; --calibrate packaged fits them to a text, which takes about {minutes} minutes "
            "and keeps far more of the model"
        ]
    return True, []


def _parameters(config: ModelConfig) -> int:
    return sum(shape[0] * shape[1] for shape in config.tensor_shapes().values() if len(shape) == 2)


def _priced(checkpoint: Checkpoint, packed: PackedModel, loops: int | None, progress: Progress) -> list[str]:
    """A sentence with the price, or why it is unknown; none where nothing was lost or nothing could be."""
    plan = planned(checkpoint, packed.quantization, packed.group)
    lossless = packed.quantization == "none" or all(keeps(checkpoint.tensors[name], plan[name]) for name in plan)
    if checkpoint.config.random_weights or (lossless and packed.calibration is None):
        return []
    if importlib.util.find_spec("torch") is None:
        return ["what packing the weights cost is unknown: measuring it needs PyTorch (pip install '.[torch]')"]
    from mobileloop.quant.price import price

    try:
        found = price(checkpoint, packed, loops, lambda step, done: progress(step, 0.9 + 0.1 * done))
    except MobileloopError as error:
        return [f"what packing the weights cost is unknown: {str(error).rstrip('.')}"]
    if found is None:
        why = "the source has no tokenizer" if checkpoint.tokenizer is None else "the model is too large to run quickly"
        return [f"what packing the weights cost is unknown: {why}"]
    if not math.isfinite(found.mean_kl):
        return ["what packing the weights cost is unknown: the answers of the model are not finite numbers"]
    return [
        f"packing the weights cost a mean KL of {found.mean_kl:.2g} nats from the source's own values, over "
        f"{found.tokens} tokens of the packaged text"
    ]
