"""Where a kernel that reduces rows ends: it cannot put what it has reduced in another order.

A layer norm, a softmax, a difference from the mean: the statistics are one kernel, and what is
left of the work is done where rows are moved.
"""

from __future__ import annotations

from qdqgraph.graph.view import Node, Value
from qdqgraph.proof.rtx.facts import CONVOLUTIONS, NORMS, REDUCES, onnx_name, readers
from qdqgraph.proof.rtx.plan import Plan

MOVES = frozenset(
    {"transpose", "slice", "split", "gather", "concat", "pad", "tile", "depth_to_space"}
)


def moves_rows(node: Node) -> bool:
    """True for data movement that leaves elements elsewhere in memory than they were."""
    if node.op.name not in MOVES:
        return False
    source = node.inputs[0]
    if source is None or source.shape is None:
        return True
    if node.op.name == "transpose":
        order = node.ints("perm") or list(range(len(source.shape)))[::-1]
        long = [axis for axis in order if axis < len(source.shape) and source.shape[axis] != 1]
        return long != sorted(long)
    return source.shape != node.output.shape


def reduces_rows(node: Node) -> bool:
    """True for an operator that reads a whole row for each element, or each row, that it writes."""
    return node.op.name in NORMS or onnx_name(node) in REDUCES


def rows_are_moved(plan: Plan, node: Node) -> bool:
    """True when what a reduction writes is moved before a product or another reduction reads it.

    Nodes that wait for something computed later do so in a later kernel, and are not looked at.
    Rows that do not lie together are moved in any case, and those of an image for a convolution.
    """
    rank = len(node.output.shape or ())
    across = node.op.name in NORMS and rank > 0 and node.int("axis", -1) % rank != rank - 1
    if across and rank == 3:
        return True
    reached = {node.output}
    pending = readers(node.output)
    while pending:
        reader = pending.pop()
        if reader.op.name in CONVOLUTIONS and node.op.name in NORMS and not across:
            return True
        if reader.op.weighted or reduces_rows(reader) or reader.output in reached:
            continue
        if any(v not in reached and _is_later(plan, v) for v in plan.operands(reader)):
            continue
        if moves_rows(reader):
            return True
        for value in reader.outputs:
            reached.add(value)
            pending += readers(value)
    return False


def end_resized(plan: Plan, value: Value) -> None:
    """Close the kernel that has resized an image, when it is to be resized once more."""
    kernel = plan.writer(value)
    if kernel is None or kernel.kind != "generated":
        return
    pending, seen = [value], set[Node]()
    while pending:
        node = pending.pop().producer
        if node is None or node in seen or node not in plan.owner or node.op.weighted:
            continue
        seen.add(node)
        if plan.find(plan.owner[node]) is not kernel:
            continue
        if node.op.name == "resize":
            kernel.closed = True
            return
        pending += plan.operands(node)


def _is_later(plan: Plan, value: Value) -> bool:
    return value.producer is not None and value.producer not in plan.owner
