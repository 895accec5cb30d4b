"""Knees of synthetic ladders: the levels that went in come out, whatever the noise."""

import math
from random import Random

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from mobileloop_bench.bandwidth.levels import find_levels

KIB, MIB = 1 << 10, 1 << 20
CACHES = [("L1", 48 * KIB), ("L2", 2 * MIB), ("L3", 480 * MIB)]
SIZES = [round(16 * KIB * 2 ** (i / 2)) for i in range(33)]  # to 1 GiB


def rate_at(size, levels):
    """The level's own rate up to its capacity; within the octave behind it the next level's share of the time grows."""
    below, last = 0, None
    for capacity, rate in levels:
        if capacity is None or size <= capacity:
            if below and size < 2 * below:
                share = math.log2(size / below)
                return 1 / ((1 - share) / last + share / rate)
            return rate
        below, last = capacity, rate
    raise AssertionError("the last level has no bound")


def ladder(levels, noise=None):
    return [(size, rate_at(size, levels) * (noise[i] if noise else 1)) for i, size in enumerate(SIZES)]


def names(levels):
    return [level.name for level in levels]


def test_four_levels_of_a_server_core():
    found = find_levels(ladder([(48 * KIB, 290), (2 * MIB, 145), (64 * MIB, 29), (None, 15)]), CACHES)
    assert names(found) == ["L1", "L2", "L3", "DRAM"]
    assert [level.up_to_bytes for level in found[:2]] == [SIZES[3], 2 * MIB]
    assert 40 * MIB < found[2].up_to_bytes < 100 * MIB  # our share keeps the cache's name
    assert [level.read_gbps for level in found] == pytest.approx([290, 145, 29, 15], rel=0.05)
    assert found[3].up_to_bytes is None


def test_a_flat_line_is_one_level():
    flat = [(size, 10.0) for size in SIZES]
    assert names(find_levels(flat, CACHES)) == ["DRAM"]
    assert names(find_levels(flat[:3], CACHES)) == ["L1"]
    assert names(find_levels(flat[:20], CACHES)) == ["L3"]
    assert find_levels(flat[:3], CACHES)[0].up_to_bytes == SIZES[2]  # not known to go on for ever
    assert names(find_levels(flat, [])) == ["L1"]
    assert find_levels([], CACHES) == []
    assert names(find_levels(flat[:1], CACHES)) == ["L1"]


def test_without_names_levels_are_counted():
    levels = [(64 * KIB, 60), (512 * KIB, 30), (4 * MIB, 15), (None, 5)]
    assert names(find_levels(ladder(levels), [])) == ["L1", "L2", "L3", "DRAM"]


def test_a_cache_that_the_system_hides_is_the_next_one():
    caches = [("L1", 64 * KIB), ("L2", 512 * KIB)]
    found = find_levels(ladder([(64 * KIB, 60), (512 * KIB, 30), (8 * MIB, 15), (None, 5)]), caches)
    assert names(found) == ["L1", "L2", "L3", "DRAM"]


def test_a_level_without_a_knee_is_left_out():
    found = find_levels(ladder([(48 * KIB, 290), (64 * MIB, 29), (None, 15)]), CACHES)
    assert names(found) == ["L1", "L3", "DRAM"]


def test_several_knees_in_one_cache_are_the_deepest():
    levels = [(48 * KIB, 290), (2 * MIB, 145), (16 * MIB, 29), (128 * MIB, 21), (None, 8)]
    found = find_levels(ladder(levels), CACHES)
    assert names(found) == ["L1", "L2", "L3", "DRAM"]
    assert found[2].up_to_bytes >= 16 * MIB


def test_a_slow_spell_is_no_level():
    rungs = ladder([(48 * KIB, 290), (2 * MIB, 145), (64 * MIB, 29), (None, 15)])
    for slow in (6, 7, 18, 30):
        rungs[slow] = (rungs[slow][0], rungs[slow][1] / 3)
    assert names(find_levels(rungs, CACHES)) == ["L1", "L2", "L3", "DRAM"]


@given(seed=st.integers(0, 1 << 32))
@settings(max_examples=300, deadline=None, phases=[Phase.generate])
def test_levels_come_back_from_noise(seed):
    """Rates that fall by a third or more, held for two octaves or more; 5% of noise and single rungs slowed down."""
    random = Random(seed)
    octaves = [random.randint(2, 4) for _ in range(random.randint(1, 3))]
    rates = [random.uniform(20, 500)]
    for _ in octaves:
        rates.append(rates[-1] * random.uniform(0.1, 0.67))
    edges = [16 * KIB * 2 ** sum(octaves[: i + 1]) for i in range(len(octaves))]
    noise = [random.uniform(0.95, 1.05) for _ in SIZES]
    for slowed in random.sample(range(2, 29, 6), random.randint(0, 3)):
        noise[slowed] *= random.uniform(0.3, 1.0)
    found = find_levels(ladder([*zip(edges, rates, strict=False), (None, rates[-1])], noise), [])
    assert names(found) == [f"L{i + 1}" for i in range(len(edges))] + ["DRAM"]
    for level, edge, rate in zip(found, [*edges, None], rates, strict=True):
        assert level.read_gbps == pytest.approx(rate, rel=0.12)
        assert edge is None or edge / 3 <= level.up_to_bytes <= edge * 1.5


@given(st.lists(st.tuples(st.integers(1, 1 << 40), st.floats(1e-3, 1e6)), max_size=40, unique_by=lambda rung: rung[0]))
@settings(max_examples=200, deadline=None)
def test_whatever_was_measured_levels_are_in_order(rungs):
    found = find_levels(rungs, CACHES)
    assert bool(found) == bool(rungs)
    bounds = [level.up_to_bytes for level in found]
    assert None not in bounds[:-1]
    assert bounds[:-1] == sorted(set(bounds[:-1]))
    assert len(set(names(found))) == len(found)
    assert all((level.up_to_bytes is None) == (level.name == "DRAM") for level in found)
