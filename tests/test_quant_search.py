"""The search never does worse than rounding, and finds what a few codes can hold exactly."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from mobileloop.errors import MobileloopError
from mobileloop.quant import search
from mobileloop.quant.schemes import SCHEMES
from mobileloop.quant.search import codes_of, inverse_of, searched, value_of

QUANTIZED = ["int4", "int4-symmetric", "int8"]
WEIGHTS = npst.arrays(np.float32, (3, 128), elements=st.floats(-1000, 1000, width=32))
IMPORTANCE = npst.arrays(np.float32, (128,), elements=st.floats(0, 1000, width=32))


def error(tensor, weights, importance):
    away = tensor.dequantize().astype(np.float64) - weights
    return float((away * away * importance).sum())


@pytest.mark.parametrize("scheme", QUANTIZED)
@settings(max_examples=60, deadline=None)
@given(weights=WEIGHTS, importance=IMPORTANCE, group=st.sampled_from([32, 64, 128]))
def test_never_worse_than_rounding(scheme, weights, importance, group):
    found = searched(weights, scheme, group, importance)
    plain = SCHEMES[scheme].quantize(weights, group)
    assert (found.scheme, found.group, found.shape) == (scheme, group, (3, 128))
    assert found.codes.dtype == plain.codes.dtype
    assert found.scale.dtype == np.float16
    assert np.isfinite(found.dequantize()).all()
    slack = 1e-5 * float((weights.astype(np.float64) ** 2 * importance).sum())  # float32 sums
    assert error(found, weights, importance) <= error(plain, weights, importance) + slack


@pytest.mark.parametrize("scheme", QUANTIZED)
def test_better_on_weights_with_rare_ends(scheme):
    weights = np.random.default_rng(0).standard_t(4, (64, 256)).astype(np.float32)
    even = np.ones(256, np.float32)
    gain = error(SCHEMES[scheme].quantize(weights, 64), weights, even) / error(
        searched(weights, scheme, 64), weights, even
    )
    assert gain > (1.01 if scheme == "int8" else 1.1)


def test_an_input_that_counts_is_kept():
    weights = np.random.default_rng(1).standard_normal((16, 32)).astype(np.float32)
    importance = np.full(32, 1e-6, np.float32)
    importance[5] = 1
    found = searched(weights, "int4", 32, importance).dequantize()
    plain = SCHEMES["int4"].quantize(weights).dequantize()
    assert np.abs(found - weights)[:, 5].max() < 0.2 * np.abs(plain - weights)[:, 5].max()


def test_the_chunk_makes_no_difference(monkeypatch):
    weights = np.random.default_rng(2).standard_normal((7, 64)).astype(np.float32)
    whole = searched(weights, "int4", 32)
    monkeypatch.setattr(search, "_CHUNK_VALUES", 64 * 3)
    parts = searched(weights, "int4", 32)
    assert np.array_equal(whole.codes, parts.codes)
    assert np.array_equal(whole.scale, parts.scale)
    assert np.array_equal(whole.minimum, parts.minimum)


def test_floats_stay_and_what_cannot_be_quantized_is_refused():
    weights = np.ones((2, 32), np.float32)
    assert searched(weights, "none", 32).scheme == "none"
    with pytest.raises(MobileloopError, match="not a finite number"):
        searched(weights * np.nan, "int4", 32)
    with pytest.raises(MobileloopError, match="too large for a float16"):
        searched(weights * 1e30, "int4-symmetric", 32)
    with pytest.raises(MobileloopError, match="not a multiple"):
        searched(np.ones((2, 33), np.float32), "int8", 32)


@pytest.mark.parametrize("scheme", QUANTIZED)
def test_codes_and_values_are_those_of_the_scheme(scheme):
    weights = np.random.default_rng(3).standard_normal((4, 32)).astype(np.float32)
    plain = SCHEMES[scheme].quantize(weights)
    scale = plain.scale.astype(np.float32)
    minimum = None if plain.minimum is None else plain.minimum.astype(np.float32)
    codes = codes_of(weights, scheme, inverse_of(scale), minimum)
    assert np.array_equal(codes, plain.codes)
    assert np.array_equal(value_of(codes, scheme, scale, minimum), plain.dequantize())
    assert (inverse_of(np.zeros(3, np.float32)) == 0).all()
