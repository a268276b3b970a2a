"""Nodes that lack inputs or outputs their operator must have are refused before anything is read.

>>> import onnx
>>> refuse_short_nodes([onnx.helper.make_node("Relu", ["x"], ["y"])], 17)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

import onnx

from qdqgraph.errors import InvalidGraphError
from qdqgraph.frontends.onnx_file.reading import label


def refuse_short_nodes(nodes: Iterable[onnx.NodeProto], opset: int) -> None:
    """Raise `InvalidGraphError` for the first node with fewer inputs or outputs than it needs.

    Operators that ONNX does not define at `opset` are not judged.
    """
    found = list(nodes)
    inputs, outputs = [node.input[:] for node in found], [node.output[:] for node in found]
    refuse_short(found, [node.op_type for node in found], inputs, outputs, opset)


def refuse_short(
    nodes: Sequence[onnx.NodeProto],
    kinds: Sequence[str],
    inputs: Sequence[Sequence[str]],
    outputs: Sequence[Sequence[str]],
    opset: int,
) -> None:
    """The same where the operator types, inputs and outputs of the nodes are at hand."""
    needs = {kind: _least(kind, opset) for kind in set(kinds)}
    for i, kind in enumerate(kinds):
        least_inputs, least_outputs = needs[kind]
        if len(inputs[i]) < least_inputs or len(outputs[i]) < least_outputs:
            node = nodes[i]
            if node.domain not in ("", "ai.onnx"):
                continue
            raise InvalidGraphError(
                f"{kind} has {len(inputs[i])} inputs and {len(outputs[i])} outputs, "
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
