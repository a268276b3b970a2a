"""Shapes and types that are legal and unusual: symbolic, unknown, half, integer, scalar."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from tests.cli.cases import MODEL, OUTPUT, Case, base, edited, finish, images, node, write, written
from tests.cli.contract import Run, constants, relative_error
from tests.networks.net import Net


def symbolic(model: onnx.ModelProto) -> None:
    """Batch `N`, height without a name, width `w*2`."""
    dims = model.graph.input[0].type.tensor_type.shape.dim
    dims[0].dim_param, dims[3].dim_param = "N", "w*2"
    dims[2].Clear()
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "N"


def other_shapes_run(folder: Path, run: Run) -> None:
    x = np.random.default_rng(8).normal(size=(2, 3, 8, 24)).astype(np.float32)
    assert (
        relative_error(folder / MODEL, folder / OUTPUT, {"x": x}) < 0.1
    )  # another size: wider range


def rankless(model: onnx.ModelProto) -> None:
    for item in (model.graph.input[0], model.graph.output[0]):
        item.type.tensor_type.ClearField("shape")


def adds() -> onnx.ModelProto:
    """y + y, y + 1, a broadcast Add, and a fork with three branches that are added up."""
    net = Net()
    x = net.conv_relu(net.input(1, 3, 16, 16), 16, 3, name="stem")
    x = net.conv(net.add(x, x, "twice"), 16, name="c1")
    x = net.conv(net.add(x, net.constant(1.0), "plus1"), 16, name="c2")
    gate = net.conv(net.node("GlobalAveragePool", x), 16, name="gate")
    x = net.relu(net.add(x, gate, "spread"))
    parts = [net.conv(x, 16, 3, name=f"branch{i}") for i in range(2)]
    x = net.relu(net.add(net.add(parts[0], parts[1], "sum"), x, "total"))
    return net.model(net.head(x, 10))


def no_false_residual(folder: Path, run: Run) -> None:
    model = written(folder)
    dequantized = {o for n in model.graph.node if n.op_type == "DequantizeLinear" for o in n.output}
    for name in ("twice", "plus1", "spread"):
        assert not set(node(model, name).input) & dequantized, name
    assert len(set(node(model, "sum").input) & dequantized) == 1  # the other stays bare
    assert len(set(node(model, "total").input) & dequantized) == 2  # no product fuses with it
    assert relative_error(folder / MODEL, folder / OUTPUT, {"x": images()[:1]}) < 0.08


def halved() -> onnx.ModelProto:
    """The base network in float16."""
    model = base()
    for tensor in model.graph.initializer:
        tensor.CopyFrom(
            numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name)
        )
    for item in (*model.graph.input, *model.graph.output):
        item.type.tensor_type.elem_type = TensorProto.FLOAT16
    onnx.checker.check_model(model, full_check=True)
    return model


def half_scales(folder: Path, run: Run) -> None:
    """float16 scales need opset 19."""
    model = written(folder)
    assert model.opset_import[0].version >= 19
    stored = constants(model)
    pairs = [n for n in model.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert {stored[n.input[1]].dtype for n in pairs} == {np.dtype(np.float16)}
    x = images()[:1].astype(np.float16)
    assert relative_error(folder / MODEL, folder / OUTPUT, {"x": x}) < 0.06


def integers() -> onnx.ModelProto:
    """An index computed with integer Add and Concat picks channels of a conv's output."""
    net = Net()
    x = net.conv_relu(net.input(1, 3, 16, 16), 16, 3, name="stem")
    index = net.input(8, name="index", kind=TensorProto.INT64)
    moved = net.add(index, net.constant(np.array(1, np.int64)), "shift")
    both = net.concat(index, moved, axis=0, name="join")
    x = net.node("Gather", x, both, axis=1, name="pick")
    net.channels[x] = 16
    return net.model(net.head(net.relu(net.conv(x, 16, 3, name="c")), 10))


def no_integer_scale(folder: Path, run: Run) -> None:
    """Q/DQ on stem, c and fc only: x, three weights, one or two activations, the pooled vector."""
    model = written(folder)
    names = [n.input[0] for n in model.graph.node if n.op_type == "QuantizeLinear"]
    assert names
    assert not set(names) & {"index", "shift_out", "join_out"}


def scaled_by_scalar() -> onnx.ModelProto:
    """A float and a bool input of rank 0."""
    net = Net()
    x = net.input(1, 3, 16, 16)
    gain = net.input(name="gain")
    flag = net.input(name="flag", kind=TensorProto.BOOL)
    for info in net.inputs[1:]:
        del info.type.tensor_type.shape.dim[:]
    out = net.node("Where", flag, net.node("Mul", x, gain), x)
    net.channels[out] = 3
    return finish(net, out)


def scalars_run(folder: Path, run: Run) -> None:
    feeds = {"x": images()[:1], "gain": np.array(0.5, np.float32), "flag": np.array(True)}
    assert relative_error(folder / MODEL, folder / OUTPUT, feeds) < 0.06


def spoilt(value: float, index: tuple[int, ...] = (2, 1, 0, 0)) -> onnx.ModelProto:
    """conv1.weight holds `value`."""
    model = base()
    for tensor in model.graph.initializer:
        if tensor.name == "conv1.weight":
            array = numpy_helper.to_array(tensor).copy()
            array[index] = value
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return model


def dead() -> onnx.ModelProto:
    """The base network behind x · 0: its stem reads zeros."""
    net = Net()
    out = net.node("Mul", net.input(1, 3, 16, 16), net.constant(0.0), name="nothing")
    net.channels[out] = 3
    return finish(net, out)


def scale_one(folder: Path, run: Run) -> None:
    assert constants(written(folder))["nothing_out_scale"] == 1.0


def zeroed(*, whole: bool = False, tiny: bool = False, half: bool = False) -> onnx.ModelProto:
    """conv1.weight with a channel of zeros, or all zeros, or a channel of denormals."""
    model = halved() if half else base()
    for tensor in model.graph.initializer:
        if tensor.name == "conv1.weight":
            array = numpy_helper.to_array(tensor).copy()
            array[... if whole else 3] = np.finfo(array.dtype).smallest_subnormal if tiny else 0
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return model


def finite_channels(folder: Path, run: Run) -> None:
    """Scales of the dead channels are positive; a normal channel has amax / 127 (one rounding)."""
    stored = constants(written(folder))
    weight = constants(onnx.load(str(folder / MODEL)))["conv1.weight"].astype(np.float64)
    scale = stored["conv1.weight_scale"]
    assert scale.shape == (16,)
    assert (scale > 0).all()
    live = np.abs(weight).max((1, 2, 3)) > 1e-3
    tolerance = {np.dtype(np.float16): 1e-3, np.dtype(np.float32): 1e-6}[scale.dtype]  # its epsilon
    np.testing.assert_allclose(
        scale[live], np.abs(weight).max((1, 2, 3))[live] / 127, rtol=tolerance
    )


HALF = images().astype(np.float16)
CASES = [
    Case(45, "symbolic", edited(symbolic), check=other_shapes_run),
    Case(45, "unknown-rank", edited(rankless), runs=False),
    Case(46, "adds", write(adds), check=no_false_residual),
    Case(51, "float16", write(halved, x=HALF), check=half_scales),
    Case(51, "float16-fed-float32", write(halved), says=("cast to float16",)),
    Case(
        54,
        "integers",
        write(integers, x=images(), index=np.tile(np.arange(8), (4, 1))),
        check=no_integer_scale,
    ),
    Case(
        55,
        "scalars",
        write(scaled_by_scalar, x=images(), gain=np.float32(0.5), flag=np.array(True)),
        check=scalars_run,
    ),
    Case(
        63,
        "nan-weight",
        write(lambda: spoilt(float("nan"))),
        3,
        ("InvalidGraphError", "conv1.weight", "NaN", "2"),
    ),
    Case(
        63,
        "inf-weight",
        write(lambda: spoilt(float("inf"))),
        3,
        ("InvalidGraphError", "conv1.weight", "2"),
    ),
    Case(63, "outlier-weight", write(lambda: spoilt(1e30)), says=("conv1.weight",)),
    Case(64, "dead-activation", write(dead), says=("nothing_out: dead",), check=scale_one),
    Case(
        65,
        "zero-channel",
        write(zeroed),
        says=("conv1.weight: dead: 1 of 16 channels",),
        check=finite_channels,
    ),
    Case(65, "zero-weight", write(lambda: zeroed(whole=True)), says=("16 of 16 channels",)),
    Case(65, "denormal-channel", write(lambda: zeroed(tiny=True)), check=finite_channels),
    Case(
        65,
        "denormal-channel-half",
        write(lambda: zeroed(tiny=True, half=True), x=HALF),
        check=finite_channels,
    ),
]
