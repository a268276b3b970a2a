"""softmax(q·kᵀ · scale + mask) · v  is known as one attention, whichever exporter spelled it.

The scale may sit on q, on both operands, or on the scores, as Mul or Div. Masks and biases are
added, or a Where puts them in; for windows that are shifted (Swin), the scores are viewed as
[images, windows, heads, queries, keys] in between. Rows that are masked whole may be set to zero
behind the softmax. What TensorRT does inside is all or nothing: pairs on q, k, v *and* the softmax
output give one int8 kernel, fewer break the fused float one (plans of the TensorRT-RTX 1.7
compiler; TensorRT#2905, #3186).
"""

from __future__ import annotations

from qdqgraph.graph.op_table import BY_NAME
from qdqgraph.graph.view import Composite, Node, Value
from qdqgraph.graph.walk import guarded_softmax
from qdqgraph.graph.weights import activation_edges
from qdqgraph.pipeline.context import Context
from qdqgraph.pipeline.passes import sweep

FORWARDS = ("cast", "identity", "dropout")
BETWEEN = ("mul", "div", "add", "sub", "where", *FORWARDS)
RESHAPES = ("reshape", "squeeze", "unsqueeze", "flatten")
STEPS = 10


@sweep(stage="tidy")
def recognize_attention(ctx: Context) -> None:
    """Mark the two products, the softmax and what lies between as one composite."""
    for node in ctx.nodes():
        if node.op.name != "softmax" or node.composite is not None:
            continue
        above = scores_product(node)
        below = values_product(node)
        if above and below:
            nodes = [*below[::-1], node, *above]
            composite = Composite(BY_NAME["attention"], tuple(nodes))
            for inner in nodes:
                inner.composite = composite


def scores_product(softmax: Node) -> list[Node] | None:
    """Nodes from the softmax, exclusive, back to the product of q and k, inclusive."""
    return _path(softmax.inputs[0], STEPS)


def _path(value: Value | None, steps: int) -> list[Node] | None:
    """From `value` back to a product of two activations, through the operand that leads there."""
    node = value.producer if value is not None else None
    if value is None or node is None or value.only_use is None or node.composite is not None:
        return None
    if node.op.name == "matmul":
        return [node] if len(activation_edges(node)) == 2 else None
    if steps == 0 or not (node.op.name in BETWEEN or _views_scores(node)):
        return None
    for operand in node.inputs:
        found = _path(operand, steps - 1)
        if found is not None:
            return [node, *found]
    return None


def _views_scores(node: Node) -> bool:
    """A reshape that leaves queries and keys alone and parts or joins the axes before them."""
    before = node.inputs[0].shape if node.op.name in RESHAPES and node.inputs[0] else None
    after = node.output.shape
    if not before or not after or len(before) < 3 or len(after) < 3:
        return False
    return before[-2:] == after[-2:]


def values_product(softmax: Node) -> list[Node] | None:
    """Nodes behind the softmax up to the product with v, inclusive."""
    found: list[Node] = []
    value = softmax.output
    for _ in range(STEPS):
        readers = [] if value.is_output else [edge.node for edge in value.uses]
        guard = next((node for node in readers if guarded_softmax(node) is value), None)
        if guard is not None and len(readers) == 2 and not any(e.index < 0 for e in value.uses):
            found += [node for node in readers if node is not guard]
            node, index = guard, 0
        elif len(readers) == 1 and value.uses[0].index >= 0:
            node, index = readers[0], value.uses[0].index
        else:
            return None
        found.append(node)
        if node.op.name == "matmul":
            return found if index == 0 and len(activation_edges(node)) == 2 else None
        if node is not guard and node.op.name not in FORWARDS:
            return None
        value = node.output
    return None
