import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mobileloop.errors import MobileloopError
from mobileloop.quant.schemes import GROUP, GROUPS, QUANTIZATIONS, SCHEMES, QuantTensor, fitting_group

QUANTIZED = ["int4", "int4-symmetric", "int8"]
GGUF_TYPE = {
    "int4": gguf.GGMLQuantizationType.Q4_1,
    "int4-symmetric": gguf.GGMLQuantizationType.Q4_0,
    "int8": gguf.GGMLQuantizationType.Q8_0,
}


def gguf_blocks(tensor):
    """The bytes that GGUF holds for a QuantTensor: scale, minimum, codes (two nibbles a byte, i and i + 16)."""
    rows, cols = tensor.shape
    codes = tensor.codes.reshape(rows, cols // GROUP, GROUP)
    parts = [tensor.scale[:, :, None].view(np.uint8)]
    if tensor.minimum is not None:
        parts.append(tensor.minimum[:, :, None].view(np.uint8))
    if tensor.scheme == "int8":
        parts.append(codes.view(np.uint8))
    else:
        parts.append(codes[:, :, :16] | (codes[:, :, 16:] << 4))
    return np.concatenate(parts, axis=2).reshape(rows, -1)


def weights(rows=5, cols=96, seed=0, scale=1.0):
    return (np.random.default_rng(seed).standard_normal((rows, cols)) * scale).astype(np.float32)


matrices = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 3), st.sampled_from([32, 64])),
    elements=st.floats(-1000, 1000, width=32),
)


@pytest.mark.parametrize("name", QUANTIZED)
@settings(max_examples=60, deadline=None)
@given(matrices)
def test_dequantize_is_ggufs_bit_for_bit(name, values):
    tensor = SCHEMES[name].quantize(values)
    expected = gguf.quants.dequantize(gguf_blocks(tensor), GGUF_TYPE[name])
    assert np.array_equal(tensor.dequantize().view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("name", QUANTIZED)
@settings(max_examples=60, deadline=None)
@given(matrices)
def test_error_is_at_most_a_step(name, values):
    """Half a step of the fp16 scale, plus what rounding the scale and the minimum to fp16 costs at the range's end."""
    tensor = SCHEMES[name].quantize(values)
    groups = np.abs(values).reshape(len(values), -1, GROUP).max(axis=2)
    step = np.abs(tensor.scale.astype(np.float32))
    levels = {"int4": 16, "int4-symmetric": 16, "int8": 128}[name]
    rounding = step * levels * 2.0**-11 + groups * 2.0**-11 + levels * 2.0**-24
    allowed = (step if name == "int4-symmetric" else step / 2) + rounding  # symmetric clips at +7 steps
    error = np.abs(tensor.dequantize() - values).reshape(len(values), -1, GROUP).max(axis=2)
    assert (error <= allowed * 1.001).all()


@pytest.mark.parametrize("name", QUANTIZED)
def test_as_good_as_ggufs_own_quantizer(name):
    values = weights(16, 256)
    ours = SCHEMES[name].quantize(values).dequantize()
    theirs = gguf.quants.dequantize(gguf.quants.quantize(values, GGUF_TYPE[name]), GGUF_TYPE[name])
    assert np.square(ours - values).mean() <= np.square(theirs - values).mean() * 1.001


@pytest.mark.parametrize("name", QUANTIZED)
def test_zeros_and_constants(name):
    assert (SCHEMES[name].quantize(np.zeros((2, 32), np.float32)).dequantize() == 0).all()
    flat = np.full((2, 32), 0.5, np.float32)
    assert np.abs(SCHEMES[name].quantize(flat).dequantize() - flat).max() < 1e-3


def test_none_keeps_every_bit():
    values = weights(3, 37)
    tensor = SCHEMES["none"].quantize(values)
    assert np.array_equal(tensor.dequantize(), values)
    assert tensor.stored_bytes() == values.nbytes


@pytest.mark.parametrize(("name", "per_group"), [("int4", 20), ("int4-symmetric", 18), ("int8", 34), ("none", 128)])
def test_stored_bytes(name, per_group):
    assert SCHEMES[name].quantize(weights(5, 96)).stored_bytes() == 5 * 3 * per_group


@pytest.mark.parametrize("name", QUANTIZED)
def test_refuses_partial_groups_and_what_is_not_finite(name):
    with pytest.raises(MobileloopError, match="33 is not a multiple of the quantization group of 32"):
        SCHEMES[name].quantize(weights(2, 33))
    for bad in (np.nan, np.inf, -np.inf):
        values = weights(2, 32)
        values[1, 3] = bad
        with pytest.raises(MobileloopError, match="not a finite number"):
            SCHEMES[name].quantize(values)


@pytest.mark.parametrize("name", QUANTIZED)
def test_refuses_what_a_half_precision_scale_cannot_hold(name):
    values = weights(2, 32, scale=1e8)
    with pytest.raises(MobileloopError, match="too large"):
        SCHEMES[name].quantize(values)


@pytest.mark.parametrize("name", QUANTIZED)
def test_wider_groups_share_a_scale(name):
    values = weights(3, 256)
    errors = []
    for group in GROUPS:
        tensor = SCHEMES[name].quantize(values, group)
        assert tensor.group == group
        assert tensor.scale.shape == (3, 256 // group)
        scheme = SCHEMES[name]
        assert tensor.stored_bytes() == 3 * 256 * scheme.bits // 8 + 3 * (256 // group) * scheme.group_bytes
        errors.append(np.square(tensor.dequantize() - values).mean())
    assert errors == sorted(errors)
    with pytest.raises(MobileloopError, match="96 is not a multiple of the quantization group of 64"):
        SCHEMES[name].quantize(weights(2, 96), 64)


def test_fitting_group():
    assert [fitting_group(576, group) for group in GROUPS] == [32, 64, 64]
    assert [fitting_group(cols, 128) for cols in (1536, 96, 33)] == [128, 32, 32]


def test_codes_and_quantizations():
    assert {scheme.code for scheme in SCHEMES.values()} == {1, 2, 3, 4}
    for block, outer in QUANTIZATIONS.values():
        assert block in SCHEMES
        assert outer in SCHEMES
    assert QuantTensor("none", weights()).shape == (5, 96)
