"""The cheap sweep agrees with ONNX's own inference wherever it speaks, and changes no model."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import pytest
from onnx import TensorProto, helper

from qdqgraph.frontends.onnx_file.types import UNKNOWN, infer_types
from qdqgraph.proof.reading.shapes import RULES, propagate
from qdqgraph.proof.reading.skeleton import view_without_weights
from tests.networks import composites, joins, oddities, products, residuals

NETWORKS: dict[str, Callable[[], onnx.ModelProto]] = {
    made.__name__: made
    for made in (
        *(joins.inception, joins.concat_chain, joins.stem_pool, joins.c2f, joins.movers),
        *(joins.squeeze_excite, joins.dense_block, joins.average_pools, joins.blockers),
        *(products.grouped, products.gemm, products.matmul_2d, products.matmul_3d),
        *(products.matmul_left_constant, products.conv_transpose, products.conv_chain),
        *(residuals.downsample, composites.layer_norm, composites.attention),
        *(oddities.if_capturing, oddities.absent_inputs, oddities.custom_domain),
    )
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_sweep_says_what_inference_says(name: str) -> None:
    model = NETWORKS[name]()
    before = model.SerializeToString(deterministic=True)
    view = view_without_weights(model)
    expected = infer_types(model)
    for value in (*view.inputs, *(v for node in view.nodes for v in node.outputs)):
        assert view.type_of(value) == expected.get(value.name, UNKNOWN), value
    assert model.SerializeToString(deterministic=True) == before


CASES: list[tuple[str, list[list[int | str]], dict[str, object]]] = [
    ("Conv", [[1, 6, 9, 11], [4, 3, 3, 2]], {"group": 2, "pads": [1, 0, 2, 1], "strides": [2, 3]}),
    ("Conv", [["n", 3, 9], [4, 3, 3]], {"dilations": [2]}),
    ("Conv", [[1, 3, 9, 9], [4, 3, 3, 3]], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ("Conv", [[1, 3, "h", 9], [4, 3, 3, 3]], {}),
    ("MaxPool", [[1, 3, 9, 8]], {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 0]}),
    ("MaxPool", [[1, 3, 8, 8]], {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    ("AveragePool", [[1, 3, 9, 8]], {"kernel_shape": [2, 2]}),
    ("GlobalAveragePool", [["n", 3, 9, 8]], {}),
    ("Add", [[1, 3, 1, 8], [3, 5, 1]], {}),
    ("Add", [["n", 3], ["n", 3]], {}),
    ("Add", [["n", 3], ["m", 3]], {}),
    ("Mul", [[], [4, 5]], {}),
    ("MatMul", [[2, "l", 8], [8, 5]], {}),
    ("MatMul", [[8], [8, 5]], {}),
    ("Gemm", [[8, 4], [5, 8]], {"transA": 1, "transB": 1}),
    ("Concat", [[1, 3, 4], [1, 5, 4]], {"axis": -2}),
    ("Concat", [[1, "a", 4], [1, 5, 4]], {"axis": 1}),
    ("Flatten", [[2, 3, 4]], {"axis": -1}),
    ("Flatten", [[2, 3, 4]], {"axis": 0}),
    ("Transpose", [[2, "c", 4]], {"perm": [2, 0, 1]}),
    ("Transpose", [[2, 3, 4]], {}),
]


@pytest.mark.parametrize(("kind", "shapes", "attributes"), CASES)
def test_a_single_operator(
    kind: str, shapes: list[list[int | str]], attributes: dict[str, object]
) -> None:
    names = [f"x{i}" for i in range(len(shapes))]
    graph = helper.make_graph(
        [helper.make_node(kind, names, ["y"], "node", **attributes)],
        "g",
        [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, s)
            for n, s in zip(names, shapes, strict=True)
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    view = view_without_weights(model)
    assert view.type_of(view.outputs[0]) == infer_types(model)["y"]


def test_operators_that_no_rule_is_about_are_left_to_inference() -> None:
    model = joins.c2f()
    view = view_without_weights(model)
    split = next(node for node in view.nodes if node.op.name == "split")
    assert "split" not in RULES
    assert propagate(split, {}) == UNKNOWN
    assert [view.type_of(v)[0] for v in split.outputs] == [
        infer_types(model)[v.name][0] for v in split.outputs
    ]
