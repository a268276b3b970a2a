"""Predicted kernels as engine layers, a product and the pointwise kernel behind it as one.

So the same tables and pages show predictions for classic TensorRT and for TensorRT-RTX.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from qdqgraph.graph.view import Node, Value
from qdqgraph.proof.layers import Kind, PredictedLayer, Standalone, TensorUse
from qdqgraph.proof.rtx.facts import MATRIX_PRODUCTS, elements
from qdqgraph.proof.rtx.plan import Kernel, Plan


def layers_of(
    plan: Plan, kernels: Iterable[Kernel], reasons: Mapping[Node, str]
) -> list[PredictedLayer]:
    """The layers in the order of their levels; `reasons` are those of float products."""
    kernels = list(kernels)
    second = {kernel.folded for kernel in kernels if kernel.folded is not None}
    ordered = sorted(kernels, key=lambda kernel: kernel.level)
    return [_layer(plan, kernel, reasons) for kernel in ordered if kernel not in second]


def _layer(plan: Plan, kernel: Kernel, reasons: Mapping[Node, str]) -> PredictedLayer:
    nodes = list(dict.fromkeys([*kernel.nodes, *(kernel.folded.nodes if kernel.folded else ())]))
    float_product = any(node in plan.floats for node in nodes) and kernel.kind == "product"
    inside = {value for node in nodes for value in node.outputs}
    reads: dict[str, TensorUse] = {}
    names: list[str] = []
    for node in nodes:
        for value in plan.operands(node):
            above = value.producer
            if above is not None and above.op.name == "dequantize":
                names.append(above.name)
            if value not in inside and not _from(above, inside):
                int8 = not float_product or node not in plan.floats
                use = _use(plan, value, int8=int8)
                reads[use.name] = use
        names.append(node.name)
    standalone = _standalone(kernel, nodes, reads.values())
    products = [node for node in kernel.nodes if node.op.weighted]
    product = products[0] if kernel.kind == "product" and products else None
    weights = sum(
        elements(value)
        for node in products
        if kernel.kind == "product"
        for value in node.inputs[:2]
        if value is not None and plan.codes.is_static(value)
    )
    reason = "; ".join(reasons[node] for node in products if node in reasons) or kernel.note
    return PredictedLayer(
        nodes=tuple(dict.fromkeys(names)),
        kind=_kind(kernel, product, standalone),
        inputs=tuple(reads.values()),
        outputs=tuple(_writes(plan, nodes)),
        standalone=standalone,
        reason=reason,
        product=product.name if product is not None else None,
        weight_bytes=weights * (2 if float_product else 1),
    )


def _from(node: Node | None, inside: set[Value]) -> bool:
    """True for a DQ of codes that are made in the same kernel."""
    return node is not None and node.op.name == "dequantize" and node.inputs[0] in inside


def _use(plan: Plan, value: Value, *, int8: bool) -> TensorUse:
    above = value.producer
    if value in plan.codes.found and int8:
        codes = above.inputs[0] if above is not None and above.op.name == "dequantize" else None
        return TensorUse((codes or value).name, "int8", elements(value))
    return TensorUse(value.name, "float", elements(value))


def _writes(plan: Plan, nodes: list[Node]) -> Iterable[TensorUse]:
    inside = set(nodes)
    for node in nodes:
        if node.op.name == "dequantize" or (node.op.weighted and node is not nodes[-1]):
            continue
        for value in node.outputs:
            leaves = value.is_output or any(edge.node not in inside for edge in value.data_uses)
            if leaves:
                int8 = node.op.name == "quantize" or value in plan.codes.found
                yield TensorUse(value.name, "int8" if int8 else "float", elements(value))


def _standalone(kernel: Kernel, nodes: list[Node], reads: Iterable[TensorUse]) -> Standalone | None:
    if kernel.kind != "generated":
        return None
    if kernel.note.startswith("dequantizes"):
        return "dequantize"
    if not nodes or any(node.op.name not in ("quantize", "dequantize") for node in nodes):
        return None
    if nodes[-1].op.name == "dequantize":
        return "dequantize"
    coded = any(use.precision == "int8" for use in reads)
    return "requantize" if coded else "quantize"


def _kind(kernel: Kernel, product: Node | None, standalone: Standalone | None) -> Kind:
    if product is not None:
        return "gemm" if product.op.name in MATRIX_PRODUCTS else "conv"
    if standalone is not None:
        return "reformat"
    if kernel.kind == "pool":
        return "pool"
    return "copy" if not kernel.nodes else "pointwise"
