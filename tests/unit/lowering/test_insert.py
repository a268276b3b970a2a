"""What is written: legal Q/DQ for each dialect, numerically the fake-quantized float model."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

import qdqgraph as qg
from qdqgraph.errors import CalibrationError, TargetError
from qdqgraph.frontends.onnx_file.graph import OnnxGraph
from qdqgraph.pipeline.options import Placement
from qdqgraph.planning.spec import Encoding, QuantSpec
from tests.networks import products, residuals
from tests.networks.net import Array, Net
from tests.running import run
from tests.unit.calibration.test_calibrating import samples


def quantized(model: onnx.ModelProto, **options: object) -> onnx.ModelProto:
    plan = qg.plan(model, **options)  # type: ignore[arg-type]
    return qg.apply(qg.calibrate(plan, samples(model), method="max")).proto


def constants(model: onnx.ModelProto) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def pairs(model: onnx.ModelProto, kind: str) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == kind]


def stored_codes(model: onnx.ModelProto) -> list[str]:
    """Weights that the file holds as int8."""
    stored = {tensor.name for tensor in model.graph.initializer}
    return [n.input[0] for n in pairs(model, "DequantizeLinear") if n.input[0] in stored]


def test_activation_scales_are_scalars_and_weight_scales_have_an_axis() -> None:
    model = quantized(residuals.downsample())
    stored = constants(model)
    for node in pairs(model, "QuantizeLinear"):
        assert stored[node.input[1]].shape == ()
        assert stored[node.input[2]].dtype == np.int8
        assert not stored[node.input[2]].any()
        assert list(node.attribute) == []
    weights = [n for n in pairs(model, "DequantizeLinear") if n.input[0] in stored]
    assert weights
    for node in weights:
        axis = next(item.i for item in node.attribute if item.name == "axis")
        assert stored[node.input[1]].shape == (stored[node.input[0]].shape[axis],)
        assert stored[node.input[0]].dtype == np.int8
    products_ = [n for n in model.graph.node if n.op_type in ("Conv", "Gemm")]
    assert all(stored[n.input[2]].dtype == np.float32 for n in products_)
    assert all(n.doc_string.startswith("qdqgraph place-") for n in weights)


def test_the_file_computes_the_fake_quantized_model() -> None:
    """Against numpy: round half to even of x / scale, clipped to int8, times scale (ONNX)."""
    net = Net()
    model = net.model(net.conv(net.input(1, 8, 6, 6), 24, 1, name="only"))
    feed = samples(model, 1)[0]
    plan = qg.plan(model, pipeline=Placement(include=["only"]).pipeline())
    plan = qg.calibrate(plan, [feed], method="percentile{p=95}")
    x, w = (plan.quantizers[name].encoding for name in ("x", "only.weight"))
    assert x is not None
    assert w is not None
    stored = constants(model)

    def fake(array: Array, scale: Array) -> Array:
        return np.clip(np.rint(array / scale), -128, 127).astype(np.float32) * scale

    kernel = fake(stored["only.weight"], w.scale.reshape(-1, 1, 1, 1))
    expected = np.einsum("nchw,oc->nohw", fake(feed["x"], x.scale), kernel[:, :, 0, 0])
    expected += stored["only.bias"].reshape(1, -1, 1, 1)
    result = run(qg.apply(plan).proto, feed)[0]
    # Eight float32 products summed in another order.
    np.testing.assert_allclose(result, expected, atol=8 * 6e-8 * np.abs(expected).max())


def test_float_weights_are_the_same_function() -> None:
    model = residuals.identity()
    feed = samples(model, 1)[0]
    compact, explicit = (
        qg.apply(qg.calibrate(qg.plan(model), samples(model), method="mse"), weights=form).proto
        for form in ("int8", "float")
    )
    np.testing.assert_array_equal(run(compact, feed)[0], run(explicit, feed)[0])
    assert not stored_codes(explicit)
    assert len(stored_codes(compact)) == 6
    assert len(pairs(explicit, "QuantizeLinear")) == len(pairs(explicit, "DequantizeLinear"))


@pytest.mark.parametrize(("version", "form"), [("8.4", "float"), ("8.5", "int8"), ("10", "int8")])
def test_old_tensorrt_gets_float_weights(version: str, form: str) -> None:
    model = quantized(products.conv_chain(2), trt_version=version)
    assert ("int8" if stored_codes(model) else "float") == form


def test_the_cpu_dialect_writes_uint8_and_int32_biases_that_onnxruntime_fuses(
    tmp_path: object,
) -> None:
    import onnxruntime as ort

    model = quantized(residuals.identity(), target="onnxruntime")
    stored = constants(model)
    for node in pairs(model, "QuantizeLinear"):
        assert stored[node.input[2]].dtype == np.uint8
        assert int(stored[node.input[2]]) in (0, 128)
    biases = [
        n
        for n in pairs(model, "DequantizeLinear")
        if stored.get(n.input[0], np.zeros(0)).dtype == np.int32
    ]
    convs = [n for n in model.graph.node if n.op_type == "Conv"]
    assert len(biases) == len([n for n in model.graph.node if n.op_type in ("Conv", "Gemm")])
    options = ort.SessionOptions()
    options.optimized_model_filepath = f"{tmp_path}/optimized.onnx"
    options.log_severity_level = 4
    ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    kinds = [n.op_type for n in onnx.load(f"{tmp_path}/optimized.onnx").graph.node]
    assert kinds.count("QLinearConv") == len(convs)
    assert "Conv" not in kinds


def test_a_bias_too_large_for_its_scale_stays_float_and_says_so() -> None:
    model = products.conv_chain(2, norm=False)
    plan = qg.plan(model, target="onnxruntime")
    qg.calibrate(plan, [{"x": np.full((1, 32, 8, 8), 1e-12, np.float32)}] * 2, method="max")
    result = qg.apply(plan).proto
    assert [text for text in plan.notices if "stays float" in text] == [
        "the bias of conv1 stays float: it does not fit 32 bits of its tiny scale"
    ]
    onnx.checker.check_model(result, full_check=True)


def test_half_precision_scales_are_half_and_raise_the_opset() -> None:
    net = Net()
    model = net.model(net.conv(net.input(1, 32, 8, 8), 32, 1, name="only"))
    half = onnx.ModelProto()
    half.CopyFrom(model)
    for tensor in half.graph.initializer:
        array = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for info in (*half.graph.input, *half.graph.output):
        info.type.tensor_type.elem_type = TensorProto.FLOAT16
    feeds = [{"x": feed["x"].astype(np.float16)} for feed in samples(model)]
    result = qg.apply(qg.calibrate(qg.plan(half), feeds, method="mse")).proto
    assert result.opset_import[0].version == 19
    stored = constants(result)
    assert {stored[n.input[1]].dtype for n in pairs(result, "DequantizeLinear")} == {
        np.dtype(np.float16)
    }
    onnx.checker.check_model(result, full_check=True)


def test_an_uncalibrated_plan_is_refused_by_name() -> None:
    with pytest.raises(CalibrationError, match=r"no scale \[.+\]: calibrate the plan"):
        qg.apply(qg.plan(products.conv_chain(2)))


def test_an_opset_that_cannot_say_it_is_refused() -> None:
    model = products.conv_chain(2)
    plan = qg.calibrate(qg.plan(model), samples(model), method="max")
    with pytest.raises(TargetError, match="opset 12 cannot express"):
        qg.apply(plan, opset=12)


def test_names_already_taken_are_left_alone() -> None:
    net = Net()
    net.node("Identity", net.input(1, 32, 8, 8), name="x_scale")
    net.nodes[-1].output[0] = "x_quantized"
    model = net.model(net.conv("x", 32, 1, name="x_QuantizeLinear"), "x_quantized")
    result = quantized(model)
    names = [name for node in result.graph.node for name in node.output]
    assert len(names) == len(set(names))
    onnx.checker.check_model(result, full_check=True)


def test_an_encoding_must_be_positive() -> None:
    graph = OnnxGraph(products.conv_chain(2))
    with pytest.raises(qg.errors.PlanError, match="1 of 1 scales are not finite and positive"):
        Encoding(QuantSpec(), np.asarray(0.0, np.float32), np.asarray(0))
    assert graph.frontend == "onnx"


def test_a_partly_quantized_file_is_completed_with_the_scale_it_has() -> None:
    """The second reader of `x` joins the pair the file has, at the file's scale."""
    net = Net()
    x = net.input(1, 32, 8, 8)
    whole = net.model(net.conv(x, 32, 1, name="one"), net.conv(x, 32, 1, name="two"))
    plan = qg.plan(whole, pipeline=Placement(exclude=["two"]).pipeline())
    half = qg.apply(qg.calibrate(plan, samples(whole), method="max")).proto
    completed = qg.apply(qg.calibrate(qg.plan(half), samples(whole), method="mse")).proto
    stored = constants(completed)
    scales = [stored[n.input[1]] for n in pairs(completed, "QuantizeLinear") if n.input[0] == "x"]
    assert len(scales) == 2
    assert scales[0] == scales[1]
    again = qg.apply(qg.plan(completed)).proto
    assert again == completed
