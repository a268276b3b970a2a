"""`commit` puts edits in their place without copying what was there, however often it is called."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from qdqgraph.frontends.onnx_file.graph import OnnxGraph
from qdqgraph.frontends.onnx_file.naming import NameAllocator
from qdqgraph.planning.spec import Encoding, QuantSpec

PAIR = Encoding(QuantSpec(), np.asarray(np.float32(0.1)), np.zeros((), np.int8))


def chain(count=4, ir_version=9):
    """x -> Conv_0 -> Conv_1 ... -> y, each with a weight of its own."""
    names = ["x", *(f"t{i}" for i in range(count - 1)), "y"]
    weights = [np.full((4, 4, 1, 1), i + 1, np.float32) for i in range(count)]
    nodes = [
        helper.make_node("Conv", [names[i], f"w{i}"], [names[i + 1]], f"conv{i}")
        for i in range(count)
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 2, 2])]
    if ir_version < 4:
        inputs += [
            helper.make_tensor_value_info(f"w{i}", TensorProto.FLOAT, w.shape)
            for i, w in enumerate(weights)
        ]
    graph = helper.make_graph(
        nodes,
        "chain",
        inputs,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 2, 2])],
        [numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(weights)],
    )
    opsets = [helper.make_opsetid("", 13)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)


def operators(model):
    return [node.op_type for node in model.graph.node]


def test_pairs_stand_behind_their_producer_and_later_edits_keep_them():
    graph = OnnxGraph(chain())
    first, second = graph.nodes[1].edges[0], graph.nodes[3].edges[0]
    graph.insert_quantizer(first.value, [first], PAIR, "")
    expected = ["Conv", "QuantizeLinear", "DequantizeLinear", "Conv", "Conv", "Conv"]
    assert operators(graph.commit()) == expected
    graph.insert_quantizer(second.value, [second], PAIR, "")
    expected[5:5] = ["QuantizeLinear", "DequantizeLinear"]
    for _ in range(2):
        model = graph.commit()
        assert operators(model) == expected
        onnx.checker.check_model(model, full_check=True)


def test_codes_stand_in_front_of_the_first_reader():
    graph = OnnxGraph(chain())
    weight = graph.nodes[2].edges[1]
    graph.insert_quantizer(weight.value, [weight], PAIR, "")
    model = graph.commit()
    assert operators(model) == ["Conv", "Conv", "DequantizeLinear", "Conv", "Conv"]
    names = [tensor.name for tensor in model.graph.initializer]
    assert names == ["w0", "w1", "w3", "w2_scale", "w2_zero_point", "w2_quantized"]


def test_messages_that_stay_are_not_copied():
    model = chain()
    nodes, tensors = list(model.graph.node), list(model.graph.initializer)
    graph = OnnxGraph(model)
    edge, weight = graph.nodes[1].edges[0], graph.nodes[1].edges[1]
    graph.insert_quantizer(edge.value, [edge], PAIR, "")
    graph.insert_quantizer(weight.value, [weight], PAIR, "")
    graph.commit()
    kept = [node for node in model.graph.node if node.op_type == "Conv"]
    assert all(a is b for a, b in zip(kept, nodes, strict=True))
    floats = [tensor for tensor in model.graph.initializer if tensor.name.startswith("w")][:3]
    assert all(a is b for a, b in zip(floats, tensors[:1] + tensors[2:], strict=True))


def test_erased_nodes_and_their_constants_go():
    for ir_version in (3, 9):
        graph = OnnxGraph(chain(ir_version=ir_version))
        node = graph.nodes[1]
        graph.replace(node.output, graph.nodes[0].output)
        graph.erase(node)
        model = graph.commit()
        assert [n.name for n in model.graph.node] == ["conv0", "conv2", "conv3"]
        assert [t.name for t in model.graph.initializer] == ["w0", "w2", "w3"]
        stated = ["x", "w0", "w2", "w3"] if ir_version < 4 else ["x"]
        assert [i.name for i in model.graph.input] == stated
        onnx.checker.check_model(model, full_check=True)


def test_fresh_names_count_on():
    names = NameAllocator(chain())
    assert [names.fresh("w0") for _ in range(3)] == ["w0_2", "w0_3", "w0_4"]
    assert [names.fresh("new") for _ in range(2)] == ["new", "new_2"]
    assert [names.fresh("w0_3"), names.fresh("w0")] == ["w0_3_2", "w0_5"]
