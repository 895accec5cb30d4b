"""The counter-based generator: published answers, places instead of turns, the shape of what comes out."""

import numpy as np
import pytest

from mobileloop.decode.random import normal, philox, uniform, words

# Known answers of Philox4x32-10 (Random123's kat_vectors): counter, key, words.
KNOWN = (
    ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, 0xFFFFFFFFFFFFFFFF, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        0x299F31D0A4093822,
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
)


@pytest.mark.parametrize(("counter", "seed", "expected"), KNOWN)
def test_published_answers(counter, seed, expected):
    assert tuple(philox(np.array(counter, np.uint64), seed)) == expected


def test_a_number_is_of_its_place():
    many = words(7, 3, np.arange(10))
    for draw in range(10):
        assert (words(7, 3, draw) == many[draw]).all()
    places = {(seed, position, draw, stream) for seed in (0, 1) for position in (0, 1, 1 << 32) for draw in (0, 1)
              for stream in (0, 1)}  # fmt: skip
    assert len({uniform(*place) for place in places}) == len(places)


def test_uniform_numbers():
    drawn = np.array([uniform(5, position) for position in range(4000)])
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert np.abs(np.histogram(drawn, 10, (0, 1))[0] / 4000 - 0.1).max() < 0.02


def test_normal_numbers():
    drawn = normal(5, 0, 100_001, stream=1)
    assert drawn.dtype == np.float32
    assert drawn.shape == (100_001,)
    assert abs(drawn.mean()) < 0.01
    assert abs(drawn.std() - 1) < 0.01
    assert abs(float((np.abs(drawn) < 1).mean()) - 0.6827) < 0.005
    assert (normal(5, 0, 7, stream=1) == drawn[:7]).all()
    assert not (normal(5, 1, 7, stream=1) == drawn[:7]).any()
