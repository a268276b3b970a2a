"""Nodes that lack inputs or outputs their operator must have are refused before anything is read.

>>> import onnx
>>> refuse_short_nodes([onnx.helper.make_node("Relu", ["x"], ["y"])], 17)
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import onnx

from qdqgraph.errors import InvalidGraphError
from qdqgraph.frontends.onnx_file.reading import NodeFields, label


def refuse_short_nodes(nodes: Iterable[onnx.NodeProto], opset: int) -> None:
    """Raise `InvalidGraphError` for the first node with fewer inputs or outputs than it needs.

    Operators that ONNX does not define at `opset` are not judged.
    """
    refuse_short(NodeFields.of(nodes), opset)


def refuse_short(fields: NodeFields, opset: int) -> None:
    """The same for nodes whose fields are at hand."""
    needs = {kind: _least(kind, opset) for kind in set(fields.kinds)}
    given = zip(fields.kinds, fields.inputs, fields.outputs, strict=True)
    for i, (kind, inputs, outputs) in enumerate(given):
        least_inputs, least_outputs = needs[kind]
        if len(inputs) < least_inputs or len(outputs) < least_outputs:
            node = fields.nodes[i]
            if node.domain not in ("", "ai.onnx"):
                continue
            raise InvalidGraphError(
                f"{kind} has {len(inputs)} inputs and {len(outputs)} outputs, "
                f"it needs at least {least_inputs} and {least_outputs}",
                where=label(node),
                fix="the file is damaged: export it again",
            )


@lru_cache(maxsize=1024)
def _least(kind: str, opset: int) -> tuple[int, int]:
    if opset < 1 or not onnx.defs.has(kind, opset):
        return 0, 0
    schema = onnx.defs.get_schema(kind, opset)
    return schema.min_input, schema.min_output
