"""Hostile graphs: what is illegal is named, what is only unusual is quantized all the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.cli.cases import MODEL, OUTPUT, Case, base, edited, images, node, write, written
from tests.cli.contract import Run, constants, counts, relative_error, run, session
from tests.networks.net import Net


def close(folder: Path, run: Run) -> None:
    """int8 by `max` on the calibration sample itself: measured 0.01 to 0.03, bound of 0.06."""
    assert relative_error(folder / MODEL, folder / OUTPUT, {"x": images()[:1]}) < 0.06


# ---------------------------------------------------------------------- nothing to do
def idle() -> onnx.ModelProto:
    net = Net()
    return net.model(net.node("Softmax", net.relu(net.input(1, 3, 16, 16))))


def copied(folder: Path, run: Run) -> None:
    assert counts(written(folder)) == {"Relu": 1, "Softmax": 1}


# ---------------------------------------------------------------------- order and names
def cyclic(model: onnx.ModelProto) -> None:
    node(model, "conv1").input[0] = node(model, "add").output[0]


def shuffled(model: onnx.ModelProto) -> None:
    protos = [
        model.graph.node[i] for i in np.random.default_rng(3).permutation(len(model.graph.node))
    ]
    kept = [onnx.NodeProto.FromString(p.SerializeToString()) for p in protos]
    del model.graph.node[:]
    model.graph.node.extend(kept)


def as_sorted(folder: Path, _run: Run) -> None:
    """The same pairs with the same scales, read by the same nodes, as from the file in order."""
    onnx.save(base(), folder / "sorted.onnx")
    assert (
        run(
            "quantize",
            "sorted.onnx",
            "-o",
            "sorted.q.onnx",
            "--method",
            "max",
            "--data",
            "calib.npz",
        ).code
        == 0
    )
    left, right = written(folder), onnx.load(str(folder / "sorted.q.onnx"))
    assert {tuple(n.input): tuple(n.output) for n in left.graph.node} == {
        tuple(n.input): tuple(n.output) for n in right.graph.node
    }
    assert constants(left).keys() == constants(right).keys()
    for name, value in constants(left).items():
        np.testing.assert_array_equal(value, constants(right)[name])


def one_name(model: onnx.ModelProto) -> None:
    for item in model.graph.node:
        if item.op_type == "Conv":
            item.name = "conv"


def no_names(model: onnx.ModelProto) -> None:
    for item in model.graph.node:
        item.name = ""


def all_convs_int8(folder: Path, run: Run) -> None:
    model = written(folder)
    writers = {out: n for n in model.graph.node for out in n.output}
    convs = [n for n in model.graph.node if n.op_type == "Conv"]
    assert len(convs) == 3
    for conv in convs:
        assert [writers[name].op_type for name in conv.input[:2]] == ["DequantizeLinear"] * 2
    names = [n.name for n in model.graph.node if n.name]
    assert len(names) == len(set(names))
    onnx.save(base(), folder / "plain.onnx")  # onnxruntime does not load repeated names
    assert relative_error(folder / "plain.onnx", folder / OUTPUT, {"x": images()[:1]}) < 0.06


def no_conv_int8(folder: Path, run: Run) -> None:
    model = written(folder)
    quantized = {
        out for n in model.graph.node if n.op_type == "DequantizeLinear" for out in n.output
    }
    assert not any(n.input[1] in quantized for n in model.graph.node if n.op_type == "Conv")
    assert node(model, "fc").input[1] in quantized


def colliding(model: onnx.ModelProto) -> None:
    """Tensors are called what a quantizer would call its own."""
    names = {
        "relu1_out": "x_DequantizeLinear_Output",
        "conv1_out": "x_scale",
        "relu2_out": "x_quantized",
        "conv2_out": "x_zero_point",
        "add_out": "x_dequantized",
        "stem.bias": "x_QuantizeLinear",
    }
    for item in model.graph.node:
        for place in (item.input, item.output):
            for index, name in enumerate(place):
                place[index] = names.get(name, name)
    for tensor in model.graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)


def each_written_once(folder: Path, run: Run) -> None:
    model = written(folder)
    names = [out for n in model.graph.node for out in n.output]
    names += [t.name for t in model.graph.initializer] + [i.name for i in model.graph.input]
    assert len(names) == len(set(names))
    close(folder, run)


def unproduced_output(model: onnx.ModelProto) -> None:
    model.graph.output.append(helper.make_tensor_value_info("ghost", TensorProto.FLOAT, [1]))


# ---------------------------------------------------------------------- initializers
def version_3(model: onnx.ModelProto) -> None:
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        )


def all_listed(folder: Path, run: Run) -> None:
    model = written(folder)
    assert model.ir_version >= 4 or constants(model).keys() <= {i.name for i in model.graph.input}
    close(folder, run)


def shared(*, bias: bool = False) -> onnx.ModelProto:
    """Two convs read one weight; with `bias`, two read one bias and have inputs of two scales."""
    net = Net()
    x = net.conv_relu(net.input(1, 3, 16, 16), 16, 3, name="stem")
    net.channels["x"] = 3
    stored = net.weight("w", 16, 16, 1, 1)
    parts = [
        net.conv(x, 16, name="a", weight=stored),
        net.conv(net.node("Mul", x, net.constant(3.0)), 16, name="b", weight=stored),
    ]
    if bias:
        for item in net.nodes:
            if item.name in ("a", "b"):
                item.input[2] = "a.bias"
        net.constants = [t for t in net.constants if t.name != "b.bias"]
    return net.model(net.head(net.relu(net.concat(*parts)), 10))


def codes_of(folder: Path, name: str) -> list[np.ndarray]:
    model = written(folder)
    stored = constants(model)
    writers = {out: n for n in model.graph.node for out in n.output}
    convs = [n for n in model.graph.node if n.name in ("a", "b")]
    return [stored[writers[n.input[1]].input[0]] for n in convs if name] + [
        np.array(len({writers[n.input[1]].input[0] for n in convs}))
    ]


def cloned(folder: Path, run: Run) -> None:
    """TensorRT fuses a weight with one reader only: a copy each, of equal codes."""
    left, right, copies = codes_of(folder, "w")
    np.testing.assert_array_equal(left, right)
    assert left.dtype == np.int8
    assert copies == 2
    close(folder, run)


def one_copy(folder: Path, run: Run) -> None:
    assert codes_of(folder, "w")[-1] == 1


def bias_stays_float(folder: Path, run: Run) -> None:
    model = written(folder)
    assert constants(model)["a.bias"].dtype == np.float32
    assert [n.input[2] for n in model.graph.node if n.name in ("a", "b")] == ["a.bias"] * 2
    close(folder, run)


def biases_have_their_scales(folder: Path, run: Run) -> None:
    """int32 codes of scale s_x · s_w, one tensor for each conv since the s_x differ."""
    model = written(folder)
    stored = constants(model)
    writers = {out: n for n in model.graph.node for out in n.output}
    biases = [writers[n.input[2]] for n in model.graph.node if n.name in ("a", "b")]
    assert [stored[b.input[0]].dtype for b in biases] == [np.int32] * 2
    assert len({b.input[0] for b in biases}) == 2
    for product, bias in zip(
        (n for n in model.graph.node if n.name in ("a", "b")), biases, strict=True
    ):
        x, w = (stored[writers[name].input[1]] for name in product.input[:2])
        np.testing.assert_allclose(stored[bias.input[1]], x * w, rtol=1e-6)  # one float32 rounding
    close(folder, run)


def weight_is_output(model: onnx.ModelProto) -> None:
    model.graph.output.append(
        helper.make_tensor_value_info("conv1.weight", TensorProto.FLOAT, [16, 16, 3, 3])
    )


def float_copy_kept(folder: Path, run: Run) -> None:
    source = constants(onnx.load(str(folder / MODEL)))["conv1.weight"]
    found = session(folder / OUTPUT).run(["conv1.weight"], {"x": images(1)})[0]
    np.testing.assert_array_equal(found, source)
    assert any(
        v.dtype == np.int8 and v.shape == (16, 16, 3, 3)
        for v in constants(written(folder)).values()
    )


def input_is_output(model: onnx.ModelProto) -> None:
    model.graph.output.append(model.graph.input[0])


def input_unchanged(folder: Path, run: Run) -> None:
    x = images(1)
    np.testing.assert_array_equal(session(folder / OUTPUT).run(["x"], {"x": x})[0], x)
    close(folder, run)


CASES = [
    Case(
        20,
        "idle",
        write(idle),
        5,
        ("nothing to quantize", MODEL, "1 relu", "1 softmax", "--allow-empty"),
    ),
    Case(20, "idle-allowed", write(idle), args=("--allow-empty",), check=copied, quantized=False),
    Case(21, "cycle", edited(cyclic), 3, ("InvalidGraphError", "cycle", "conv1", "conv2", "add")),
    Case(22, "unsorted", edited(shuffled), check=as_sorted),
    Case(23, "one-name", edited(one_name), check=all_convs_int8),
    Case(23, "one-name-excluded", edited(one_name), args=("--exclude", "conv"), check=no_conv_int8),
    Case(23, "no-names", edited(no_names), check=all_convs_int8),
    Case(25, "colliding", edited(colliding), check=each_written_once),
    Case(
        27,
        "written-twice",
        edited(lambda m: node(m, "conv2").output.__setitem__(0, "conv1_out")),
        3,
        ("InvalidGraphError", "'conv1_out' is written twice", "conv1", "conv2"),
    ),
    Case(
        27,
        "never-produced",
        edited(lambda m: node(m, "conv2").input.__setitem__(0, "ghost")),
        3,
        ("InvalidGraphError", "'ghost' is read but never produced", "conv2"),
    ),
    Case(27, "output-not-produced", edited(unproduced_output), 3, ("InvalidGraphError", "'ghost'")),
    Case(28, "ir-3", edited(version_3, opset=13), check=all_listed),
    Case(28, "ir-3-old-opset", edited(version_3, opset=9), check=all_listed),
    Case(30, "shared-weight", write(shared), check=cloned),
    Case(30, "shared-weight-cpu", write(shared), args=("--target", "onnxruntime"), check=one_copy),
    Case(31, "shared-bias", write(lambda: shared(bias=True)), check=bias_stays_float),
    Case(
        31,
        "shared-bias-cpu",
        write(lambda: shared(bias=True)),
        args=("--target", "onnxruntime"),
        check=biases_have_their_scales,
    ),
    Case(40, "weight-is-output", edited(weight_is_output), check=float_copy_kept),
    Case(40, "input-is-output", edited(input_is_output), check=input_unchanged),
]
