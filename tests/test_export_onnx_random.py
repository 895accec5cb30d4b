"""Noise in an ONNX graph is the noise of Python and of the engine."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from mobileloop.decode.random import normal
from mobileloop_export.onnx import random
from mobileloop_export.onnx.nodes import Nodes


@pytest.mark.parametrize("count", [1, 6, 101])
def test_a_stock_runtime_makes_the_same_noise(count):
    nodes = Nodes()
    name = random.normal(nodes, "seed", "position", count, stream=3)
    graph = helper.make_graph(
        nodes.protos,
        "noise",
        [helper.make_tensor_value_info(one, TensorProto.INT64, []) for one in ("seed", "position")],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [count])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for seed, position in ((0, 0), (7, 3), (2**63 - 1, 2**32 + 9), (2**40 + 1, 1)):
        (made,) = session.run(None, {"seed": np.array(seed, np.int64), "position": np.array(position, np.int64)})
        expected = normal(seed, position, count, stream=3)
        # The words and the uniform numbers are equal to the bit; logarithm and cosine may differ in the last place.
        assert made.shape == expected.shape
        assert np.abs(made.view(np.int32) - expected.view(np.int32)).max() <= 1
        assert (made == expected).mean() > 0.99
