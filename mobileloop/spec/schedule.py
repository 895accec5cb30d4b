"""The schedule: which block is applied when, and where its keys and values live.

A *stage* is an ordered group of blocks applied `loops` times; a *schedule* is a list of stages, which may
nest. Sharing is the point and also the trap: two applications of one block read the same weights, but each
makes keys and values of its own, so each owns a KV *slot*. Giving both one slot is the well-known wrong
answer (the second application would attend over the first one's keys too).

    >>> schedule = Schedule.immediate(num_blocks=2, loops=2)
    >>> [(a.index, a.block, a.loop, a.slot) for a in schedule.applications()]
    [(0, 0, 0, 0), (1, 0, 1, 1), (2, 1, 0, 2), (3, 1, 1, 3)]

Slots are laid out for `max_loops`, so a block keeps its slots when a session runs fewer loops.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mobileloop.errors import MobileloopError, validated
from mobileloop.spec.halting import MAX_LOOPS, Halting


class KvPolicy(BaseModel):
    """Which slot an application reads and writes: its own, the last or first loop's, or loop modulo `modulus`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["own", "last", "first", "mod"] = "own"
    modulus: int = Field(default=0, ge=0)


class Stage(BaseModel):
    """An ordered group of blocks (or of inner stages) applied `loops` times.

    Attributes:
        blocks: physical blocks in order; empty where `stages` nests instead.
        stages: inner stages, run in order once per loop.
        loops: applications when a session does not say.
        max_loops: the bound that KV slots are laid out for; above 1, `loops` is a run-time argument.
        state: the named hidden state that this stage reads and writes.
        inject: names of the states added or joined to the input at every loop, by `injection`.
        injection: how; `lti` is h <- A*h + B*e + R(h, e) with diagonal A and B (LoopWM, Parcae).
        start: what the state holds before the first loop.
        loop_end_norm: apply the model's final norm at every loop end (Ouro, Nanbeige).
        damping: step d of h <- h + d * (f(h) - h), f one loop of this stage; 1 is the plain loop
            (arXiv 2605.23872 loops a frozen model's middle blocks with d = 1 / loops).
        causal: False for full attention: all tokens of a call attend to each other and to what came before (HRM, TRM,
            GRAM, LoopMDM).
        noise: Gaussian noise after the stage, given to the session as an input (GRAM).
        low_rank: rank of the per-application weight deltas (relaxed recursive transformers); 0 is none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    blocks: tuple[int, ...] = ()
    stages: tuple[Stage, ...] = ()
    loops: int = Field(default=1, ge=1, le=MAX_LOOPS)
    max_loops: int = Field(default=1, ge=1, le=MAX_LOOPS)
    state: str = "h"
    inject: tuple[str, ...] = ()
    injection: Literal["none", "add", "concat_linear", "lti"] = "none"
    start: Literal["embedding", "zeros", "noise_input", "buffer", "carry"] = "carry"
    loop_end_norm: bool = False
    damping: float = Field(default=1.0, gt=0, le=1)
    halting: Halting = Halting()
    kv_policy: KvPolicy = KvPolicy()
    causal: bool = True
    noise: bool = False
    low_rank: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> Stage:
        if bool(self.blocks) == bool(self.stages):
            raise ValueError("a stage has either blocks or inner stages, and not both or neither")
        if any(block < 0 for block in self.blocks):
            raise ValueError(f"block numbers start at 0, but the stage names {list(self.blocks)}")
        if self.loops > self.max_loops:
            raise ValueError(f"loops {self.loops} is beyond max_loops {self.max_loops}")
        if self.halting.min_loops > self.max_loops:
            raise ValueError(f"halting min_loops {self.halting.min_loops} is beyond max_loops {self.max_loops}")
        if self.halting.rule == "exit_gate" and not self.loop_end_norm:
            raise ValueError("the exit gate reads the normed state, so the stage needs loop_end_norm")
        return self

    @property
    def name(self) -> str:
        """Its blocks: `0-29`, or `0,2,4` where they are no run of numbers; of a nested one, its inner stages."""
        return ",".join(stage.name for stage in self.stages) or _name(self.blocks)

    @property
    def looped(self) -> bool:
        """Whether loops and halting are run-time arguments of this stage."""
        return self.max_loops > 1

    @property
    def num_slots(self) -> int:
        """KV slots of this stage, inner stages included."""
        inside = len(self.blocks) + sum(stage.num_slots for stage in self.stages)
        return inside * self.max_loops

    def loops_for(self, requested: int | None) -> int:
        """Loops this stage runs when a session asks for `requested` (None: the stage's own count).

        A stage bounded below the request runs as often as it may: more would reach into the next stage's slots.
        """
        return self.loops if requested is None or not self.looped else min(requested, self.max_loops)


@dataclass(frozen=True)
class Application:
    """One execution of a block: its index in execution order, where it comes from and its KV slot."""

    index: int
    block: int
    stage: int
    loop: int
    slot: int


class Schedule(BaseModel):
    """The ordered stages of a model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "plain"
    stages: tuple[Stage, ...] = Field(min_length=1)

    # -- the common shapes -------------------------------------------------------------------------

    @classmethod
    def plain(cls, num_blocks: int) -> Schedule:
        """Every block once."""
        return cls(name="plain", stages=(Stage(blocks=tuple(range(num_blocks))),))

    @classmethod
    def immediate(cls, num_blocks: int, loops: int) -> Schedule:
        """Every block `loops` times in a row (MobileLLM layer-share is 2; arXiv 2402.14905, section 2.4)."""
        stages = tuple(Stage(blocks=(b,), loops=loops, max_loops=loops) for b in range(num_blocks))
        return cls(name=f"immediate:{loops}", stages=stages)

    @classmethod
    def repeat_all_over(cls, num_blocks: int, loops: int, loop_end_norm: bool = False) -> Schedule:
        """All blocks, then all blocks again (Nanbeige and Ouro also norm at every loop end)."""
        stage = Stage(blocks=tuple(range(num_blocks)), loops=loops, max_loops=loops, loop_end_norm=loop_end_norm)
        return cls(name=f"all:{loops}", stages=(stage,))

    @classmethod
    def damped_range(cls, num_blocks: int, first: int, last: int, loops: int, damping: float) -> Schedule:
        """Blocks `first`..`last` (inclusive) `loops` times in damped steps, the others once (arXiv 2605.23872)."""
        if not 0 <= first <= last < num_blocks:
            raise MobileloopError(
                f"the range {first}-{last} does not lie inside blocks 0-{num_blocks - 1}; choose blocks of this model."
            )
        stages = []
        if first > 0:
            stages.append(Stage(blocks=tuple(range(first))))
        middle = tuple(range(first, last + 1))
        stages.append(Stage(blocks=middle, loops=loops, max_loops=loops, damping=damping))
        if last + 1 < num_blocks:
            stages.append(Stage(blocks=tuple(range(last + 1, num_blocks))))
        return cls(name=f"range:{first}-{last}:{loops}:{damping:g}", stages=tuple(stages))

    @classmethod
    def parse(cls, text: str, num_blocks: int) -> Schedule:
        """Read `plain`, `immediate:N`, `all:N`, `range:A-B:N[:DAMPING]`, or a path to a JSON file.

        Raises:
            MobileloopError: where `text` is none of these or does not fit a model of `num_blocks`.
        """
        if text == "plain":
            return cls.plain(num_blocks)
        if match := re.fullmatch(r"(immediate|all):(-?\d+)", text):
            loops = _checked_loops(int(match[2]))
            make = cls.immediate if match[1] == "immediate" else cls.repeat_all_over
            return make(num_blocks, loops)
        if match := re.fullmatch(r"range:(\d+)-(\d+):(\d+)(?::([0-9.]+))?", text):
            loops = _checked_loops(int(match[3]))
            try:
                damping = float(match[4]) if match[4] else 1.0
            except ValueError:
                damping = 0.0
            if not 0 < damping <= 1:
                raise MobileloopError(f"the damping in schedule '{text}' must lie above 0 and at most 1.")
            return cls.damped_range(num_blocks, int(match[1]), int(match[2]), loops, damping)
        if text.endswith(".json"):
            try:
                data = json.loads(Path(text).read_text(encoding="utf-8"))
            except OSError as error:
                raise MobileloopError(f"the schedule {text} cannot be read: {error.strerror}.") from None
            except (ValueError, RecursionError) as error:
                raise MobileloopError(f"the schedule {text} is not JSON: {error}.") from None
            schedule = validated(cls, data, f"the schedule {text}")
            schedule.check_blocks(num_blocks)
            return schedule
        raise MobileloopError(
            f"the schedule '{text}' is not known; write plain, immediate:N, all:N, range:A-B:N:DAMPING or a .json file."
        )

    # -- facts -------------------------------------------------------------------------------------

    @property
    def max_loops(self) -> int:
        """The largest loop count that a session may ask for."""
        return max(_max_loops(stage) for stage in self.stages)

    @property
    def default_loops(self) -> int:
        """The loop count of the looped stages when a session does not say."""
        return max(_default_loops(stage) for stage in self.stages)

    @property
    def num_slots(self) -> int:
        """KV slots of the whole model."""
        return sum(stage.num_slots for stage in self.stages)

    @property
    def causal(self) -> bool:
        """Whether no stage lets a token attend to later ones of the same call."""
        return all(stage.causal for stage in self.stages)

    def stage_rows(self) -> list[tuple[str, tuple[int, ...]]]:
        """The stages as the rows of a table: a name, and the places of the stages that it stands for.

        A stage is a row named after its blocks. Neighbours of one block each that differ in nothing else are one row,
        since 30 rows would hide what they have in common: `0-29 (each block by itself)` of `immediate`.
        """
        rows = []
        for _, run in groupby(enumerate(self.stages), key=_row_key):
            places, stages = zip(*run, strict=True)
            if len(stages) == 1:
                rows.append((stages[0].name, places))
            else:
                blocks = tuple(stage.blocks[0] for stage in stages)
                rows.append((f"{_name(blocks)} (each block by itself)", places))
        return rows

    def slot_bases(self) -> list[int]:
        """First KV slot of every top-level stage."""
        bases, base = [], 0
        for stage in self.stages:
            bases.append(base)
            base += stage.num_slots
        return bases

    def check_blocks(self, num_blocks: int) -> None:
        """Raise MobileloopError where the schedule names a block that the model lacks."""
        for block in sorted({b for stage in self.stages for b in _blocks(stage)}):
            if block >= num_blocks:
                raise MobileloopError(
                    f"the schedule {self.name} names block {block}, but the model has blocks 0-{num_blocks - 1}."
                )

    def check_loops(self, loops: int | None) -> None:
        """Raise MobileloopError where a session may not run `loops` loops."""
        if loops is None:
            return
        if not 1 <= loops <= self.max_loops:
            raise MobileloopError(
                f"loops {loops} is outside 1-{self.max_loops}, the bound this artifact was exported for; "
                "ask for less or export again with a larger --loops."
            )

    @property
    def halts(self) -> bool:
        """Whether a stage has a halting rule of its own."""
        return any(stage.halting.rule != "none" for stage in self.stages)

    def check_halting(self, halting: Halting | None, has_gate: bool) -> None:
        """Raise MobileloopError where a rule (None: the stages' own) cannot run in this schedule.

        Args:
            halting: of all looped stages, in place of their own.
            has_gate: whether the model has the weights of an exit gate.
        """
        if halting is not None:
            if halting.min_loops > self.max_loops:
                raise MobileloopError(
                    f"the least loops {halting.min_loops} of the halting rule are outside 1-{self.max_loops}, the "
                    "bound of this schedule; ask for less."
                )
            if halting.rule == "exit_gate" and not all(s.loop_end_norm for s in self.stages if s.looped):
                raise MobileloopError(
                    "the halting rule exit_gate reads the normed state, but a looped stage of this schedule has no "
                    "norm at its loop ends; choose latent_difference or cosine."
                )
        rules = [stage.halting.rule for stage in self.stages] if halting is None else [halting.rule]
        if "exit_gate" in rules and not has_gate:
            raise MobileloopError(
                "the halting rule exit_gate needs the weights of an exit gate, which this model does not have; choose "
                "latent_difference or cosine."
            )

    def applications(self, loops: int | None = None) -> Iterator[Application]:
        """Every application of a runnable schedule in execution order."""
        index = 0
        for number, (stage, base) in enumerate(zip(self.stages, self.slot_bases(), strict=True)):
            for loop in range(stage.loops_for(loops)):
                for place, block in enumerate(stage.blocks):
                    yield Application(index, block, number, loop, base + loop * len(stage.blocks) + place)
                    index += 1


def _checked_loops(loops: int) -> int:
    if not 1 <= loops <= MAX_LOOPS:
        raise MobileloopError(f"loops {loops} is outside 1-{MAX_LOOPS}; choose a loop count in that range.")
    return loops


def _blocks(stage: Stage) -> set[int]:
    return set(stage.blocks).union(*(_blocks(inner) for inner in stage.stages))


def _name(blocks: tuple[int, ...]) -> str:
    first, last = blocks[0], blocks[-1]
    if blocks != tuple(range(first, last + 1)):
        return ",".join(map(str, blocks))
    return f"{first}-{last}" if last > first else str(first)


def _row_key(placed: tuple[int, Stage]) -> object:
    """Equal for the neighbours that are one row; a stage of more blocks equals no other."""
    place, stage = placed
    return stage.model_dump(exclude={"blocks"}) if len(stage.blocks) == 1 else place


def _max_loops(stage: Stage) -> int:
    return max([stage.max_loops, *(_max_loops(inner) for inner in stage.stages)])


def _default_loops(stage: Stage) -> int:
    return max([stage.loops, *(_default_loops(inner) for inner in stage.stages)])
