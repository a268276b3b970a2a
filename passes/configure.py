"""Quantizers that `pattern` names take these settings; the last rule that matches wins.

`bits`, `granularity` and `method` (`percentile{p=99.9}`). Asymmetric activations are refused for
TensorRT, which reads zero points as errors. `plan.why` tells which rule a quantizer obeys.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from qdqgraph.errors import ConflictError
from qdqgraph.graph.view import Edge
from qdqgraph.pipeline.context import Context
from qdqgraph.pipeline.passes import sweep
from qdqgraph.planning.spec import Dtype, QuantSpec


@sweep(stage="configure")
def configure(
    ctx: Context,
    *,
    pattern: str = "",
    bits: int = 0,
    granularity: Literal["", "tensor", "channel"] = "",
    method: str = "",
    symmetric: bool = True,
) -> None:
    """Change the spec of each named quantizer."""
    shown = ",".join(
        f"{key}={value}"
        for key, value in (("bits", bits), ("granularity", granularity), ("method", method))
        if value
    )
    for edge in ctx.names.edges(pattern):
        quantizer = ctx.plan.quantizer_on(edge)
        if quantizer is None:
            continue
        if not symmetric and ctx.target.name != "onnxruntime":
            raise ConflictError(
                f"asymmetric ({pattern}) and target {ctx.target.name} contradict each other",
                where=str(edge),
                fix="TensorRT reads zero points as errors: use symmetric, or --target onnxruntime",
            )
        quantizer.spec = changed(quantizer.spec, edge, bits, granularity, method)
        quantizer.setting = f"{pattern}={shown}"


def changed(spec: QuantSpec, edge: Edge, bits: int, granularity: str, method: str) -> QuantSpec:
    """`spec` with these settings; only constants can have a scale per channel, or four bits."""
    if bits:
        kinds: dict[int, Dtype] = {8: "int8", 4: "int4"}
        if bits not in kinds or (bits != 8 and not edge.value.is_const):
            raise ConflictError(
                f"{bits} bits", where=str(edge), fix="activations take 8 bits, weights 8 or 4"
            )
        spec = replace(spec, dtype=kinds[bits])
    if granularity == "tensor":
        spec = spec.per_tensor()
    elif granularity == "channel" and spec.axis is None:
        raise ConflictError(
            "a scale per channel", where=str(edge), fix="TensorRT takes it on weights only"
        )
    return replace(spec, method=method) if method else spec
