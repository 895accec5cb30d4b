"""How fast the cores were beside each round, and which rounds may be compared."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

ALIKE = 1.1  # steps of two rounds that take the same time but for this are of one state of the core


class Speed(BaseModel):
    """Two fixed loops beside one round, the slower of the readings before and behind it.

    Attributes:
        step_ns: nanoseconds of one step of arithmetic out of registers, of the slowest thread.
        read_gbps: all threads reading 8 MiB each, in 1e9 bytes per second.
    """

    model_config = ConfigDict(extra="allow")

    step_ns: FiniteFloat = Field(gt=0)
    read_gbps: FiniteFloat = Field(gt=0)


Speeds = Sequence[Speed | None]


def slower(before: Speed | None, after: Speed | None) -> Speed | None:
    """Of both readings what was slower; None where one is missing."""
    if before is None or after is None:
        return None
    return Speed(step_ns=max(before.step_ns, after.step_ns), read_gbps=min(before.read_gbps, after.read_gbps))


def alike(before: Speeds, after: Speeds) -> list[int]:
    """The rounds of one run in which two configurations computed at the same speed, within 10%."""
    return [
        number
        for number, (one, other) in enumerate(zip(before, after, strict=False))
        if one and other and max(one.step_ns, other.step_ns) <= ALIKE * min(one.step_ns, other.step_ns)
    ]


def at_full_speed(speeds: Speeds, fastest_ns: float) -> list[int]:
    """The rounds in which the cores computed as fast as they are known to, within 10%."""
    return [number for number, one in enumerate(speeds) if one and one.step_ns <= ALIKE * fastest_ns]


def fastest_ns(speeds: Speeds) -> float | None:
    """The shortest step of all readings; None where there are none."""
    return min((one.step_ns for one in speeds if one), default=None)
