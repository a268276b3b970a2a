"""batch_norm → conv  becomes  conv, where that is exact.

    weight'[o, i] = weight[o, i] · s[i]     bias'[o] = bias[o] + Σ weight[o, i] · t[i]
    s = gamma / √(var + ε)                  t = beta − mean · s

Exact only where no padding meets the conv, or every t is zero: padding adds zeros *behind* the
batch norm, while the folded form would see t there (TensorRT#3104 asks for this fold).
"""

from __future__ import annotations

import numpy as np

from qdqgraph.graph.pattern import Match, const, op
from qdqgraph.graph.weights import set_parameters
from qdqgraph.passes.fold_batch_norm import BIAS, PARAMETERS, affine_map
from qdqgraph.pipeline.context import Context
from qdqgraph.pipeline.passes import Skip, rule

NORM = op.batch_norm("x", *PARAMETERS).named("norm").only_use()


@rule(op.conv(NORM, const("weight"), BIAS).named("conv"))
def fold_batch_norm_before_conv(ctx: Context, m: Match) -> None:
    """Move the affine map into the conv's input channels."""
    norm, conv = m.node("norm"), m.node("conv")
    scale, shift = affine_map(norm, m)
    pads = conv.ints("pads")
    if np.any(shift) and (
        conv.text("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or any(pads or ())
    ):
        raise Skip("the conv pads, and its zeros would stand for the batch norm's shift")
    weight = m.array("weight")
    groups = max(1, conv.int("group", 1))
    outputs, per_group = weight.shape[:2]
    blocks = weight.astype(np.float64).reshape(groups, outputs // groups, per_group, -1)
    by_group = (groups, 1, per_group, 1)
    added = (blocks * shift.reshape(by_group)).sum(axis=(2, 3)).reshape(-1)
    bias = m.array("bias").astype(np.float64) if m.has("bias") else np.zeros(outputs)
    folded = (blocks * scale.reshape(by_group)).reshape(weight.shape)
    set_parameters(
        ctx.graph, conv, folded.astype(weight.dtype), (bias + added).astype(weight.dtype)
    )
    ctx.graph.set_input(conv.edge("x"), m.value("x"))
    ctx.graph.erase(norm)
