import numpy as np
import pytest
from builders import TINY, packed_model

from mobileloop.artifact import ArtifactInfo
from mobileloop.checkpoints.checkpoint import Checkpoint
from mobileloop.checkpoints.random import random_model
from mobileloop.errors import MobileloopError
from mobileloop.packed import PackedModel
from mobileloop.quant.schemes import SCHEMES, QuantTensor
from mobileloop.spec.schedule import Schedule

WEIGHTS = 2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 96  # matrix weights of one tiny block
NORMS = 2 * 64 * 4  # its norms, in bytes
PER_WEIGHT = {"none": 4, "int4": 20 / 32, "int4-symmetric": 18 / 32, "int8": 34 / 32}


@pytest.mark.parametrize("quantization", list(PER_WEIGHT))
@pytest.mark.parametrize("tied", [True, False])
def test_costs_by_hand(quantization, tied):
    config = TINY.model_copy(update={"tie_embeddings": tied})
    _, packed = packed_model(config, quantization=quantization)
    block = WEIGHTS * PER_WEIGHT[quantization] + NORMS
    row = 64 * (4 if quantization == "none" else 34 / 32)
    assert [packed.block_bytes(b) for b in range(3)] == [block] * 3
    assert packed.embedding_row_bytes() == row
    assert packed.head_bytes() == 67 * row + 64 * 4
    assert packed.weight_bytes() == 3 * block + 67 * row * (1 if tied else 2) + 64 * 4
    assert packed.costs()["block_bytes"] == [block] * 3


def test_unique_executed_and_kv_bytes_by_hand():
    checkpoint, packed = packed_model(schedule=Schedule.immediate(3, 4), quantization="int8")
    info = ArtifactInfo.describe(checkpoint, packed, 32, 16)
    block = WEIGHTS * 34 // 32 + NORMS
    outer = 67 * 68 + 256 + 68  # the head, the final norm, one embedding row
    assert info.unique_bytes() == 3 * block + outer
    assert info.executed_bytes() == 12 * block + outer
    assert info.executed_bytes(2) == 6 * block + outer
    # 2 KV heads of 16, keys and values, 2 bytes each; the token at position 9 touches 10 rows per application
    assert info.kv_bytes(9) == 12 * 2 * 32 * 2 * 10
    assert info.kv_bytes(9, loops=1) == 3 * 2 * 32 * 2 * 10
    assert info.kv_capacity_bytes() == 12 * 2 * 32 * 2 * 32
    assert info.activation_bytes() > info.activation_bytes(1)


def test_unique_bytes_leave_out_blocks_that_no_stage_names():
    one = Schedule.model_validate({"stages": [{"blocks": [1], "loops": 2, "max_loops": 2}]})
    checkpoint, packed = packed_model(schedule=one)
    info = ArtifactInfo.describe(checkpoint, packed, 32, 32)
    assert info.unique_bytes() == packed.block_bytes(1) + packed.head_bytes() + packed.embedding_row_bytes()
    assert info.executed_bytes() - info.unique_bytes() == packed.block_bytes(1)


def test_schemes_of_blocks_and_outer_matrices():
    _, packed = packed_model(quantization="int4")
    assert packed.block(0)["q_proj"].scheme == "int4"
    assert packed.matrix("embedding").scheme == "int8"
    assert packed.matrix("head") is packed.matrix("embedding")
    assert packed.vector("final_norm").dtype == np.float32


def test_a_source_of_the_wanted_bits_is_kept_bit_for_bit():
    checkpoint = random_model(TINY)
    tensors = dict(checkpoint.tensors)
    tensors["blocks.0.q_proj"] = SCHEMES["int4-symmetric"].quantize(tensors["blocks.0.q_proj"])
    tensors["blocks.0.k_proj"] = SCHEMES["int4"].quantize(tensors["blocks.0.k_proj"])
    tensors["embedding"] = SCHEMES["int8"].quantize(tensors["embedding"])
    source = Checkpoint(checkpoint.config, checkpoint.schedule, tensors, None, "x", "y")
    packed = PackedModel.from_checkpoint(source, "int4")
    for name in ("blocks.0.q_proj", "blocks.0.k_proj", "embedding"):
        assert packed.tensors[name] is tensors[name]
    assert packed.notes == ("3 matrices kept bit for bit from the checkpoint",)
    assert packed.tensors["blocks.0.v_proj"].scheme == "int4"
    again = PackedModel.from_checkpoint(source, "int8")
    assert again.tensors["blocks.0.q_proj"].scheme == "int8"
    symmetric = PackedModel.from_checkpoint(source, "int4-symmetric")
    assert symmetric.tensors["blocks.0.k_proj"].scheme == "int4-symmetric"


def test_dequantized_is_what_the_record_holds():
    _, packed = packed_model(quantization="int4")
    floats = packed.dequantized()
    assert set(floats) == set(TINY.tensor_shapes())
    for name, tensor in packed.tensors.items():
        expected = tensor.dequantize() if isinstance(tensor, QuantTensor) else tensor
        assert np.array_equal(floats[name], expected)


def test_refusals():
    checkpoint = random_model(TINY)
    with pytest.raises(MobileloopError, match="'int3' is not known; choose one of int4"):
        PackedModel.from_checkpoint(checkpoint, "int3")
    with pytest.raises(MobileloopError, match="names block 3"):
        PackedModel.from_checkpoint(checkpoint, "none", Schedule.plain(4))
    odd = random_model(TINY.model_copy(update={"intermediate_size": 100}))
    with pytest.raises(MobileloopError, match=r"100 is not a multiple.*--quantize none"):
        PackedModel.from_checkpoint(odd, "int4")
    PackedModel.from_checkpoint(odd, "none")


def test_progress_ends_at_the_total():
    seen = []
    PackedModel.from_checkpoint(random_model(TINY), "int8", progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (29, 29)
    assert [done for done, _ in seen] == list(range(1, 30))
