"""The rules about the GPU that an engine is for: formats and operators by compute capability.

They speak only when the caller names the GPU, as `sm=75` for compute capability 7.5.
"""

from __future__ import annotations

import re

from qdqgraph.errors import UsageError
from qdqgraph.proof.contract.rule import CLASSIC, GUIDE, MATRIX, RTX, RTX_LOG, ContractRule

HARDWARE_RULES: tuple[ContractRule, ...] = (
    ContractRule(
        "int8-hardware",
        "warning",
        "below compute capability 7.5 the set of int8 kernels is incomplete, and a layer without "
        "one fails the build",
        "leave the layers that fail unquantized: qdqgraph quantize --exclude",
        "B",
        GUIDE,
        targets=CLASSIC,
        before_sm=75,
    ),
    ContractRule(
        "int8-conv-hardware",
        "warning",
        "on compute capability 7.5 the RTX compiler runs every convolution in float",
        "expect no speed-up on this GPU; matrix products of half-precision graphs run in int8",
        "A",
        RTX_LOG,
        targets=RTX,
        before_sm=80,
    ),
    ContractRule(
        "float32-gemm-hardware",
        "error",
        "on compute capability 7.5 the RTX compiler takes no Gemm or MatMul in float32",
        "export the model in float16",
        "A",
        RTX_LOG,
        targets=RTX,
        before_sm=80,
    ),
    ContractRule(
        "float32-conv3d-hardware",
        "error",
        "on compute capability 7.5 the RTX compiler takes no 3-D convolution in float32",
        "export the model in float16",
        "A",
        RTX_LOG,
        targets=RTX,
        before_sm=80,
    ),
    ContractRule(
        "bf16-hardware",
        "error",
        "bfloat16 needs compute capability 8.0",
        "export the model in float16",
        "A",
        f"{RTX_LOG}; {MATRIX}",
        before_sm=80,
    ),
    ContractRule(
        "int4-hardware",
        "error",
        "int4 weights need compute capability 8.0",
        "keep the weights in int8",
        "A",
        RTX_LOG,
        targets=RTX,
        before_sm=80,
    ),
    ContractRule(
        "fp8-hardware",
        "error",
        "fp8 needs compute capability 8.9",
        "quantize to int8 for this GPU",
        "A",
        f"{RTX_LOG}; {MATRIX}",
        before_sm=89,
    ),
    ContractRule(
        "fp4-hardware",
        "error",
        "fp4 needs compute capability 10.0",
        "quantize to int8 or fp8 for this GPU",
        "D",
        MATRIX,
        before_sm=100,
    ),
)


def parse_sm(text: str) -> int:
    """A compute capability as the rules count it. Raises `UsageError` for anything else.

    >>> parse_sm("SM89"), parse_sm("8.9"), parse_sm("120")
    (89, 89, 120)
    """
    found = re.fullmatch(r"(?:sm_?)?(\d{1,2})\.?(\d)", text.strip(), re.IGNORECASE)
    if found is None:
        raise UsageError(f"no compute capability {text!r}", fix="for example SM89, 89 or 8.9")
    return int(found[1] + found[2])
