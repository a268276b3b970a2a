"""Identity and Dropout vanish, unless someone outside knows their result by name."""

from __future__ import annotations

import numpy as np
import pytest

from qdqgraph.passes.drop_forwarding import drop_forwarding
from tests.networks import residuals
from tests.networks.net import Net
from tests.networks.oddities import if_capturing
from tests.reads import after, operators, reasons, tidied
from tests.running import distance


def test_nothing_stands_between_conv_and_add() -> None:
    model = residuals.through_forwarding()
    dropped = tidied(model, drop_forwarding)
    assert not {"Identity", "Dropout"} & set(operators(dropped))
    add = next(node for node in dropped.graph.node if node.name == "layer1.add")
    assert list(add.input) == ["layer1.conv2_out", "relu1_out"]
    # The nodes did nothing: not one operation differs.
    assert distance(dropped, model) == 0.0


def test_a_graph_output_keeps_its_identity() -> None:
    net = Net()
    y = net.node("Identity", net.conv(net.input(), name="conv1"), name="last")
    dropped = tidied(net.model(y), drop_forwarding)
    assert operators(dropped) == ["Conv", "Identity"]


def test_a_captured_tensor_keeps_its_identity() -> None:
    model = if_capturing()
    conv = model.graph.node[0]
    conv.output[0] = "raw"
    identity = model.graph.node.add(op_type="Identity", name="alias")
    identity.input.append("raw")
    identity.output.append("conv1_out")
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([nodes[0], nodes[-1], *nodes[1:-1]])
    assert operators(tidied(model, drop_forwarding)) == ["Conv", "Identity", "If", "Conv"]


@pytest.mark.parametrize("training", [True, False])
def test_a_dropout_in_training_mode_stays_and_says_so(training: bool) -> None:
    net = Net()
    ratio, mode = net.constant(np.float32(0.5)), net.constant(np.bool_(training))
    y = net.node("Dropout", net.conv(net.input(), name="conv1"), ratio, mode, name="drop")
    net.channels[y] = 32
    made = after(net.model(net.conv(y, name="conv2")), drop_forwarding)
    said = {"drop": ["dropout in training mode changes its input"]} if training else {}
    assert reasons(made.plan) == said
    assert ("dropout" in [node.op.name for node in made.graph.nodes]) is training


def test_a_mask_that_is_read_keeps_its_dropout() -> None:
    net = Net()
    y = net.node("Dropout", net.conv(net.input(), name="conv1"), name="drop", outputs=2)
    net.channels[y] = 32
    mask = net.node("Cast", "drop_out1", to=1, name="mask")
    model = net.model(net.conv(y, name="conv2"), mask)
    assert operators(tidied(model, drop_forwarding)) == operators(model)


def test_a_concat_of_one_tensor_vanishes() -> None:
    """DenseNet's first `torch.cat([x])`; the exporter on torch.export leaves it out."""
    net = Net()
    y = net.concat(net.conv(net.input(), name="conv1"), name="alone")
    model = net.model(net.conv(net.concat(y, net.relu(y)), name="conv2"))
    dropped = tidied(model, drop_forwarding)
    assert operators(dropped) == ["Conv", "Relu", "Concat", "Conv"]
    assert distance(dropped, model) == 0.0
