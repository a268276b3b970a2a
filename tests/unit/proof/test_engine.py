"""Engine layer information of TensorRT 8 and 10, and scores against it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qdqgraph.proof.classic.predictor import predict
from qdqgraph.proof.engines.engine import names_in, precision_of, read_engine
from qdqgraph.proof.engines.score import score
from tests.unit.proof.engine_json import FP16, FP32, INT8, built, reformat, tensor


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Four wide channel vectorized row major Int8 format", "int8"),
        ("Row major linear INT8", "int8"),
        ("Int8 NC/32HW32", "int8"),
        ("Int8(131072,16384:32,128,1)", "int8"),
        ("Row major linear FP32", "float"),
        ("Channel major FP16 format where channel % 8 == 0", "float"),
        ("Half(4096,64:16,8,1)", "float"),
        ("Float[1,64,8,8]", "float"),
        ("BF16 NCHW", "float"),
        ("Row major Int32 format", "other"),
        ("Bool", "other"),
    ],
)
def test_precision_is_read_from_the_format(text: str, expected: str) -> None:
    assert precision_of(text) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "w + QuantizeLinear_8 + Conv_12 + PWN(Clip_16)",
            (("w", "QuantizeLinear_8", "Conv_12", "Clip_16"),),
        ),
        ("PWN(PWN(/a/Sigmoid), /a/Mul)", (("/a/Sigmoid", "/a/Mul"),)),
        ("Conv_1 + Relu_2 || Conv_3 + Relu_4", (("Conv_1", "Relu_2"), ("Conv_3", "Relu_4"))),
        (
            "w + QuantizeLinear_7_quantize_scale_node + Conv_9",
            (("w", "QuantizeLinear_7", "Conv_9"),),
        ),
        ("/neck/QuantizeLinear_clone_1", (("/neck/QuantizeLinear",),)),
        ("/fc1/MatMul_myl0_2", (("/fc1/MatMul",),)),
        ("Reformatting CopyNode for Input Tensor 0 to w + Conv_1", ((),)),
        ("(Unnamed Layer* 12) [Shuffle]", (("(Unnamed Layer* 12) [Shuffle]",),)),
    ],
)
def test_onnx_nodes_are_read_from_the_name(name: str, expected: object) -> None:
    assert names_in(name) == expected


@pytest.mark.parametrize("separator", ["\x1e", "\x1f", ""])
def test_onnx_nodes_are_read_from_the_metadata(separator: str) -> None:
    listed = separator.join(f"[ONNX Layer: {name}]" for name in ("/a[0]/Conv", "/a/Relu", "/Q"))
    engine = read_engine(
        [built("gemm", "__myl_Fc_myl0_2", [], tensor("y", "Int8"), Metadata=listed)]
    )
    assert engine.layers[0].nodes == ("/a[0]/Conv", "/a/Relu", "/Q")


def test_standalone_layers_are_told_from_layout_changes() -> None:
    x, codes = tensor("x", FP32, 1, 8, 4, 4), tensor("q", INT8, 1, 8, 4, 4)
    other = tensor("r", INT8, 1, 8, 4, 4)
    copy = "Reformatting CopyNode for Input Tensor 0 to Conv_1"
    listed = "[ONNX Layer: /in/QuantizeLinear]"
    engine = read_engine(
        {
            "Layers": [
                reformat("QuantizeLinear_2", x, codes),
                reformat("DequantizeLinear_3", codes, x),
                reformat("DequantizeLinear_3 + QuantizeLinear_4", codes, other),
                reformat(copy, codes, other, "REFORMAT"),
                reformat(copy, x, codes, ""),
                # Verbose logs name no origin, TensorRT 10 generates a kernel.
                reformat("QuantizeLinear_5", x, codes, ""),
                built("kgen", "__myl_Cast_myl0_1", [x], codes, Metadata=listed),
                built("kgen", "__myl_Soft_myl0_2", [x], codes, Metadata="[ONNX Layer: Softmax_1]"),
            ]
        }
    )
    assert [layer.standalone for layer in engine.layers] == [
        "quantize",
        "dequantize",
        "requantize",
        None,
        None,
        "quantize",
        "quantize",
        None,
    ]
    assert engine.layers[0].inputs[0].dims == (1, 8, 4, 4)


def two_convs() -> onnx.ModelProto:
    """x → Q1 → DQ1 → Conv1 → BN1 → Relu1 → Q2 → DQ2 → Conv2 → y, eight channels."""
    ones = np.ones(8, np.float32)
    tensors = {"s1": np.float32(0.1), "s2": np.float32(0.2), "z": np.int8(0), "one": ones}
    nodes: list[onnx.NodeProto] = []

    def op(kind: str, name: str, *inputs: str) -> str:
        nodes.append(helper.make_node(kind, inputs, [f"{name}:0"], name=name))
        return f"{name}:0"

    def pair(x: str, scale: str, name: str) -> str:
        x = op("QuantizeLinear", f"QuantizeLinear_{name}", x, scale, "z")
        return op("DequantizeLinear", f"DequantizeLinear_{name}", x, scale, "z")

    y = pair("x", "s1", "1")
    for i in (1, 2):
        tensors[f"conv{i}.weight"] = np.ones((8, 8, 1, 1), np.float32)
        y = op("Conv", f"Conv_{i}", y, pair(f"conv{i}.weight", "s1", f"w{i}"))
        if i == 1:
            y = op("BatchNormalization", "BatchNormalization_1", y, *["one"] * 4)
            y = pair(op("Relu", "Relu_1", y), "s2", "2")
    info = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 4, 4])
    out = helper.make_tensor_value_info(y, TensorProto.FLOAT, None)
    stored = [numpy_helper.from_array(np.asarray(a), n) for n, a in tensors.items()]
    graph = helper.make_graph(nodes, "two", [info], [out], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])


def engine_of_two_convs(middle: str, *more: dict[str, Any]) -> list[dict[str, Any]]:
    name1, name2 = (f"conv{i}.weight + QuantizeLinear_w{i} + Conv_{i}" for i in (1, 2))
    last = tensor("b" if more else "a", INT8)
    return [
        reformat("QuantizeLinear_1", tensor("x", FP32), tensor("i", INT8)),
        built("CaskConvolution", name1, [tensor("i", INT8)], tensor("a", middle)),
        *more,
        built("CaskConvolution", name2, [last], tensor("y", FP32)),
    ]


def test_an_engine_as_predicted_scores_full() -> None:
    found = score(predict(two_convs()), read_engine(engine_of_two_convs(INT8)))
    # BN, Relu and the second Q are named nowhere in such an engine: not compared.
    assert (found.precisions, found.products) == (2, 2)
    assert (found.fused, found.layers) == (2, 2)
    assert found.standalone_predicted == found.standalone_built == {"quantize": 1}
    assert found.standalone_right
    assert found.misses == ()


def test_a_different_engine_is_told_layer_by_layer() -> None:
    behind = reformat("QuantizeLinear_2", tensor("a", FP16), tensor("b", INT8))
    relu = built("PointWise", "PWN(Relu_1)", [tensor("a", FP16)], tensor("c", FP16))
    found = score(predict(two_convs()), read_engine(engine_of_two_convs(FP16, relu, behind)))
    assert (found.precisions, found.products) == (1, 2)
    # Relu_1 was predicted inside Conv_1: that layer and the PWN both differ.
    assert (found.fused, found.layers) == (1, 3)
    assert not found.standalone_right
    assert found.standalone_built == {"quantize": 2}
    assert sorted(miss.subject for miss in found.misses) == [
        "nodes",
        "nodes",
        "output",
        "standalone",
    ]


def test_an_engine_of_tensorrt_10_scores_by_metadata() -> None:
    def listed(*names: str) -> str:
        return "\x1f".join(f"[ONNX Layer: {name}]" for name in names)

    first = ("Conv_1", "BatchNormalization_1", "Relu_1", "DequantizeLinear_1", "QuantizeLinear_2")
    engine = read_engine(
        [
            built(
                "kgen",
                "__myl_Quan_myl0_0",
                [tensor("x", "Float")],
                tensor("i", "Int8"),
                Metadata=listed("QuantizeLinear_1"),
            ),
            built(
                "gemm",
                "Conv_1_myl0_1",
                [tensor("i", "Int8")],
                tensor("a", "Int8"),
                Metadata=listed(*first),
            ),
            built(
                "gemm",
                "Conv_2_myl0_2",
                [tensor("a", "Int8")],
                tensor("y", "Float"),
                Metadata=listed("Conv_2", "DequantizeLinear_2"),
            ),
        ]
    )
    found = score(predict(two_convs()), engine)
    assert (found.precisions, found.fused, found.layers) == (2, 2, 2)
    assert found.standalone_right
    assert found.misses == ()


def test_layers_without_names_are_known_by_what_they_write() -> None:
    helper_name, writes = "(Unnamed Layer* 7) [Shuffle]", tensor("Conv_2:0", FP32)
    spare = built("Shuffle", helper_name, [tensor("y", FP32)], writes)
    broken = built("Scale", "bn.weight + (Unnamed Layer* 9)", [tensor("a", FP16)],
                   tensor("BatchNormalization_1:0", FP16))  # fmt: skip
    found = score(predict(two_convs()), read_engine([*engine_of_two_convs(INT8), spare, broken]))
    # The shuffle writes what Conv_2, named elsewhere, computes: it is no layer of its own. The
    # batch norm was predicted inside Conv_1, so both layers differ.
    assert (found.fused, found.layers) == (1, 3)
    built_as = sorted(miss.built for miss in found.misses if miss.subject == "nodes")
    assert built_as == ["BatchNormalization_1", "Conv_1"]
