"""conv → batch_norm  becomes  conv  (also for transposed convolutions and Gemm).

    weight' = weight · s     bias' = (bias − mean) · s + beta     s = gamma / √(var + ε)

TensorRT fuses most of these itself, after quantization. It does not behind a ConvTranspose, and not
where the batch norm's parameters pass through an Identity (an Orin engine log shows it); folding
first is equally fusable everywhere, and the weight's per-channel range is then the one that runs.
"""

from __future__ import annotations

import numpy as np

from qdqgraph.graph.pattern import Match, const, op
from qdqgraph.graph.view import Array, Node
from qdqgraph.graph.weights import scale_outputs, set_parameters
from qdqgraph.pipeline.context import Context
from qdqgraph.pipeline.passes import Skip, rule

PARAMETERS = (const("gamma"), const("beta"), const("mean"), const("var"))
BIAS = const("bias", optional=True)
PRODUCTS = tuple(
    build("x", const("weight"), BIAS).named("product").only_use()
    for build in (op.conv, op.conv_transpose, op.gemm)
)


@rule(op.batch_norm(PRODUCTS, *PARAMETERS).named("norm"))
def fold_batch_norm(ctx: Context, m: Match) -> None:
    """Move the affine map into weight and bias."""
    norm, product = m.node("norm"), m.node("product")
    scale, shift = affine_map(norm, m)
    weight = m.array("weight")
    bias = m.array("bias").astype(np.float64).reshape(-1) if m.has("bias") else np.zeros(1)
    if product.op.name == "gemm":
        if product.float("alpha", 1.0) != 1.0 or product.float("beta", 1.0) != 1.0:
            raise Skip("Gemm scales its operands (alpha or beta is not 1)")
        if bias.size not in (1, scale.size):
            raise Skip("the bias of the Gemm differs from row to row")
    folded = scale_outputs(product, weight, scale).astype(weight.dtype)
    set_parameters(ctx.graph, product, folded, (bias * scale + shift).astype(weight.dtype))
    ctx.graph.replace(norm.output, product.output)
    ctx.graph.erase(norm)


def affine_map(norm: Node, m: Match) -> tuple[Array, Array]:
    """(s, beta − mean·s) of a batch norm at inference, float64 [channels]."""
    if norm.int("training_mode") or norm.int("training"):
        raise Skip("batch norm is in training mode: its statistics still move")
    if any(output.uses or output.is_output for output in norm.outputs[1:]):
        raise Skip("the running statistics of this batch norm are read")
    gamma, beta, mean, var = (
        m.array(k).astype(np.float64) for k in ("gamma", "beta", "mean", "var")
    )
    scale = gamma / np.sqrt(var + norm.float("epsilon", 1e-5))
    return scale, beta - mean * scale
