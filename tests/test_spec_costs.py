"""mobileloop.spec.costs: the byte formulas by hand, and the same for the reference and an artifact."""

import numpy as np
from builders import TINY

from mobileloop.artifact import ArtifactInfo
from mobileloop.checkpoints.random import random_model
from mobileloop.packed import PackedModel
from mobileloop.reference.model import ReferenceModel
from mobileloop.spec.costs import TokenBytes, kv_vector_bytes
from mobileloop.spec.schedule import Schedule

CONFIG = TINY.model_copy(update={"vocab_size": 101})


def test_by_hand():
    moved = TokenBytes(CONFIG, Schedule.immediate(3, 4), [100, 200, 300], 50, 7, 16)
    assert moved.unique() == 657
    assert moved.executed() == 4 * 600 + 57
    assert moved.executed(2) == 2 * 600 + 57
    assert moved.kv(9, 2) == 6 * 2 * 32 * 2 * 10
    assert moved.kv_capacity(8) == 12 * 2 * 32 * 2 * 8
    assert (moved.largest_block(), moved.looped_stage()) == (300, 300)
    assert TokenBytes(CONFIG, Schedule.repeat_all_over(3, 2), [100, 200, 300], 50, 7, 16).looped_stage() == 600
    assert TokenBytes(CONFIG, Schedule.damped_range(3, 0, 1, 2, 0.5), [1, 2, 4], 50, 7, 16).looped_stage() == 3
    assert TokenBytes(CONFIG, Schedule.plain(3), [100, 200, 300], 50, 7, 16).looped_stage() is None
    eight = TokenBytes(CONFIG, Schedule.plain(3), [100, 200, 300], 50, 7, 8)
    assert eight.kv(9) == 3 * 2 * 2 * (16 + 2) * 10  # 2 KV heads of 16 codes and one float16 scale
    assert [kv_vector_bytes(dim, 8) for dim in (6, 32, 64, 66)] == [8, 34, 68, 72]
    per_application = 3 * 64 + 2 * 64 + 2 * 32 + 3 * 96
    assert moved.activations(1) == 8 * (3 * per_application + 2 * 64 + 101)


def test_reference_and_unquantized_artifact_agree():
    schedule = Schedule.repeat_all_over(3, 2)
    checkpoint = random_model(CONFIG, schedule)
    packed = PackedModel.from_checkpoint(checkpoint, "none")
    info = ArtifactInfo.describe(checkpoint, packed, 32, 32)
    reference = ReferenceModel(CONFIG, schedule, packed.dequantized()).token_bytes
    assert info.unique_bytes() == reference.unique()
    assert info.executed_bytes(2) == reference.executed(2)
    assert info.kv_bytes(5, 1) == reference.kv(5, 1)
    floats = sum(int(np.prod(shape)) for shape in CONFIG.tensor_shapes().values())
    assert reference.unique() == 4 * (floats + CONFIG.hidden_size)  # a tied head, and one row of the embedding again
