"""Chains of single operations that quantize become Q and DQ of their scale; others stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import qdqgraph as qg
from qdqgraph.passes.recognize_fake_quantize import recognize_fake_quantize
from qdqgraph.proof.legalize.legalizing import legalize
from tests.reads import operators, tidied

Steps = list[tuple[str, float | npt.NDArray[Any] | None, float | None]]
"""(operator, constant, second constant) of each node of a chain."""
STEP = 0.0625
"""A power of two: 1/s is exact, and so is every code."""


def chain(steps: Steps, opset: int = 17, kind: type[np.generic] = np.float32) -> onnx.ModelProto:
    """x [1, 4, 5] through these nodes to y; constants of type `kind`."""
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []
    source = "x"
    for number, (op, *values) in enumerate(steps):
        names = [source]
        for value in values:
            if value is not None:
                names.append(f"c{len(constants)}")
                constants.append(numpy_helper.from_array(np.asarray(value, kind), names[-1]))
        source = "y" if number == len(steps) - 1 else f"t{number}"
        nodes.append(helper.make_node(op, names, [source], f"node{number}"))
    element = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", element, [1, 4, 5])],
        [helper.make_tensor_value_info("y", element, [1, 4, 5])],
        constants,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(made, full_check=True)
    return made


def outputs(model: onnx.ModelProto, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, {"x": x})[0])


def parameters(model: onnx.ModelProto) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Scale and zero point of the first Q."""
    held = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    node = next(n for n in model.graph.node if n.op_type == "QuantizeLinear")
    return held[node.input[1]], held[node.input[2]]


def steps_of(text: str) -> Steps:
    """`Div s, Round, Clip -128 127` as steps; `s` is the scale, `r` its reciprocal."""
    known = {"s": STEP, "r": 1 / STEP, "-s": -STEP, "2s": 2 * STEP}
    steps: Steps = []
    for item in text.split(", "):
        op, *words = item.split()
        numbers = [known.get(word) or float(word) for word in words]
        first, second, *_ = [*numbers, None, None]
        steps.append((op, first, second))
    return steps


SPELLINGS: dict[str, tuple[str, str, int]] = {
    "mul": ("Mul r, Round, Clip -128 127, Mul s", "int8", 0),
    "div": ("Div s, Round, Clip -128 127, Mul s", "int8", 0),
    "div at the end": ("Mul r, Round, Clip -128 127, Div r", "int8", 0),
    "clipped first": ("Div s, Clip -128 127, Round, Mul s", "int8", 0),
    "max and min": ("Div s, Round, Max -128, Min 127, Mul s", "int8", 0),
    "unsigned": ("Div s, Round, Clip 0 255, Mul s", "uint8", 0),
    "zero point": ("Div s, Round, Add 8, Clip 0 255, Sub 8, Mul s", "uint8", 8),
    "zero point first": ("Div s, Add 8, Round, Clip 0 255, Add -8, Mul s", "uint8", 8),
    "uint8 around 128": ("Div s, Round, Add 128, Clip 0 255, Sub 128, Mul s", "int8", 0),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_each_spelling_becomes_a_pair_that_computes_the_same(spelling: str) -> None:
    text, dtype, zero = SPELLINGS[spelling]
    model = chain(steps_of(text))
    made = tidied(model, recognize_fake_quantize)
    assert operators(made) == ["QuantizeLinear", "DequantizeLinear"]
    onnx.checker.check_model(made, full_check=True)
    scale, point = parameters(made)
    assert scale == np.float32(STEP)
    assert scale.shape == ()
    assert (str(point.dtype), int(point)) == (dtype, zero)
    # Midpoints, both ends and beyond: equal to the last bit, for the scale is a power of two.
    x = np.linspace(-20, 20, 20, dtype=np.float32).reshape(1, 4, 5).copy()
    x[0, 0] = np.array([0.5, 1.5, -0.5, 127.5, -128.5]) * STEP
    assert np.array_equal(outputs(made, x), outputs(model, x))


def test_a_scale_for_each_channel_finds_its_axis() -> None:
    scale = np.array([0.5, 0.25, 0.125, 0.0625], np.float32).reshape(4, 1)
    model = chain(
        [("Div", scale, None), ("Round", None, None), ("Clip", -127, 127), ("Mul", scale, None)]
    )
    narrow = tidied(model, recognize_fake_quantize)
    node = narrow.graph.node[0]
    assert onnx.helper.get_node_attr_value(node, "axis") == 1
    assert np.array_equal(parameters(narrow)[0], scale.reshape(-1))


def test_a_rounded_reciprocal_differs_on_midpoints_alone() -> None:
    """x · fl(1/s) is not x / s: the pair divides, as TensorRT and onnxruntime do."""
    scale = np.float32(0.03)
    model = chain(
        [("Mul", 1 / scale, None), ("Round", None, None), ("Clip", -128, 127), ("Mul", scale, None)]
    )
    made = tidied(model, recognize_fake_quantize)
    assert parameters(made)[0] == scale
    between = np.random.default_rng(0).normal(size=(1, 4, 5)).astype(np.float32)
    assert np.array_equal(outputs(made, between), outputs(model, between))
    differing, most = 0, 0.0
    for first in range(0, 120, 20):
        midpoints = ((np.arange(first, first + 20) + 0.5) * scale).astype(np.float32)
        x = midpoints.reshape(1, 4, 5)
        difference = np.abs(outputs(made, x) - outputs(model, x))
        differing, most = differing + int((difference > 0).sum()), max(most, difference.max())
    # 120 values that round to (k + 1/2) · s in float32: some land on the other side, by one step.
    assert 0 < differing < 60
    assert most <= 1.001 * scale


LEFT = {
    "7 bits": "Div s, Round, Clip -64 63, Mul s",
    "other scale behind": "Div s, Round, Clip -128 127, Mul 2s",
    "no clip": "Div s, Round, Mul s",
    "no rounding": "Div s, Clip -128 127, Mul s",
    "zero point stays": "Div s, Round, Add 8, Clip 0 255, Mul s",
    "bounds between codes": "Div s, Round, Clip -128.5 127, Mul s",
    "negative scale": "Div -s, Round, Clip -128 127, Mul -s",
}


@pytest.mark.parametrize("reason", LEFT)
def test_what_is_no_pair_stays(reason: str) -> None:
    model = chain(steps_of(LEFT[reason]))
    assert operators(tidied(model, recognize_fake_quantize)) == operators(model)


def test_codes_that_someone_else_reads_stay() -> None:
    model = chain(steps_of(SPELLINGS["div"][0]))
    model.graph.output.append(helper.make_tensor_value_info("t1", TensorProto.FLOAT, [1, 4, 5]))
    assert operators(tidied(model, recognize_fake_quantize)) == operators(model)


def test_an_opset_without_such_a_pair_keeps_its_operations() -> None:
    model = chain(steps_of(SPELLINGS["div"][0]), opset=11)
    assert operators(tidied(model, recognize_fake_quantize)) == operators(model)


def test_half_precision_constants_are_close_enough() -> None:
    scale = np.float16(0.1)
    steps: Steps = [
        ("Mul", np.float16(1) / scale, None),
        ("Round", None, None),
        ("Clip", -128, 127),
        ("Mul", scale, None),
    ]
    made = tidied(chain(steps, kind=np.float16, opset=19), recognize_fake_quantize)
    assert operators(made) == ["QuantizeLinear", "DequantizeLinear"]
    assert parameters(made)[0] == scale


def conv_of_chains() -> onnx.ModelProto:
    """x → chain → Conv(weight → chain) → y, all of whose numbers are exact."""
    weight = (np.arange(8 * 4 * 9) % 255 - 127).reshape(8, 4, 3, 3).astype(np.float32) * 0.25 + 0.1
    scale = np.full((8, 1, 1, 1), 0.25, np.float32)
    constants = {"w": weight, "s": scale, "lo": -127, "hi": 127, "sx": 0.5, "rx": 2, "low": -128}
    nodes = [
        helper.make_node("Mul", ["x", "rx"], ["a"]),
        helper.make_node("Round", ["a"], ["b"]),
        helper.make_node("Clip", ["b", "low", "hi"], ["c"]),
        helper.make_node("Mul", ["sx", "c"], ["d"]),
        helper.make_node("Div", ["w", "s"], ["e"]),
        helper.make_node("Round", ["e"], ["f"]),
        helper.make_node("Clip", ["f", "lo", "hi"], ["g"]),
        helper.make_node("Mul", ["g", "s"], ["h"]),
        helper.make_node("Conv", ["d", "h"], ["y"], "conv"),
    ]
    graph = helper.make_graph(
        nodes,
        "conv",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, 6, 6])],
        [numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_weight_becomes_codes_and_the_conv_counts_as_quantized() -> None:
    model = conv_of_chains()
    made = tidied(model, recognize_fake_quantize)
    assert operators(made) == ["QuantizeLinear", "DequantizeLinear", "DequantizeLinear", "Conv"]
    held = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    codes = held[made.graph.node[2].input[0]]
    weight = numpy_helper.to_array(model.graph.initializer[0])
    assert codes.dtype == np.int8
    assert np.array_equal(codes, np.clip(np.rint(weight / 0.25), -127, 127))
    assert set(held) == {name for node in made.graph.node for name in node.input} - {
        "x",
        *(name for node in made.graph.node for name in node.output),
    }
    x = np.random.default_rng(1).normal(size=(1, 4, 8, 8)).astype(np.float32) * 30
    assert np.array_equal(outputs(made, x), outputs(model, x))
    plan = qg.plan(model)
    assert not plan.entries
    assert "already quantized in the file" in {
        why for notes in plan.floats.values() for _, why in notes
    }


def test_quantizing_the_file_keeps_its_scales() -> None:
    model = conv_of_chains()
    x = np.random.default_rng(1).normal(size=(1, 4, 8, 8)).astype(np.float32)
    made = qg.quantize(model, [{"x": x}], method="max").proto
    assert operators(made) == ["QuantizeLinear", "DequantizeLinear", "DequantizeLinear", "Conv"]
    assert parameters(made)[0] == np.float32(0.5)


def test_legalizing_reads_chains_as_quantizers() -> None:
    model = chain(steps_of(SPELLINGS["zero point"][0]))
    report = legalize(model)
    assert [change.name for change in report.changes if change.kind == "operator"] == ["y"]
    assert not report.left
