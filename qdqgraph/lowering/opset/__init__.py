"""A model at a newer default-domain opset, with only the nodes touched whose form changed.

    opset 9: Upsample, Squeeze(axes=)   becomes   opset 17: Resize, Squeeze(x, axes)

`raising` drives; `changes` is the review of every schema change, version by version;
`attributes_to_inputs` and `kept_meaning` hold the adapters; `rewrite` is what an adapter works on;
`values` answers what is known about a tensor.
"""

from __future__ import annotations

from qdqgraph.lowering.opset.raising import NEWEST_OPSET, OLDEST_OPSET, raise_opset

__all__ = ["NEWEST_OPSET", "OLDEST_OPSET", "raise_opset"]
