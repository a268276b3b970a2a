"""Nodes that lack inputs or outputs their operator must have are refused before anything is read.

>>> import onnx
>>> refuse_short_nodes([onnx.helper.make_node("Relu", ["x"], ["y"])], 17)
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import onnx

from qdqgraph.errors import InvalidGraphError
from qdqgraph.frontends.onnx_file.reading import label


def refuse_short_nodes(nodes: Iterable[onnx.NodeProto], opset: int) -> None:
    """Raise `InvalidGraphError` for the first node with fewer inputs or outputs than it needs.

    Operators that ONNX does not define at `opset` are not judged.
    """
    needs: dict[str, tuple[int, int]] = {}
    for node in nodes:
        kind = node.op_type
        if kind not in needs:
            needs[kind] = _least(kind, opset)
        inputs, outputs = needs[kind]
        if len(node.input) < inputs or len(node.output) < outputs:
            if node.domain not in ("", "ai.onnx"):
                continue
            raise InvalidGraphError(
                f"{kind} has {len(node.input)} inputs and {len(node.output)} outputs, "
                f"it needs at least {inputs} and {outputs}",
                where=label(node),
                fix="the file is damaged: export it again",
            )


@lru_cache(maxsize=1024)
def _least(kind: str, opset: int) -> tuple[int, int]:
    if opset < 1 or not onnx.defs.has(kind, opset):
        return 0, 0
    schema = onnx.defs.get_schema(kind, opset)
    return schema.min_input, schema.min_output
