"""Every schema change of the default domain after opset 7, up to 21, decided one by one.

A change is either listed here as keeping the meaning of an old node, or has an adapter, or raising
refuses. Nothing is assumed about a change that nobody has read.
"""

from __future__ import annotations

from collections import defaultdict
from functools import lru_cache
from types import MappingProxyType

import onnx.defs

# version -> operators that changed there such that every node that was valid before is valid after
# and computes the same. Read: the schemas and the differences of their texts. Kinds of change:
# element types added; text reworded or a formula corrected towards what runtimes did all along; a
# negative axis or broadcasting allowed; a subgraph's shapes relaxed; an attribute, input or output
# added whose default is the old behaviour. Attributes and looser rules are named per version.
_SAME_MEANING: dict[int, str] = {
    # Max Mean Min Sum: broadcasting. MaxPool: storage_order=0, second output.
    8: "Max MaxPool Mean Min Sum",
    # Cast: strings.
    9: "Cast Constant Flatten Gemm Greater Less MatMul PRelu",
    # AveragePool: ceil_mode=0. MaxPool: ceil_mode=0, dilations=1.
    10: "AveragePool MaxPool",
    # DepthToSpace: mode=DCR. Gemm: C optional. TopK: largest=1, sorted=1. Constant: sparse_value.
    # OneHot: wraps indices in [-depth, -1], which the old text forbids. ConvTranspose: the text's
    # padding rule corrected.
    11: """ArgMax ArgMin AveragePool Compress Concat Constant Conv ConvTranspose DepthToSpace Equal
        Flatten Gather Gemm Hardmax If LogSoftmax Loop LpPool MaxPool MaxUnpool NonMaxSuppression
        OneHot ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin
        ReduceProd ReduceSum ReduceSumSquare Scan Slice Softmax Split Squeeze TopK Unsqueeze""",
    # ArgMax ArgMin: select_last_index=0. GatherND: batch_dims=0. Constant: value_*. Pow: the
    # exponent may have another type.
    12: "ArgMax ArgMin Clip Constant GatherND Max MaxPool Min Pow ReduceMax ReduceMin",
    # DequantizeLinear QuantizeLinear: axis=1, not used with the scalar scales of opset 10.
    13: """Abs Add ArgMax ArgMin Cast Ceil Clip Concat Constant DepthToSpace DequantizeLinear Div
        Dropout Equal Exp Expand Flatten Floor Gather GatherElements GatherND Gemm Greater Identity
        If IsNaN LRN Less Log Loop MatMul Max Mean MeanVarianceNormalization Min Mod Mul Neg
        NegativeLogLikelihoodLoss NonZero Pad Pow QuantizeLinear Reciprocal ReduceL1 ReduceL2
        ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSumSquare Relu
        Reshape ScatterElements ScatterND Shape Sigmoid Sign Size Slice SoftmaxCrossEntropyLoss
        SpaceToDepth Sqrt Sub Sum Tanh Tile Transpose""",
    # GRU LSTM RNN: layout=0. Reshape: allowzero=0.
    14: "Add CumSum Div GRU Identity LSTM Mul RNN Relu Reshape Sub",
    # Shape: start=0, end absent.
    15: "BatchNormalization Pow Shape",
    # ScatterElements ScatterND: reduction=none.
    16: """GreaterOrEqual Identity If LeakyRelu LessOrEqual Loop PRelu Scan ScatterElements
        ScatterND Where""",
    # LpPool: ceil_mode=0, dilations=1. Pad: axes input. Resize: antialias=0, axes,
    # keep_aspect_ratio_policy=stretch. Optional*: tensors and sequences allowed.
    18: "LpPool OptionalGetElement OptionalHasElement Pad Resize ScatterElements ScatterND",
    # AveragePool: dilations=1; output sizes under auto_pad corrected. Cast CastLike
    # QuantizeLinear: saturate=1, for float 8 only. Pad, Resize: one mode more.
    19: """AveragePool Cast CastLike Constant DequantizeLinear Equal Identity If Loop Pad
        QuantizeLinear Reshape Resize Scan Shape Size""",
    20: "ConstantOfShape IsInf IsNaN ReduceMax ReduceMin",
    # DequantizeLinear QuantizeLinear: block_size=0; QuantizeLinear: output_dtype=0.
    21: """Cast CastLike Constant ConstantOfShape DequantizeLinear Flatten Identity If Loop Pad
        QLinearMatMul QuantizeLinear Reshape Scan Shape Size Squeeze Transpose Unsqueeze""",
}

SAME_MEANING = MappingProxyType(
    {version: frozenset(ops.split()) for version, ops in _SAME_MEANING.items()}
)

# onnxruntime wrote LayerNormalization into the default domain years before opset 17 defined it,
# with the inputs, attributes and defaults that opset 17 then took over.
SAME_BEFORE_BIRTH = frozenset({"LayerNormalization"})


@lru_cache(maxsize=1)
def versions() -> MappingProxyType[str, tuple[int, ...]]:
    """Return, for each operator of the default domain, the opsets at which its schema changed."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "":
            found[schema.name].append(schema.since_version)
    return MappingProxyType({op: tuple(sorted(since)) for op, since in found.items()})


def next_change(op: str, after: int, target: int) -> int | None:
    """Return the first opset in `(after, target]` at which the schema of `op` changed, if any."""
    return next((v for v in versions().get(op, ()) if after < v <= target), None)
