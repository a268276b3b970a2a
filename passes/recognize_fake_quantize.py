"""x · (1/s) → Round → Clip → · s  becomes  x → Q → DQ, of scale s.

Exporters that know no QuantizeLinear leave the arithmetic of a fake quantizer in the file, and
TensorRT then computes it, in float, between float layers. As a pair the file says what was meant.
A weight becomes codes and DQ. Rounding is the same, half to even; a file that multiplies by a
rounded 1/s differs on values that lie halfway between two codes. Only ranges that are those of a
format, narrow or full, are rewritten: a 7-bit range is no pair.
"""

from __future__ import annotations

from qdqgraph.pipeline.context import Context
from qdqgraph.pipeline.passes import sweep
from qdqgraph.planning.chains import find_chains


@sweep(stage="tidy")
def recognize_fake_quantize(ctx: Context) -> None:
    """Write each chain as a pair, where the frontend holds pairs."""
    for chain in list(find_chains(ctx.graph)):
        if ctx.in_scope(chain.last) and not ctx.graph.write_pair(chain):
            ctx.decline(chain.last, "these quantizing operations have no Q/DQ in this opset")
