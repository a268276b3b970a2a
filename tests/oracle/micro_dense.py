"""Float graphs of matrix products: gemms, MLPs, attention, layer norms."""

from __future__ import annotations

from functools import partial
from typing import Literal

import numpy as np
import onnx

from tests.oracle.micro_conv import Build, gelu
from tests.oracle.net import Array, Net, ints

TOKENS, WIDTH = 128, 128
Scaling = Literal["scores", "div", "q", "both"]
Packing = Literal["none", "split", "gather"]


def tokens(net: Net, width: int = WIDTH) -> str:
    return net.input(1, TOKENS, width)


def gemm(trans: int, inputs: int, outputs: int, batch: int) -> onnx.ModelProto:
    net = Net()
    x = net.input(batch, inputs)

    def weight(a: int, b: int) -> str:
        return net.weight(b, a) if trans else net.weight(a, b)

    x = net.node("Gemm", x, weight(inputs, 128), net.weight(128), transB=trans)
    return net.model(
        net.node("Gemm", net.relu(x), weight(128, outputs), net.weight(outputs), transB=trans)
    )


def matmul(rank: int, bias: bool) -> onnx.ModelProto:
    net = Net()
    x = net.input(*[1] * (rank - 2), TOKENS, WIDTH)
    return net.model(net.linear(net.relu(net.linear(x, WIDTH, WIDTH, bias=bias)), WIDTH, 96))


def matmul_transposed_weight(stored: bool) -> onnx.ModelProto:
    """Two MatMuls whose weights pass through a Transpose, or are stored as it would leave them."""
    net = Net()
    x = tokens(net)
    for name in ("fc1", "fc2"):
        weight = net.weight(WIDTH, WIDTH)
        if not stored:
            weight = net.node("Transpose", weight, perm=[1, 0])
        x = net.relu(net.node("MatMul", x, weight, name=name))
    return net.model(x)


def mlp_residual(norm: bool) -> onnx.ModelProto:
    net = Net(opset=17)
    x = net.linear(tokens(net), WIDTH, WIDTH)
    for _ in range(2):
        y = layer_norm(net, x) if norm else x
        y = net.linear(gelu(net, net.linear(y, WIDTH, WIDTH)), WIDTH, WIDTH)
        x = net.node("Add", y, x)
    return net.model(net.linear(x, WIDTH, WIDTH))


def layer_norm(net: Net, x: str) -> str:
    return net.node("LayerNormalization", x, net.weight(WIDTH), net.weight(WIDTH), axis=-1)


def layer_norm_in_parts(net: Net, x: str) -> str:
    centered = net.node("Sub", x, net.node("ReduceMean", x, axes=[-1]))
    square = net.node("Pow", centered, net.constant(np.float32(2.0)))
    spread = net.node("Add", net.node("ReduceMean", square, axes=[-1]), net.constant(1e-5))
    normed = net.node("Div", centered, net.node("Sqrt", spread))
    scaled = net.node("Mul", normed, net.weight(WIDTH))
    return net.node("Add", scaled, net.weight(WIDTH))


def normed(parts: bool) -> onnx.ModelProto:
    net = Net()
    x = net.linear(tokens(net), WIDTH, WIDTH)
    x = layer_norm_in_parts(net, x) if parts else layer_norm(net, x)
    return net.model(net.linear(x, WIDTH, WIDTH))


def attention(
    dtype: str = "float32",
    dimension: int = 64,
    scaling: Scaling = "scores",
    mask: bool = False,
    packed: Packing = "none",
    keys: int = TOKENS,
    guard: bool = False,
) -> onnx.ModelProto:
    """One attention with its projections; `packed` makes q, k and v of one product.

    They are then parted before heads are (`split`), or by an index behind the transpose (`gather`).
    `guard` is what torch's exporters write behind a softmax with a mask of booleans.
    """
    net = Net(dtype, opset=19)
    heads = 2
    width = heads * dimension
    x = net.input(1, keys, width)
    shape = (keys, heads, dimension)
    if packed == "gather":
        joint = net.linear(x, width, 3 * width, name="qkv")
        apart = net.node("Reshape", joint, ints(net, [1, keys, 3, heads, dimension]))
        order = net.node("Transpose", apart, perm=[2, 0, 3, 1, 4])
        q, k, v = (
            net.node("Gather", order, net.constant(np.int64(index)), axis=0) for index in range(3)
        )
        k = net.node("Transpose", k, perm=[0, 1, 3, 2], name="k")
    else:
        if packed == "split":
            joint = net.linear(x, width, 3 * width, name="qkv")
            net.node("Split", joint, ints(net, [width] * 3), name="parts", outputs=3, axis=2)
            sources = ["parts", "parts:1", "parts:2"]
        else:
            sources = [net.linear(x, width, width, name=f"{part}_fc") for part in "qkv"]
        q, k, v = (
            head_split(net, source, shape, part)
            for part, source in zip("qkv", sources, strict=True)
        )
    factor = net.constant(np.float32(dimension**-0.5))
    root = net.constant(np.float32(dimension**-0.25))
    if scaling == "q":
        q = net.node("Mul", q, factor, name="q_scaled")
    if scaling == "both":
        q = net.node("Mul", q, root, name="q_scaled")
        k = net.node("Mul", k, root, name="k_scaled")
    scores = net.node("MatMul", q, k, name="qk")
    if scaling == "scores":
        scores = net.node("Mul", scores, factor)
    if scaling == "div":
        scores = net.node("Div", scores, net.constant(np.float32(dimension**0.5)))
    if mask:
        allowed = np.tril(np.ones((keys, keys), np.float32))
        scores = net.node("Add", scores, net.constant(np.where(allowed, 0.0, -1e4)))
    weights = net.node("Softmax", scores, axis=-1, name="softmax")
    if guard:
        asked = net.node("IsNaN", weights)
        weights = net.node("Where", asked, net.constant(np.float32(0)), weights, name="guarded")
    mixed = net.node("MatMul", weights, v, name="pv")
    back = net.node("Transpose", mixed, perm=[0, 2, 1, 3])
    flat = net.node("Reshape", back, ints(net, [1, keys, width]))
    return net.model(net.linear(flat, width, width, name="out_fc"))


def windows(shift: int = 2, dtype: str = "float32") -> onnx.ModelProto:
    """Swin: attention in 4 x 4 windows of 16 x 16 tokens, a bias for each pair of positions.

    Shifted windows add a mask to the scores, which are viewed as images of windows for it.
    """
    net = Net(dtype, opset=19)
    side, window, heads, dimension = 16, 4, 2, 32
    count, area, width = (side // window) ** 2, window * window, heads * dimension
    x = net.input(count, area, width)
    joint = net.linear(x, width, 3 * width, name="qkv")
    apart = net.node("Reshape", joint, ints(net, [count, area, 3, heads, dimension]))
    order = net.node("Transpose", apart, perm=[2, 0, 3, 1, 4])
    q, k, v = (
        net.node("Gather", order, net.constant(np.int64(index)), axis=0) for index in range(3)
    )
    q = net.node("Mul", q, net.constant(np.float32(dimension**-0.5)), name="q_scaled")
    k = net.node("Transpose", k, perm=[0, 1, 3, 2], name="k")
    scores = net.node("MatMul", q, k, name="qk")
    scores = net.node("Add", scores, net.weight(1, heads, area, area, hint="bias"))
    if shift:
        mask = net.constant(np.where(_regions(side, window, shift), 0.0, -100.0))
        scores = net.node("Reshape", scores, ints(net, [-1, count, heads, area, area]))
        scores = net.node("Add", scores, mask)
        scores = net.node("Reshape", scores, ints(net, [-1, heads, area, area]))
    mixed = net.node("MatMul", net.node("Softmax", scores, axis=-1, name="softmax"), v, name="pv")
    back = net.node("Transpose", mixed, perm=[0, 2, 1, 3])
    flat = net.node("Reshape", back, ints(net, [count, area, width]))
    return net.model(net.linear(flat, width, width, name="out_fc"))


def _regions(side: int, window: int, shift: int) -> Array:
    """[1, windows, 1, area, area]: True where two places of a window lay in one region."""
    places = np.arange(side)
    band = (places >= side - window).astype(int) + (places >= side - shift)
    region = 3 * band[:, None] + band[None, :]
    parts = region.reshape(side // window, window, side // window, window).swapaxes(1, 2)
    flat = parts.reshape(-1, window * window)
    return (flat[:, :, None] == flat[:, None, :])[None, :, None]


def head_split(net: Net, x: str, shape: tuple[int, int, int], part: str) -> str:
    """`shape` is (tokens, heads, head dimension)."""
    apart = net.node("Reshape", x, ints(net, [1, *shape]))
    order = [0, 2, 3, 1] if part == "k" else [0, 2, 1, 3]
    return net.node("Transpose", apart, perm=order, name=part)


ROWS: dict[str, Build] = {
    "gemm": partial(gemm, 0, 128, 128, 64),
    "gemm-transB": partial(gemm, 1, 128, 128, 64),
    "gemm-odd": partial(gemm, 1, 100, 37, 7),
    "gemm-batch-1": partial(gemm, 1, 128, 128, 1),
    "matmul-2d": partial(matmul, 2, True),
    "matmul-3d": partial(matmul, 3, True),
    "matmul-4d": partial(matmul, 4, True),
    "matmul-no-bias": partial(matmul, 3, False),
    "matmul-transposed-weight": partial(matmul_transposed_weight, False),
    "mlp-residual": partial(mlp_residual, False),
    "mlp-residual-norm": partial(mlp_residual, True),
    "layer-norm": partial(normed, False),
    "layer-norm-parts": partial(normed, True),
    **{
        f"attention-{kind}-{dimension}": partial(attention, dtype, dimension)
        for kind, dtype in (("fp32", "float32"), ("fp16", "float16"))
        for dimension in (32, 64, 80)
    },
    "attention-scale-q": partial(attention, scaling="q"),
    "attention-scale-both": partial(attention, scaling="both"),
    "attention-scale-div": partial(attention, scaling="div"),
    "attention-mask": partial(attention, mask=True),
    "attention-mask-guarded": partial(attention, mask=True, guard=True),
    "attention-packed-split": partial(attention, packed="split"),
    "attention-packed-gather": partial(attention, packed="gather"),
    "attention-packed-577-keys": partial(attention, "float16", packed="split", keys=577),
    "attention-fp32-16": partial(attention, dimension=16),
    "attention-windows": partial(windows, 0),
    "attention-windows-shifted": partial(windows, 2),
    "attention-windows-shifted-fp16": partial(windows, 2, "float16"),
    "attention-packed-fp32-577-keys": partial(attention, packed="gather", keys=577),
    "attention-packed-80": partial(attention, "float16", 80, packed="split"),
    "attention-fp16-577-keys": partial(attention, "float16", keys=577),
}
