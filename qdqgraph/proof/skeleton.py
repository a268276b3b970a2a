"""A copy of a model without its weights, so that the prediction touches neither file nor caller.

Everything of at most 64 KiB stays, scales and axes among it; a larger tensor keeps name, type and
dimensions. The copy costs the size of the node list, whatever the size of the weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qdqgraph.frontends.onnx_file.graph import OnnxGraph

if TYPE_CHECKING:
    import onnx

KEPT_BYTES = 1 << 16


def view_without_weights(model: onnx.ModelProto, folder: Path | None = None) -> OnnxGraph:
    """The neutral view of such a copy. `folder` is where external data of scales lies.

    Raises `InvalidGraphError` for a graph that is not legal.
    """
    copy = type(model)(ir_version=model.ir_version)
    copy.opset_import.extend(model.opset_import)
    copy.functions.extend(model.functions)
    graph = copy.graph
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    graph.sparse_initializer.extend(model.graph.sparse_initializer)
    for tensor in model.graph.initializer:
        if tensor.ByteSize() <= KEPT_BYTES:
            graph.initializer.append(tensor)
        else:
            graph.initializer.add(
                name=tensor.name, dims=list(tensor.dims), data_type=tensor.data_type
            )
    return OnnxGraph(copy, folder)
