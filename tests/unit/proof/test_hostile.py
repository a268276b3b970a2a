"""Files nobody should have written: each is a typed error or a finding, never another exception."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from qdqgraph.errors import InvalidGraphError, QdqGraphError
from qdqgraph.proof.classic.predictor import predict
from qdqgraph.proof.contract.checking import check_contract
from qdqgraph.proof.legalize.legalizing import legalize
from qdqgraph.proof.reading.calls import without_functions
from qdqgraph.storage.references import DataFolder
from tests.cli.contract import run
from tests.unit.proof.test_contract import conv_net, node, store

Spoil = Callable[[onnx.ModelProto], Any]


def tensor(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(t for t in model.graph.initializer if t.name == name)


def cycle(model: onnx.ModelProto) -> None:
    node(model.graph, "q").input[0] = "y"


def scale_of_itself(model: onnx.ModelProto) -> None:
    node(model.graph, "q").input[1] = "loop"
    model.graph.node.append(helper.make_node("Identity", ["loop"], ["loop"], "loop"))


def no_inputs(name: str) -> Spoil:
    return lambda model: model.graph.node[:] and node(model.graph, name).ClearField("input")


def no_outputs(name: str) -> Spoil:
    return lambda model: node(model.graph, name).ClearField("output")


def blank_inputs(name: str) -> Spoil:
    def spoil(model: onnx.ModelProto) -> None:
        made = node(model.graph, name)
        made.input[:] = [""] * len(made.input)

    return spoil


def cut_bytes(name: str) -> Spoil:
    def spoil(model: onnx.ModelProto) -> None:
        found = tensor(model, name)
        found.raw_data = found.raw_data[:-1] if len(found.raw_data) > 1 else b"\0\0\0"

    return spoil


def dims(name: str, *sizes: int) -> Spoil:
    def spoil(model: onnx.ModelProto) -> None:
        tensor(model, name).ClearField("dims")
        tensor(model, name).dims.extend(sizes)

    return spoil


def external(model: onnx.ModelProto) -> None:
    for name in ("ws", "w", "z"):
        found = tensor(model, name)
        found.ClearField("raw_data")
        found.data_location = TensorProto.EXTERNAL
        found.external_data.add(key="location", value="gone.bin")


def element(name: str, kind: int) -> Spoil:
    return lambda model: tensor(model, name).__setattr__("data_type", kind)


def text_axis(model: onnx.ModelProto) -> None:
    dequantize = node(model.graph, "wdq")
    del dequantize.attribute[:]
    dequantize.attribute.append(helper.make_attribute("axis", "zero"))


def huge_axis(model: onnx.ModelProto) -> None:
    node(model.graph, "wdq").attribute[0].i = 2**40


def twice_written(model: onnx.ModelProto) -> None:
    model.graph.node.append(model.graph.node[0])


def only_outputs(model: onnx.ModelProto) -> None:
    del model.graph.node[:]


SPOILED: dict[str, Spoil] = {
    "a cycle": cycle,
    "a scale that is its own input": scale_of_itself,
    **{f"no inputs of {name}": no_inputs(name) for name in ("q", "wdq", "conv")},
    **{f"no outputs of {name}": no_outputs(name) for name in ("q", "wdq", "conv")},
    **{f"blank inputs of {name}": blank_inputs(name) for name in ("q", "dq", "wdq", "conv")},
    **{f"{name} cut short": cut_bytes(name) for name in ("s", "z", "w", "ws", "wz", "b")},
    "more dims than contents": dims("ws", 4, 4),
    "negative dims": dims("ws", -4),
    "a weight of negative dims": dims("w", 4, -4, 1, 1),
    "a scale without elements": lambda m: store(m.graph, "s", np.zeros(0, np.float32)),
    "a zero point without elements": lambda m: store(m.graph, "z", np.zeros(0, np.int8)),
    "missing external data": external,
    "a scale of strings": element("s", TensorProto.STRING),
    "a scale of integers": element("s", TensorProto.INT32),
    "an element type nobody knows": element("z", 99),
    "an undefined element type": element("z", 0),
    "an axis that is text": text_axis,
    "an axis out of range": huge_axis,
    "a tensor written twice": twice_written,
    "no nodes": only_outputs,
    "no graph": lambda m: m.ClearField("graph"),
    "no opset": lambda m: m.ClearField("opset_import"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_spoiled_model_is_a_typed_error_or_a_finding(case: str, tmp_path: Path) -> None:
    for work in (
        lambda m: check_contract(m, target="tensorrt", version=(8, 6), data=DataFolder(tmp_path)),
        lambda m: check_contract(m, target="tensorrt-rtx", version=(), sm=75),
        lambda m: predict(m, folder=tmp_path),
        lambda m: legalize(m, data=DataFolder(tmp_path)),
    ):
        model = conv_net()
        SPOILED[case](model)
        with contextlib.suppress(QdqGraphError):
            work(model)


@pytest.mark.parametrize("case", SPOILED)
def test_the_command_says_so_without_a_traceback(case: str, tmp_path: Path) -> None:
    model = conv_net()
    SPOILED[case](model)
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    result = run("check", str(path))
    assert result.code in (0, 1, 2, 3)
    assert "Traceback" not in result.out + result.err


@pytest.mark.parametrize("kept", [0, 1, 10, 100, 200])
def test_a_truncated_file_is_refused(kept: int, tmp_path: Path) -> None:
    path = tmp_path / "cut.onnx"
    path.write_bytes(conv_net().SerializeToString()[:kept])
    result = run("check", str(path), "--json")
    assert result.code not in (0, 1)
    assert "Traceback" not in result.out + result.err


def with_function(body: list[onnx.NodeProto], inputs: list[str]) -> onnx.ModelProto:
    """conv_net with its activation quantizer pair in a function of the domain `local`."""
    model = conv_net()
    function = helper.make_function(
        "local", "Pair", inputs, ["out"], body, [helper.make_opsetid("", 17)]
    )
    function.opset_import.append(helper.make_opsetid("local", 1))
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("local", 1))
    del model.graph.node[:2]
    call = helper.make_node("Pair", ["x", "s", "z"][: len(inputs)], ["xd"], "call", domain="local")
    model.graph.node.insert(0, call)
    return model


def pair() -> list[onnx.NodeProto]:
    return [
        helper.make_node("QuantizeLinear", ["a", "scale", "zero"], ["codes"], "fq"),
        helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["out"], "fdq"),
    ]


def test_quantizers_in_local_functions_are_read_at_the_call() -> None:
    model = with_function(pair(), ["a", "scale", "zero"])
    before = model.SerializeToString(deterministic=True)
    assert check_contract(model, target="tensorrt", version=(10,)) == []
    assert predict(model).int8_products == 1
    store(model.graph, "z", np.int8(3))
    findings = check_contract(model, target="tensorrt", version=(10,))
    assert [f.rule for f in findings] == ["zero-point-not-zero"] * 2
    store(model.graph, "z", np.int8(0))
    assert model.SerializeToString(deterministic=True) == before


def test_a_function_that_calls_itself_is_refused() -> None:
    recursive = [helper.make_node("Pair", ["a"], ["out"], "again", domain="local")]
    model = with_function(recursive, ["a"])
    with pytest.raises(InvalidGraphError, match="calls itself"):
        without_functions(model)
    with pytest.raises(InvalidGraphError, match=r"local\.Pair"):
        check_contract(model, target="tensorrt", version=(10,))


def test_quantizers_deep_in_control_flow_are_found() -> None:
    inner = [
        helper.make_node("QuantizeLinear", ["x", "s", "odd"], ["iq"], "deep_q"),
        helper.make_node("DequantizeLinear", ["iq", "s", "odd"], ["i"], "deep_dq"),
    ]
    output = [helper.make_tensor_value_info("i", TensorProto.FLOAT, None)]
    graph = helper.make_graph(inner, "body", [], output)
    depth = 25  # protobuf itself parses 100 messages inside each other, three to a body
    for level in range(depth):
        node_ = helper.make_node("If", ["c"], ["i"], f"if{level}", then_branch=graph)
        graph = helper.make_graph([node_], "body", [], output)
    model = conv_net()
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(3, np.int8), "odd"))
    model.graph.node.extend(graph.node)
    findings = check_contract(model, target="tensorrt", version=(10,))
    assert [(f.rule, f.nodes) for f in findings] == [
        ("zero-point-not-zero", ("deep_q",)),
        ("zero-point-not-zero", ("deep_dq",)),
    ]
