"""Operations that exporters spell out: activations, layer norm, attention."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx

from tests.networks.net import Net

Spelling = Callable[[Net, str], str]


def _scalar(net: Net, value: float) -> str:
    return net.constant(np.float32(value))


# ---------------------------------------------------------------------- activations
def silu(net: Net, x: str) -> str:
    return net.node("Mul", x, net.node("Sigmoid", x))


def silu_reversed(net: Net, x: str) -> str:
    return net.node("Mul", net.node("Sigmoid", x), x)


def gelu_erf_div(net: Net, x: str) -> str:
    """torch: x · (1 + erf(x / √2)) · 0.5."""
    one = net.add(net.node("Erf", net.node("Div", x, _scalar(net, math.sqrt(2)))), _scalar(net, 1))
    return net.node("Mul", net.node("Mul", x, one), _scalar(net, 0.5))


def gelu_erf_mul(net: Net, x: str) -> str:
    """0.5 · x first, then the factor; 1/√2 as a product."""
    scaled = net.node("Mul", _scalar(net, math.sqrt(0.5)), x)
    one = net.add(_scalar(net, 1), net.node("Erf", scaled))
    return net.node("Mul", net.node("Mul", _scalar(net, 0.5), x), one)


def gelu_erf_half_of_cdf(net: Net, x: str) -> str:
    """x · (0.5 · (1 + erf))."""
    one = net.add(net.node("Erf", net.node("Div", x, _scalar(net, math.sqrt(2)))), _scalar(net, 1))
    return net.node("Mul", x, net.node("Mul", one, _scalar(net, 0.5)))


def _tanh_form(net: Net, x: str, cube: str) -> str:
    bent = net.add(x, net.node("Mul", cube, _scalar(net, 0.044715)))
    tanh = net.node("Tanh", net.node("Mul", bent, _scalar(net, math.sqrt(2 / math.pi))))
    one = net.add(tanh, _scalar(net, 1))
    return net.node("Mul", net.node("Mul", x, one), _scalar(net, 0.5))


def gelu_tanh_pow(net: Net, x: str) -> str:
    return _tanh_form(net, x, net.node("Pow", x, _scalar(net, 3)))


def gelu_tanh_products(net: Net, x: str) -> str:
    return _tanh_form(net, x, net.node("Mul", net.node("Mul", x, x), x))


def hard_swish_op(net: Net, x: str) -> str:
    return net.node("HardSwish", x)


def hard_swish_gate(net: Net, x: str) -> str:
    """x · HardSigmoid(x) with alpha 1/6."""
    return net.node("Mul", x, net.node("HardSigmoid", x, alpha=1 / 6, beta=0.5))


def _clip06(net: Net, x: str) -> str:
    return net.node("Clip", net.add(x, _scalar(net, 3)), _scalar(net, 0), _scalar(net, 6))


def hard_swish_clip_div(net: Net, x: str) -> str:
    """x · clip(x + 3, 0, 6) / 6."""
    return net.node("Div", net.node("Mul", x, _clip06(net, x)), _scalar(net, 6))


def hard_swish_clip_sixth(net: Net, x: str) -> str:
    """x · (clip(x + 3, 0, 6) / 6)."""
    return net.node("Mul", x, net.node("Div", _clip06(net, x), _scalar(net, 6)))


def hard_sigmoid_clip(net: Net, x: str) -> str:
    return net.node("Div", _clip06(net, x), _scalar(net, 6))


def mish(net: Net, x: str) -> str:
    return net.node("Mul", x, net.node("Tanh", net.node("Softplus", x)))


ACTIVATIONS: dict[str, tuple[str, Spelling, int]] = {
    "silu": ("silu", silu, 2),
    "silu_reversed": ("silu", silu_reversed, 2),
    "gelu_erf_div": ("gelu", gelu_erf_div, 5),
    "gelu_erf_mul": ("gelu", gelu_erf_mul, 5),
    "gelu_erf_half_of_cdf": ("gelu", gelu_erf_half_of_cdf, 5),
    "gelu_tanh_pow": ("gelu", gelu_tanh_pow, 8),
    "gelu_tanh_products": ("gelu", gelu_tanh_products, 9),
    "hard_swish_gate": ("hard_swish", hard_swish_gate, 2),
    "hard_swish_clip_div": ("hard_swish", hard_swish_clip_div, 4),
    "hard_swish_clip_sixth": ("hard_swish", hard_swish_clip_sixth, 4),
    "hard_sigmoid_clip": ("hard_sigmoid", hard_sigmoid_clip, 3),
    "mish": ("mish", mish, 3),
}
"""Each spelling with the operation it is and the number of its nodes."""


def activated(spelling: Spelling) -> onnx.ModelProto:
    """conv, activation, conv."""
    net = Net()
    y = spelling(net, net.conv(net.input(), name="conv1"))
    net.channels[y] = 32
    return net.model(net.conv(y, name="conv2"))


# ---------------------------------------------------------------------- layer norm
def layer_norm(*, squared: str = "pow", affine: bool = True) -> onnx.ModelProto:
    """Linear, a layer norm of single operators, Linear."""
    net = Net()
    x = net.linear(net.input(2, 5, 32), 32, 32, name="before")
    centered = net.node("Sub", x, net.node("ReduceMean", x, axes=[-1]))
    if squared == "pow":
        square = net.node("Pow", centered, _scalar(net, 2))
    else:
        square = net.node("Mul", centered, centered)
    variance = net.node("ReduceMean", square, axes=[-1])
    spread = net.node("Sqrt", net.add(variance, _scalar(net, 1e-5)))
    y = net.node("Div", centered, spread, name="norm")
    if affine:
        y = net.node("Mul", y, net.weight("gain", 32), name="gain_mul")
        y = net.add(y, net.weight("offset", 32), name="offset_add")
    return net.model(net.linear(y, 32, 24, name="after"))


# ---------------------------------------------------------------------- attention
def attention(
    *, scale: str = "scores", mask: bool = False, dropout: bool = False, dimension: int = 32
) -> onnx.ModelProto:
    """One head of self-attention. `scale` is on the scores, on q, on both operands, or none."""
    net = Net()
    x = net.input(2, 5, 64)
    q, k, v = (net.linear(x, 64, dimension, name=name) for name in "qkv")
    k = net.node("Transpose", k, perm=[0, 2, 1], name="kt")
    factor = dimension**-0.5
    if scale == "q":
        q = net.node("Mul", q, _scalar(net, factor), name="q_scale")
    if scale == "both":
        root = _scalar(net, factor**0.5)
        q, k = net.node("Mul", q, root, name="q_scale"), net.node("Mul", k, root, name="k_scale")
    scores = net.node("MatMul", q, k, name="qk")
    if scale == "scores":
        scores = net.node("Div", scores, _scalar(net, 1 / factor), name="scaled")
    if mask:
        scores = net.add(scores, net.input(2, 5, 5, name="mask"), name="masked")
    weights = net.node("Softmax", scores, axis=-1, name="softmax")
    if dropout:
        weights = net.node("Dropout", weights, name="dropout")
    y = net.node("MatMul", weights, v, name="pv")
    return net.model(net.linear(y, dimension, 64, name="out"))


def _packed_parts(net: Net, x: str, keys: int, dimension: int) -> list[str]:
    """q, k and v of one projection `qkv` of [windows, keys, 64], two heads each."""
    heads = 2
    joint = net.linear(x, 64, 3 * heads * dimension, name="qkv")
    apart = net.node("Reshape", joint, net.ints(-1, keys, 3, heads, dimension), name="apart")
    order = net.node("Transpose", apart, perm=[2, 0, 3, 1, 4], name="order")
    return [
        net.node("Gather", order, net.constant(np.int64(i)), axis=0, name=name)
        for i, name in enumerate("qkv")
    ]


def packed_attention(
    *, dimension: int = 32, keys: int = 8, scale: str = "both", guard: bool = False, masked: int = 0
) -> onnx.ModelProto:
    """q, k and v in one projection. `guard` is torch's against NaN, of a mask whose first `masked`
    rows have no key; `scale` is on q or on both operands.
    """
    net = Net()
    q, k, v = _packed_parts(net, net.input(2, keys, 64), keys, dimension)
    k = net.node("Transpose", k, perm=[0, 1, 3, 2], name="kt")
    q = net.node("Mul", q, _scalar(net, dimension**-0.25), name="q_scale")
    if scale == "both":
        k = net.node("Mul", k, _scalar(net, dimension**-0.25), name="k_scale")
    scores = net.node("MatMul", q, k, name="qk")
    if guard:
        kept = np.arange(keys)[:, None] >= np.full((1, keys), masked)
        bias = net.node("Where", net.constant(kept), _scalar(net, 0.0), _scalar(net, -math.inf))
        scores = net.add(scores, bias, name="masked")
    weights = net.node("Softmax", scores, axis=-1, name="softmax")
    if guard:
        asked = net.node("IsNaN", weights, name="asked")
        weights = net.node("Where", asked, _scalar(net, 0.0), weights, name="guarded")
    mixed = net.node("MatMul", weights, v, name="pv")
    back = net.node("Transpose", mixed, perm=[0, 2, 1, 3], name="back")
    flat = net.node("Reshape", back, net.ints(-1, keys, 2 * dimension), name="flat")
    return net.model(net.linear(flat, 2 * dimension, 64, name="out"))


def windows(*, viewed: int = 4) -> onnx.ModelProto:
    """Swin: a bias for each pair of positions, and a mask of shifted windows. The scores are viewed
    as images of `viewed` windows in between; 0 leaves the mask out.
    """
    net = Net()
    keys, dimension = 16, 32
    q, k, v = _packed_parts(net, net.input(4, keys, 64), keys, dimension)
    q = net.node("Mul", q, _scalar(net, dimension**-0.5), name="q_scale")
    k = net.node("Transpose", k, perm=[0, 1, 3, 2], name="kt")
    scores = net.node("MatMul", q, k, name="qk")
    scores = net.add(scores, net.weight("bias", 1, 2, keys, keys), name="biased")
    if viewed:
        mask = net.constant(-100.0 * (net.random.random((1, viewed, 1, keys, keys)) < 0.3))
        scores = net.node("Reshape", scores, net.ints(-1, viewed, 2, keys, keys), name="images")
        scores = net.add(scores, mask, name="masked")
        scores = net.node("Reshape", scores, net.ints(-1, 2, keys, keys), name="windows")
    weights = net.node("Softmax", scores, axis=-1, name="softmax")
    mixed = net.node("MatMul", weights, v, name="pv")
    back = net.node("Transpose", mixed, perm=[0, 2, 1, 3], name="back")
    flat = net.node("Reshape", back, net.ints(-1, keys, 2 * dimension), name="flat")
    return net.model(net.linear(flat, 2 * dimension, 64, name="out"))
