"""Taking turns: contestants in interleaved rounds, whoever they are. A caller brings only "take one turn".

Neighbours on a shared machine, heat and frequency change over minutes. Measuring one contestant after the other would
turn such a change into a difference between them; a round of all of them does not. The order rotates: each begins one
place further than in the round before, so that everyone has every place of a round equally often, and a run that goes
on from a journal knows the order without having kept it. `seed` shifts where the first round begins.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field

from mobileloop_bench.results.bootstrap import LEAST_ROUNDS
from mobileloop_bench.results.settings import Settings
from mobileloop_bench.writing.units import counted

Progress = Callable[[int, int, str], None]  # turns done, turns in all, what comes next

MAX_ROUNDS = 1000  # of a time budget
PATIENCE = 20  # times the rounds asked for, where --until-stable has no time budget
ROUNDS_SHARE = 0.8  # of a time budget; what is left goes to what comes behind the rounds


class Stopped(Exception):
    """The user ended the run, and what was measured is to be kept; Ctrl-C does the same."""


@dataclass(frozen=True)
class Turn:
    """One contestant in one round: `number` is its place in the run, `kind` one of several things it does there."""

    number: int
    round: int
    contestant: int
    kind: str


@dataclass(frozen=True)
class Ended:
    """Why there are no more turns."""

    reason: str
    interrupted: bool = False


def rotated(count: int, turn: int) -> list[int]:
    """0 .. count-1, started one place further every turn."""
    start = turn % count
    return [*range(start, count), *range(start)]


@dataclass(frozen=True)
class Rounds:
    """The turns of a run.

    Attributes:
        contestants: how many.
        settings: `repetitions`, `until_stable`, `time_budget_s` and `cooldown_s` say how long, `seed` shifts the order.
        kinds: what everyone does in a round, one kind behind the other, and in how many rounds; None is all.
    """

    contestants: int
    settings: Settings
    kinds: Mapping[str, int | None] = field(default_factory=lambda: {"turn": None})

    @property
    def most(self) -> int:
        """Rounds, at most."""
        settings = self.settings
        if settings.time_budget_s is not None:
            return MAX_ROUNDS
        patient = PATIENCE * max(settings.repetitions, LEAST_ROUNDS)
        return patient if settings.until_stable else settings.repetitions

    def turns(self, number: int) -> list[Turn]:
        """Of one round, in order."""
        kinds = [kind for kind, rounds in self.kinds.items() if rounds is None or number < rounds]
        order = rotated(self.contestants, number + self.settings.seed)
        places = [(index, kind) for kind in kinds for index in order]
        return [Turn(first, number, *place) for first, place in enumerate(places, self._before(number))]

    def run(
        self,
        take: Callable[[Turn], object],
        name: Callable[[Turn], str],
        *,
        done: Container[int] = (),
        stable: Callable[[], bool] = lambda: False,
        progress: Progress = lambda done, total, what: None,
        clock: Callable[[], float] = time.perf_counter,
        idle: Callable[[], None] = lambda: None,
    ) -> Ended:
        """Take turns until the settings, `stable` or the user say that it is enough.

        Args:
            take: does one turn and keeps what comes of it; an error of its own ends the run and is the caller's.
            name: of a turn, for `progress`.
            done: numbers of turns that a journal holds already.
            stable: whether all is known well enough; asked behind a round, where the settings want it.
            progress: called between turns, never inside one.
            clock: seconds since the run began.
            idle: called about once a second while the run pauses between rounds.
        """
        took: dict[tuple[int, str], float] = {}
        settings = self.settings

        def left(now: float) -> float | None:
            return None if settings.time_budget_s is None else ROUNDS_SHARE * settings.time_budget_s - now

        def cool_down(number: int) -> None:
            end = clock() + settings.cooldown_s
            while (pause := end - clock()) > 0:
                remaining = left(clock())
                if remaining is not None and remaining <= 0:
                    return
                progress(self._before(number), self._total(number), f"cooling down, {pause:.0f} s")
                time.sleep(min(1.0, pause))
                idle()

        try:
            for number in range(self.most):
                missing = [turn for turn in self.turns(number) if turn.number not in done]
                if number and missing:
                    cool_down(number)
                for turn in missing:
                    started = clock()
                    remaining = left(started)
                    if remaining is not None and remaining <= took.get((turn.contestant, turn.kind), 0.0):
                        over = f"the time budget of {settings.time_budget_s:g} s was over"
                        return Ended(f"{over} after {counted(number, 'whole round')}")
                    progress(turn.number, self._total(number), name(turn))
                    take(turn)
                    took[turn.contestant, turn.kind] = clock() - started
                if settings.until_stable and number + 1 >= settings.repetitions and stable():
                    return Ended(f"stable after {counted(number + 1, 'round')}")
        except (KeyboardInterrupt, Stopped):
            return Ended("interrupted", interrupted=True)
        return Ended(counted(self.most, "round") + (", not stable yet" if settings.until_stable else ""))

    def _before(self, number: int) -> int:
        """Turns before a round."""
        rounds = (number if limit is None else min(number, limit) for limit in self.kinds.values())
        return self.contestants * sum(rounds)

    def _total(self, number: int) -> int:
        """Turns of all rounds; where their number is open, of those up to this one's end."""
        return self._before(self.most if self.most == self.settings.repetitions else number + 1)
