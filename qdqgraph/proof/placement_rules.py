"""What can be wrong with where Q and DQ stand, as data: one row a rule, with ground and way out."""

from __future__ import annotations

from qdqgraph.proof.contract.rule import BOTH, CLASSIC, GUIDE, ContractRule, Grade
from qdqgraph.proof.findings import Severity

DUMPS = "layer information of engines built by TensorRT 8.2 to 8.5 from QDQ graphs"


def _rule(
    name: str, severity: Severity, why: str, fix: str, grade: Grade = "A", source: str = DUMPS
) -> ContractRule:
    return ContractRule(name, severity, why, fix, grade, source, CLASSIC if grade == "A" else BOTH)


RULES = (
    _rule(
        "float-kernel-boundary",
        "note",
        "an operator without int8 kernel stands beside int8 layers: a layer of its own converts",
        "nothing, where int8 products are worth one more pass over the tensor; "
        "else --exclude those beside it",
    ),
    _rule(
        "stray-quantize",
        "warning",
        "what writes this tensor writes float, and a layer of its own quantizes it",
        "put the pair where the product before it ends (place-weighted, place-pools), or drop it",
    ),
    _rule(
        "stray-dequantize",
        "warning",
        "an int8 tensor is also read as float, so that a layer of its own dequantizes it",
        "let every reader take int8, or let the float reader take the tensor in front of the Q "
        "(place-residual, drop-needless)",
    ),
    _rule(
        "requantize",
        "warning",
        "the tensor is int8 with one scale and read with another: a layer of its own converts it",
        "give both sides one scale: --share A,B, or share-moved",
    ),
    _rule(
        "half-quantized-product",
        "warning",
        "an int8 product needs a DQ in front of both factors; with one, both are dequantized",
        "quantize the other factor too (place-weighted), or drop the pair (--exclude)",
        "B",
        GUIDE,
    ),
    _rule(
        "residual-dequantized",
        "warning",
        "the Add is fused, but its other operand exists as int8 and the result is float",
        "place-residual{policy=skip}: quantize the shortcut and what reads the sum",
    ),
    _rule(
        "float-between-int8",
        "warning",
        "an int8 product writes a float tensor that is quantized again further on",
        "quantize every reader of it with one scale, or none (place-residual, place-features)",
    ),
    _rule(
        "float-trunk",
        "note",
        "no reader of the tensor asks for int8, though something behind them does",
        "nothing, where those readers have no int8 kernel; else quantize what they read",
    ),
    _rule(
        "movement-in-float",
        "warning",
        "data is moved as float between int8 layers: twice the bytes, and no Q rises above it",
        "share-moved: one scale in front and behind, for all readers",
    ),
)
PLACEMENT_RULES = {rule.id: rule for rule in RULES}
