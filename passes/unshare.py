"""The named quantizer leaves its group and gets a scale of its own.

The other members stay together as far as links between them remain. Where data only moves between
the two, this costs a requantization.
"""

from __future__ import annotations

from qdqgraph.passes.share_named import named_quantizers
from qdqgraph.pipeline.context import Context
from qdqgraph.pipeline.passes import sweep


@sweep(stage="configure")
def unshare(ctx: Context, *, name: str = "") -> None:
    """Take back the links of the named quantizers, bridging the members they held together."""
    for quantizer in named_quantizers(ctx, name):
        ctx.plan.isolate(quantizer)
