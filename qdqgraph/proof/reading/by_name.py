"""A graph of a model read by name: constants, producers, readers, quantizer parameters."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from qdqgraph.errors import InvalidGraphError, ModelLoadError
from qdqgraph.frontends.onnx_file.reading import attribute_value
from qdqgraph.graph.view import Array, Attribute
from qdqgraph.storage.external import tensor_array
from qdqgraph.storage.references import DataFolder, is_external

DEFAULT_DOMAINS = ("", "ai.onnx")
MICROSOFT = "com.microsoft"
QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
FORWARDING = ("Identity", "Cast")
Q_DOMAINS = (*DEFAULT_DOMAINS, MICROSOFT)

KEPT_ELEMENTS = 4096
"""Constants of at most this size are kept once read: two nodes share each scale."""


class Reader:
    """Looks names up in one graph, and behind it in the graphs that enclose it."""

    def __init__(
        self, graph: onnx.GraphProto, data: DataFolder | None, parent: Reader | None = None
    ) -> None:
        self.graph = graph
        self.data = data or DataFolder(Path())
        self.parent = parent
        self.nodes = list(graph.node)
        self.tensors: dict[str, onnx.TensorProto] = {t.name: t for t in graph.initializer}
        self.producer: dict[str, onnx.NodeProto] = {
            name: node for node in self.nodes for name in node.output[:]
        }
        self._parameters: dict[str, Parameter] = {}
        self._stored: dict[tuple[int | bytes, ...], Parameter] = {}
        self._quantizers: dict[int, Quantizer | None] = {}

    @cached_property
    def readers(self) -> dict[str, list[onnx.NodeProto]]:
        """The nodes that read a name, one entry a read."""
        found: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in node.input[:]:
                found.setdefault(name, []).append(node)
        return found

    def quantizer(self, node: onnx.NodeProto | None) -> Quantizer | None:
        """What is constant about a Q or DQ node of this graph; None for another node."""
        if node is None:
            return None
        key = id(node)
        if key not in self._quantizers:
            self._quantizers[key] = Quantizer(node, self) if is_quantizer(node) else None
        return self._quantizers[key]

    def source(self, name: str) -> onnx.TensorProto | None:
        """The tensor behind a constant name, through Constant, Identity and Cast; else None."""
        return self._trace(name)[0]

    def _trace(self, name: str) -> tuple[onnx.TensorProto | None, int]:
        """The tensor behind a name, and the element type that a Cast on the way gives it."""
        stored = self.tensors.get(name)
        if stored is not None:
            return stored, 0
        cast = 0
        for _ in range(8):
            if name in self.tensors:
                return self.tensors[name], cast
            node = self.producer.get(name)
            if node is None:
                return (self.parent.source(name) if self.parent else None), cast
            if node.op_type == "Constant" and node.domain in DEFAULT_DOMAINS:
                return _constant_tensor(node), cast
            if node.op_type not in FORWARDING or not node.input:
                return None, 0
            to = attributes(node).get("to", 0) if node.op_type == "Cast" else 0
            cast = cast or (to if isinstance(to, int) else 0)
            name = node.input[0]
        return None, 0

    def const(self, name: str) -> Array | None:
        """Contents of a constant, or None when it is computed (or its file is missing).

        Raises `InvalidGraphError` for contents that do not fit the tensor's shape.
        """
        tensor, cast = self._trace(name) if name else (None, 0)
        return None if tensor is None else self._array(tensor, cast)

    def _array(self, tensor: onnx.TensorProto, cast: int) -> Array | None:
        try:
            array = tensor_array(tensor, self.data)
        except InvalidGraphError:
            raise
        except ModelLoadError:
            return None
        return array.astype(helper.tensor_dtype_to_np_dtype(cast)) if cast else array

    def parameter(self, name: str) -> Parameter:
        """What there is to know about a scale or zero point; kept for those that are constant."""
        found = self._parameters.get(name)
        if found is None:
            tensor, cast = self._trace(name)
            if tensor is None:
                return Parameter(None, 0)
            # Zero points are all alike, and scales have few elements: equal ones are read once.
            raw = b"" if cast or is_external(tensor) else tensor.raw_data
            contents = (tensor.data_type, raw, *tensor.dims[:])
            found = self._stored.get(contents) if raw else None
            if found is None:
                found = self._parameter_of(name, tensor, cast)
            if found.array is not None and found.array.size <= KEPT_ELEMENTS:
                self._parameters[name] = found
                if raw:
                    self._stored[contents] = found
        return found

    def _parameter_of(self, name: str, tensor: onnx.TensorProto, cast: int) -> Parameter:
        array = self._array(tensor, cast)
        if array is not None and array.dtype.kind in "OSU":
            raise InvalidGraphError(
                "a scale or zero point is text", where=f"tensor {name!r}", fix="export again"
            )
        return Parameter(array, cast or int(tensor.data_type))

    def dims(self, name: str) -> tuple[int, ...] | None:
        """Shape of a constant."""
        tensor = self.source(name) if name else None
        return None if tensor is None else tuple(tensor.dims)

    def element(self, name: str) -> int:
        """ONNX element type of a constant; 0 when it is none."""
        tensor, cast = self._trace(name) if name else (None, 0)
        return 0 if tensor is None else cast or int(tensor.data_type)


class Parameter:
    """A scale or zero point: its contents and ONNX element type.

    Where it is computed in the graph, `array` is None and `element` 0; where its file is missing,
    `array` alone is None.
    """

    __slots__ = ("array", "element", "plain")

    def __init__(self, array: Array | None, element: int) -> None:
        self.array = array
        self.element = element
        self.plain = array is not None and _is_plain(array)
        """True for a zero point of zeros, and for a scale that is finite and above zero."""


ABSENT = Parameter(None, 0)


def _is_plain(array: Array) -> bool:
    kind = array.dtype.kind
    if kind == "f" and array.size:
        if array.size == 1:
            return 0 < array.item() < np.inf
        return bool(np.minimum.reduce(array, None) > 0 and np.maximum.reduce(array, None) < np.inf)
    return kind in "iu" and not any(array.tobytes())


class Quantizer:
    """A QuantizeLinear or DequantizeLinear node with what is constant about it.

    `scale` and `zero` are None where they are computed in the graph, `zero` also where absent.
    """

    __slots__ = (
        *("axis", "block", "inputs", "is_quantize", "node"),
        *("of_scale", "of_zero", "zero_name"),
    )

    def __init__(self, node: onnx.NodeProto, reader: Reader) -> None:
        self.node = node
        self.inputs: list[str] = node.input[:]
        self.is_quantize = node.op_type == QUANTIZE
        self.zero_name = self.inputs[2] if len(self.inputs) > 2 else ""
        """Name of the zero point; empty when absent."""
        self.of_scale = reader.parameter(self.inputs[1])
        self.of_zero = reader.parameter(self.zero_name) if self.zero_name else ABSENT
        self.axis: int | None = None
        self.block = 0
        for item in node.attribute:
            if item.name == "axis":
                self.axis = int(item.i)
            elif item.name == "block_size":
                self.block = int(item.i)

    @property
    def scale(self) -> Array | None:
        """The scales."""
        return self.of_scale.array

    @property
    def zero(self) -> Array | None:
        """The zero points."""
        return self.of_zero.array

    @property
    def per_channel(self) -> bool:
        """More than one scale along one axis."""
        array = self.of_scale.array
        return array is not None and array.ndim == 1 and array.size > 1


def is_quantizer(node: onnx.NodeProto) -> bool:
    """QuantizeLinear or DequantizeLinear of ONNX or of com.microsoft, with data and scale."""
    named = node.op_type in (QUANTIZE, DEQUANTIZE)
    return named and node.domain in Q_DOMAINS and len(node.input) > 1


def attributes(node: onnx.NodeProto) -> dict[str, Attribute]:
    """The attributes of a node by name."""
    return {item.name: attribute_value(item) for item in node.attribute}


def node_label(node: onnx.NodeProto) -> str:
    """The node's name, or one made of its first output."""
    return node.name or (f"{node.op_type}_{node.output[0]}" if node.output else node.op_type)


def all_zero(array: Array | None) -> bool:
    """True for an absent zero point and for one that is zero throughout."""
    return array is None or not np.any(array.astype(np.float32))


def opset_of(model: onnx.ModelProto, domains: Sequence[str] = DEFAULT_DOMAINS) -> int:
    """Version of the default operator set; 0 when the model does not import it."""
    return max((int(o.version) for o in model.opset_import if o.domain in domains), default=0)


def _constant_tensor(node: onnx.NodeProto) -> onnx.TensorProto | None:
    for item in node.attribute:
        if item.name == "value":
            return item.t
        if item.name in ("value_float", "value_floats"):
            return numpy_helper.from_array(np.asarray(attribute_value(item), np.float32))
        if item.name in ("value_int", "value_ints"):
            return numpy_helper.from_array(np.asarray(attribute_value(item), np.int64))
    return None
