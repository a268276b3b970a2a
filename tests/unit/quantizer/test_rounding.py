"""The operator against onnxruntime, bit for bit, and its gradients against their definitions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor

from qdqgraph.exporting.translation import ONNX_TYPES
from qdqgraph.planning.spec import QuantSpec
from qdqgraph.quantizer import dequantize, fake_quantize, quantize
from qdqgraph.quantizer.formats import Format

SPECS = [
    QuantSpec(),
    QuantSpec(dtype="uint8", symmetric=False),
    QuantSpec(dtype="int4"),
    QuantSpec(dtype="uint4", symmetric=False),
    QuantSpec(dtype="fp8"),
    QuantSpec().per_channel(1),
    QuantSpec(dtype="int4").per_channel(0),
]


def onnxruntime_gives(
    x: Tensor, scale: Tensor, zero_point: Tensor | None, spec: QuantSpec
) -> Tensor:
    """QuantizeLinear and DequantizeLinear of opset 21, executed as written."""
    axis = {} if spec.axis is None else {"axis": spec.axis}
    kind = ONNX_TYPES[spec.dtype]
    zeros = np.zeros(scale.shape) if zero_point is None else zero_point.numpy()
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], **axis),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], **axis),
    ]
    stored = [
        helper.make_tensor("s", TensorProto.FLOAT, scale.shape, scale.numpy().ravel()),
        helper.make_tensor("z", kind, scale.shape, zeros.ravel()),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, x.shape) for n in ("x", "y")]
    graph = helper.make_graph(nodes, "pair", ends[:1], ends[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return torch.tensor(session.run(None, {"x": x.numpy()})[0])


def values(scale: float) -> Tensor:
    """Normal numbers, exact midpoints, their neighbours in float32, subnormal and huge numbers."""
    midpoints = (torch.arange(-300, 300) + 0.5) * np.float32(scale)
    up = torch.nextafter(midpoints, torch.tensor(torch.inf))
    down = torch.nextafter(midpoints, torch.tensor(-torch.inf))
    extreme = torch.tensor([0.0, -0.0, 1e-45, -1e-38, 3e38, -3e38, 1e10])
    drawn = torch.randn(1000, generator=torch.Generator().manual_seed(0)) * 40 * scale
    found = torch.cat([midpoints, up, down, extreme, drawn])
    return found[: len(found) // 12 * 12].reshape(4, 3, -1)


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("scale", [0.1, 1 / 3, 2.0**-5, 7e-3])
def test_equals_onnxruntime_on_every_value_tried(spec: QuantSpec, scale: float) -> None:
    x, to = values(scale), Format.of(spec)
    scales = torch.tensor(scale)
    if spec.axis is not None:
        scales = torch.linspace(0.5, 2, x.shape[spec.axis]) * scale
    zero_point = None
    if not spec.symmetric:
        zero_point = torch.full(scales.shape, int(to.high) // 3, dtype=torch.int32)
    if spec.dtype == "fp8":
        x = x.clamp(-400 * scale, 400 * scale)  # saturation of huge numbers is tested below

    made = fake_quantize(x, scales, zero_point, spec.axis, to)

    assert torch.equal(made, onnxruntime_gives(x, scales, zero_point, spec))


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_rounding_is_quantizing_and_dequantizing(spec: QuantSpec) -> None:
    x, to = values(0.1), Format.of(spec)
    scales = torch.tensor(0.1)
    if spec.axis is not None:
        scales = torch.linspace(0.05, 0.2, x.shape[spec.axis])
    zero_point = None if spec.symmetric else torch.tensor(5, dtype=torch.int32)

    codes = quantize(x, scales, zero_point, spec.axis, to)

    assert codes.dtype is to.storage
    assert float(codes.float().min()) >= to.low
    assert float(codes.float().max()) <= to.high
    back = dequantize(codes, scales, zero_point, spec.axis)
    assert torch.equal(back, fake_quantize(x, scales, zero_point, spec.axis, to))


def test_a_narrow_range_leaves_out_the_lowest_code() -> None:
    x = torch.tensor([-1e9, 1e9])
    to = Format.of(replace(QuantSpec(), narrow=True))
    assert quantize(x, torch.tensor(1.0), None, None, to).tolist() == [-127, 127]


def test_fp8_saturates_at_448() -> None:
    made = fake_quantize(
        torch.tensor([1e9, -1e9]), torch.tensor(0.5), None, None, Format.of(QuantSpec(dtype="fp8"))
    )
    assert made.tolist() == [224.0, -224.0]  # OCP 8-bit floating point, e4m3: 448 is the largest


def test_gradients_pass_where_nothing_is_clipped() -> None:
    x = torch.tensor([-1000.0, -12.8, -12.7, 0.03, 12.7, 12.8, 1000.0], requires_grad=True)
    made = fake_quantize(x, torch.tensor(0.1), None, None, Format.of(QuantSpec()))
    made.backward(torch.arange(1.0, 8.0))
    assert x.grad is not None
    assert x.grad.tolist() == [0, 2, 3, 4, 5, 0, 0]


def test_asymmetric_gradients_follow_the_zero_point() -> None:
    spec = QuantSpec(dtype="uint8", symmetric=False)
    x = torch.tensor([-1.1, -0.9, 24.4, 24.6], requires_grad=True)
    zero_point = torch.tensor(10, dtype=torch.int32)
    fake_quantize(x, torch.tensor(0.1), zero_point, None, Format.of(spec)).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_the_scale_learns_as_lsq_defines_it(axis: int | None) -> None:
    """Esser et al. 2020, equation 3, written out element by element in float64."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 5, generator=generator) * 2
    spec = QuantSpec(dtype="int4") if axis is None else QuantSpec(dtype="int4").per_channel(axis)
    count = 1 if axis is None else x.shape[axis]
    scale = torch.linspace(0.1, 0.4, count).reshape([] if axis is None else [count])
    scale.requires_grad_()
    upstream = torch.randn(x.shape, generator=generator)

    fake_quantize(x, scale, None, axis, Format.of(spec)).backward(upstream)

    expected = np.zeros(count)
    for place, value in np.ndenumerate(x.double().numpy()):
        channel = 0 if axis is None else place[axis]
        step = float(scale.detach().reshape(-1)[channel].double())
        code = np.rint(np.float32(value) / np.float32(step))
        slope = -8 if code < -8 else 7 if code > 7 else code - value / step
        expected[channel] += float(upstream[place]) * slope
    expected /= np.sqrt(x.numel() / count * 7)
    assert scale.grad is not None
    # float32 against float64 sums of at most 15 terms of size below 20
    np.testing.assert_allclose(scale.grad.numpy().reshape(-1), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    x = (torch.randn(500, generator=torch.Generator().manual_seed(2)) * 3).to(dtype)
    scale, to = torch.tensor(0.07), Format.of(QuantSpec())
    made = fake_quantize(x, scale, None, None, to)
    assert made.dtype is dtype
    assert torch.equal(made, fake_quantize(x.float(), scale, None, None, to).to(dtype))


def test_the_exported_operators_compute_the_same() -> None:
    x, scale, to = values(0.1), torch.tensor(0.1), Format.of(QuantSpec())
    ops = torch.ops.qdqgraph
    made = ops.fake_quantize(x, scale, None, None, to.dtype, to.low, to.high)
    assert torch.equal(made, fake_quantize(x, scale, None, None, to))
    codes = quantize(x, scale, None, None, to)
    assert torch.equal(ops.dequantize(codes, scale, None, None, to.dtype), made)


def test_onnx_types_are_those_of_onnx() -> None:
    named = {"fp8": "FLOAT8E4M3FN"}
    for name, number in ONNX_TYPES.items():
        assert onnx.TensorProto.DataType.Value(named.get(name, name.upper())) == number
