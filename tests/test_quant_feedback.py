"""Error feedback: the outputs change less than by rounding, whatever the inputs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobileloop.quant.feedback import inverse_factor, with_feedback
from mobileloop.quant.schemes import SCHEMES
from mobileloop.quant.search import searched

QUANTIZED = ["int4", "int4-symmetric", "int8"]


def correlated(seed, cols=96, tokens=400):
    random = np.random.default_rng(seed)
    mixed = random.standard_normal((tokens, 12)) @ random.standard_normal((12, cols))
    inputs = mixed + 0.2 * random.standard_normal((tokens, cols))
    return (inputs.T @ inputs / tokens).astype(np.float32)


def output_error(tensor, weights, moments):
    away = tensor.dequantize().astype(np.float64) - weights
    return float(np.einsum("ri,ij,rj->", away, moments.astype(np.float64), away))


def test_the_factor_is_that_of_the_inverse():
    moments = correlated(0)
    factor = inverse_factor(moments, 0.01).astype(np.float64)
    damped = moments + 0.01 * np.diagonal(moments).mean() * np.eye(96)
    expected = np.linalg.cholesky(np.linalg.inv(damped)).T
    assert np.abs(factor - expected).max() < 1e-3 * np.abs(expected).max()
    assert np.abs(np.tril(factor, -1)).max() < 1e-12


@pytest.mark.parametrize("scheme", QUANTIZED)
@pytest.mark.parametrize("group", [32, 96 // 3])
def test_outputs_change_far_less(scheme, group):
    weights = np.random.default_rng(1).standard_normal((40, 96)).astype(np.float32)
    moments = correlated(2)
    fed = output_error(with_feedback(weights, moments, scheme, group), weights, moments)
    plain = output_error(SCHEMES[scheme].quantize(weights, group), weights, moments)
    only_searched = output_error(searched(weights, scheme, group, np.diagonal(moments)), weights, moments)
    assert fed < 0.5 * plain
    assert fed < 0.7 * only_searched


@pytest.mark.parametrize("scheme", QUANTIZED)
def test_independent_inputs_leave_the_search(scheme):
    """Nothing can be made good by an input that has nothing to do with the others."""
    weights = np.random.default_rng(3).standard_normal((8, 64)).astype(np.float32)
    moments = np.diag(np.random.default_rng(4).random(64).astype(np.float32) + 0.1)
    fed = with_feedback(weights, moments, scheme, 32, damping=0.0)
    importance = np.diagonal(moments) + np.float32(1e-3) * np.diagonal(moments).mean()
    expected = searched(weights, scheme, 32, importance.astype(np.float32))
    assert np.array_equal(fed.codes, expected.codes)
    assert np.array_equal(fed.scale, expected.scale)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    scheme=st.sampled_from(QUANTIZED),
    group=st.sampled_from([32, 64]),
    tokens=st.integers(1, 80),
    silent=st.integers(0, 64),
    loudness=st.sampled_from([0.0, 1e-12, 1.0, 1e6]),
)
def test_any_inputs_give_finite_weights_near_the_old_ones(seed, scheme, group, tokens, silent, loudness):
    """Fewer tokens than inputs, inputs that are never seen, none at all."""
    random = np.random.default_rng(seed)
    weights = random.standard_normal((5, 64)).astype(np.float32)
    inputs = (loudness * random.standard_normal((tokens, 64))).astype(np.float32)
    inputs[:, :silent] = 0
    found = with_feedback(weights, (inputs.T @ inputs / tokens).astype(np.float32), scheme, group)
    assert found.group == group
    values = found.dequantize()
    assert np.isfinite(values).all()
    assert np.linalg.norm(values - weights) < np.linalg.norm(weights)


def test_moments_without_digits_give_no_feedback():
    """Not positive definite, as rounding can leave tiny ones."""
    moments = np.array([[1, 3], [3, 1]], np.float32) * np.float32(1e-44)
    factor = inverse_factor(moments)
    assert np.isfinite(factor).all()
    assert factor[0, 1] == factor[1, 0] == 0


def test_twice_the_same():
    weights = np.random.default_rng(5).standard_normal((9, 96)).astype(np.float32)
    one, two = (with_feedback(weights, correlated(6), "int4", 32) for _ in range(2))
    assert np.array_equal(one.codes, two.codes)
    assert np.array_equal(one.minimum, two.minimum)
