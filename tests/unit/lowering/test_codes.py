"""Codes of constants: those of onnxruntime's QuantizeLinear, whole or streamed block by block."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from qdqgraph.errors import TargetError
from qdqgraph.lowering.codes import code_dtype, pack_codes, quantize_array, quantized_payload
from qdqgraph.planning.spec import LIMITS, Encoding, QuantSpec
from qdqgraph.storage.external import raw_view, tensor_array

DTYPES = ("int8", "uint8", "int16", "uint16", "int4", "uint4")
ELEMENTS = {name: TensorProto.DataType.Value(name.upper()) for name in DTYPES}


def encoding(dtype, axis=None, scale=0.25, zero=0):
    spec = QuantSpec(dtype=dtype, symmetric=not np.any(zero))
    scale = np.asarray(scale, np.float32)
    return Encoding(
        spec if axis is None else spec.per_channel(axis),
        scale,
        np.broadcast_to(np.asarray(zero), scale.shape),
    )


def codes_by_onnxruntime(array, made):
    """QuantizeLinear's codes as int32; a DequantizeLinear of scale 1 makes them floats to fetch."""
    spec = made.spec
    if spec.bits == 4:
        array = array.clip(-1e6, 1e6)  # beyond 2^31 codes its 4-bit kernel wraps around
    kind = ELEMENTS[spec.dtype]
    axis = {} if spec.axis is None else {"axis": spec.axis}
    zero = helper.make_tensor("zero", kind, made.zero_point.shape, made.zero_point.ravel().tolist())
    floats = helper.np_dtype_to_tensor_dtype(array.dtype)
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["codes"], **axis),
            helper.make_node("DequantizeLinear", ["codes", "one"], ["y"]),
        ],
        "codes",
        [helper.make_tensor_value_info("x", floats, array.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, array.shape)],
        [
            numpy_helper.from_array(made.scale.astype(array.dtype), "scale"),
            numpy_helper.from_array(np.float32(1), "one"),
            zero,
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": array})[0].astype(np.int32)


def values(*shape, seed=0):
    """Random values, exact midpoints between codes of scale 1/4, and values beyond every code."""
    random = np.random.default_rng(seed)
    array = random.standard_normal(shape).astype(np.float32) * 8
    flat = array.reshape(-1)
    midpoints = (np.arange(-40, 40) + 0.5).astype(np.float32) / 4
    far = np.float32([1e30, -1e30, np.inf, -np.inf, 0.0, -0.0, 1e-42, 9e3, -9e3])
    special = np.concatenate([midpoints, far])[: flat.size]
    flat[: special.size] = special
    return random.permuted(flat).reshape(shape)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [0.25, 0.3, 1 / 3, 7e-3])
def test_tensor_codes_are_those_of_onnxruntime(dtype, scale):
    low, high = LIMITS[dtype]
    array = values(7, 5, 9)
    for zero in (0, high // 2 + 1) if low == 0 else (0,):
        made = encoding(dtype, scale=scale, zero=zero)
        found = quantize_array(array, made)
        assert found.dtype == code_dtype(made.spec)
        assert (found.astype(np.int32) == codes_by_onnxruntime(array, made)).all()
        assert {int(found.min()), int(found.max())} == {low, high}


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int4"])
@pytest.mark.parametrize(("shape", "axis"), [((12, 3, 5), 0), ((3, 12, 5), 1), ((3, 5, 12), 2)])
def test_channel_codes_are_those_of_onnxruntime(dtype, shape, axis):
    scale = np.exp2(np.random.default_rng(3).uniform(-6, 1, 12)).astype(np.float32)
    scale[:4] = 0.25
    zero = np.arange(100, 112) if dtype == "uint8" else np.zeros(12, np.int64)
    made = encoding(dtype, axis, scale, zero)
    array = values(*shape, seed=1)
    found = quantize_array(array, made)
    assert (found.astype(np.int32) == codes_by_onnxruntime(array, made)).all()


def test_midpoints_go_to_the_even_code():
    array = np.float32([0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5, 127.5, -128.5])
    assert quantize_array(array, encoding("int8", scale=1)).tolist() == [
        0, 2, 2, 0, -2, -2, 126, 127, -128,
    ]  # fmt: skip


def test_half_precision_is_divided_in_single():
    array = values(40, 6).clip(-100, 100).astype(np.float16)
    made = encoding("int8", 1, np.float32(np.float16([0.1, 0.3, 0.7, 0.25, 1.9, 0.05])))
    assert (quantize_array(array, made) == codes_by_onnxruntime(array, made)).all()


def test_blocks_do_not_show():
    array = values(300, 700)  # 840 kB, several blocks
    for axis, count in ((0, 300), (1, 700)):
        scale = np.linspace(0.01, 0.4, count, dtype=np.float32)
        found = quantize_array(array, encoding("int8", axis, scale))
        for i in (0, 1, count // 2, count - 1):
            row = np.take(array, i, axis)
            single = quantize_array(row, encoding("int8", scale=scale[i]))
            assert (np.take(found, i, axis) == single).all()
    fortran = np.asfortranarray(array)
    assert (
        quantize_array(fortran, encoding("int8")) == quantize_array(array, encoding("int8"))
    ).all()


def test_narrow_codes_leave_out_the_lowest():
    spec = QuantSpec(narrow=True)
    made = Encoding(spec, np.asarray(np.float32(1)), np.zeros((), np.int8))
    assert quantize_array(np.float32([-1e9, 1e9]), made).tolist() == [-127, 127]


def test_bias_codes_need_double_precision():
    scale = np.float32([3e-7, 1e-3])
    array = np.float32([1.2345678, -2.5])
    found = quantize_array(array, encoding("int32", 0, scale))
    assert found.tolist() == np.rint(array.astype(np.float64) / scale).astype(np.int32).tolist()
    assert found[0] == 4115226  # float32 division gives a neighbour: 2^22 codes have a step of 0.5


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2)])
def test_scalars_and_empty_tensors(shape):
    array = np.full(shape, 0.5, np.float32)
    found = quantize_array(array, encoding("int8"))
    assert found.shape == shape
    assert (found == 2).all()


def test_only_integers_have_codes():
    with pytest.raises(TargetError, match="no integer codes for fp8"):
        code_dtype(QuantSpec(dtype="fp8"))


def external(folder, array):
    """`array` as an external tensor behind 64 other bytes."""
    with open(folder / "weights.bin", "wb") as file:
        file.write(b"\7" * 64)
        file.write(array.astype("<f4").tobytes())
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=array.shape)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "weights.bin", "offset": 64, "length": array.nbytes}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


# Rows of 6 MB make a block each, of odd length, so that 4-bit pairs straddle blocks; a row of
# 12 MB makes two.
STREAMED = [
    ((3, 1_500_001), 0),
    ((3, 1_500_001), None),
    ((1, 3, 1_000_003), 1),
    ((2_100_001, 3), 1),
    ((5, 3), 0),
]


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int4", "uint4"])
@pytest.mark.parametrize(("shape", "axis"), STREAMED)
def test_streamed_codes_are_the_packed_codes(tmp_path, dtype, shape, axis):
    array = np.resize(values(997), shape)
    count = () if axis is None else (shape[axis],)
    scale = np.resize(np.linspace(0.05, 0.4, 7, dtype=np.float32), count)
    made = encoding(dtype, axis, scale, 8 if dtype.startswith("u") else 0)
    tensor, payload = quantized_payload(external(tmp_path, array), tmp_path, made, "w_quantized")
    expected = pack_codes(quantize_array(array, made), made.spec, "w_quantized")
    found = b"".join(bytes(raw_view(block)) for block in payload.blocks())
    assert found == expected.raw_data
    assert len(found) == payload.byte_size == math.ceil(array.size * made.spec.bits / 8)
    assert (tensor.name, tensor.data_type, list(tensor.dims)) == (
        "w_quantized", expected.data_type, list(shape),
    )  # fmt: skip
    assert b"".join(bytes(raw_view(block)) for block in payload.blocks()) == found  # starts over


def test_streaming_holds_a_few_blocks(tmp_path):
    array = np.zeros((16, 1 << 20), np.float32)  # 64 MiB
    _, payload = quantized_payload(external(tmp_path, array), tmp_path, encoding("int4"), "q")
    tracemalloc.start()
    total = sum(len(raw_view(block)) for block in payload.blocks())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == array.size // 2
    assert peak < 24 << 20  # two blocks of 8 MiB, one being read, and the codes of one, unpacked


def test_saving_may_repoint_the_source(tmp_path):
    array = values(6, 5)
    tensor = external(tmp_path, array)
    _, payload = quantized_payload(tensor, tmp_path, encoding("int8"), "q")
    tensor.ClearField("external_data")
    found = np.frombuffer(b"".join(bytes(raw_view(b)) for b in payload.blocks()), np.int8)
    assert (found == quantize_array(array, encoding("int8")).ravel()).all()


def test_packed_tensors_read_back(tmp_path):
    codes = np.arange(-8, 7)
    tensor = pack_codes(codes, QuantSpec(dtype="int4"), "q")
    assert (len(tensor.raw_data), list(tensor.dims)) == (8, [15])
    assert tensor.raw_data[0] == 0x98  # -8 in the low half, -7 in the high one
    assert tensor_array(tensor, tmp_path).astype(np.int8).tolist() == codes.tolist()
