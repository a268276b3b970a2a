"""Weights that reach their reader through other nodes, and batch norms around convs."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from tests.networks.net import Net


def norm_before_conv(*, pad: int = 0, shift: bool = True, group: int = 1) -> onnx.ModelProto:
    """batch norm, conv: foldable without padding, or where the norm maps 0 to 0."""
    net = Net()
    y = net.norm(net.input(), "bn", shift=shift)
    return net.model(net.conv(y, 32, 3, pad=pad, group=group, name="conv1"))


def norm_behind_conv(
    *, training: bool = False, forked: bool = False, group: int = 1
) -> onnx.ModelProto:
    """conv, batch norm; in training mode, or with another reader of the conv, it stays."""
    net = Net()
    x = net.conv(net.input(), 32, 3, group=group, name="conv1")
    y = net.norm(x, "bn")
    if training:
        norm = net.nodes[-1]
        norm.attribute.append(onnx.helper.make_attribute("training_mode", 1))
        norm.output.extend(["running_mean_out", "running_var_out"])
    outputs = [net.conv(net.relu(y), name="conv2"), *([x] if forked else [])]
    return net.model(*outputs)


def norm_through_identity() -> onnx.ModelProto:
    """Equal batch-norm parameters that the exporter merged behind Identity nodes."""
    net = Net()
    x = net.norm(net.conv(net.input(), name="conv1"), "bn1")
    y = net.norm(net.conv(net.relu(x), name="conv2"), "bn2")
    norm = net.nodes.pop()
    for position, role in ((3, "running_mean"), (4, "running_var")):
        norm.input[position] = net.node("Identity", f"bn1.{role}", name=f"alias_{role}")
        net.constants = [t for t in net.constants if t.name != f"bn2.{role}"]
    net.nodes.append(norm)
    return net.model(net.head(net.relu(y)))


def weights_through(kind: str) -> onnx.ModelProto:
    """A Linear or conv whose weight passes through the operator `kind` on its way."""
    net = Net()
    if kind in ("Transpose", "Cast"):
        x = net.input(4, 32)
        if kind == "Transpose":
            weight = net.node("Transpose", net.weight("w", 24, 32), perm=[1, 0], name="via")
        else:
            stored = net.random.normal(0, 0.2, (32, 24)).astype(np.float16)
            net.constants.append(numpy_helper.from_array(stored, "w"))
            weight = net.node("Cast", "w", to=TensorProto.FLOAT, name="via")
        return net.model(net.node("MatMul", x, weight, name="fc"))
    x = net.input()
    if kind == "Identity":
        weight = net.node("Identity", net.weight("w", 32, 32, 1, 1), name="via")
    elif kind == "Reshape":
        weight = net.node("Reshape", net.weight("w", 32, 32), net.ints(0, -1, 1, 1), name="via")
    elif kind == "Unsqueeze":
        weight = net.node("Unsqueeze", net.weight("w", 32, 32), net.ints(2, 3), name="via")
    elif kind == "Squeeze":
        weight = net.node("Squeeze", net.weight("w", 1, 32, 32, 1, 1), net.ints(0), name="via")
    elif kind == "Constant":
        array = net.random.normal(0, 0.2, (32, 32, 1, 1)).astype(np.float32)
        weight = net.node("Constant", value=numpy_helper.from_array(array, "w"), name="via")
    else:
        raise ValueError(kind)
    return net.model(net.node("Conv", x, weight, name="fc"))


VIA = ("Transpose", "Cast", "Identity", "Reshape", "Unsqueeze", "Squeeze", "Constant")
