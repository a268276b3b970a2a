"""What a model says about its tensors: element type, shape, constant value, and which are read.

A body is the main graph, a subgraph of If, Loop or Scan, or a model-local function. Its path names
it in any model of the same structure: `()` for the main graph, `((-1 - i, "", 0),)` for function
`i`, and one `(node, attribute, index)` more for each subgraph on the way in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import onnx
from onnx import checker, numpy_helper, shape_inference

Path = tuple[tuple[int, str, int], ...]
Shape = tuple[int | None, ...]
T = TypeVar("T")

_SMALL = 1024  # elements; shapes, axes and scales are far below, weights far above


@dataclass(frozen=True, slots=True)
class Body:
    """One list of nodes: a graph, or a function when `function` is at least 0."""

    path: Path
    holder: onnx.GraphProto | onnx.FunctionProto
    function: int = -1


@dataclass(frozen=True, slots=True)
class TensorType:
    """Element type (a `TensorProto.DataType` number) and shape, as far as known."""

    elem_type: int
    shape: Shape | None


def bodies(model: onnx.ModelProto) -> Iterator[Body]:
    """Yield every body of `model`, inner ones before the one that holds them."""
    yield from _with_subgraphs(model.graph, (), -1)
    for index, function in enumerate(model.functions):
        yield from _with_subgraphs(function, ((-1 - index, "", 0),), index)


def _with_subgraphs(
    holder: onnx.GraphProto | onnx.FunctionProto, path: Path, function: int
) -> Iterator[Body]:
    for at, node in enumerate(holder.node):
        for attribute in node.attribute:
            graphs = [attribute.g] if attribute.HasField("g") else list(attribute.graphs)
            for index, graph in enumerate(graphs):
                inner = (*path, (at, attribute.name, index))
                yield from _with_subgraphs(graph, inner, function)
    yield Body(path, holder, function)


class Values:
    """Types, constants, names and readers of one unmodified model, looked up from any body."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        self._names: set[str] = set()
        self._read: set[str] = set()
        self._constants: dict[Path, dict[str, onnx.TensorProto]] = {}
        self._declared = _declared_types(model)
        for body in bodies(model):
            self._index(body)

    def is_read(self, name: str) -> bool:
        """Return whether any node of any body, or an output, reads a value of this name."""
        return name in self._read

    def fresh_name(self, wanted: str) -> str:
        """Return `wanted`, or `wanted_1`, ... : a name used nowhere in the model; reserve it."""
        name, count = wanted, 0
        while name in self._names:
            count += 1
            name = f"{wanted}_{count}"
        self._names.add(name)
        return name

    def type_of(self, path: Path, name: str) -> TensorType | None:
        """Return the declared type of a value; where that is incomplete, the inferred one.

        Shape inference runs at most once, on a copy without the large weights.
        """
        found = _visible(self._declared, path, name)
        if found is None or found.shape is None:
            found = _visible(self._inferred, path, name) or found
        return found

    def constant(self, path: Path, name: str) -> npt.NDArray[np.generic] | None:
        """Return the value of an initializer or Constant node, or None if it may vary."""
        tensor = _visible(self._constants, path, name)
        if tensor is None or tensor.data_location == onnx.TensorProto.EXTERNAL:
            return None
        return numpy_helper.to_array(tensor)

    @cached_property
    def _inferred(self) -> dict[Path, dict[str, TensorType]]:
        try:
            return _declared_types(
                shape_inference.infer_shapes(_without_weights(self._model), data_prop=True)
            )
        except (shape_inference.InferenceError, checker.ValidationError, RuntimeError, ValueError):
            return {}  # a broken model; what needs a type then says that it is not known

    def _index(self, body: Body) -> None:
        holder, constants = body.holder, self._constants.setdefault(body.path, {})
        for node in holder.node:
            self._names.update((node.name, *node.input, *node.output))
            self._read.update(node.input)
            if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
                for attribute in node.attribute:
                    if attribute.name == "value" and not attribute.ref_attr_name:
                        constants[node.output[0]] = attribute.t
        if isinstance(holder, onnx.FunctionProto):
            self._names.update((holder.name, *holder.input, *holder.output))
            self._read.update(holder.output)
            self._names.update(info.name for info in holder.value_info)
            return
        inputs = {info.name for info in holder.input}
        outputs = {info.name for info in holder.output}
        self._read |= outputs
        self._names |= inputs | outputs | {info.name for info in holder.value_info}
        for tensor in holder.initializer:
            self._names.add(tensor.name)
            # Since IR 4 an initializer that is also an input is a default the caller may replace.
            if self._model.ir_version < 4 or tensor.name not in inputs:
                constants[tensor.name] = tensor
        self._names.update(sparse.values.name for sparse in holder.sparse_initializer)


def _visible(tables: Mapping[Path, Mapping[str, T]], path: Path, name: str) -> T | None:
    """Look `name` up in the body at `path`, then in those around it."""
    outermost = 1 if path and path[0][0] < 0 else 0
    for depth in range(len(path), outermost - 1, -1):
        found = tables.get(path[:depth], {}).get(name)
        if found is not None:
            return found
    return None


def _declared_types(model: onnx.ModelProto) -> dict[Path, dict[str, TensorType]]:
    return {body.path: dict(_types_in(body.holder)) for body in bodies(model)}


def _types_in(holder: onnx.GraphProto | onnx.FunctionProto) -> Iterator[tuple[str, TensorType]]:
    declared = list(holder.value_info)
    if isinstance(holder, onnx.GraphProto):
        declared += [*holder.input, *holder.output]
        for tensor in holder.initializer:
            yield tensor.name, TensorType(tensor.data_type, tuple(tensor.dims))
    for info in declared:
        if info.type.HasField("tensor_type"):
            kind = info.type.tensor_type
            # Some exporters write 0 or -1 for "unknown"; a true 0 is then unknown too: safe.
            dims = [d.dim_value if d.dim_value > 0 else None for d in kind.shape.dim]
            yield (
                info.name,
                TensorType(kind.elem_type, tuple(dims) if kind.HasField("shape") else None),
            )


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy `model`, keeping of each large initializer only its type and shape."""
    light = onnx.ModelProto(ir_version=model.ir_version)
    light.opset_import.extend(model.opset_import)
    light.functions.extend(model.functions)
    graph = light.graph
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    graph.value_info.extend(model.graph.value_info)
    inputs = {info.name for info in model.graph.input}
    for tensor in model.graph.initializer:
        if int(np.prod(tensor.dims)) <= _SMALL:
            graph.initializer.append(tensor)
        elif tensor.name not in inputs:
            graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    return light
