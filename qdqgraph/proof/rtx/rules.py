"""Why a product runs in float, by rule: the cause, and what mends it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from qdqgraph.graph.view import Node, Value
from qdqgraph.proof.contract.rule import RTX, RTX_LOG, ContractRule
from qdqgraph.proof.findings import Finding, Severity
from qdqgraph.proof.rtx.codes import Codes


class Rule(NamedTuple):
    """`what` happens, with {input} for the operand, and the `fix`."""

    what: str
    fix: str
    severity: Severity = "warning"


RULES: Mapping[str, Rule] = {
    "input-not-quantized": Rule(
        "{input} does not exist as codes",
        "put Q/DQ directly before it (passes place_weighted, place_pools)",
        "note",
    ),
    "pair-before-float-work": Rule(
        "{input} has its Q/DQ before {between}, which ends in float",
        "put the pair behind it (qdqgraph.quantize does)",
    ),
    "concat-unequal-scales": Rule(
        "{input} joins tensors whose scales differ, and no pair follows",
        "put a pair behind the Concat, or give all its inputs one scale",
    ),
    "weight-not-quantized": Rule(
        "the weight {input} has no DQ, the activation has",
        "quantize the weight too, or neither of the two (pass place_weighted)",
    ),
    "weight-computed": Rule(
        "the weight {input} is computed in the graph", "leave the convolution float", "note"
    ),
    "weight-is-a-vector": Rule(
        "{input} is a vector, for which there is no int8 kernel", "leave it float", "note"
    ),
    "weight-scale-axis": Rule(
        "the scales of {input} do not run along output channels",
        "one scale for each output channel: axis 0 of Conv, the last of MatMul",
    ),
    "activation-scale-not-scalar": Rule(
        "the scale of {input} has an axis, and a convolution wants a scalar",
        "give its Q and DQ one scale of shape [] (qdqgraph legalize)",
    ),
    "activation-scale-axis": Rule(
        "the scales of {input} run along an axis that the product sums over or joins with others",
        "give its Q and DQ one scale of shape [] (qdqgraph legalize)",
    ),
    "packed-projection": Rule(
        "it makes q, k and v at once, and its weight has a scale per channel",
        "put a pair before the parts are made (pass place_packed), or use one weight scale",
    ),
    "no-int8-kernel": Rule(
        "this compiler has no int8 kernel for ConvTranspose",
        "leave it float: --exclude op:ConvTranspose",
        "note",
    ),
}


RTX_RULES: Mapping[str, ContractRule] = {
    f"rtx-{name}": ContractRule(
        f"rtx-{name}",
        rule.severity,
        rule.what.format(input="the operand", between="an operator"),
        rule.fix,
        "A",
        RTX_LOG,
        RTX,
    )
    for name, rule in RULES.items()
}
"""The same, as `check --explain` shows rules."""


def culprit(codes: Codes, node: Node, rule: str) -> Value | None:
    """The operand that a rule speaks of."""
    operands = [value for value in node.inputs[:2] if value is not None]
    if rule.startswith("weight") or rule == "no-int8-kernel":
        stored = [value for value in operands if codes.is_static(value)]
        return stored[0] if stored else operands[-1]
    if rule == "activation-scale-axis":
        scaled = [v for v in operands if v in codes.found and codes.found[v].axis is not None]
        return scaled[0] if scaled else operands[0]
    live = [value for value in operands if not codes.is_static(value)]
    bare = [value for value in live if value not in codes.found]
    return (bare or live or operands or [None])[0]


def refined(codes: Codes, node: Node, rule: str) -> tuple[str, Node | None]:
    """The rule, told apart by what stands between a pair above and the float operand."""
    value = culprit(codes, node, rule)
    between = value.producer if value is not None else None
    if rule != "input-not-quantized" or between is None:
        return rule, None
    above = [v for v in between.inputs if v is not None and v in codes.found]
    if not above or between.op.weighted:
        return rule, None
    return ("concat-unequal-scales" if between.op.name == "concat" else "pair-before-float-work"), (
        between
    )


def explain(codes: Codes, node: Node, rule: str, name: str) -> tuple[str, str, Finding]:
    """The rule's id, one sentence of cause, and the finding for a product called `name`."""
    rule, between = refined(codes, node, rule)
    text = RULES[rule]
    value = culprit(codes, node, rule)
    operand = value.name if value is not None else "an operand"
    cause = text.what.format(input=operand, between=between.name if between else "")
    finding = Finding(
        rule=f"rtx-{rule}",
        severity=text.severity,
        nodes=(name,),
        tensors=(operand,) if value is not None else (),
        what=f"{name} runs in float",
        why=cause,
        fix=text.fix,
    )
    return rule, cause, finding
