"""What a prediction says: engine layers with their nodes, precisions and reasons, and a verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

Precision: TypeAlias = Literal["int8", "float"]
Kind: TypeAlias = Literal["conv", "gemm", "pointwise", "pool", "reformat", "copy", "float"]
Standalone: TypeAlias = Literal["quantize", "dequantize", "requantize"]

FLOAT_BYTES = 2
"""Bytes of a float element in the estimate: engines are built with FP16 as the fallback."""


@dataclass(frozen=True, slots=True)
class TensorUse:
    """A tensor that a layer reads or writes.

    An int8 tensor carries the name of the QuantizeLinear output, as engines name it. `elements`
    is the number of elements, a symbolic dimension counted as 1; None when the shape is unknown.
    """

    name: str
    precision: Precision
    elements: int | None = None

    @property
    def bytes(self) -> int:
        """Estimated size in bytes; 0 when the shape is unknown."""
        return (self.elements or 0) * (1 if self.precision == "int8" else FLOAT_BYTES)


@dataclass(frozen=True, slots=True)
class PredictedLayer:
    """One layer of the engine.

    `nodes` are all ONNX nodes computed in it, Q and DQ included. `residual` is the tensor that a
    fused Add takes besides the product. `elided` says that nothing runs: a reshape, or a Concat
    whose inputs are written in place. `weight_bytes` is the size of the product's weight.
    """

    nodes: tuple[str, ...]
    kind: Kind
    inputs: tuple[TensorUse, ...]
    outputs: tuple[TensorUse, ...]
    residual: TensorUse | None = None
    standalone: Standalone | None = None
    reason: str = ""
    elided: bool = False
    product: str | None = None
    weight_bytes: int = 0

    @property
    def input_precision(self) -> Precision:
        """int8 when the first input is."""
        return self.inputs[0].precision if self.inputs else "float"

    @property
    def output_precision(self) -> Precision:
        """int8 when the first output is."""
        return self.outputs[0].precision if self.outputs else "float"

    @property
    def touches_int8(self) -> bool:
        """True when any tensor read or written is int8."""
        return any(tensor.precision == "int8" for tensor in (*self.inputs, *self.outputs))

    @property
    def bytes(self) -> int:
        """Estimated bytes read and written, weights included; 0 for an elided layer."""
        if self.elided:
            return 0
        return self.weight_bytes + sum(tensor.bytes for tensor in (*self.inputs, *self.outputs))


@dataclass(frozen=True, slots=True)
class Prediction:
    """The layers of the engine in topological order, and the verdict.

    `int8_products` of `products` take int8 operands. `standalone_inside` counts stand-alone Q, DQ
    and requantizations beyond those of the network inputs. `float_between` are the float tensors
    that lie on a path from one int8 layer to another. `bytes_ideal` is what would be moved with
    those tensors in int8 and no stand-alone layer inside. `quantizers` are the names of all Q and
    DQ nodes; `writers` maps each ONNX tensor to the node that writes it.
    """

    layers: tuple[PredictedLayer, ...]
    products: int
    int8_products: int
    standalone_inside: int
    float_between: tuple[str, ...]
    bytes_moved: int
    bytes_ideal: int
    quantizers: frozenset[str]
    writers: Mapping[str, str]

    @property
    def verdict(self) -> str:
        """The prediction in one line."""
        plural = "" if self.standalone_inside == 1 else "s"
        return (
            f"{self.int8_products} of {self.products} products int8, "
            f"{self.standalone_inside} stand-alone Q/DQ layer{plural} beyond the input, "
            f"{len(self.float_between)} float tensors between int8 layers; "
            f"est. bytes moved {self.bytes_moved / 1e6:.1f} MB, ideal {self.bytes_ideal / 1e6:.1f}"
        )
