"""Which products count as one kernel with the pointwise kernel behind them.

Classic TensorRT does both in one layer, so plans are compared by this number. The kernel behind
must be the only one that reads the product, purely pointwise, and write a tensor of its shape.
"""

from __future__ import annotations

from qdqgraph.graph.view import Dim, Edge, Node, Value
from qdqgraph.proof.rtx.facts import (
    MATRIX_PRODUCTS,
    PAIR,
    VIEWS,
    is_silu,
    odd,
    onnx_name,
    pads_channels,
    pads_inside_convolution,
    readers,
)
from qdqgraph.proof.rtx.joining import put_together_where_read
from qdqgraph.proof.rtx.matrices import is_one_matrix, row_tensors
from qdqgraph.proof.rtx.plan import SHAPE_TYPES, Kernel, Plan

POINTWISE = PAIR | frozenset(
    {"conv", "conv_transpose", "gemm", "matmul", "batch_norm", "identity", "cast", "constant"}
    | {"relu", "clip", "leaky_relu", "prelu", "elu", "sigmoid", "tanh", "hard_sigmoid"}
    | {"hard_swish", "softplus", "erf", "gelu", "mul", "add", "sub", "div", "maximum", "minimum"}
)

FOLDED = frozenset({"Concat", "ConstantOfShape", "ScatterND"})
"""What is not computed on constants where they are read: before, or in kernels of its own."""


def finish(plan: Plan) -> list[Kernel]:
    """The kernels that are launched, weights left out; `folded` is set where two count as one."""
    for kernel in list(plan.kernels):
        if kernel.fuses and kernel.end is not None and kernel.end.is_output:
            layout = plan.extra(kernel.level + 1, f"writes {kernel.end.name} as it is returned")
            kernel.readers = [layout]
            kernel.foldable = kernel.foldable and len(kernel.end.shape or ()) != 3
        pooled = kernel.nodes[0].output if kernel.kind == "pool" else None
        if pooled is not None and pooled.is_output and not kernel.note:
            plan.extra(kernel.level + 1, f"writes {pooled.name} as it is returned")
    put_together_where_read(plan)
    launched = [kernel for kernel in plan.kernels if not _is_view(kernel)]
    taken: set[Kernel] = set()
    rows = row_tensors(plan)
    products = [kernel for kernel in launched if kernel.kind == "product" and kernel.foldable]
    for kernel in sorted(products, key=lambda kernel: -kernel.level):
        behind = _only_reader(plan, kernel)
        if behind is None or behind in taken or behind.kind != "generated":
            continue
        if _is_pointwise(plan, behind) and _writes_shape_of(plan, behind, kernel, rows):
            taken.add(behind)
            kernel.folded = behind
    return launched


def _is_view(kernel: Kernel) -> bool:
    generated = kernel.kind == "generated" and kernel.nodes and not kernel.parts
    return bool(generated) and all(node.op.name in VIEWS for node in kernel.nodes)


def _only_reader(plan: Plan, kernel: Kernel) -> Kernel | None:
    found = [plan.find(reader) for reader in kernel.readers]
    twice = len(found) == 2 and kernel.end is not None and is_silu(kernel.end)
    return found[0] if len(found) == 1 or twice else None


def _is_pointwise(plan: Plan, kernel: Kernel) -> bool:
    return all(
        (node.op.name in POINTWISE or _is_free_view(node))
        and (node.op.weighted or all(_is_stored(plan, value) for value in node.inputs))
        for node in kernel.nodes
    )


def _is_stored(plan: Plan, value: Value | None) -> bool:
    """False for a constant that is computed where it is read: tiled, gathered, reduced."""
    pending = [value] if value is not None and value.dtype not in SHAPE_TYPES else []
    while pending:
        node = pending.pop().producer
        if node is None or not plan.codes.is_static(node.output):
            continue
        if onnx_name(node) in FOLDED:
            continue
        if node.op.name not in POINTWISE | VIEWS | {"transpose"} and not node.output.is_const:
            return False
        pending += [
            v
            for v in node.inputs
            if v is not None and (node.op.name == "cast" or v.dtype not in SHAPE_TYPES)
        ]
    return True


def _is_free_view(node: Node) -> bool:
    """A reshape that only matrix products read: the codes stay where they are."""
    return node.op.name in VIEWS and all(_read_as_matrix(value) for value in node.outputs)


def _read_as_matrix(value: Value) -> bool:
    return all(
        all(_read_as_matrix(out) for out in node.outputs)
        if node.op.name in PAIR | VIEWS
        else node.op.name in MATRIX_PRODUCTS
        for node in readers(value)
    )


def _writes_shape_of(plan: Plan, kernel: Kernel, product: Kernel, rows: set[Value]) -> bool:
    if product.end is None or product.end.shape is None or not kernel.nodes:
        return True
    shape, name = product.end.shape, product.nodes[0].op.name
    if name in MATRIX_PRODUCTS and odd(shape[-1]):
        return False
    if name in MATRIX_PRODUCTS and is_one_matrix(plan, product.nodes[0]):
        return all(node.output in rows for node in kernel.nodes)
    if name in MATRIX_PRODUCTS and len(shape) > 3:
        return False
    if shape in [value.shape for value in kernel.parts]:
        return True
    inside = set(kernel.nodes)
    return any(
        _writes(plan, kernel, product, node, value, inside)
        for node in kernel.nodes
        for value in node.outputs
    )


def _writes(
    plan: Plan, kernel: Kernel, product: Kernel, node: Node, value: Value, inside: set[Node]
) -> bool:
    """True when a tensor leaves the kernel in the shape of the product's result."""
    assert product.end is not None
    shape = product.end.shape
    if _stored_shape(plan, value) != shape:
        return False
    if node in plan.hoisted:
        return True
    line = product.nodes[0].op.name == "conv" and len(shape or ()) == 3
    if value.is_output:
        return not line
    if line and not _int8_convolution_reads(plan, value):
        return False
    return any(
        _leaves(plan, edge, inside, kernel) and not _only_padded(plan, edge) for edge in value.uses
    )


def _stored_shape(plan: Plan, value: Value) -> tuple[Dim, ...] | None:
    """The shape in which a kernel writes a tensor: views and padding behind it are not its own."""
    node = value.producer
    if node in plan.hoisted:
        return plan.hoisted[node].shape
    if node is not None and node.inputs[0] is not None:
        passes = node.op.name in PAIR or _is_free_view(node) or pads_inside_convolution(node)
        if passes:
            return _stored_shape(plan, node.inputs[0])
    return value.shape


def _leaves(plan: Plan, edge: Edge, inside: set[Node], kernel: Kernel) -> bool:
    node = edge.node
    if node in inside and not node.op.weighted:
        return False
    if node.op.name == "dequantize" or pads_inside_convolution(node):
        out = node.output
        return out.is_output or any(_leaves(plan, use, inside, kernel) for use in out.uses)
    owner = plan.owner.get(node)
    return owner is None or plan.find(owner) is not kernel or node.op.weighted


def _int8_convolutions(plan: Plan, value: Value) -> list[Node]:
    found: list[Node] = []
    for edge in value.uses:
        if edge.node.op.name == "dequantize":
            found += _int8_convolutions(plan, edge.node.output)
        elif edge.node.op.name == "conv" and edge.node not in plan.floats:
            found.append(edge.node)
    return found


def _int8_convolution_reads(plan: Plan, value: Value) -> bool:
    return bool(_int8_convolutions(plan, value))


def _only_padded(plan: Plan, edge: Edge) -> bool:
    """True when all that reads a tensor along one edge are convolutions that want more channels."""
    if edge.node.op.name == "dequantize":
        uses = edge.node.output.uses
        return bool(uses) and all(_only_padded(plan, use) for use in uses)
    node = edge.node
    return node.op.name == "conv" and node not in plan.floats and pads_channels(node.inputs[1])
