import pytest
from builders import TINY
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mobileloop.errors import MobileloopError, validated
from mobileloop.spec.config import ModelConfig


def test_round_trips_through_json():
    assert ModelConfig.model_validate_json(TINY.model_dump_json()) == TINY


def test_is_frozen_and_refuses_unknown_fields():
    with pytest.raises(ValidationError):
        TINY.hidden_size = 1
    with pytest.raises(ValidationError, match="extra"):
        ModelConfig.model_validate({**TINY.model_dump(), "surprise": 1})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_heads": 5}, "num_heads 5 is not a multiple of num_kv_heads 2"),
        ({"head_dim": 15}, "head_dim 15 is odd"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"vocab_size": (1 << 24) + 1}, "vocab_size"),
        ({"rms_norm_eps": 0.0}, "rms_norm_eps"),
        ({"rope_pairing": "other"}, "rope_pairing"),
    ],
)
def test_a_wrong_field_is_named(change, words):
    with pytest.raises(MobileloopError, match=words):
        validated(ModelConfig, {**TINY.model_dump(), **change}, "config.json")


def test_tensor_shapes_and_parameter_count():
    shapes = TINY.tensor_shapes()
    assert shapes["embedding"] == (67, 64)
    assert shapes["blocks.2.k_proj"] == (32, 64)
    assert shapes["blocks.0.down_proj"] == (64, 96)
    assert "head" not in shapes
    block = 2 * 64 + 2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 96
    assert TINY.num_parameters() == 67 * 64 + 3 * block + 64
    untied = TINY.model_copy(update={"tie_embeddings": False})
    assert untied.tensor_shapes()["head"] == (67, 64)
    assert untied.num_parameters() == TINY.num_parameters() + 67 * 64


@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 64), st.booleans())
def test_any_valid_shape_round_trips(kv_heads, group, half, tied):
    config = TINY.model_copy(
        update={
            "num_kv_heads": kv_heads,
            "num_heads": kv_heads * group,
            "head_dim": 2 * half,
            "tie_embeddings": tied,
        }
    )
    again = ModelConfig.model_validate_json(config.model_dump_json())
    assert again == config
    assert again.query_size == group * again.kv_size
