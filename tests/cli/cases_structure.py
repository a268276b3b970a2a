"""Graphs with parts of their own kind: bodies, functions, plugins, existing Q/DQ, odd weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.cli.cases import MODEL, OUTPUT, Case, base, finish, images, node, put, write, written
from tests.cli.contract import Run, constants, counts, relative_error, run
from tests.networks.net import Net

FLOAT = TensorProto.FLOAT


def info(name: str, *shape: int | str | None, kind: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


# ---------------------------------------------------------------------- bodies
def with_branch(*, own_conv: bool, boolean_input: bool = True) -> onnx.ModelProto:
    """conv a (weight w) and an If: one branch convolves with the captured w, the other adds."""
    net = Net()
    x = net.input(1, 3, 16, 16)
    stem = net.conv_relu(x, 16, 3, name="stem")
    weight = net.weight("w", 16, 16, 1, 1)
    a = net.relu(net.conv(stem, 16, name="a", weight=weight))
    flag = (
        net.input(name="flag", kind=TensorProto.BOOL)
        if boolean_input
        else net.constant(np.array(True), "flag")
    )
    if boolean_input:
        del net.inputs[-1].type.tensor_type.shape.dim[:]
    inside = helper.make_node("Conv", [a, "w"], ["then_out"], "inside", kernel_shape=[1, 1])
    if not own_conv:
        inside = helper.make_node("Mul", [a, "two"], ["then_out"], "inside")
        net.constant(2.0, "two")
    branch = helper.make_graph([inside], "then", [], [info("then_out", 1, 16, 16, 16)])
    other = helper.make_graph(
        [helper.make_node("Add", [a, stem], ["else_out"])],
        "else",
        [],
        [info("else_out", 1, 16, 16, 16)],
    )
    chosen = net.node("If", flag, name="choice", then_branch=branch, else_branch=other)
    net.channels[chosen] = 16
    return net.model(net.head(net.relu(net.conv(chosen, 16, 3, name="b")), 10))


def flagged(make: Callable[[], onnx.ModelProto]) -> Callable[[], None]:
    return write(make, x=images(), flag=np.array([True, False] * 2))


def capture_kept(folder: Path, run: Run) -> None:
    """The branch reads the float weight, the conv outside its codes; both branches still agree."""
    model = written(folder)
    assert constants(model)["w"].dtype == np.float32
    writers = {out: n for n in model.graph.node for out in n.output}
    codes = constants(model)[writers[node(model, "a").input[1]].input[0]]
    assert codes.dtype == np.int8
    assert codes.shape == constants(model)["w"].shape
    for flag in (True, False):
        feeds = {"x": images()[:1], "flag": np.array(flag)}
        assert relative_error(folder / MODEL, folder / OUTPUT, feeds) < 0.06


def looped() -> onnx.ModelProto:
    """A Loop whose body convolves, with a weight of its own and one captured, then a conv."""
    net = Net()
    x = net.conv_relu(net.input(1, 3, 16, 16), 16, 3, name="stem")
    inner = numpy_helper.from_array(
        net.random.normal(0, 0.2, (16, 16, 1, 1)).astype(np.float32), "inner.weight"
    )
    net.weight("outer.weight", 16, 16, 1, 1)
    body = helper.make_graph(
        [
            helper.make_node(
                "Conv", ["state", "inner.weight"], ["c1"], "inner", kernel_shape=[1, 1]
            ),
            helper.make_node(
                "Conv", ["c1", "outer.weight"], ["c2"], "captured", kernel_shape=[1, 1]
            ),
            helper.make_node("Identity", ["more"], ["again"]),
        ],
        "body",
        [
            info("i", kind=TensorProto.INT64),
            info("more", kind=TensorProto.BOOL),
            info("state", 1, 16, 16, 16),
        ],
        [info("again", kind=TensorProto.BOOL), info("c2", 1, 16, 16, 16)],
        [inner],
    )
    trips, go = net.constant(np.array(2, np.int64)), net.constant(np.array(True))
    state = net.node("Loop", trips, go, x, name="loop", body=body)
    net.channels[state] = 16
    return net.model(net.head(net.relu(net.conv(state, 16, 3, name="behind")), 10))


def scanned() -> onnx.ModelProto:
    """A Scan over the rows of a matrix whose body multiplies by a captured weight."""
    net = Net()
    x = net.input(4, 32)
    hidden = net.relu(net.linear(x, 32, 32, "first"))
    net.weight("step.weight", 32, 32)
    body = helper.make_graph(
        [
            helper.make_node("Add", ["state", "row"], ["sum"]),
            helper.make_node("MatMul", ["sum", "step.weight"], ["product"]),
            helper.make_node("Identity", ["product"], ["out"]),
        ],
        "body",
        [info("state", 32), info("row", 32)],
        [info("product", 32), info("out", 32)],
    )
    start = net.constant(np.zeros(32), "start")
    stacked = net.node("Scan", start, hidden, name="scan", outputs=2, num_scan_inputs=1, body=body)
    assert stacked
    return net.model(net.linear("scan_out1", 32, 8, "last"))


def body_float(name: str, **sizes: int) -> Callable[[Path, Run], None]:
    """The main graph is int8, the body has as many nodes as before."""

    def check(folder: Path, run: Run) -> None:
        model = written(folder)
        body = next(a.g for a in node(model, name).attribute if a.name == "body")
        assert counts(helper.make_model(body))["DequantizeLinear"] == 0
        for op, number in sizes.items():
            products = [n for n in model.graph.node if n.op_type == op]
            dequantized = {
                o for n in model.graph.node if n.op_type == "DequantizeLinear" for o in n.output
            }
            assert sum(set(n.input[:2]) <= dequantized for n in products) == number

    return check


# ---------------------------------------------------------------------- functions and plugins
def with_function(body: str) -> onnx.ModelProto:
    """The base network, whose first layer stands behind a call of a local function."""
    net = Net()
    x = net.input(1, 3, 16, 16)
    nodes = [helper.make_node("Sin", ["a"], ["b"])]
    inputs = ["a"]
    if body == "conv":
        inputs = ["a", "w"]
        nodes = [
            helper.make_node("Conv", ["a", "w"], ["c"], kernel_shape=[1, 1]),
            helper.make_node("Relu", ["c"], ["b"]),
        ]
    net.functions = [
        helper.make_function("local", "block", inputs, ["b"], nodes, [helper.make_opsetid("", 17)])
    ]
    net.domains = ["local"]
    operands = [x, net.weight("called.weight", 16, 3, 1, 1)] if body == "conv" else [x]
    out = net.node("block", *operands, name="call", domain="local")
    net.channels[out] = 16 if body == "conv" else 3
    return finish(net, out)


def function_inlined(folder: Path, run: Run) -> None:
    model = written(folder)
    convs = [n for n in model.graph.node if n.op_type == "Conv"]
    dequantized = {o for n in model.graph.node if n.op_type == "DequantizeLinear" for o in n.output}
    assert len(convs) == 4
    assert all(set(n.input[:2]) <= dequantized for n in convs)
    assert not model.functions
    assert relative_error(folder / MODEL, folder / OUTPUT, {"x": images()[:1]}) < 0.06


def function_kept(folder: Path, run: Run) -> None:
    model = written(folder)
    assert [f.name for f in model.functions] == ["block"]
    assert counts(model)["block"] == 1
    assert relative_error(folder / MODEL, folder / OUTPUT, {"x": images()[:1]}) < 0.06


def with_plugin(domain: str, op: str = "EfficientNMS_TRT") -> onnx.ModelProto:
    """Convs, then a plugin, then a MatMul on what it returns."""
    net = Net()
    x = net.conv_relu(net.input(1, 3, 16, 16), 16, 3, name="stem")
    y = net.conv_relu(x, 16, 3, name="conv1")
    boxes = net.node("Reshape", net.conv(y, 4, name="boxes"), net.ints(1, -1, 4))
    scores = net.node("Reshape", net.conv(y, 2, name="scores"), net.ints(1, -1, 2))
    options = {"score_threshold": 0.25, "iou_threshold": 0.5, "max_output_boxes": 8}
    options |= {
        "plugin_version": "1",
        "background_class": -1,
        "score_activation": 0,
        "box_coding": 0,
    }
    net.node(op, boxes, scores, name="nms", domain=domain, outputs=4, **options)
    if domain:
        net.domains = [domain]
    behind = net.node("MatMul", "nms_out1", net.weight("late.weight", 4, 32), name="late")
    model = net.model(behind, check=False)
    model.graph.output[0].CopyFrom(info(behind, 1, 8, 32))
    return model


def plugin_untouched(folder: Path, run: Run) -> None:
    model, source = written(folder), onnx.load(str(folder / MODEL))
    plugin = node(model, "nms")
    assert plugin == node(source, "nms")
    dequantized = {o for n in model.graph.node if n.op_type == "DequantizeLinear" for o in n.output}
    for name in ("stem", "conv1"):
        assert set(node(model, name).input[:2]) <= dequantized
    assert not set(node(model, "late").input) & dequantized


# ---------------------------------------------------------------------- existing Q/DQ
def quantized(*options: str) -> Callable[[], None]:
    """The base network, quantized by an earlier run with `options`."""

    def build() -> None:
        put(base(), "float.onnx")
        done = run(
            "quantize",
            "float.onnx",
            "-o",
            MODEL,
            "--data",
            "calib.npz",
            "--method",
            "max",
            *options,
        )
        assert done.code == 0, done.text

    return build


def same_pairs(folder: Path, _run: Run) -> None:
    assert counts(written(folder)) == counts(onnx.load(str(folder / MODEL)))


def completed(folder: Path, _run: Run) -> None:
    """What was quantized keeps its scales; conv2, left out by the first run, joins."""
    source, model = constants(onnx.load(str(folder / MODEL))), written(folder)
    for name, value in source.items():
        if name.endswith("_scale"):
            np.testing.assert_array_equal(constants(model)[name], value)
    dequantized = {o for n in model.graph.node if n.op_type == "DequantizeLinear" for o in n.output}
    assert set(node(model, "conv2").input[:2]) <= dequantized
    assert not any(
        n.op_type == "QuantizeLinear" and n.input[0] in dequantized for n in model.graph.node
    )


def as_if_float(folder: Path, _run: Run) -> None:
    """As many pairs as in a file made of the float model, near the same scales."""
    first, again = onnx.load(str(folder / MODEL)), written(folder)
    assert counts(again)["QuantizeLinear"] == counts(first)["QuantizeLinear"]
    assert counts(again)["DequantizeLinear"] == counts(first)["DequantizeLinear"]
    assert relative_error(folder / "float.onnx", folder / OUTPUT, {"x": images()[:1]}) < 0.08


# ---------------------------------------------------------------------- odd operands
def odd_operands() -> onnx.ModelProto:
    """Clip and Resize with absent inputs, and a conv behind each."""
    net = Net()
    x = net.conv(net.input(1, 3, 16, 16), 16, 3, name="stem")
    x = net.node("Clip", x, "", net.constant(np.array(6.0)))
    x = net.conv(x, 16, 3, name="conv1")
    x = net.node("Resize", x, "", net.constant(np.array([1.0, 1, 2, 2])), mode="nearest")
    x = net.relu(net.conv(x, 16, 3, name="conv2"))
    return net.model(net.head(x, 10))


def absent_kept(folder: Path, run: Run) -> None:
    model = written(folder)
    assert [n.input[1] for n in model.graph.node if n.op_type in ("Clip", "Resize")] == ["", ""]
    assert all(
        name
        for n in model.graph.node
        if n.op_type in ("QuantizeLinear", "DequantizeLinear")
        for name in n.input
    )
    assert relative_error(folder / MODEL, folder / OUTPUT, {"x": images()[:1]}) < 0.06


def through(way: str) -> onnx.ModelProto:
    """A MatMul (and a conv) whose weight comes through `way`."""
    net = Net()
    x = net.input(4, 32)
    w = net.random.normal(0, 0.2, (32, 24)).astype(np.float32)
    if way == "constant":
        net.nodes.append(
            helper.make_node("Constant", [], ["w"], "made", value=numpy_helper.from_array(w))
        )
        stored = "w"
    elif way == "identity":
        stored = net.node("Identity", net.constant(w, "w"))
    elif way == "transpose":
        stored = net.node("Transpose", net.constant(w.T.copy(), "w"), perm=[1, 0])
    elif way == "reshape":
        stored = net.node("Reshape", net.constant(w.reshape(-1), "w"), net.ints(32, 24))
    elif way == "cast":
        net.constants.append(numpy_helper.from_array(w.astype(np.float16), "w"))
        stored = net.node("Cast", "w", to=FLOAT)
    elif way == "unsqueeze":
        stored = net.node(
            "Squeeze", net.node("Unsqueeze", net.constant(w, "w"), net.ints(0)), net.ints(0)
        )
    else:
        codes = np.clip(np.rint(w / 0.01), -128, 127).astype(np.int8)
        stored = net.node(
            "DequantizeLinear",
            net.constant(codes, "w"),
            net.constant(0.01, "s"),
            net.constant(np.int8(0), "z"),
        )
    return net.model(
        net.node(
            "MatMul",
            net.relu(net.node("MatMul", x, stored, name="product")),
            net.weight("v", 24, 8),
            name="last",
        )
    )


def weight_axis(folder: Path, run: Run) -> None:
    """int8 codes in the form the MatMul reads, [32, 24], with a scale for each of 24 columns."""
    model = written(folder)
    stored, writers = constants(model), {out: n for n in model.graph.node for out in n.output}
    pair = writers[node(model, "product").input[1]]
    assert pair.op_type == "DequantizeLinear"
    assert stored[pair.input[0]].shape == (32, 24)
    assert stored[pair.input[0]].dtype == np.int8
    assert stored[pair.input[1]].shape == (24,)
    assert [a.i for a in pair.attribute if a.name == "axis"] == [1]
    rows = np.random.default_rng(5).normal(size=(4, 32)).astype(np.float32)
    assert relative_error(folder / MODEL, folder / OUTPUT, {"x": rows}) < 0.06


def kept_codes(folder: Path, run: Run) -> None:
    """The file's own codes stay, and the product's other operand joins them."""
    source, model = onnx.load(str(folder / MODEL)), written(folder)
    np.testing.assert_array_equal(constants(model)["w"], constants(source)["w"])
    writers = {out: n for n in model.graph.node for out in n.output}
    product = node(model, "product")
    assert writers[product.input[1]].input[0] == "w"
    assert writers[product.input[0]].op_type == "DequantizeLinear"


ROWS = np.random.default_rng(5).normal(size=(8, 32)).astype(np.float32)
CASES = [
    Case(32, "captured-weight", flagged(lambda: with_branch(own_conv=True)), check=capture_kept),
    Case(33, "if-with-capture", flagged(lambda: with_branch(own_conv=False))),
    Case(33, "if-constant-flag", write(lambda: with_branch(own_conv=True, boolean_input=False))),
    Case(33, "loop", write(looped), check=body_float("loop", Conv=2)),
    Case(33, "scan", write(scanned, x=ROWS), check=body_float("scan", MatMul=2)),
    Case(34, "function-with-conv", write(lambda: with_function("conv")), check=function_inlined),
    Case(34, "function-without", write(lambda: with_function("sin")), check=function_kept),
    Case(
        35,
        "plugin-default-domain",
        write(lambda: with_plugin("")),
        says=("EfficientNMS_TRT",),
        check=plugin_untouched,
        runs=False,
    ),
    Case(
        35,
        "plugin-own-domain",
        write(lambda: with_plugin("TRT")),
        says=("EfficientNMS_TRT",),
        check=plugin_untouched,
        runs=False,
    ),
    Case(
        35,
        "unknown-in-default-domain",
        write(lambda: with_plugin("", "RoIAlignRotated")),
        says=("RoIAlignRotated",),
        check=plugin_untouched,
        runs=False,
    ),
    Case(
        36,
        "quantized-already",
        quantized(),
        says=("3 of 3 conv", "quantized in the file already"),
        check=same_pairs,
    ),
    Case(36, "mixed", quantized("--exclude", "conv2"), check=completed),
    Case(36, "strip", quantized(), args=("--strip",), check=as_if_float),
    Case(36, "requantize", quantized(), args=("--requantize",), check=as_if_float),
    Case(37, "absent-inputs", write(odd_operands), check=absent_kept),
    *(
        Case(39, way, write(lambda way=way: through(way), x=ROWS), check=weight_axis)
        for way in ("constant", "identity", "transpose", "reshape", "cast", "unsqueeze")
    ),
    Case(39, "dequantize", write(lambda: through("dequantize"), x=ROWS), check=kept_codes),
]
