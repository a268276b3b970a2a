"""Puts Q/DQ pairs on named reads of a float graph, exactly as told: placements to compare with.

A placement lists pairs as `tensor` or `tensor>reader` (see `Pair`). Every product gets a pair on
its activation and a DQ on its weight unless told otherwise, so that an empty placement is the
plain one: int8 products, nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.oracle.net import Array

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
DQ_OPSET = 19
"""The first opset in which Q and DQ take half."""


@dataclass(frozen=True)
class Pair:
    """`tensor>reader` with what may follow: `=other` takes the scale of another tensor, `~` another
    scale than the tensor's own, `+` a pair of its own although one with this scale exists.

    Without a reader all reads of the tensor, and the graph output, get the pair.
    """

    tensor: str
    reader: str = ""
    scale_of: str = ""
    other: bool = False
    own: bool = False

    @classmethod
    def read(cls, text: str) -> Pair:
        """`relu1>add1~` taken apart."""
        own, text = text.endswith("+"), text.rstrip("+")
        other, text = text.endswith("~"), text.rstrip("~")
        place, _, scale_of = text.partition("=")
        tensor, _, reader = place.partition(">")
        return cls(tensor, reader, scale_of, other, own)


@dataclass(frozen=True)
class Placement:
    """Extra `pairs`; products that are `bare` (no pair of their own) or `floats` (no weight DQ)."""

    pairs: tuple[str, ...] = ()
    bare: tuple[str, ...] = ()
    floats: tuple[str, ...] = ()


def place(
    *pairs: str, bare: tuple[str, ...] | str = (), floats: tuple[str, ...] | str = ()
) -> Placement:
    """A placement; a single name may stand for a tuple of one."""
    return Placement(
        pairs,
        (bare,) if isinstance(bare, str) else bare,
        (floats,) if isinstance(floats, str) else floats,
    )


def apply_placement(model: onnx.ModelProto, placement: Placement) -> onnx.ModelProto:
    """A copy of the model with these pairs. Raises `KeyError` for a name that is not in it."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for opset in result.opset_import:
        opset.version = max(opset.version, DQ_OPSET if _is_half(model) else opset.version)
    Inserter(result).run(placement)
    del result.graph.value_info[:]
    return result


def _is_half(model: onnx.ModelProto) -> bool:
    return any(t.data_type == onnx.TensorProto.FLOAT16 for t in model.graph.initializer)


class Inserter:
    """The work on one graph: where each tensor is read, and the pairs made so far."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        self.float = np.float16 if _is_half(model) else np.float32
        self.stored = {t.name: t for t in self.graph.initializer}
        self.written = [i.name for i in self.graph.input]
        self.written += [output for node in self.graph.node for output in node.output]
        self.scales = {name: 0.02 + 0.001 * k for k, name in enumerate(self.written)}
        self.made: dict[tuple[str, float], str] = {}
        self.done: set[tuple[str, int]] = set()

    def run(self, placement: Placement) -> None:
        """Insert the named pairs first, then those of the products."""
        original = list(self.graph.node)
        names = {node.name for node in original}
        missing = {*placement.bare, *placement.floats} - names
        if missing:
            raise KeyError(f"no node {sorted(missing)}")
        for text in placement.pairs:
            self._insert(Pair.read(text), original)
        for node in original:
            if node.op_type not in PRODUCTS or node.name in placement.floats:
                continue
            if node.input[1] not in self.stored:
                continue
            self._weight(node)
            if node.name not in placement.bare and (node.name, 0) not in self.done:
                self._attach(node, 0, self._pair(node.input[0], self.scales[node.input[0]]))
        self._sort()

    def _insert(self, pair: Pair, nodes: list[onnx.NodeProto]) -> None:
        scale = self.scales[pair.scale_of or pair.tensor] * (1.7 if pair.other else 1.0)
        wanted = (pair.reader,) if pair.reader else None
        reads = [
            (node, index)
            for node in nodes
            for index, name in enumerate(node.input)
            if name == pair.tensor and (wanted is None or node.name in wanted)
        ]
        returned = [o for o in self.graph.output if o.name == pair.tensor and wanted is None]
        if not reads and not returned:
            raise KeyError(f"{pair.tensor} is not read by {pair.reader or 'any node'}")
        result = self._pair(pair.tensor, scale, fresh=pair.own)
        for node, index in reads:
            self._attach(node, index, result)
        for output in returned:
            output.name = result

    def _attach(self, node: onnx.NodeProto, index: int, result: str) -> None:
        node.input[index] = result
        self.done.add((node.name, index))

    def _pair(self, tensor: str, scale: float, *, fresh: bool = False) -> str:
        """The DQ of a pair on `tensor`; equal pairs are made once unless `fresh`."""
        key = (tensor, scale)
        if key in self.made and not fresh:
            return self.made[key]
        name = f"{tensor}/pair{len(self.made) + len(self.done)}"
        parameters = self._parameters(name, np.asarray(scale), np.zeros((), np.int8))
        self.graph.node.append(
            helper.make_node("QuantizeLinear", [tensor, *parameters], [f"{name}/q"], f"{name}/q")
        )
        self.graph.node.append(
            helper.make_node("DequantizeLinear", [f"{name}/q", *parameters], [name], name)
        )
        self.made.setdefault(key, name)
        return name

    def _weight(self, node: onnx.NodeProto) -> None:
        """int8 codes and a DQ along the output channels."""
        weight = numpy_helper.to_array(self.stored[node.input[1]]).astype(np.float64)
        axis = output_axis(node, weight.ndim)
        rest = tuple(k for k in range(weight.ndim) if k != axis)
        scale = np.abs(weight).max(axis=rest) / 127 + 1e-9
        shape = [-1 if k == axis else 1 for k in range(weight.ndim)]
        codes = np.rint(weight / scale.reshape(shape)).astype(np.int8)
        name = f"{node.name}/weight"
        self.graph.initializer.append(numpy_helper.from_array(codes, f"{name}/codes"))
        zero = np.zeros((int(weight.shape[axis]),), np.int8)
        parameters = self._parameters(name, scale, zero)
        self.graph.node.append(
            helper.make_node(
                "DequantizeLinear", [f"{name}/codes", *parameters], [name], name, axis=axis
            )
        )
        node.input[1] = name

    def _parameters(self, name: str, scale: Array, zero: Array) -> tuple[str, str]:
        self.graph.initializer.append(
            numpy_helper.from_array(np.asarray(scale, self.float), f"{name}/scale")
        )
        self.graph.initializer.append(numpy_helper.from_array(zero, f"{name}/zero"))
        return f"{name}/scale", f"{name}/zero"

    def _sort(self) -> None:
        """Producers before readers; otherwise in the order in which nodes were added."""
        known = {"", *(i.name for i in self.graph.input), *(t.name for t in self.graph.initializer)}
        waiting, ordered = list(self.graph.node), list[onnx.NodeProto]()
        while waiting:
            ready = [node for node in waiting if known.issuperset(node.input)]
            waiting = [node for node in waiting if not known.issuperset(node.input)]
            ordered += ready
            known.update(output for node in ready for output in node.output)
        del self.graph.node[:]
        self.graph.node.extend(ordered)


def output_axis(node: onnx.NodeProto, rank: int) -> int:
    """The axis of a stored weight that runs along output channels."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    return 0 if transposed else rank - 1
