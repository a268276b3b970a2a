"""Why a product runs in float although the file gives it Q/DQ: the causes known of this compiler.

Each was found by compiling two small graphs that differ in that one thing.
"""

from __future__ import annotations

from typing import NamedTuple

import onnx

from qdqgraph.proof.compiler.origins import HOPS, Origins, name_of
from qdqgraph.proof.reading.by_name import Reader, attributes


class Cause(NamedTuple):
    """The ground for a float product, and what to change. Empty when no cause is known."""

    why: str = ""
    fix: str = ""


SHORTENING = frozenset(
    {"Relu", "Clip", "LeakyRelu", "PRelu", "Elu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish"}
    | {"Gelu", "Erf", "Mul", "AveragePool", "GlobalAveragePool", "ReduceMean", "Resize", "Concat"}
    | {"Add", "BatchNormalization", "LayerNormalization", "Softmax", "Upsample"}
)
"""Operators that a DQ does not pass through on this compiler."""

BUILD_CAUSES = {
    "FP32 GEMM is not supported": Cause(
        "SM75 multiplies no float32 matrices", "export the model in float16, or build for SM80"
    ),
    "contains HW-specific datatypes": Cause(
        "fp8 needs SM89, SM120 or SM121", "quantize to int8, or build for one of those"
    ),
    "no optimization profile has been defined": Cause(
        "an input holds a shape, and its values are not known", "give them with --shapes NAME:2x3"
    ),
    "kOPT values for profile": Cause(
        "the graph does not fit the optimum shapes", "give others with --dim or --opt-shapes"
    ),
    "kMAX values for profile": Cause(
        "the graph does not fit the maximum shapes", "give others with --dim or --max-shapes"
    ),
    "kMIN values for profile": Cause(
        "the graph does not fit the minimum shapes", "give others with --dim or --min-shapes"
    ),
}
"""What the builder says, and what is behind it."""


def why_fell_back(model: onnx.ModelProto, name: str, sm: str, origins: Origins) -> Cause:
    """Why a product with a DQ on both factors multiplies floats."""
    node = origins.nodes[name]
    if node.op_type == "ConvTranspose":
        return Cause(
            "this compiler has no int8 kernel for it",
            "leave it float: --exclude op:ConvTranspose",
        )
    if sm == "SM75" and node.op_type == "Conv":
        return Cause("no convolution runs in int8 on SM75", "build for SM80 or newer")
    reader = Reader(model.graph, None)
    for index, tensor in enumerate(node.input[:2]):
        dequantizer = origins.dequantizer(tensor)
        if dequantizer is None or len(dequantizer.input) < 2:
            continue
        stored = reader.source(dequantizer.input[0]) is not None or _is_weight(
            origins, reader, dequantizer
        )
        dims = reader.dims(dequantizer.input[1])
        if dims is None:
            continue
        if not stored and dims:
            shape = "x".join(map(str, dims))
            return Cause(
                f"the scale of its activation has shape [{shape}], which is read as per channel",
                f"make {dequantizer.input[1]!r} a scalar",
            )
        if stored and index == 1 and _along_contraction(node, dequantizer, dims, reader):
            return Cause(
                "the scales of its weight do not run along the output channels",
                f"quantize the weight per tensor, or along the output axis: {name_of(dequantizer)}",
            )
    return Cause()


def why_half(name: str, origins: Origins) -> Cause:
    """Why only one factor of a product is dequantized."""
    node = origins.nodes[name]
    if node.input and origins.dequantizer(node.input[0]) is not None:
        return Cause("its weight has no DQ", "")
    producer = origins.producers.get(node.input[0]) if node.input else None
    for _ in range(HOPS):
        if producer is None or producer.op_type not in SHORTENING:
            break
        if any(origins.dequantizer(tensor) is not None for tensor in producer.input[:1]):
            return Cause(
                f"the pair lies in front of {producer.op_type} {name_of(producer)!r}, which a DQ "
                "does not pass",
                f"put a pair behind {name_of(producer)!r}",
            )
        producer = origins.producers.get(producer.input[0]) if producer.input else None
    return Cause("its activation has no DQ", "")


def why_build_failed(message: str) -> Cause:
    """The ground behind a message of the builder, where it is a known one."""
    return next((cause for text, cause in BUILD_CAUSES.items() if text in message), Cause())


def computed_scales(model: onnx.ModelProto) -> list[str]:
    """Names of Q and DQ whose scale the graph computes: the compiler dies of them."""
    reader = Reader(model.graph, None)
    return [
        name_of(node)
        for node in model.graph.node
        if node.op_type in ("QuantizeLinear", "DequantizeLinear")
        and len(node.input) > 1
        and reader.source(node.input[1]) is None
    ]


def _is_weight(origins: Origins, reader: Reader, dequantizer: onnx.NodeProto) -> bool:
    """True for float weight + Q + DQ."""
    quantizer = origins.producers.get(dequantizer.input[0])
    return (
        quantizer is not None
        and quantizer.op_type == "QuantizeLinear"
        and reader.source(quantizer.input[0]) is not None
    )


def _along_contraction(
    node: onnx.NodeProto, dequantizer: onnx.NodeProto, dims: tuple[int, ...], reader: Reader
) -> bool:
    if len(dims) != 1 or dims[0] == 1:
        return False
    axis = attributes(dequantizer).get("axis", 1)
    if not isinstance(axis, int):
        return False
    if node.op_type == "Conv":
        return axis != 0
    rank = len(reader.dims(dequantizer.input[0]) or (0, 0))
    contracted = rank - 2 if node.op_type == "MatMul" else int(bool(attributes(node).get("transB")))
    return axis % rank == contracted and dequantizer.output[0] == node.input[1]
