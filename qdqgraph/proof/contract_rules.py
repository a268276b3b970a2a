"""The input contract as data: what each rule is about, for which versions, and how it is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from qdqgraph.proof.findings import Severity

ContractTarget: TypeAlias = Literal["tensorrt", "tensorrt-rtx"]
Grade: TypeAlias = Literal["A", "B", "C", "D"]
"""A: seen in an engine dump or compiler log. B: NVIDIA's documentation, parser source or a
maintainer. C: encoded in NVIDIA's own quantization tools. D: third-party report or inference."""

PARSER = "onnx/onnx-tensorrt, QuantDequantLinearHelper, branches 8.0-GA to 10.1"
PARSER_TABLE = "onnx/onnx-tensorrt, docs/operators.md of each branch"
GUIDE = "TensorRT developer guide, Explicit Quantization"
RTX_LOG = "TensorRT-RTX 1.7 parser and builder messages on small graphs"

ANY = (0,)
FUTURE = (999,)
BOTH: tuple[ContractTarget, ...] = ("tensorrt", "tensorrt-rtx")
CLASSIC: tuple[ContractTarget, ...] = ("tensorrt",)
RTX: tuple[ContractTarget, ...] = ("tensorrt-rtx",)

LEGALIZE = "qdqgraph legalize MODEL -o OUT"


@dataclass(frozen=True, slots=True)
class ContractRule:
    """A rule of the parsers. It holds for `targets` from version `since` to below `before`."""

    id: str
    severity: Severity
    why: str
    fix: str
    grade: Grade
    source: str
    targets: tuple[ContractTarget, ...] = BOTH
    since: tuple[int, ...] = ANY
    before: tuple[int, ...] = FUTURE

    def holds(self, target: ContractTarget, version: tuple[int, ...]) -> bool:
        """Whether the rule is in force there. The bounds are versions of classic TensorRT."""
        if target not in self.targets:
            return False
        return target == "tensorrt-rtx" or self.since <= version < self.before


MAX_OPSET: tuple[tuple[tuple[int, ...], int], ...] = (
    ((8, 0), 13),
    ((8, 4), 17),
    ((9,), 19),
    ((10,), 20),
    ((10, 2), 23),
)
"""Newest opset by first TensorRT version. Up to 10.1 from the parser's table (B); from 10.2 the
newest opset whose number formats the documentation names (D)."""
RTX_MAX_OPSET = 23

UNSUPPORTED: tuple[str, ...] = (
    "QLinearConv",
    "QLinearMatMul",
    "ConvInteger",
    "MatMulInteger",
    "DynamicQuantizeLinear",
)
"""Operators on integer codes that no parser imports; so is every QLinear* of com.microsoft."""

RULES: tuple[ContractRule, ...] = (
    ContractRule(
        "opset-too-new",
        "error",
        "each parser release reads operators up to a fixed opset",
        "export with a lower opset, or use a newer TensorRT",
        "B",
        PARSER_TABLE,
    ),
    ContractRule(
        "unsupported-operator",
        "error",
        "the parser has no importer for operators on integer codes",
        LEGALIZE,
        "B",
        f"{PARSER_TABLE}; {RTX_LOG}",
    ),
    ContractRule(
        "microsoft-domain",
        "warning",
        "only the RTX parser is known to read Q/DQ of com.microsoft",
        LEGALIZE,
        "D",
        f"{PARSER}; {RTX_LOG}",
        targets=CLASSIC,
    ),
    ContractRule(
        "zero-point-missing",
        "error",
        "8.0 to 8.6 read three inputs; without the third the parser refuses int8",
        LEGALIZE,
        "B",
        PARSER,
        targets=CLASSIC,
        before=(9,),
    ),
    ContractRule(
        "zero-point-unsigned-default",
        "error",
        "a QuantizeLinear without zero point writes uint8 by the ONNX specification",
        LEGALIZE,
        "B",
        "ONNX operator specification, QuantizeLinear",
    ),
    ContractRule(
        "zero-point-not-zero",
        "error",
        "only symmetric quantization is supported",
        LEGALIZE,
        "A",
        f"{PARSER}; {RTX_LOG}",
    ),
    ContractRule(
        "zero-point-computed",
        "error",
        "the zero point must be a constant",
        "qdqgraph rewrite --pass fold-constants",
        "B",
        PARSER,
    ),
    ContractRule(
        "zero-point-shape",
        "error",
        "zero point and scale must have the same number of elements",
        LEGALIZE,
        "B",
        PARSER,
    ),
    ContractRule(
        "uint8",
        "error",
        "8-bit codes are int8: uint8 is refused, or read as int8 so that codes above 127 saturate",
        LEGALIZE,
        "A",
        f"{PARSER}; {RTX_LOG}",
    ),
    ContractRule(
        "int32-dequantize",
        "error",
        "DequantizeLinear reads no int32; a bias stays float and is quantized while fusing",
        LEGALIZE,
        "A",
        f"{RTX_LOG}; {GUIDE}",
    ),
    ContractRule(
        "format-unsupported",
        "error",
        "no parser release imports Q/DQ of this element type",
        LEGALIZE,
        "A",
        f"{PARSER}; {RTX_LOG}",
    ),
    ContractRule(
        "int4-too-early",
        "error",
        "int4 exists from TensorRT 10.0 on",
        "use TensorRT 10, or int8",
        "B",
        PARSER,
        targets=CLASSIC,
        before=(10,),
    ),
    ContractRule(
        "fp8-too-early",
        "error",
        "fp8 Q/DQ exists from TensorRT 8.6 on",
        "use a newer TensorRT, or int8",
        "B",
        PARSER,
        targets=CLASSIC,
        before=(8, 6),
    ),
    ContractRule(
        "fp4-too-early",
        "error",
        "fp4 exists from TensorRT 10.8 on",
        "use a newer TensorRT, or int8",
        "B",
        GUIDE,
        targets=CLASSIC,
        before=(10, 8),
    ),
    ContractRule(
        "int4-odd-row",
        "error",
        "two int4 codes share a byte, so the last dimension must be even",
        "keep this weight in int8",
        "B",
        PARSER,
    ),
    ContractRule(
        "int4-activation",
        "error",
        "int4 is for weights only",
        "quantize the activation to int8",
        "B",
        GUIDE,
    ),
    ContractRule(
        "int4-convolution",
        "error",
        "int4 weights are for matrix products; the compiler fails on a convolution",
        "keep this weight in int8",
        "A",
        RTX_LOG,
    ),
    ContractRule(
        "int4-with-int8-activation",
        "error",
        "int4 weights go with float activations; the compiler fails on int8 ones",
        "drop the quantizer of the activation, or keep the weight in int8",
        "A",
        RTX_LOG,
        targets=RTX,
    ),
    ContractRule(
        "scale-computed",
        "error",
        "the scale must be a constant; the RTX compiler crashes on a computed one",
        "qdqgraph rewrite --pass fold-constants, or quantize again from the float model",
        "A",
        f"{PARSER}; {RTX_LOG}",
    ),
    ContractRule(
        "scale-not-positive",
        "error",
        "every scale must be above zero; a dead channel often has 0",
        LEGALIZE,
        "A",
        f"{PARSER}; {RTX_LOG}",
    ),
    ContractRule(
        "scale-not-finite",
        "error",
        "every scale must be a finite number",
        "quantize again from the float model",
        "B",
        PARSER,
    ),
    ContractRule(
        "scale-not-float32",
        "error",
        "8.x reads float32 scales only",
        "write float32 scales, or use TensorRT 9 or newer",
        "B",
        PARSER,
        targets=CLASSIC,
        before=(9,),
    ),
    ContractRule(
        "activation-scale-shape",
        "warning",
        "a scale of shape [1] on an activation is read as per-channel: neighbours run in float",
        LEGALIZE,
        "A",
        RTX_LOG,
    ),
    ContractRule(
        "activation-per-channel",
        "error",
        "activations are quantized per tensor; only weights may have a scale for each channel",
        "quantize the activation per tensor",
        "B",
        GUIDE,
    ),
    ContractRule(
        "axis-missing",
        "error",
        "TensorRT takes axis 0 where the ONNX specification says 1",
        LEGALIZE,
        "B",
        PARSER,
    ),
    ContractRule(
        "axis-wrong",
        "error",
        "as many scales are needed as the data has indices along the axis",
        "quantize this tensor again",
        "B",
        PARSER,
    ),
    ContractRule(
        "weight-axis",
        "warning",
        "per-channel scales must lie along output channels, else the product runs in float",
        "quantize the weight along its output channels, or per tensor",
        "A",
        f"{GUIDE}; {RTX_LOG}",
    ),
    ContractRule(
        "transposed-axis-0",
        "warning",
        "up to 9.1 a ConvTranspose weight is quantized along axis 0",
        "quantize this weight per tensor: right for every version",
        "B",
        "NVIDIA/TensorRT issues 1694 and 2380; pytorch-quantization's axis by version",
        targets=CLASSIC,
        before=(9, 2),
    ),
    ContractRule(
        "transposed-axis-1",
        "warning",
        "from 10.2 on a ConvTranspose weight is quantized along axis 1, its output channels",
        "quantize this weight per tensor: right for every version",
        "C",
        "NVIDIA TensorRT-Model-Optimizer, axis of ConvTranspose",
        targets=CLASSIC,
        since=(10, 2),
    ),
    ContractRule(
        "int8-weight-too-early",
        "error",
        "before 8.5 a weight is float and followed by Q and DQ; int8 initializers are refused",
        "qdqgraph quantize --weights float from the float model, or use TensorRT 8.5",
        "A",
        "NVIDIA/TensorRT issue 3385; TREx README's TensorRT 8.2 log",
        targets=CLASSIC,
        before=(8, 5),
    ),
    ContractRule(
        "block-too-early",
        "error",
        "scales for each block exist from TensorRT 10.0 on",
        "use TensorRT 10, or per-channel scales",
        "B",
        PARSER,
        targets=CLASSIC,
        before=(10,),
    ),
    ContractRule(
        "block-shape",
        "error",
        "block scales have the rank of the data, and one dimension that divides it",
        "quantize this tensor again",
        "B",
        PARSER,
    ),
)

BY_ID: dict[str, ContractRule] = {rule.id: rule for rule in RULES}
