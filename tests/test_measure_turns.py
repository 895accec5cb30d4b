"""Who is next, when it is enough, what a journal saves, and what Ctrl-C leaves."""

import pytest

from mobileloop_bench.measure.turns import Ended, Rounds, Stopped, Turn, rotated
from mobileloop_bench.results.settings import Settings


def rounds(contestants: int = 3, kinds: dict[str, int | None] | None = None, **settings: object) -> Rounds:
    return Rounds(contestants, Settings(threads=[1], **settings), kinds or {"turn": None})


def taken(of: Rounds, **more: object) -> tuple[list[Turn], Ended]:
    found: list[Turn] = []
    return found, of.run(found.append, str, **more)


def test_everyone_has_every_place_equally_often() -> None:
    found, ended = taken(rounds(repetitions=6))
    places = [(turn.number % 3, turn.contestant) for turn in found]
    assert {places.count((place, one)) for place in range(3) for one in range(3)} == {2}
    assert [turn.number for turn in found] == list(range(18))
    assert ended == Ended("6 rounds")
    assert rotated(3, 1) == [1, 2, 0]


def test_the_seed_shifts_the_order() -> None:
    first = [turn.contestant for turn in rounds(seed=1).turns(0)]
    assert first == [1, 2, 0] == [turn.contestant for turn in rounds().turns(1)]


def test_a_kind_may_end_earlier() -> None:
    of = rounds(2, {"evaluate": None, "load": 2}, repetitions=3)
    found, _ = taken(of)
    assert [turn.kind for turn in found] == ["evaluate"] * 2 + ["load"] * 2 + ["evaluate"] * 2 + ["load"] * 2 + [
        "evaluate"
    ] * 2
    assert [turn.number for number in range(3) for turn in of.turns(number)] == list(range(10))


def test_turns_of_a_journal_are_not_taken_again() -> None:
    told: list[tuple[int, int]] = []
    found, ended = taken(
        rounds(repetitions=2), done={0, 1, 4}, progress=lambda done, total, what: told.append((done, total))
    )
    assert [turn.number for turn in found] == [2, 3, 5]
    assert told == [(2, 6), (3, 6), (5, 6)]
    assert ended == Ended("2 rounds")


def test_no_rest_behind_rounds_that_a_journal_holds() -> None:
    of = rounds(1, repetitions=3, cooldown_s=3600)
    assert taken(of, done={0, 1, 2}, clock=lambda: 0.0) == ([], Ended("3 rounds"))


@pytest.mark.parametrize("how", [KeyboardInterrupt, Stopped])
def test_a_stop_keeps_what_was_taken(how: type[BaseException]) -> None:
    found: list[int] = []

    def take(turn: Turn) -> None:
        if turn.number == 4:
            raise how
        found.append(turn.number)

    assert rounds(repetitions=2).run(take, str) == Ended("interrupted", interrupted=True)
    assert found == [0, 1, 2, 3]


def test_an_error_of_a_turn_is_the_callers() -> None:
    def take(turn: Turn) -> None:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        rounds().run(take, str)


def test_a_budget_starts_no_turn_that_would_end_too_late() -> None:
    now = 0.0

    def take(turn: Turn) -> None:
        nonlocal now
        now += 3.0

    ended = rounds(2, time_budget_s=20).run(take, str, clock=lambda: now)  # 16 s are for turns: five end by then
    assert (now, ended.reason) == (15.0, "the time budget of 20 s was over after 2 whole rounds")


def test_it_goes_on_until_stable_but_not_for_ever() -> None:
    looks = iter([False, True])
    found, ended = taken(rounds(1, repetitions=2, until_stable=True), stable=lambda: next(looks))
    assert (len(found), ended.reason) == (3, "stable after 3 rounds")
    found, ended = taken(rounds(1, repetitions=1, until_stable=True))
    assert (len(found), ended.reason) == (100, "100 rounds, not stable yet")
