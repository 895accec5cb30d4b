"""Bits under a budget: within it, near the best possible, refused where nothing fits."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobileloop.errors import MobileloopError
from mobileloop.packed import Choice
from mobileloop.quant.budget import allocate, choices
from mobileloop.quant.schemes import SCHEMES

SHAPES = {"a": (8, 128), "b": (16, 64), "c": (4, 256)}


def size(plan, shapes=SHAPES):
    return sum(SCHEMES[choice.scheme].stored_bytes(*shapes[name], choice.group) for name, choice in plan.items())


def costs_of(values):
    """Damages from a list, in the order of matrices and choices."""
    numbers = iter(values)
    return {name: {choice: next(numbers) for choice in choices(cols)} for name, (_, cols) in SHAPES.items()}


COUNT = sum(len(choices(cols)) for _, cols in SHAPES.values())
DAMAGES = st.lists(st.floats(0, 10), min_size=COUNT, max_size=COUNT).map(costs_of)


def test_choices_are_those_that_divide():
    assert len(choices(128)) == 9
    assert {choice.group for choice in choices(576)} == {32, 64}
    assert {choice.group for choice in choices(576, (32,))} == {32}
    assert choices(33) == []


@settings(max_examples=200, deadline=None)
@given(damages=DAMAGES, budget=st.integers(0, 6000))
def test_within_the_budget_and_near_the_best(damages, budget):
    every = [dict(zip(SHAPES, picked, strict=True)) for picked in itertools.product(*(damages[n] for n in SHAPES))]
    fitting = [plan for plan in every if size(plan) <= budget]
    least = min(map(size, every))
    if not fitting:
        with pytest.raises(MobileloopError, match=f"at least {least / 1e6:.2f} MB"):
            allocate(SHAPES, damages, budget)
        return
    plan = allocate(SHAPES, damages, budget)
    assert size(plan) <= budget
    total = sum(damages[name][choice] for name, choice in plan.items())
    best = min(sum(damages[name][choice] for name, choice in one.items()) for one in fitting)
    largest = max(max(d.values()) - min(d.values()) for d in damages.values())
    assert total <= best + largest + 1e-9  # one step short of the best, at most
    if budget >= max(map(size, every)):
        assert total == pytest.approx(sum(min(d.values()) for d in damages.values()))


def test_what_hurts_most_per_byte_gets_the_bits():
    cheap = {choice: 0.001 if choice.scheme == "int8" else 0.002 for choice in choices(128)}
    dear = {choice: 0.001 if choice.scheme == "int8" else 5.0 for choice in choices(128)}
    shapes = {"cheap": (8, 128), "dear": (8, 128)}
    room = SCHEMES["int8"].stored_bytes(8, 128, 128) + SCHEMES["int4"].stored_bytes(8, 128, 128)
    plan = allocate(shapes, {"cheap": cheap, "dear": dear}, room)
    assert plan["dear"].scheme == "int8"
    assert plan["cheap"].scheme != "int8"


def test_a_tie_is_broken_by_name_every_time():
    damages = costs_of([1.0] * COUNT)
    assert allocate(SHAPES, damages, 10**6) == allocate(SHAPES, damages, 10**6)
    assert all(
        choice == Choice("int4-symmetric", max(c.group for c in choices(SHAPES[name][1])))
        for name, choice in allocate(SHAPES, damages, 10**6).items()
    )  # fewest bytes, since all are as good
