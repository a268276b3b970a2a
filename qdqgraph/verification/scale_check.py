"""Every constant scale in a file is a finite number above zero."""

from __future__ import annotations

from collections import ChainMap, deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import GraphProto, NodeProto, TensorProto

from qdqgraph.errors import OutputError
from qdqgraph.storage.external import tensor_array
from qdqgraph.storage.references import DataFolder
from qdqgraph.storage.tensors import numpy_dtype

QUANTIZE_OPS = frozenset({"QuantizeLinear", "DequantizeLinear"})

_SCALE_INPUTS = {
    "QuantizeLinear": (1,),
    "DequantizeLinear": (1,),
    "QLinearConv": (1, 4, 6),
    "QLinearMatMul": (1, 4, 6),
}

Makers = Mapping[str, TensorProto | NodeProto]


def check_scales(model: onnx.ModelProto, folder: DataFolder) -> int:
    """Check all scales of Q/DQ and QLinear nodes, subgraphs and functions included.

    A scale may be an initializer, a Constant, or one of these through Cast and Identity. Returns
    how many nodes have a scale computed at run time, which cannot be checked. Raises
    `OutputError` naming the node and the first bad element.
    """
    dynamic = 0
    for nodes, makers in _scopes(model):
        is_dynamic: dict[str, bool] = {}
        for node in nodes:
            for position in _SCALE_INPUTS.get(node.op_type, ()):
                if position >= len(node.input) or not node.input[position]:
                    continue
                name = node.input[position]
                if name not in is_dynamic:
                    scale = _constant(name, makers, folder)
                    is_dynamic[name] = scale is None
                    if scale is not None:
                        _check(scale, name, node)
                dynamic += is_dynamic[name]
    return dynamic


def _check(scale: npt.NDArray[Any], name: str, node: NodeProto) -> None:
    if scale.size and not (scale.min() > 0 and scale.max() < np.inf):  # NaN is neither
        wide = np.ravel(scale.astype(np.float64))
        bad = ~(np.isfinite(wide) & (wide > 0))
        index = int(np.argmax(bad))
        raise OutputError(
            f"scale '{name}' is {wide[index]:g} at element {index} of {wide.size}; a scale must be "
            "finite and above zero",
            where=f"node '{node.name}' ({node.op_type})",
            fix="calibrate this tensor again, or leave the node float",
        )


def _constant(name: str, makers: Makers, folder: DataFolder) -> npt.NDArray[Any] | None:
    casts: list[int] = []
    maker = makers.get(name)
    for _ in range(32):
        if not isinstance(maker, NodeProto) or maker.op_type == "Constant":
            break
        casts += [a.i for a in maker.attribute if a.name == "to" and maker.op_type == "Cast"]
        maker = makers.get(maker.input[0])
    if isinstance(maker, NodeProto):
        array = _constant_value(maker, folder)
    else:
        array = None if maker is None else tensor_array(maker, folder)
    if array is not None:
        with np.errstate(over="ignore", under="ignore"):
            for data_type in reversed(casts):
                array = array.astype(numpy_dtype(data_type))
    return array


def _constant_value(node: NodeProto, folder: DataFolder) -> npt.NDArray[Any] | None:
    for attribute in node.attribute:
        if attribute.name == "value":
            return tensor_array(attribute.t, folder)
        if attribute.name == "value_float":
            return np.array(attribute.f, np.float32)
        if attribute.name == "value_floats":
            return np.array(attribute.floats, np.float32)
    return None


def _scopes(model: onnx.ModelProto) -> Iterator[tuple[Iterable[NodeProto], Makers]]:
    """Each list of nodes together with the constants its names can mean, inner ones first."""
    outside: ChainMap[str, TensorProto | NodeProto] = ChainMap()
    todo: deque[tuple[GraphProto, ChainMap[str, TensorProto | NodeProto]]] = deque()
    todo.append((model.graph, outside))
    for function in model.functions:
        scope = outside.new_child(_makers(function.node))
        yield function.node, scope
        todo.extend((graph, scope) for graph in _bodies(function.node))
    while todo:
        graph, outer = todo.popleft()
        scope = outer.new_child(_makers(graph.node))
        scope.update((tensor.name, tensor) for tensor in graph.initializer)
        yield graph.node, scope
        todo.extend((body, scope) for body in _bodies(graph.node))


def _makers(nodes: Iterable[NodeProto]) -> dict[str, TensorProto | NodeProto]:
    return {
        node.output[0]: node
        for node in nodes
        if node.op_type in ("Constant", "Cast", "Identity") and node.output
    }


def _bodies(nodes: Iterable[NodeProto]) -> Iterator[GraphProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield attribute.g
            yield from attribute.graphs
