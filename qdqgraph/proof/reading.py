"""A graph of a model read by name: constants, producers, readers, quantizer parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from qdqgraph.errors import ModelLoadError
from qdqgraph.frontends.onnx_file.reading import attribute_value
from qdqgraph.graph.view import Array, Attribute
from qdqgraph.storage.external import tensor_array
from qdqgraph.storage.references import DataFolder

DEFAULT_DOMAINS = ("", "ai.onnx")
MICROSOFT = "com.microsoft"
QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"
FORWARDING = ("Identity", "Cast")


class Reader:
    """Looks names up in one graph, and behind it in the graphs that enclose it."""

    def __init__(
        self, graph: onnx.GraphProto, data: DataFolder | None, parent: Reader | None = None
    ) -> None:
        self.graph = graph
        self.data = data or DataFolder(Path())
        self.parent = parent
        self.tensors: dict[str, onnx.TensorProto] = {t.name: t for t in graph.initializer}
        self.producer: dict[str, onnx.NodeProto] = {}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.output:
                self.producer[name] = node
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def source(self, name: str) -> onnx.TensorProto | None:
        """The tensor behind a constant name, through Constant, Identity and Cast; else None."""
        return self._trace(name)[0]

    def _trace(self, name: str) -> tuple[onnx.TensorProto | None, int]:
        """The tensor behind a name, and the element type that a Cast on the way gives it."""
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
        """Contents of a constant, or None when it is computed (or its file is missing)."""
        tensor, cast = self._trace(name) if name else (None, 0)
        if tensor is None:
            return None
        try:
            array = tensor_array(tensor, self.data)
        except ModelLoadError:
            return None
        return array.astype(helper.tensor_dtype_to_np_dtype(cast)) if cast else array

    def dims(self, name: str) -> tuple[int, ...] | None:
        """Shape of a constant."""
        tensor = self.source(name) if name else None
        return None if tensor is None else tuple(tensor.dims)

    def element(self, name: str) -> int:
        """ONNX element type of a constant; 0 when it is none."""
        tensor, cast = self._trace(name) if name else (None, 0)
        return 0 if tensor is None else cast or int(tensor.data_type)


@dataclass(frozen=True, slots=True)
class Quantizer:
    """A QuantizeLinear or DequantizeLinear node with what is constant about it.

    `scale` and `zero` are None where they are computed in the graph, `zero` also where absent.
    """

    node: onnx.NodeProto
    scale: Array | None
    zero: Array | None
    axis: int | None
    block: int

    @property
    def is_quantize(self) -> bool:
        """True for QuantizeLinear."""
        return self.node.op_type == QUANTIZE

    @property
    def zero_name(self) -> str:
        """Name of the zero point; empty when absent."""
        return self.node.input[2] if len(self.node.input) > 2 else ""

    @property
    def per_channel(self) -> bool:
        """More than one scale along one axis."""
        return self.scale is not None and self.scale.ndim == 1 and self.scale.size > 1


def is_quantizer(node: onnx.NodeProto) -> bool:
    """QuantizeLinear or DequantizeLinear of ONNX or of com.microsoft, with data and scale."""
    named = node.op_type in (QUANTIZE, DEQUANTIZE)
    return named and node.domain in (*DEFAULT_DOMAINS, MICROSOFT) and len(node.input) > 1


def read_quantizer(node: onnx.NodeProto, reader: Reader) -> Quantizer:
    """The parameters of a Q or DQ node."""
    given = attributes(node)
    axis, block = given.get("axis"), given.get("block_size", 0)
    zero = reader.const(node.input[2]) if len(node.input) > 2 else None
    return Quantizer(
        node,
        reader.const(node.input[1]),
        zero,
        axis if isinstance(axis, int) else None,
        block if isinstance(block, int) else 0,
    )


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
