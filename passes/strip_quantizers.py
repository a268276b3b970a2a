"""x → Q → DQ → y  becomes  x → y, and codes → DQ  becomes  a float constant.

For files that other tools quantized. With `keep_places` the same reads are quantized again, with
scales of this calibration; otherwise the file is planned like a float one. Without this pass what
the file quantizes stays as it is, and only the rest is planned.
"""

from __future__ import annotations

import numpy as np

from qdqgraph.graph.view import Array, Node
from qdqgraph.graph.weights import weight_edge
from qdqgraph.passes.place_weighted import weight_spec
from qdqgraph.pipeline.context import Context
from qdqgraph.pipeline.passes import sweep


@sweep(stage="tidy")
def strip_quantizers(ctx: Context, *, keep_places: bool = False) -> None:
    """Remove every DequantizeLinear, and the QuantizeLinear that only it reads."""
    for node in ctx.nodes():
        if node.op.name != "dequantize":
            continue
        codes = node.inputs[0]
        quantize = codes.producer if codes is not None else None
        if codes is None or node.output.is_output:
            continue
        readers = list(node.output.uses)
        if (
            quantize is not None
            and quantize.op.name == "quantize"
            and quantize.inputs[0] is not None
        ):
            ctx.graph.replace(node.output, quantize.inputs[0])
        elif codes.const is not None and (array := dequantized(node)) is not None:
            ctx.graph.replace(node.output, ctx.graph.add_constant(f"{codes.name}_float", array))
        else:
            continue
        ctx.graph.erase(node)
        if quantize is not None and not quantize.output.uses and not quantize.output.is_output:
            ctx.graph.erase(quantize)
        if keep_places:
            for edge in readers:
                weight = weight_edge(edge.node)
                spec = weight_spec(edge.node, edge, ctx.version) if edge is weight else None
                ctx.plan.quantize(edge, spec, reason="quantized in the source file")


def dequantized(node: Node) -> Array | None:
    """scale · (codes − zero point) of a DequantizeLinear on constants, float32; None if blocked."""
    codes, scale, zero = (v.const if v is not None else None for v in (*node.inputs, None)[:3])
    if codes is None or scale is None or node.int("block_size"):
        return None
    shape = [1] * codes.ndim
    if scale.ndim == 1 and codes.ndim and scale.size > 1:
        shape[node.int("axis", 1)] = -1
    scale = scale.reshape(shape if codes.ndim else ())
    offset = np.zeros(1) if zero is None else zero.reshape(scale.shape)
    return ((codes.astype(np.float32) - offset.astype(np.float32)) * scale).astype(scale.dtype)
