"""A judge that needs no compiler: it charges for what the written model shows, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import onnx

from qdqgraph.model import Model
from qdqgraph.tuning import Figures, Rejected
from tests.networks.net import Net

Price = Callable[["Seen"], "int | Figures | Rejected"]


class Seen:
    """A quantized model, as a judge looks at it."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.written = {output: node for node in model.graph.node for output in node.output}

    @property
    def pairs(self) -> int:
        """How many QuantizeLinear nodes there are."""
        return sum(node.op_type == "QuantizeLinear" for node in self.model.graph.node)

    def dequantized(self, name: str) -> tuple[bool, ...]:
        """Whether each input of the node called `name` comes from a DequantizeLinear."""
        node = next(node for node in self.model.graph.node if node.name == name)
        return tuple(
            source in self.written and self.written[source].op_type == "DequantizeLinear"
            for source in node.input
        )

    def int8(self, names: Iterable[str]) -> frozenset[str]:
        """Those of the named products that read DQs on both factors."""
        return frozenset(name for name in names if all(self.dequantized(name)[:2]))


class Priced:
    """Calls `price`; a plain number stands for bytes. Keeps the limits it was given."""

    target = "tensorrt-rtx"

    def __init__(self, price: Price) -> None:
        self.price = price
        self.limits: list[float] = []

    def judge(self, model: Model, limit_s: float) -> Figures | Rejected:
        """What the price says."""
        self.limits.append(limit_s)
        answer = self.price(Seen(model.proto))
        return Figures(answer, 10) if isinstance(answer, int) else answer


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def wanting(*names: str, among: Iterable[str]) -> Price:
    """1000 bytes; 100 more for each of `names` that is not int8, 130 for each other that is."""
    every, wanted = frozenset(among), frozenset(names)

    def price(seen: Seen) -> int:
        found = seen.int8(every)
        return 1000 + 100 * len(wanted - found) + 130 * len(found - wanted)

    return price


def depthwise_net(*strides: int) -> onnx.ModelProto:
    """conv, then a depthwise `dw1`, `dw2`, ... and a conv for each stride."""
    net = Net()
    x = net.conv_relu(net.input(1, 32, 16, 16))
    for number, stride in enumerate(strides, 1):
        x = net.relu(net.conv(x, 32, 3, name=f"dw{number}", group=32, stride=stride))
        x = net.conv_relu(x)
    return net.model(net.conv(x))


def residual_net() -> onnx.ModelProto:
    """Two residual blocks with adds `add1`, `add2`, and a conv behind."""
    net = Net()
    x = net.conv_relu(net.input(1, 32, 8, 8))
    for number in (1, 2):
        y = net.conv(net.conv_relu(x))
        x = net.relu(net.add(y, x, name=f"add{number}"))
    return net.model(net.conv(x))
