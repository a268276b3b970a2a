"""shortcut → Add ← conv  becomes  shortcut → Q → DQ → Add ← conv.

TensorRT computes conv + Add + activation in one int8 layer if the shortcut comes from a DQ, nothing
stands between conv and Add, and every reader behind is quantized (engine dumps of TensorRT 8.2 to
8.5: 68 of 68 fused convs in seven engines). Policy `skip` does that. `both` quantizes both
operands, a layer of its own for the Add, with one scale for operands and output if `together`;
`none` leaves the Add alone.

The bare operand is the one with more products back to the common ancestor; on a tie, the one
produced later, which TensorRT fuses. A conv with a Relu behind it is no candidate; `through` says
whether SiLU-like (`silu`) or all activations (`any`) may stand between. `bare` overrides the
choice.

`behind=any` is for TensorRT-RTX, which joins the sum to whatever follows: there a shortcut that is
int8 for another reader anyway is read in int8 even if the sum is written in float.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from qdqgraph.graph.op_table import LONG_EPILOGUES
from qdqgraph.graph.view import Edge, Node
from qdqgraph.graph.walk import Product, end_of_chain, product_behind, products_to_fork
from qdqgraph.pipeline.context import Context
from qdqgraph.pipeline.passes import sweep
from qdqgraph.planning.plan import Quantizer


@dataclass(frozen=True, slots=True)
class Choice:
    """The options in force for one Add."""

    policy: str
    bare: str
    through: str
    together: bool
    behind: str


@sweep(stage="place", per_node=True)
def place_residual(
    ctx: Context,
    *,
    policy: Literal["skip", "both", "none"] = "skip",
    bare: Literal["auto", "first", "second"] = "auto",
    through: Literal["nothing", "silu", "any"] = "silu",
    together: bool = True,
    behind: Literal["int8", "any"] = "int8",
) -> None:
    """Quantize one or both operands of each residual Add, readers first."""
    usual = Choice(policy, bare, through, together, behind)
    for node in ctx.reversed_nodes():
        if node.op.name != "add" or node.composite is not None:
            continue
        reason = why_no_residual(node)
        if reason is None:
            reason = _place(ctx, node, replace(usual, **ctx.options_at(node)))
        if reason is not None:
            ctx.plan.leave_float(node, reason)


def _place(ctx: Context, node: Node, choice: Choice) -> str | None:
    if choice.policy == "none":
        return "policy none: both operands stay float"
    result = end_of_chain(node.output)
    written_int8 = ctx.plan.read_quantized(result)
    if not written_int8 and (choice.behind == "int8" or choice.policy == "both"):
        return f"a reader of {result.name} stays float, so the sum is written in float"
    edges = node.edges[:2]
    if choice.policy == "both":
        made = [
            ctx.plan.quantize(edge, reason="policy both: an int8 Add of its own") for edge in edges
        ]
        if choice.together:
            readers = [ctx.plan.quantizer_on(edge) for edge in result.uses]
            _together(ctx, [q for q in (*made, *readers) if q is not None])
        return None
    chosen = _fused(edges, choice.through)
    if choice.bare != "auto":
        chosen = edges[0 if choice.bare == "first" else 1]
    if not written_int8:
        edges = [edge for edge in edges if _is_int8_anyway(ctx, edge)]
        if chosen is None or not edges:
            return f"a reader of {result.name} stays float, and the shortcut has no int8 reader"
    if chosen is None:
        for edge in edges:
            ctx.plan.quantize(edge, reason="no product fuses with this Add: int8 on both operands")
        return None
    product = product_behind(chosen.value)
    for edge in edges:
        if edge is not chosen:
            name = product.node.name if product else chosen.value.name
            ctx.plan.quantize(
                edge, reason=f"shortcut of a residual; {name} stays fused with the Add"
            )
            ctx.plan.leave_float(
                node, f"{chosen.role} stays bare: {name} is computed in one layer with it"
            )
    return None


def _is_int8_anyway(ctx: Context, edge: Edge) -> bool:
    return any(other in ctx.plan.entries for other in edge.value.uses)


def _together(ctx: Context, quantizers: list[Quantizer]) -> None:
    for other in quantizers[1:]:
        ctx.plan.share(quantizers[0], other, reason="one scale for operands and output of an Add")


def _fused(edges: list[Edge], through: str) -> Edge | None:
    """The read whose product is computed in one layer with the Add."""
    candidates = [
        (edge, p)
        for edge in edges
        if (p := product_behind(edge.value)) and _fuses(p, edge, through)
    ]
    if len(candidates) < 2:
        return candidates[0][0] if candidates else None
    counts = products_to_fork(edges[0].value, edges[1].value)
    if counts[0] != counts[1]:
        return edges[0] if counts[0] > counts[1] else edges[1]
    return max(candidates, key=lambda pair: pair[1].node.order)[0]


def _fuses(product: Product, edge: Edge, through: str) -> bool:
    if edge.value.only_use is None:
        return False
    allowed = {"nothing": (), "silu": LONG_EPILOGUES, "any": (product.activation,)}[through]
    return not product.activation or product.activation in allowed


def why_no_residual(node: Node) -> str | None:
    """Why this Add is no residual; None when it is one."""
    a, b = node.inputs[:2]
    if a is None or b is None or a is b:
        return "adds a tensor to itself"
    if a.is_const or b.is_const:
        return "adds a constant, such as a bias"
    if not (a.is_float and b.is_float):
        return "adds integers"
    for value in (a, b):
        if value.producer is not None and value.producer.op.name == "dequantize":
            return "already quantized in the file"
    if a.shape is not None and b.shape is not None and not _same_shape(a.shape, b.shape):
        return f"broadcasts {list(a.shape)} and {list(b.shape)}: such an Add does not fuse"
    return None


def _same_shape(a: tuple[object, ...], b: tuple[object, ...]) -> bool:
    known = zip(a, b, strict=False)
    return len(a) == len(b) and all(
        x == y or not isinstance(x, int) or not isinstance(y, int) for x, y in known
    )
