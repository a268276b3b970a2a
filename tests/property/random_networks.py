"""Random small CNN graphs: convs of all kinds, norms, activations, joins, movers, pools, heads."""

from __future__ import annotations

from collections.abc import Callable

import onnx
from hypothesis import strategies as st

from tests.networks import composites
from tests.networks.net import Net

Step = Callable[[Net, st.DataObject, list[str]], str]


def _pick(data: st.DataObject, tensors: list[str]) -> str:
    """One of the last four tensors, so that graphs grow in depth and fork now and then."""
    return data.draw(st.sampled_from(tensors[-4:]))


def _like(net: Net, data: st.DataObject, tensors: list[str]) -> tuple[str, str]:
    """Two tensors of the same number of channels."""
    a = _pick(data, tensors)
    return a, data.draw(st.sampled_from([t for t in tensors if net.channels[t] == net.channels[a]]))


def conv(net: Net, data: st.DataObject, tensors: list[str]) -> str:
    x = _pick(data, tensors)
    kernel = data.draw(st.sampled_from([1, 3]))
    return net.conv(
        x, data.draw(st.sampled_from([8, 16, 32])), kernel, bias=data.draw(st.booleans())
    )


def depthwise(net: Net, data: st.DataObject, tensors: list[str]) -> str:
    x = _pick(data, tensors)
    return net.conv(x, net.channels[x], 3, group=net.channels[x])


def norm(net: Net, data: st.DataObject, tensors: list[str]) -> str:
    return net.norm(_pick(data, tensors), shift=data.draw(st.booleans()))


def relu(net: Net, data: st.DataObject, tensors: list[str]) -> str:
    return net.relu(_pick(data, tensors))


def activation(net: Net, data: st.DataObject, tensors: list[str]) -> str:
    x = _pick(data, tensors)
    name = data.draw(st.sampled_from(sorted(composites.ACTIVATIONS)))
    y = composites.ACTIVATIONS[name][1](net, x)
    net.channels[y] = net.channels[x]
    return y


def add(net: Net, data: st.DataObject, tensors: list[str]) -> str:
    return net.add(*_like(net, data, tensors))


def concat(net: Net, data: st.DataObject, tensors: list[str]) -> str:
    return net.concat(_pick(data, tensors), _pick(data, tensors))


def pool(net: Net, data: st.DataObject, tensors: list[str]) -> str:
    return net.max_pool(_pick(data, tensors))


def average(net: Net, data: st.DataObject, tensors: list[str]) -> str:
    return net.node("AveragePool", _pick(data, tensors), kernel_shape=[3, 3], pads=[1] * 4)


def forwarding(net: Net, data: st.DataObject, tensors: list[str]) -> str:
    return net.node(data.draw(st.sampled_from(["Identity", "Dropout"])), _pick(data, tensors))


def transposed_twice(net: Net, data: st.DataObject, tensors: list[str]) -> str:
    x = _pick(data, tensors)
    there = net.node("Transpose", x, perm=[0, 2, 3, 1])
    y = net.node("Transpose", there, perm=[0, 3, 1, 2])
    net.channels.pop(there)
    return y


def halves(net: Net, data: st.DataObject, tensors: list[str]) -> str:
    x = _pick(data, tensors)
    half = net.channels[x] // 2
    first = net.node("Split", x, net.ints(half, half), axis=1, outputs=2)
    net.channels.update({first: half, f"{first}1": half})
    return data.draw(st.sampled_from([first, f"{first}1"]))


def squeeze_excite(net: Net, data: st.DataObject, tensors: list[str]) -> str:
    x = _pick(data, tensors)
    gate = net.conv(net.node("GlobalAveragePool", x), net.channels[x])
    return net.node("Mul", x, net.node("Sigmoid", gate))


STEPS: tuple[Step, ...] = (
    conv, conv, conv, norm, norm, relu, relu, activation, add, add, concat, pool, average,
    forwarding, transposed_twice, halves, squeeze_excite, depthwise,
)  # fmt: skip


@st.composite
def networks(draw: st.DrawFn) -> onnx.ModelProto:
    """A conv, up to twelve random steps, and a head or none; sometimes a second output."""
    data = draw(st.data())
    net = Net(seed=draw(st.integers(0, 99)))
    tensors = [net.conv(net.input(1, 16, 6, 6), 16, 3)]
    for step in draw(st.lists(st.sampled_from(STEPS), min_size=1, max_size=12)):
        tensors.append(step(net, data, tensors))
    outputs = [net.head(tensors[-1], 16) if draw(st.booleans()) else tensors[-1]]
    if draw(st.booleans()):
        outputs.append(draw(st.sampled_from(tensors)))
    return net.model(*dict.fromkeys(outputs))
