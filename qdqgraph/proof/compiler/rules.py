"""What can be said about a compiled plan, as data: one row a rule, with ground and way out.

The causes come from small graphs compiled one by one; see `causes.py` for which holds where.
"""

from __future__ import annotations

from qdqgraph.proof.contract.rules import RTX, RTX_LOG, ContractRule
from qdqgraph.proof.findings import Severity


def _rule(name: str, severity: Severity, why: str, fix: str) -> ContractRule:
    return ContractRule(name, severity, why, fix, "A", RTX_LOG, RTX)


RULES = (
    _rule(
        "rtx-refused",
        "error",
        "the parser of TensorRT-RTX does not take this node",
        "see qdqgraph check --target tensorrt-rtx; qdqgraph legalize MODEL -o OUT mends most Q/DQ",
    ),
    _rule(
        "rtx-build-failed",
        "error",
        "the builder of TensorRT-RTX gave up on a graph that its parser took",
        "leave the nodes it names float (--exclude), or build for another GPU",
    ),
    _rule(
        "rtx-compiler-crash",
        "error",
        "the compiler ended without an answer; an application that builds this file would end too",
        "cut the graph in two until the node is found, leave it float, and report it to NVIDIA",
    ),
    _rule(
        "rtx-compiler-hang",
        "error",
        "the compiler was stopped at the time limit",
        "give more time with --time-limit SECONDS",
    ),
    _rule(
        "rtx-fell-back",
        "warning",
        "both factors are dequantized, yet the product multiplies floats",
        "compare the scales of its Q/DQ with those of products that run in int8",
    ),
    _rule(
        "rtx-half-quantized",
        "warning",
        "int8 products need Q/DQ in front of both factors",
        "put a pair directly in front of the product, or none on either factor (--exclude)",
    ),
    _rule(
        "rtx-weight-kernel",
        "warning",
        "the weight stays int8 in the engine, but its product is float: it is dequantized by a "
        "kernel of its own at every inference",
        "make that product int8, with a pair on its activation, or leave it float (--exclude)",
    ),
    _rule(
        "rtx-requantize",
        "warning",
        "int8 is read and written under another scale, and nothing else is computed",
        "give both tensors one scale (--share A,B), or remove one of the two pairs",
    ),
    _rule(
        "rtx-fake-quantize",
        "warning",
        "floats are rounded and written as floats: nothing behind reads int8",
        "give it one scalar scale, mend what keeps the product behind it float, or remove the pair",
    ),
)
"""Every rule, for `qdqgraph check --explain`."""
COMPILER_RULES = {rule.id: rule for rule in RULES}
