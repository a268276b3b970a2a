"""Products of several matrices with one stored weight, which the compiler computes as one matrix.

[batch, rows, k] times [k, n] becomes [batch * rows, k] times [k, n]. The pointwise kernel behind
works on that matrix too, unless something it reads has to be kept in the tensor's own shape.
"""

from __future__ import annotations

from qdqgraph.graph.view import Node, Value
from qdqgraph.proof.rtx.facts import MATRIX_PRODUCTS, PAIR, elements
from qdqgraph.proof.rtx.plan import SHAPE_TYPES, Plan
from qdqgraph.proof.rtx.reductions import MOVES, reduces_rows


def is_one_matrix(plan: Plan, node: Node) -> bool:
    """True for a product with a stored weight and more than one matrix before it."""
    shape = node.output.shape
    if node.op.name not in MATRIX_PRODUCTS or len(node.inputs) < 2 or shape is None:
        return False
    if not plan.codes.is_static(node.inputs[1]):
        return False
    known = any(isinstance(size, int) and size > 1 for size in shape[:-2])
    return known or not all(isinstance(size, int) for size in shape[1:-2])


def row_tensors(plan: Plan) -> set[Value]:
    """The tensors that are kept as the rows of such a matrix.

    What attention mixed lies by heads, and is put in order behind the product that reads it.
    """
    rows: set[Value] = set()
    for node in plan.codes.nodes:
        if node.op.weighted:
            if is_one_matrix(plan, node) and not _reads_heads(plan, node):
                rows.update(node.outputs)
        elif plan.runs(node) and _keeps_rows(plan, node, rows):
            rows.update(node.outputs)
    return rows


def _keeps_rows(plan: Plan, node: Node, rows: set[Value]) -> bool:
    if node.op.name in MOVES or reduces_rows(node):
        return False
    values = node.inputs[:1] if node.op.name in PAIR else node.inputs
    live = plan.operands(node)
    return all(value in rows for value in live) and all(
        value is None or value in live or value.dtype in SHAPE_TYPES or _is_one_row(value)
        for value in values
    )


def _reads_heads(plan: Plan, node: Node) -> bool:
    value = node.inputs[0]
    writer = plan.writer(value) if value is not None else None
    return writer is not None and any(inner in plan.cores for inner in writer.nodes)


def _is_one_row(value: Value) -> bool:
    """True for a constant that is the same for every row, or unknown."""
    shape = value.shape
    return not shape or elements(value) in (1, shape[-1])
