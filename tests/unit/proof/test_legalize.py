"""Files of onnxruntime.quantization become legal for TensorRT; onnxruntime is the oracle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from qdqgraph.cli.contract_commands import legalize as legalize_command
from qdqgraph.proof.contract.checking import check_contract
from qdqgraph.proof.legalize.legalizing import legalize
from qdqgraph.proof.legalize.report import LegalizeReport

Array = npt.NDArray[Any]
U8, I8 = QuantType.QUInt8, QuantType.QInt8
Q, DQ = "QuantizeLinear", "DequantizeLinear"


def model_of(
    nodes: list[onnx.NodeProto],
    shape: list[int],
    arrays: dict[str, Any],
    opset: int = 17,
    output: int = TensorProto.FLOAT,
    rank: int = 0,
) -> onnx.ModelProto:
    """A model from x of this shape to y of the same rank, or of `rank`."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", output, [f"d{i}" for i in range(rank or len(shape))])],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in arrays.items()],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=9)


def float_net(kind: str) -> onnx.ModelProto:
    """conv-relu-conv, or conv-clip-pool, with weights of a fixed seed."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {
        "w1": (rng.normal(size=(8, 3, 3, 3)) * 0.3).astype(np.float32),
        "b1": (rng.normal(size=8) * 0.1).astype(np.float32),
    }
    nodes = [helper.make_node("Conv", ["x", "w1", "b1"], ["c"], "conv1", pads=[1] * 4)]
    if kind == "relu":
        arrays["w2"] = (rng.normal(size=(4, 8, 3, 3)) * 0.2).astype(np.float32)
        arrays["b2"] = (rng.normal(size=4) * 0.1).astype(np.float32)
        nodes.append(helper.make_node("Relu", ["c"], ["r"], "relu"))
        nodes.append(helper.make_node("Conv", ["r", "w2", "b2"], ["y"], "conv2", pads=[1] * 4))
    else:
        arrays |= {"lo": np.float32(0), "hi": np.float32(6)}
        pool = {"kernel_shape": [2, 2], "strides": [2, 2]}
        nodes.append(helper.make_node("Clip", ["c", "lo", "hi"], ["r"], "clip"))
        nodes.append(helper.make_node("AveragePool", ["r"], ["y"], "pool", **pool))
    return model_of(nodes, [1, 3, 16, 16], arrays)


def images(seed: int) -> Array:
    return (np.random.default_rng(seed).normal(size=(1, 3, 16, 16)) * 2).astype(np.float32)


class Images(CalibrationDataReader):
    def __init__(self) -> None:
        self.left = iter(range(8))

    def get_next(self) -> Any:
        seed = next(self.left, None)
        return None if seed is None else {"x": images(seed)}


def run(model: onnx.ModelProto, x: Array) -> Array:
    """The output, every node run as it stands."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    providers = ["CPUExecutionProvider"]
    session = ort.InferenceSession(model.SerializeToString(), options, providers)
    return session.run(None, {"x": x})[0]


def legal(
    model: onnx.ModelProto, version: tuple[int, ...] = (8, 6)
) -> tuple[onnx.ModelProto, LegalizeReport]:
    """The legalized copy, checked to be an ONNX model that TensorRT and RTX take."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    report = legalize(made, version=version)
    onnx.checker.check_model(made, full_check=True)
    assert report.errors == []
    for target in ("tensorrt", "tensorrt-rtx"):
        assert check_contract(made, target=target, version=version) == []
    return made, report


def sqnr(reference: Array, other: Array) -> float:
    return 10 * np.log10(np.sum(reference**2) / np.sum((reference - other) ** 2))


def ops(model: onnx.ModelProto, kind: str) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == kind]


def constant(model: onnx.ModelProto, name: str) -> Array:
    return numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name))


@pytest.mark.parametrize("layout", [QuantFormat.QDQ, QuantFormat.QOperator])
@pytest.mark.parametrize("types", [(U8, I8), (U8, U8), (I8, I8)])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("kind", ["relu", "clip"])
def test_static_quantization_becomes_legal_and_gets_its_activation_back(
    kind: str, per_channel: bool, types: tuple[Any, Any], layout: Any, tmp_path: Path
) -> None:
    path = tmp_path / "q.onnx"
    activation, weight = types
    settings = {"activation_type": activation, "weight_type": weight}
    quantize_static(
        float_net(kind), path, Images(), quant_format=layout, per_channel=per_channel, **settings
    )
    source = onnx.load(path)
    assert not ops(source, "Relu") + ops(source, "Clip")  # the other tool removed it
    assert any(
        f.severity == "error" for f in check_contract(source, target="tensorrt", version=(10,))
    )
    made, report = legal(source)
    [clip] = ops(made, "Relu" if kind == "relu" else "Clip")
    assert clip.input[0] == ops(made, "Conv")[0].output[0]
    if kind == "clip":
        assert [float(constant(made, name)) for name in clip.input[1:]] == [0, 6]
    for conv in ops(made, "Conv"):
        feeds = {name: n for n in made.graph.node for name in n.output}
        assert [feeds[name].op_type for name in conv.input[:2]] == [DQ, DQ]
        assert constant(made, conv.input[2]).dtype == np.float32
    assert not report.exact
    x = images(100)
    reference = run(float_net(kind), x)
    # The bound: no worse than the source file by more than 1 dB.
    assert sqnr(reference, run(made, x)) >= sqnr(reference, run(source, x)) - 1


@pytest.mark.parametrize("kind", ["relu", "clip"])
def test_unsigned_codes_with_zero_point_128_become_int8_exactly(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "q.onnx"
    options = {"ActivationSymmetric": True, "WeightSymmetric": True}
    quantize_static(
        float_net(kind), path, Images(), activation_type=U8, weight_type=U8, extra_options=options
    )
    source = onnx.load(path)
    made, report = legal(source)
    assert report.exact
    assert "exact" in report.lines()
    # The real numbers are the same and float sums run in the same order: equal to the last bit.
    np.testing.assert_array_equal(run(made, images(3)), run(source, images(3)))


@settings(max_examples=40, deadline=None)
@given(
    scale=st.floats(1e-3, 10),
    kind=st.sampled_from([np.uint8, np.int8]),
    fraction=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_a_single_quantizer_moves_values_by_what_the_report_says(
    scale: float, kind: Any, fraction: float, seed: int
) -> None:
    low, high = np.iinfo(kind).min, np.iinfo(kind).max
    zero = kind(low + round(fraction * 255))
    nodes = [
        helper.make_node(Q, ["x", "s", "z"], ["q"], "q"),
        helper.make_node(DQ, ["q", "s", "z"], ["d"], "d"),
        helper.make_node("Identity", ["d"], ["y"], "behind"),
    ]
    source = model_of(nodes, [64], {"s": np.float32(scale), "z": zero})
    made, report = legal(source)
    # Within the old range: values outside of it, a symmetric scale lets through further.
    ends = (low - int(zero)) * scale, (high - int(zero)) * scale
    x = np.random.default_rng(seed).uniform(*ends, 64).astype(np.float32)
    after = max([c.step_after for c in report.changes if not c.exact], default=scale)
    bound = 0 if report.exact else (scale + after) / 2 * (1 + 1e-5)  # half a step of each
    assert np.abs(run(made, x) - run(source, x)).max() <= bound


def test_a_weight_with_any_zero_point_is_shifted_where_it_fits_and_rounded_where_not() -> None:
    codes = np.array([[10, 200], [100, 140]], np.uint8)
    for zero, exact in ((np.uint8(100), True), (np.uint8(5), False)):
        nodes = [
            helper.make_node(DQ, ["w", "s", "z"], ["d"], "d"),
            helper.make_node("MatMul", ["x", "d"], ["y"], "product"),
        ]
        source = model_of(nodes, [2, 2], {"w": codes, "s": np.float32(0.1), "z": zero})
        made, report = legal(source)
        eye = np.eye(2, dtype=np.float32)  # the product is the weight itself
        [change] = report.changes
        assert report.exact is exact
        error = np.abs(run(made, eye) - run(source, eye)).max()
        assert error <= change.max_error + 1e-5  # float32 rounding of values up to 20
        assert exact or change.max_error == pytest.approx(error, abs=1e-5)


def test_only_the_channels_that_do_not_fit_are_rounded_anew() -> None:
    codes = np.array([[0, 10], [120, 255], [131, 3], [90, 140]], np.uint8).reshape(4, 2, 1, 1)
    nodes = [
        helper.make_node(DQ, ["w", "s", "z"], ["d"], "d"),
        helper.make_node("Conv", ["x", "d"], ["y"], "conv"),
    ]
    arrays = {"w": codes, "s": np.float32(0.1), "z": np.uint8(120)}
    made, report = legal(model_of(nodes, [1, 2, 3, 3], arrays))
    [dq] = ops(made, DQ)
    assert dq.attribute[0].i == 0
    new, scales = constant(made, dq.input[0]), constant(made, dq.input[1])
    # Channel 1 reaches code 255 - 120 = 135, so its scale is 135 · 0.1 / 127; the others fit.
    np.testing.assert_allclose(scales, np.float32([0.1, 13.5 / 127, 0.1, 0.1]), rtol=1e-6)
    np.testing.assert_array_equal(new[[0, 2, 3]].astype(int), codes[[0, 2, 3]].astype(int) - 120)
    [change] = report.changes
    real = (codes.astype(float) - 120) * 0.1
    error = np.abs(new * scales.reshape(4, 1, 1, 1) - real).max()
    assert change.max_error == pytest.approx(error, rel=1e-5, abs=1e-6)
    assert change.max_error <= 13.5 / 127 / 2  # half a step


UNFOLDED: dict[str, tuple[list[str], str, dict[str, Any], list[int]]] = {
    "QLinearAdd": (["q", "s", "z", "q", "s", "z", "t", "z"], "Add", {}, [1, 4, 6, 6]),
    "QLinearMul": (["q", "s", "z", "q", "s", "z", "t", "z"], "Mul", {}, [1, 4, 6, 6]),
    "QLinearConcat": (
        ["t", "z", "q", "s", "z", "q", "s", "z"],
        "Concat",
        {"axis": 1},
        [1, 4, 6, 6],
    ),
    "QLinearGlobalAveragePool": (["q", "s", "z", "s", "z"], "GlobalAveragePool", {}, [1, 4, 6, 6]),
    "QLinearSigmoid": (["q", "s", "z", "s", "z"], "Sigmoid", {}, [1, 4, 6, 6]),
    "QLinearLeakyRelu": (["q", "s", "z", "s", "z"], "LeakyRelu", {"alpha": 0.1}, [1, 4, 6, 6]),
    "QGemm": (["q", "s", "z", "w", "ws", "wz", "b", "t", "z"], "Gemm", {}, [3, 6]),
}


@pytest.mark.parametrize("kind", UNFOLDED)
def test_microsoft_operators_on_codes_become_float_ones_between_pairs(kind: str) -> None:
    inputs, name, attributes, shape = UNFOLDED[kind]
    rng = np.random.default_rng(1)
    arrays = {
        "s": np.float32(0.02),
        "t": np.float32(0.05),
        "z": np.uint8(128),
        "w": rng.integers(-100, 100, (6, 5)).astype(np.int8),
        "ws": rng.uniform(0.001, 0.01, 5).astype(np.float32),
        "wz": np.zeros(5, np.int8),
        "b": rng.integers(-2000, 2000, 5).astype(np.int32),
    }
    step = float(arrays[inputs[-2] if kind != "QLinearConcat" else "t"])
    arrays = {key: value for key, value in arrays.items() if key in (*inputs, "s", "z")}
    nodes = [
        helper.make_node(Q, ["x", "s", "z"], ["q"], "q"),
        helper.make_node(kind, inputs, ["r"], "work", domain="com.microsoft", **attributes),
        helper.make_node(
            DQ, ["r", inputs[0] if kind == "QLinearConcat" else inputs[-2], "z"], ["y"]
        ),
    ]
    source = model_of(nodes, shape, arrays)
    made, report = legal(source)
    assert report.exact
    assert [n.op_type for n in made.graph.node if n.op_type not in (Q, DQ)] == [name]
    x = rng.normal(size=shape).astype(np.float32)
    # onnxruntime's integer kernels round once more on ties and in tables: one code at most.
    assert np.abs(run(made, x) - run(source, x)).max() <= step * 1.001


@pytest.mark.parametrize(("axis", "opset"), [(1, 11), (2, 11), (-1, 11), (1, 13), (2, 13)])
def test_softmax_on_codes_keeps_the_meaning_of_its_opset(axis: int, opset: int) -> None:
    given = {"axis": axis, "opset": opset, "domain": "com.microsoft"}
    nodes = [
        helper.make_node(Q, ["x", "s", "z"], ["q"], "q"),
        helper.make_node("Resize", ["q", "", "two"], ["b"], "resize", mode="nearest"),
        helper.make_node("QLinearSoftmax", ["b", "s", "z", "t", "z"], ["r"], "soft", **given),
        helper.make_node(DQ, ["r", "t", "z"], ["y"], "d"),
    ]
    arrays = {
        "s": np.float32(0.05),
        "t": np.float32(0.01),
        "z": np.uint8(128),
        "two": np.float32([1, 1, 2]),
    }
    source = model_of(nodes, [2, 3, 4], arrays)
    made, report = legal(source)
    assert report.exact
    assert len(ops(made, "Reshape")) == (opset == 11 and axis != -1)
    x = np.random.default_rng(9).normal(size=(2, 3, 4)).astype(np.float32)
    # One code: onnxruntime takes the exponentials from a table.
    assert np.abs(run(made, x) - run(source, x)).max() <= 0.01 * 1.001


@pytest.mark.parametrize("per_column", [False, True])
def test_qlinear_matmul_and_movements_of_codes_become_pairs(per_column: bool) -> None:
    rng = np.random.default_rng(2)
    scales = rng.uniform(0.001, 0.01, 4).astype(np.float32)
    arrays = {
        "s": np.float32(0.02),
        "z": np.uint8(128),
        "w": rng.integers(-100, 100, (9, 4)).astype(np.int8),
        "ws": scales if per_column else scales[0],
        "wz": np.zeros(4, np.int8) if per_column else np.int8(0),
        "shape": np.array([4, 9], np.int64),
    }
    nodes = [
        helper.make_node(Q, ["x", "s", "z"], ["q"], "q"),
        helper.make_node("MaxPool", ["q"], ["p"], "pool", kernel_shape=[2, 2]),
        helper.make_node("Reshape", ["p", "shape"], ["f"], "reshape"),
        helper.make_node("QLinearMatMul", ["f", "s", "z", "w", "ws", "wz", "s", "z"], ["r"], "mm"),
        helper.make_node(DQ, ["r", "s", "z"], ["y"], "d"),
    ]
    source = model_of(nodes, [1, 4, 4, 4], arrays, rank=2)
    made, report = legal(source)
    assert report.exact
    x = rng.normal(size=(1, 4, 4, 4)).astype(np.float32)
    assert np.abs(run(made, x) - run(source, x)).max() <= 0.02 * 1.001  # one code of a tie
    feeds = {name: n for n in made.graph.node for name in n.output}
    for kind in ("MaxPool", "Reshape", "MatMul"):
        [node] = ops(made, kind)
        assert feeds[node.input[0]].op_type == DQ


@pytest.mark.parametrize("per_channel", [False, True])
def test_dynamic_quantization_becomes_a_float_product_with_the_same_weights(
    per_channel: bool, tmp_path: Path
) -> None:
    weight = np.random.default_rng(3).normal(size=(16, 8)).astype(np.float32)
    original = model_of(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "mm")], [4, 16], {"w": weight}
    )
    path = tmp_path / "d.onnx"
    quantize_dynamic(original, path, per_channel=per_channel, weight_type=I8)
    source = onnx.load(path)
    assert ops(source, "MatMulInteger")
    made, report = legal(source)
    assert not report.exact
    assert not ops(made, "DynamicQuantizeLinear")
    codes = constant(source, "w_quantized").astype(np.float32)
    scales = constant(source, "w_scale")
    x = np.random.default_rng(4).normal(size=(4, 16)).astype(np.float32)
    # float32 sums of 16 products of size up to about 10
    np.testing.assert_allclose(run(made, x), x @ (codes * scales), atol=1e-4)


def test_a_static_integer_convolution_keeps_its_integers() -> None:
    rng = np.random.default_rng(5)
    arrays = {
        "s": np.float32(0.1),
        "z": np.uint8(120),
        "w": rng.integers(0, 255, (4, 3, 3, 3)).astype(np.uint8),
        "wz": np.uint8(99),
    }
    nodes = [
        helper.make_node(Q, ["x", "s", "z"], ["q"], "q"),
        helper.make_node("ConvInteger", ["q", "w", "z", "wz"], ["i"], "conv"),
        helper.make_node("Cast", ["i"], ["y"], "cast", to=TensorProto.FLOAT),
    ]
    source = model_of(nodes, [1, 3, 8, 8], arrays)
    made = onnx.ModelProto()
    made.CopyFrom(source)
    report = legalize(made, version=(8, 6))
    assert [n.op_type for n in ops(made, "Conv")] == ["Conv"]
    # The quantizer in front of it has no DQ that could tell what else its codes mean: it is left.
    assert {f.rule for f in report.errors} == {"uint8", "zero-point-not-zero"}
    x = rng.normal(size=(1, 3, 8, 8)).astype(np.float32)
    # 27 products below 2^16 sum to less than 2^24: exact in float32.
    np.testing.assert_array_equal(run(made, x), run(source, x))


def test_forms_that_tensorrt_misreads_are_written_out() -> None:
    """Scale of shape [1], a dead channel, no axis, no zero point, com.microsoft, opset 11."""
    arrays = {
        "s": np.float32([0.1]),
        "z": np.int8([0]),
        "w": np.arange(-8, 8, dtype=np.int8).reshape(4, 4, 1, 1),
        "ws": np.float32([0.1, 0, 0.2, 0.3]),
    }
    nodes = [
        helper.make_node(Q, ["x", "s", "z"], ["q"], "q", domain="com.microsoft"),
        helper.make_node(DQ, ["q", "s", "z"], ["d"], "d", domain="com.microsoft"),
        helper.make_node(DQ, ["w", "ws"], ["wd"], "wd"),
        helper.make_node("Conv", ["d", "wd"], ["y"], "conv"),
    ]
    source = model_of(nodes, [1, 4, 5, 5], arrays, opset=13)
    before = {f.rule for f in check_contract(source, target="tensorrt", version=(8, 6))}
    assert before >= {"scale-not-positive", "axis-missing", "zero-point-missing"}
    made = onnx.ModelProto()
    made.CopyFrom(source)
    report = legalize(made, version=(8, 6))
    assert [f.rule for f in report.left] == ["weight-axis"]  # axis 1 is what the file says
    assert report.exact
    x = np.random.default_rng(6).normal(size=(1, 4, 5, 5)).astype(np.float32)
    np.testing.assert_array_equal(run(made, x), run(source, x))


def test_an_older_opset_is_raised_so_that_pairs_have_an_axis() -> None:
    nodes = [
        helper.make_node(Q, ["x", "s", "z"], ["q"], "q"),
        helper.make_node("QLinearConv", ["q", "s", "z", "w", "ws", "wz", "s", "z"], ["r"], "c"),
        helper.make_node(DQ, ["r", "s", "z"], ["y"], "d"),
    ]
    arrays = {
        "s": np.float32(0.1),
        "z": np.uint8(128),
        "w": np.arange(-8, 8, dtype=np.int8).reshape(4, 4, 1, 1),
        "ws": np.float32([0.1, 0.2, 0.2, 0.3]),
        "wz": np.zeros(4, np.int8),
    }
    source = model_of(nodes, [1, 4, 5, 5], arrays, opset=11)
    made, report = legal(source)
    assert made.opset_import[0].version == 13
    assert report.exact
    x = np.random.default_rng(7).normal(size=(1, 4, 5, 5)).astype(np.float32)
    assert np.abs(run(made, x) - run(source, x)).max() <= 0.1 * 1.001  # one code of a tie


def test_wide_codes_and_float_weights_behind_a_quantizer_become_int8(tmp_path: Path) -> None:
    path = tmp_path / "q.onnx"
    quantize_static(
        float_net("relu"),
        path,
        Images(),
        activation_type=QuantType.QInt16,
        weight_type=QuantType.QUInt8,
        extra_options={"AddQDQPairToWeight": True, "UseQDQContribOps": True},
    )
    source = onnx.load(path)
    made, report = legal(source, (10, 3))  # 16-bit codes need opset 21
    assert not report.exact
    x = images(9)
    reference = run(float_net("relu"), x)
    assert sqnr(reference, run(made, x)) > 28  # 8-bit codes of about 30 dB in the test above


def test_no_activation_is_put_back_where_none_stood() -> None:
    """An input quantizer, one behind Sigmoid, and one behind Relu start at 0 of themselves."""
    for between in ([], ["Sigmoid"], ["Relu"], ["Relu", "Transpose"]):
        nodes, at = [], "x"
        for kind in between:
            nodes.append(helper.make_node(kind, [at], [f"{at}_{kind}"], kind))
            at = f"{at}_{kind}"
        nodes.append(helper.make_node(Q, [at, "s", "z"], ["q"], "q"))
        nodes.append(helper.make_node(DQ, ["q", "s", "z"], ["d"], "d"))
        nodes.append(helper.make_node("Abs", ["d"], ["y"], "behind"))
        source = model_of(nodes, [3, 4], {"s": np.float32(0.1), "z": np.uint8(0)})
        made, report = legal(source)
        assert not [c for c in report.changes if c.kind == "clip"]
        assert len(ops(made, "Relu")) == between.count("Relu")


def test_a_clip_with_a_negative_bound_comes_back_behind_a_product(tmp_path: Path) -> None:
    model, path = float_net("clip"), tmp_path / "q.onnx"
    model.graph.initializer[2].CopyFrom(numpy_helper.from_array(np.full((), -1, np.float32), "lo"))
    model.graph.initializer[3].CopyFrom(numpy_helper.from_array(np.full((), 4, np.float32), "hi"))
    onnx.save(model, tmp_path / "f.onnx")
    quantize_static(tmp_path / "f.onnx", path, Images(), activation_type=U8, weight_type=U8)
    source = onnx.load(path)
    assert not ops(source, "Clip")
    made, report = legal(source)
    [clip] = ops(made, "Clip")
    assert [float(constant(made, name)) for name in clip.input[1:]] == [-1, 4]
    assert [c.what.split(" behind")[0] for c in report.changes if c.kind == "clip"] == [
        "Clip(-1, 4)"
    ]
    x = images(11)
    reference = run(model, x)
    # The bound: no worse than the source file by more than 1 dB.
    assert sqnr(reference, run(made, x)) >= sqnr(reference, run(source, x)) - 1


def test_float_weights_behind_pairs_without_an_axis_get_one() -> None:
    arrays = {
        "w": np.linspace(-1, 1, 16, dtype=np.float32).reshape(4, 4),
        "s": np.float32([0.01, 0.02, 0.01, 0.03]),
        "z": np.zeros(4, np.int8),
    }
    nodes = [
        helper.make_node(Q, ["w", "s", "z"], ["q"], "q"),
        helper.make_node(DQ, ["q", "s", "z"], ["d"], "d"),
        helper.make_node("MatMul", ["x", "d"], ["y"], "mm"),
    ]
    source = model_of(nodes, [2, 4], arrays)
    made, report = legal(source)
    assert report.exact
    assert [n.attribute[0].i for n in made.graph.node if n.op_type in (Q, DQ)] == [1, 1]
    x = np.random.default_rng(8).normal(size=(2, 4)).astype(np.float32)
    np.testing.assert_array_equal(run(made, x), run(source, x))


def test_a_legal_model_stays_byte_for_byte_and_codes_as_output_stay(tmp_path: Path) -> None:
    nodes = [helper.make_node(Q, ["x", "s", "z"], ["y"], "q")]
    arrays = {"s": np.float32(0.1), "z": np.uint8(3)}
    source = model_of(nodes, [4], arrays, output=TensorProto.UINT8)
    before = source.SerializeToString(deterministic=True)
    report = legalize(source)
    assert {f.rule for f in report.errors} == {"uint8", "zero-point-not-zero"}
    assert source.SerializeToString(deterministic=True) == before
    plain = float_net("relu")
    before = plain.SerializeToString(deterministic=True)
    assert legalize(plain).to_json() == {"exact": True, "changes": [], "left": []}
    assert plain.SerializeToString(deterministic=True) == before


def test_the_command_writes_a_verified_file_and_tells_the_loss(tmp_path: Path) -> None:
    source, path = tmp_path / "q.onnx", tmp_path / "legal.onnx"
    quantize_static(float_net("clip"), source, Images())
    done = CliRunner().invoke(legalize_command, [str(source), "-o", str(path), "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["left"] == []
    assert not told["exact"]
    assert {"bias", "clip", "activation", "output"} <= {c["kind"] for c in told["changes"]}
    made, _ = legal(onnx.load(source))
    np.testing.assert_array_equal(run(onnx.load(path), images(5)), run(made, images(5)))
    assert "wrote" in done.stderr


def test_the_command_ends_with_1_where_errors_are_left(tmp_path: Path) -> None:
    nodes = [helper.make_node(Q, ["x", "s", "z"], ["y"], "q")]
    arrays = {"s": np.float32(0.1), "z": np.uint8(3)}
    path = tmp_path / "codes.onnx"
    onnx.save(model_of(nodes, [4], arrays, output=TensorProto.UINT8), path)
    done = CliRunner().invoke(legalize_command, [str(path), "-o", str(tmp_path / "out.onnx")])
    assert done.exit_code == 1
    assert "error uint8 [q]" in done.output
