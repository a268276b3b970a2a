"""Legal graphs that break a reader who assumes too much: bodies, functions, names, order."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.networks.net import Net


def _scaled_body(name: str, factor: float, captured: str, dims: list[int]) -> onnx.GraphProto:
    """A branch that multiplies a tensor of the outer graph."""
    constant = numpy_helper.from_array(np.float32(factor), f"{name}_factor")
    node = helper.make_node("Mul", [captured, f"{name}_factor"], [f"{name}_out"], f"{name}_mul")
    declared = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, dims)
    return helper.make_graph([node], name, [], [declared], [constant])


def if_capturing() -> onnx.ModelProto:
    """Both branches of an If read conv1's output by name; conv2 reads it as well."""
    net = Net()
    x = net.conv(net.input(), name="conv1")
    condition = net.input(1, name="condition", kind=TensorProto.BOOL)
    dims = [1, 32, 8, 8]
    branch = net.node(
        "If",
        condition,
        name="choice",
        then_branch=_scaled_body("then", 2.0, x, dims),
        else_branch=_scaled_body("else", 3.0, x, dims),
    )
    return net.model(net.conv(x, name="conv2"), branch)


def loop_capturing_weight() -> onnx.ModelProto:
    """A Loop body runs Conv with conv1's own weight, captured."""
    net = Net()
    x = net.conv(net.input(), bias=False, name="conv1")
    y = net.norm(x, "bn1")
    dims = [1, 32, 8, 8]
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, dims) for n in ("state", "next")]
    flag = [helper.make_tensor_value_info(n, TensorProto.BOOL, []) for n in ("go_in", "go_out")]
    step = helper.make_tensor_value_info("step", TensorProto.INT64, [])
    nodes = [
        helper.make_node("Identity", ["go_in"], ["go_out"], "keep_going"),
        helper.make_node("Conv", ["state", "conv1.weight"], ["next"], "inner_conv"),
    ]
    body = helper.make_graph(nodes, "body", [step, flag[0], value[0]], [flag[1], value[1]])
    trips = net.constant(np.int64(2), "trips")
    looped = net.node("Loop", trips, "", y, name="loop", body=body)
    return net.model(looped, dims=dims)


def function_with_conv() -> onnx.ModelProto:
    """A local function holds conv and relu, called twice; another one holds no product."""
    net = Net()
    block = helper.make_function(
        "local",
        "ConvRelu",
        ["a", "w"],
        ["out"],
        [helper.make_node("Conv", ["a", "w"], ["mid"]), helper.make_node("Relu", ["mid"], ["out"])],
        [helper.make_opsetid("", 17)],
    )
    double = helper.make_function(
        "local",
        "Double",
        ["a"],
        ["out"],
        [helper.make_node("Add", ["a", "a"], ["out"])],
        [helper.make_opsetid("", 17)],
    )
    net.functions, net.domains = [block, double], ["local"]
    x = net.input()
    for name in ("call1", "call2"):
        weight = net.weight(f"{name}.weight", 32, 32, 1, 1)
        x = net.node("ConvRelu", x, weight, name=name, domain="local")
    return net.model(net.node("Double", x, name="twice", domain="local"))


def custom_domain() -> onnx.ModelProto:
    """conv, a plugin nobody here knows, conv."""
    net = Net()
    net.domains = ["plugins"]
    x = net.conv_relu(net.input(), name="conv1")
    y = net.node("DeformThing", x, name="plugin", domain="plugins", strength=0.5)
    return net.model(net.conv(y, name="conv2"), dims=[1, 32, 8, 8], check=False)


def absent_inputs() -> onnx.ModelProto:
    """Optional inputs written as '': a Clip without minimum, a Resize without roi, a bare Conv."""
    net = Net()
    x = net.conv(net.input(), bias=False, name="conv1")
    net.nodes[-1].input.append("")
    x = net.norm(x, "bn1")
    x = net.node("Clip", x, "", net.constant(np.float32(6)), name="clip")
    x = net.node("Resize", x, "", net.constant([1.0, 1.0, 2.0, 2.0]), mode="nearest", name="resize")
    return net.model(net.conv(x, name="conv2"))


def initializers_as_inputs() -> onnx.ModelProto:
    """IR 3: every initializer is listed as a graph input as well."""
    net = Net(opset=13, ir_version=3)
    y = net.head(net.relu(net.norm(net.conv(net.input(), name="conv1"), "bn1")))
    model = net.model(y, dims=[1, 32], check=False)
    model.graph.input.extend(
        helper.make_tensor_value_info(t.name, t.data_type, list(t.dims))
        for t in model.graph.initializer
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def shuffled(model: onnx.ModelProto, seed: int = 0) -> onnx.ModelProto:
    """The same graph with its nodes in random order, as some editors leave them."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    nodes = list(made.graph.node)
    order = np.random.default_rng(seed).permutation(len(nodes))
    del made.graph.node[:]
    made.graph.node.extend(nodes[i] for i in order)
    return made


def renamed(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """The same graph, every node of which has this name: the empty one, or a duplicate."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for node in made.graph.node:
        node.name = name
    return made


def integer_input() -> onnx.ModelProto:
    """Integers beside floats: an Add of indices must get no quantizer."""
    net = Net()
    ids = net.input(1, 5, name="ids", kind=TensorProto.INT64)
    other = net.input(1, 5, name="other", kind=TensorProto.INT64)
    summed = net.add(ids, other, "positions")
    table = net.weight("table", 64, 32)
    y = net.node("Gather", table, summed, axis=0, name="embed")
    return net.model(net.linear(y, 32, 24))


def annotated() -> onnx.ModelProto:
    """Doc strings and metadata on model, graph, nodes and inputs; a float op far from any edit."""
    net = Net()
    x = net.conv_relu(net.input(), name="conv1")
    aside = net.node("Softplus", net.input(2, 3, name="other"), name="aside")
    model = net.model(net.conv(x, name="conv2"), aside)
    model.doc_string, model.graph.doc_string = "of the model", "of the graph"
    model.metadata_props.add(key="author", value="somebody")
    model.graph.metadata_props.add(key="stage", value="export")
    for node in model.graph.node:
        node.doc_string = f"written for {node.name}"
        node.metadata_props.add(key="pkg.origin", value=node.name)
    model.graph.input[0].doc_string = "RGB"
    return model
