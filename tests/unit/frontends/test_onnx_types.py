"""Shapes that inference leaves open and a Reshape settles."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from qdqgraph.frontends.onnx_file.types import infer_types


def test_a_dimension_computed_in_the_graph_follows_from_the_number_of_elements() -> None:
    """[4, 49, 576] to [4, 49, 3, 6, n]: n comes out of arithmetic on shapes, and is 32."""
    nodes = [
        helper.make_node("ReduceMax", ["data"], ["width"], keepdims=1),
        helper.make_node("Cast", ["width"], ["last"], to=TensorProto.INT64),
        helper.make_node("Concat", ["head", "last"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["y"]),
        helper.make_node("Relu", ["y"], ["z"]),
    ]
    graph = helper.make_graph(
        nodes,
        "window",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 49, 576]),
            helper.make_tensor_value_info("data", TensorProto.FLOAT, [1]),
        ],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array([4, 49, 3, 6], np.int64), "head")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    types = infer_types(model)
    assert types["y"][0] == (4, 49, 3, 6, 32)
    assert types["z"][0] == (4, 49, 3, 6, 32)


def test_an_axis_that_is_computed_from_constants_is_known() -> None:
    """`unflatten(-1, (2, 32))` as TorchScript exports it: the axis is -1 modulo the rank."""
    stored = {
        "minus_one": [-1], "rank": [3], "zero": [0], "one": [1], "far": [2**62], "parts": [2, 32],
        "flat": [-1],
    }  # fmt: skip
    nodes = [
        helper.make_node("Mod", ["minus_one", "rank"], ["axis"]),
        helper.make_node("Reshape", ["axis", "flat"], ["end"]),
        helper.make_node("Add", ["axis", "one"], ["next"]),
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Slice", ["shape", "zero", "end"], ["leading"]),
        helper.make_node("Slice", ["shape", "next", "far"], ["trailing"]),
        helper.make_node("Concat", ["leading", "parts", "trailing"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "unflatten",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array(v, np.int64), name) for name, v in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    before = model.SerializeToString()
    types = infer_types(model)
    assert types["y"] == ((1, 16, 2, 32), "float32")
    assert types["axis"] == ((1,), "int64")
    assert model.SerializeToString() == before
