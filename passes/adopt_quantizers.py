"""A tensor that the file quantizes already keeps that scale where more readers are quantized.

Completing a partly quantized file with scales of its own would put two int8 copies of one tensor
beside each other; with equal scales TensorRT merges the two Qs into one.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qdqgraph.graph.view import Value
from qdqgraph.pipeline.context import Context
from qdqgraph.pipeline.passes import sweep
from qdqgraph.planning.spec import Encoding, QuantSpec


@sweep(stage="configure")
def adopt_quantizers(ctx: Context) -> None:
    """Give quantizers beside a QuantizeLinear, or a given quantizer, its scale and zero point."""
    given: dict[Value, Encoding] = {}
    for quantizer in ctx.plan.used():
        if quantizer.spec.origin == "given" and quantizer.encoding and quantizer.spec.axis is None:
            given.setdefault(quantizer.source, quantizer.encoding)
    for quantizer in ctx.plan.used():
        encoding = existing_encoding(quantizer.source, quantizer.spec)
        if encoding is None and quantizer.spec.origin != "given" and quantizer.spec.axis is None:
            encoding = given.get(quantizer.source)
        if encoding is not None:
            quantizer.spec, quantizer.encoding = encoding.spec, encoding
            quantizer.remarks.append("takes the scale that the file gives this tensor")


def existing_encoding(source: Value, spec: QuantSpec) -> Encoding | None:
    """The encoding of a QuantizeLinear that reads `source`, if it is one int8 scale."""
    for edge in source.uses:
        if edge.index != 0 or edge.node.op.name != "quantize":
            continue
        scale, zero = edge.node["scale"], edge.node["zero_point"]
        if scale is None or scale.const is None or scale.const.size != 1:
            continue
        codes = zero.const if zero is not None else None
        if codes is not None and codes.dtype == np.int8 and not codes.any():
            number = np.float32(scale.const.reshape(()))
            return Encoding(replace(spec, origin="given"), np.asarray(number), np.asarray(0))
    return None
