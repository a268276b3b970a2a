"""Each rule of the input contract fires on the smallest graph that breaks it, on no legal one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qdqgraph.errors import UsageError
from qdqgraph.proof.contract.checking import check_contract, max_opset
from qdqgraph.proof.contract.rules import BY_ID, RULES

Graph = onnx.GraphProto


def conv_net(opset: int = 17, weight_op: str = "Conv") -> onnx.ModelProto:
    """x -> Q -> DQ -> Conv(codes -> DQ, float bias) -> y, as TensorRT wants it."""
    axis = 0 if weight_op == "Conv" else 1
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"], "q"),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"], "dq"),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], "wdq", axis=axis),
        helper.make_node(weight_op, ["xd", "wd", "b"], ["y"], "conv"),
    ]
    arrays = {
        "s": np.float32(0.1),
        "z": np.int8(0),
        "w": np.ones((4, 4, 1, 1), np.int8),
        "ws": np.full(4, 0.1, np.float32),
        "wz": np.zeros(4, np.int8),
        "b": np.zeros(4, np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 5, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 5, 5])],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def store(graph: Graph, name: str, array: Any) -> None:
    """Replace an initializer."""
    tensor = next(t for t in graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(array), name))


def node(graph: Graph, name: str) -> onnx.NodeProto:
    return next(n for n in graph.node if n.name == name)


def drop_attributes(graph: Graph, name: str) -> None:
    del node(graph, name).attribute[:]


def computed_scale(graph: Graph) -> None:
    node(graph, "q").input[1] = "computed"
    graph.node.insert(0, helper.make_node("ReduceMax", ["x"], ["computed"], "max", keepdims=0))


def int32_bias(graph: Graph) -> None:
    graph.initializer.append(numpy_helper.from_array(np.zeros(4, np.int32), "bq"))
    graph.node.insert(0, helper.make_node("DequantizeLinear", ["bq", "s"], ["bd"], "bdq"))
    node(graph, "conv").input[2] = "bd"


def per_channel_activation(graph: Graph) -> None:
    store(graph, "s", np.full(4, 0.1, np.float32))
    store(graph, "z", np.zeros(4, np.int8))


def cut_zero_point(name: str) -> Callable[[Graph], None]:
    return lambda graph: node(graph, name).input.pop() and None


def retyped(name: str, element: int) -> Callable[[Graph], None]:
    """A zero point of another element type, all zero."""

    def spoil(graph: Graph) -> None:
        tensor = next(t for t in graph.initializer if t.name == name)
        made = helper.make_tensor(name, element, list(tensor.dims), [0] * max(1, *tensor.dims, 1))
        tensor.CopyFrom(made)

    return spoil


SPOILED: list[tuple[str, Callable[[Graph], None], tuple[int, ...]]] = [
    ("zero-point-missing", cut_zero_point("dq"), (8, 5)),
    ("zero-point-unsigned-default", cut_zero_point("q"), (10,)),
    ("zero-point-not-zero", lambda g: store(g, "z", np.int8(3)), (10,)),
    ("zero-point-shape", lambda g: store(g, "wz", np.int8(0)), (10,)),
    ("uint8", lambda g: store(g, "z", np.uint8(0)), (10,)),
    ("int32-dequantize", int32_bias, (10,)),
    ("format-unsupported", lambda g: store(g, "z", np.int16(0)), (10,)),
    ("fp8-too-early", retyped("z", TensorProto.FLOAT8E4M3FN), (8, 5)),
    ("fp4-too-early", retyped("wz", TensorProto.FLOAT4E2M1), (10, 7)),
    ("int4-too-early", retyped("wz", TensorProto.INT4), (9, 3)),
    ("int4-activation", retyped("z", TensorProto.INT4), (10,)),
    ("int4-odd-row", retyped("wz", TensorProto.INT4), (10,)),
    ("int4-convolution", retyped("wz", TensorProto.INT4), (10,)),
    ("scale-computed", computed_scale, (10,)),
    ("scale-not-positive", lambda g: store(g, "ws", np.float32([1, 0, 1, 1])), (10,)),
    ("scale-not-finite", lambda g: store(g, "ws", np.float32([1, np.inf, 1, 1])), (10,)),
    ("scale-not-float32", lambda g: store(g, "s", np.float16(0.1)), (8, 6)),
    ("activation-scale-shape", lambda g: store(g, "s", np.float32([0.1])), (10,)),
    ("activation-per-channel", per_channel_activation, (10,)),
    ("axis-missing", lambda g: drop_attributes(g, "wdq"), (10,)),
    ("axis-wrong", lambda g: store(g, "ws", np.float32([1, 1, 1])), (10,)),
    ("int8-weight-too-early", lambda _: None, (8, 4)),
    ("block-too-early", lambda g: store(g, "ws", np.ones((4, 2, 1, 1), np.float32)), (9, 3)),
    ("block-shape", lambda g: store(g, "ws", np.ones((4, 3, 1, 1), np.float32)), (10,)),
]


@pytest.mark.parametrize(("rule", "spoil", "version"), SPOILED, ids=[s[0] for s in SPOILED])
def test_a_spoiled_graph_breaks_the_rule(
    rule: str, spoil: Callable[[Graph], None], version: tuple[int, ...]
) -> None:
    model = conv_net(opset=13)
    assert rule not in found(conv_net(opset=13), (10,))
    spoil(model.graph)
    assert rule in found(model, version)


def found(model: onnx.ModelProto, version: tuple[int, ...], target: Any = "tensorrt") -> list[str]:
    return [finding.rule for finding in check_contract(model, target=target, version=version)]


@pytest.mark.parametrize("version", [(8, 5), (8, 6), (9, 3), (10,), (10, 3)])
def test_a_legal_graph_has_no_findings(version: tuple[int, ...]) -> None:
    assert found(conv_net(), version) == []
    assert found(conv_net(), version, "tensorrt-rtx") == []


@pytest.mark.parametrize(
    ("version", "newest"), [((8, 0), 13), ((8, 2), 13), ((8, 4), 17), ((9, 3), 19), ((10, 1), 20)]
)
def test_opsets_above_the_parser_table_are_errors(version: tuple[int, ...], newest: int) -> None:
    assert max_opset("tensorrt", version) == newest
    assert "opset-too-new" not in found(conv_net(newest), version)
    assert "opset-too-new" in found(conv_net(newest + 1), version)


def test_rules_end_where_a_version_mends_them() -> None:
    model = conv_net()
    cut_zero_point("dq")(model.graph)
    assert found(model, (8, 6)) == ["zero-point-missing"]
    assert found(model, (9,)) == []


@pytest.mark.parametrize("version_axis", [((8, 6), 0), ((10, 3), 1)])
def test_transposed_weights_want_another_axis_by_version(
    version_axis: tuple[tuple[int, ...], int],
) -> None:
    version, right = version_axis
    model = conv_net(weight_op="ConvTranspose")
    attribute = node(model.graph, "wdq").attribute[0]
    attribute.i = right
    assert found(model, version) == []
    attribute.i = 1 - right
    assert found(model, version) == [f"transposed-axis-{right}"]


def test_scales_along_the_contraction_axis_are_a_warning() -> None:
    model = conv_net()
    node(model.graph, "wdq").attribute[0].i = 1
    [finding] = check_contract(model, target="tensorrt-rtx", version=())
    assert (finding.rule, finding.severity, finding.nodes) == ("weight-axis", "warning", ("conv",))


@pytest.mark.parametrize(
    ("kind", "domain"),
    [
        ("QLinearConv", ""),
        ("QLinearMatMul", ""),
        ("ConvInteger", ""),
        ("MatMulInteger", ""),
        ("DynamicQuantizeLinear", ""),
        ("QLinearAdd", "com.microsoft"),
        ("QGemm", "com.microsoft"),
    ],
)
def test_operators_on_codes_cannot_be_imported(kind: str, domain: str) -> None:
    model = conv_net()
    model.graph.node.append(helper.make_node(kind, ["x"], ["extra"], "extra", domain=domain))
    [finding] = check_contract(model, target="tensorrt", version=(8, 6))
    assert (finding.rule, finding.nodes) == ("unsupported-operator", ("extra",))


def test_bodies_of_control_flow_are_read_with_the_constants_around_them() -> None:
    model = conv_net()
    store(model.graph, "z", np.int8(1))
    inner = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["iq"], "inner_q"),
        helper.make_node("DequantizeLinear", ["iq", "s", "z"], ["i"], "inner_dq"),
    ]
    output = [helper.make_tensor_value_info("i", TensorProto.FLOAT, [1, 4, 5, 5])]
    body = helper.make_graph(inner, "body", [], output)
    model.graph.node.append(
        helper.make_node("If", ["c"], ["o"], "if", then_branch=body, else_branch=body)
    )
    findings = check_contract(model, target="tensorrt", version=(10,))
    assert {f.rule for f in findings} == {"zero-point-not-zero"}
    names = [name for f in findings for name in f.nodes]
    assert names.count("inner_q") == 2


def test_errors_come_first_and_findings_are_plain_json() -> None:
    model = conv_net()
    store(model.graph, "s", np.float32([0.1]))
    store(model.graph, "z", np.int8([1]))
    findings = check_contract(model, target="tensorrt", version=(10,))
    assert [f.severity for f in findings] == ["error", "error", "warning", "warning"]
    shown = findings[0].to_json()
    assert shown["nodes"] == ["q"]
    assert shown["tensors"] == ["z"]
    assert shown["why"] == BY_ID[shown["rule"]].why


def test_every_rule_says_how_it_is_known_and_what_to_do() -> None:
    assert len(BY_ID) == len(RULES)
    assert all(rule.source and rule.why and rule.fix for rule in RULES)
    assert {rule.grade for rule in RULES} <= set("ABCD")


def test_an_unknown_target_is_refused() -> None:
    with pytest.raises(UsageError, match="no input contract of 'onnxruntime'"):
        found(conv_net(), (10,), "onnxruntime")
    with pytest.raises(UsageError, match="no TensorRT version"):
        found(conv_net(), ())
