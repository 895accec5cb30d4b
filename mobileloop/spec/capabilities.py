"""What each runtime runs: one table, and one sentence for what it does not."""

from __future__ import annotations

from dataclasses import dataclass

from mobileloop.errors import MobileloopError
from mobileloop.spec.halting import RUNNABLE_RULES, Halting
from mobileloop.spec.schedule import Schedule, Stage


@dataclass(frozen=True)
class Capabilities:
    """What a runtime carries out.

    Attributes:
        halting: tokens that stop looping by a rule.
        full_attention: stages in which tokens attend to later ones of the same call.
        sequences: several at once over the same weights.
        streaming: bringing the next blocks towards the cache.
        kv_bits: of the KV cache.
        groups: inputs that share a scale.
    """

    halting: bool = False
    full_attention: bool = False
    sequences: bool = False
    streaming: bool = False
    kv_bits: tuple[int, ...] = (8, 16, 32)
    groups: tuple[int, ...] = (32, 64, 128)


CAPABILITIES = {
    "engine": Capabilities(halting=True, full_attention=True, sequences=True, streaming=True),
    "executorch": Capabilities(),
    "onnx": Capabilities(kv_bits=(16, 32), groups=(32,)),
}


@dataclass(frozen=True)
class Asked:
    """What an artifact and a session ask of a runtime; the defaults ask for nothing that any of them lacks."""

    schedule: Schedule | None = None
    halting: Halting | None = None
    sequences: int = 1
    stream: str = "off"
    kv_bits: int = 16
    group: int = 32


def lacking(runtime: str, asked: Asked) -> str | None:
    """The first thing that a runtime does not run of what is asked for, by name; None where it runs all."""
    has, schedule = CAPABILITIES[runtime], asked.schedule
    ruled = asked.halting is not None and asked.halting.rule != "none"
    halts = ruled or (schedule is not None and schedule.halts)
    checks = (
        (halts and not has.halting, "a halting rule"),
        (schedule is not None and not schedule.causal and not has.full_attention, "full attention"),
        (asked.sequences > 1 and not has.sequences, f"{asked.sequences} sequences at once"),
        (asked.stream not in ("auto", "off") and not has.streaming, f"streaming by '{asked.stream}'"),
        (asked.kv_bits not in has.kv_bits, f"a KV cache of {asked.kv_bits} bits"),
        (asked.group not in has.groups, f"weights in groups of {asked.group}"),
    )
    return next((name for fails, name in checks if fails), None)


def check_runs(subject: str, runtime: str, asked: Asked) -> None:
    """Raise MobileloopError where a runtime lacks something; `subject` is who asks, such as `the schedule plain`."""
    name = lacking(runtime, asked)
    if name is not None:
        raise MobileloopError(
            f"{subject} asks for {name}, which {runtime} does not run; export with --to engine, or leave it out."
        )


def unbuilt(schedule: Schedule) -> str | None:
    """The first thing a schedule asks for that no runtime here does yet, by name; None where all run."""
    for number, stage in enumerate(schedule.stages):
        reason = _unbuilt(stage)
        if number > 0 and stage.start == "embedding":
            reason = "the embedding as its start state behind another stage, which is not built yet"
        if reason:
            return f"stage {number} needs {reason}"
    return None


def check_built(schedule: Schedule) -> None:
    """Raise MobileloopError, naming the reason, where no runtime runs a schedule yet."""
    reason = unbuilt(schedule)
    if reason:
        raise MobileloopError(f"the schedule {schedule.name} cannot run yet: {reason}.")


def _unbuilt(stage: Stage) -> str | None:
    checks = (
        (bool(stage.stages), "nested stages, which no runtime here executes yet"),
        (stage.injection != "none" or bool(stage.inject), f"the injection '{stage.injection}', which is not built yet"),
        (stage.start not in ("carry", "embedding"), f"the start state '{stage.start}', which is not built yet"),
        (stage.state != "h", f"a second hidden state '{stage.state}', which is not built yet"),
        (stage.halting.rule not in RUNNABLE_RULES, f"the halting rule '{stage.halting.rule}', which is not built yet"),
        (stage.kv_policy.kind != "own", f"the KV policy '{stage.kv_policy.kind}', which is not built yet"),
        (stage.noise, "a noise input, which is not built yet"),
        (stage.low_rank > 0, "per-application low-rank deltas, which are not built yet"),
    )
    return next((reason for failed, reason in checks if failed), None)
