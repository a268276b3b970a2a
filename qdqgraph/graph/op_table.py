"""The op table: one row an operator, in canonical names, for both frontends.

To teach the library an operator, add one row. The ATen column spells each overload with the
canonical name of every positional argument, and with attributes that the overload implies
(`transB=1`). In-place overloads have none: the frontend rewrites them first. An operator without a
row is `onnx:domain.Op` or `aten:name`, has no traits, and therefore stays float.
"""

from __future__ import annotations

from qdqgraph.graph.ops import Op, Reading, Trait

_W, _M, _R, _A = Trait.WEIGHTED, Trait.MOVES, Trait.MOVES | Trait.REORDERS, Trait.ACTIVATION
_LONG, _POS = Trait.ACTIVATION | Trait.LONG_EPILOGUE, Trait.NON_NEGATIVE
_PART, _RECURS = Trait.MOVES | Trait.PARTS, Trait.RECURS


def _pads_with_own_values_or_zero(node: Reading) -> bool:
    """Zero is exact in every symmetric quantizer; reflect and edge repeat the input."""
    if node.text("mode", "constant") != "constant":
        return True
    fill = node["value"]
    if fill is None:
        return not node.float("value", 0.0)
    return fill.const is not None and not fill.const.any()


def _picks_fixed_places(node: Reading) -> bool:
    """Constant indices into something computed: q, k and v out of a packed projection."""
    indices, source = node["indices"], node["x"]
    return indices is not None and bool(indices.is_const) and not source.is_const


def _resizes_by_nearest(node: Reading) -> bool:
    return node.text("mode", "nearest") == "nearest"


_XWB = ("x", "weight", "bias")
_XWRB = ("x", "weight", "recurrence", "bias")
_XY = ("x", "y")

TABLE: tuple[Op, ...] = (
    # products
    Op(
        "conv",
        ("Conv",),
        tuple(
            f"conv{axes}d.{overload}: x weight bias strides pads dilations group"
            for axes in (1, 2, 3)
            for overload in ("default", "padding")
        ),
        _XWB,
        _W,
    ),
    Op(
        "conv_transpose",
        ("ConvTranspose",),
        (
            "conv_transpose1d.default: x weight bias strides pads output_padding group dilations",
            "conv_transpose2d.input: x weight bias strides pads output_padding group dilations",
            "conv_transpose3d.input: x weight bias strides pads output_padding group dilations",
        ),
        _XWB,
        _W,
    ),
    Op(
        "gemm",
        ("Gemm",),
        ("linear.default: x weight bias transB=1", "addmm.default: bias x weight beta alpha"),
        _XWB,
        _W,
    ),
    Op(
        "matmul",
        ("MatMul",),
        ("matmul.default: x weight", "mm.default: x weight", "bmm.default: x weight"),
        ("x", "weight"),
        _W,
    ),
    # pointwise, two tensors
    Op("add", ("Add",), ("add.Tensor: x y alpha", "add.Scalar: x y alpha"), _XY, commutes=True),
    Op(
        "sub",
        ("Sub",),
        ("sub.Tensor: x y alpha", "sub.Scalar: x y alpha", "rsub.Scalar: y x alpha"),
        _XY,
    ),
    Op("mul", ("Mul",), ("mul.Tensor: x y", "mul.Scalar: x y"), _XY, commutes=True),
    Op("div", ("Div",), ("div.Tensor: x y", "div.Scalar: x y"), _XY),
    Op("pow", ("Pow",), ("pow.Tensor_Scalar: x y", "pow.Tensor_Tensor: x y"), _XY),
    Op("maximum", ("Max",), ("maximum.default: x y",), (), commutes=True),
    Op("minimum", ("Min",), ("minimum.default: x y",), (), commutes=True),
    # activations
    Op("relu", ("Relu",), ("relu.default: x",), traits=_A | _POS),
    Op(
        "clip",
        ("Clip",),
        (
            "clamp.default: x min max",
            "clamp.Tensor: x min max",
            "clamp_min.default: x min",
            "clamp_max.default: x max",
            "hardtanh.default: x min max",
            "relu6.default: x min=0 max=6",
        ),
        ("x", "min", "max"),
        _A,
    ),
    Op(
        "leaky_relu",
        ("LeakyRelu",),
        ("leaky_relu.default: x alpha",),
        traits=_A,
    ),
    Op("prelu", ("PRelu",), ("prelu.default: x slope",), ("x", "slope"), _A),
    Op("elu", ("Elu",), ("elu.default: x alpha",), traits=_A),
    Op("sigmoid", ("Sigmoid",), ("sigmoid.default: x",), traits=_A | _POS),
    Op("tanh", ("Tanh",), ("tanh.default: x",), traits=_A),
    Op("softplus", ("Softplus",), ("softplus.default: x beta threshold",), traits=_A | _POS),
    Op(
        "hard_sigmoid",
        ("HardSigmoid",),
        ("hardsigmoid.default: x alpha=0.16666667 beta=0.5",),
        traits=_A | _POS,
    ),
    Op("hard_swish", ("HardSwish",), ("hardswish.default: x",), ("x",), _LONG),
    Op("silu", ("Swish",), ("silu.default: x",), ("x",), _LONG),
    Op("gelu", ("Gelu",), ("gelu.default: x approximate",), ("x",), _LONG),
    Op("mish", ("Mish",), ("mish.default: x",), ("x",), _LONG),
    Op("erf", ("Erf",), ("erf.default: x",)),
    Op("exp", ("Exp",), ("exp.default: x",), traits=_POS),
    Op("round", ("Round",), ("round.default: x",)),
    Op("sqrt", ("Sqrt",), ("sqrt.default: x",), traits=_POS),
    # pools and reductions
    Op(
        "max_pool",
        ("MaxPool",),
        (
            "max_pool1d.default: x kernel_shape strides pads dilations ceil_mode",
            "max_pool2d.default: x kernel_shape strides pads dilations ceil_mode",
            "max_pool3d.default: x kernel_shape strides pads dilations ceil_mode",
            "max_pool2d_with_indices.default: x kernel_shape strides pads dilations ceil_mode",
        ),
        traits=_M,
    ),
    Op(
        "global_max_pool",
        ("GlobalMaxPool",),
        ("adaptive_max_pool2d.default: x output_size",),
        traits=_M,
    ),
    Op(
        "average_pool",
        ("AveragePool",),
        (
            "avg_pool1d.default: x kernel_shape strides pads ceil_mode count_include_pad",
            "avg_pool2d.default: x kernel_shape strides pads ceil_mode count_include_pad",
            "avg_pool3d.default: x kernel_shape strides pads ceil_mode count_include_pad",
        ),
        traits=Trait.AVERAGES,
    ),
    Op(
        "global_average_pool",
        ("GlobalAveragePool",),
        (
            "adaptive_avg_pool1d.default: x output_size",
            "adaptive_avg_pool2d.default: x output_size",
            "adaptive_avg_pool3d.default: x output_size",
        ),
        traits=Trait.AVERAGES,
    ),
    Op(
        "reduce_mean",
        ("ReduceMean",),
        ("mean.dim: x axes keepdims", "mean.default: x keepdims=0"),
        ("x", "axes"),
        Trait.AVERAGES,
    ),
    # data movement
    Op(
        "concat", ("Concat",), ("cat.default: tensors axis", "concat.default: tensors axis"), (), _R
    ),
    Op(
        "reshape",
        ("Reshape",),
        (
            "reshape.default: x shape",
            "view.default: x shape",
            "_unsafe_view.default: x shape",
            "unflatten.int: x axis shape",
        ),
        ("x", "shape"),
        _R,
    ),
    Op("flatten", ("Flatten",), ("flatten.using_ints: x start end",), traits=_R),
    Op(
        "transpose",
        ("Transpose",),
        ("permute.default: x perm", "transpose.int: x dim0 dim1", "t.default: x"),
        traits=_R,
    ),
    Op(
        "squeeze",
        ("Squeeze",),
        ("squeeze.dim: x axes", "squeeze.dims: x axes", "squeeze.default: x"),
        ("x", "axes"),
        _R,
    ),
    Op("unsqueeze", ("Unsqueeze",), ("unsqueeze.default: x axes",), ("x", "axes"), _R),
    Op("depth_to_space", ("DepthToSpace",), ("pixel_shuffle.default: x blocksize",), traits=_R),
    Op("space_to_depth", ("SpaceToDepth",), ("pixel_unshuffle.default: x blocksize",), traits=_R),
    Op(
        "slice",
        ("Slice",),
        ("slice.Tensor: x axes starts ends steps",),
        ("x", "starts", "ends", "axes", "steps"),
        _PART,
    ),
    Op(
        "split",
        ("Split",),
        (
            "split.Tensor: x split axis",
            "split_with_sizes.default: x split axis",
            "chunk.default: x split axis",
        ),
        ("x", "split"),
        _PART,
    ),
    Op("roll", (), ("roll.default: x shifts axes",), traits=_R),
    Op("unbind", (), ("unbind.int: x axis",), traits=_PART),
    Op(
        "pad",
        ("Pad",),
        ("pad.default: x pads mode value", "constant_pad_nd.default: x pads value"),
        ("x", "pads", "value"),
        _M,
        moves_when=_pads_with_own_values_or_zero,
    ),
    Op(
        "resize",
        ("Resize",),
        (
            "upsample_nearest1d.vec: x sizes scales",
            "upsample_nearest2d.vec: x sizes scales",
            "upsample_nearest3d.vec: x sizes scales",
            "upsample_linear1d.vec: x sizes align_corners scales mode=linear",
            "upsample_bilinear2d.vec: x sizes align_corners scales mode=linear",
            "upsample_trilinear3d.vec: x sizes align_corners scales mode=linear",
            "upsample_bicubic2d.vec: x sizes align_corners scales mode=cubic",
        ),
        ("x", "roi", "scales", "sizes"),
        _M,
        moves_when=_resizes_by_nearest,
    ),
    Op("expand", ("Expand",), ("expand.default: x shape",), ("x", "shape"), _M),
    Op("tile", ("Tile",), ("repeat.default: x repeats",), ("x", "repeats"), _M),
    Op(
        "gather",
        ("Gather",),
        (
            "index_select.default: x axis indices",
            "select.int: x axis indices",
            "embedding.default: x indices",
        ),
        ("x", "indices"),
        _PART,
        moves_when=_picks_fixed_places,
    ),
    # nothing at inference
    Op(
        "identity",
        ("Identity",),
        (
            "alias.default: x",
            "contiguous.default: x",
            "clone.default: x",
            "detach.default: x",
            "lift_fresh_copy.default: x",
        ),
        traits=_R | Trait.FORWARDS,
    ),
    Op(
        "dropout",
        ("Dropout",),
        ("dropout.default: x ratio training", "feature_dropout.default: x ratio training"),
        ("x", "ratio", "training_mode"),
        _R | Trait.FORWARDS,
    ),
    # float work
    Op(
        "batch_norm",
        ("BatchNormalization",),
        ("batch_norm.default: x gamma beta mean var training momentum epsilon",),
        ("x", "gamma", "beta", "mean", "var"),
    ),
    Op(
        "layer_norm",
        ("LayerNormalization",),
        ("layer_norm.default: x axis gamma beta epsilon",),
        ("x", "gamma", "beta"),
    ),
    Op(
        "softmax",
        ("Softmax",),
        ("softmax.int: x axis", "_softmax.default: x axis", "_safe_softmax.default: x axis"),
        traits=_POS,
    ),
    Op(
        "attention",
        ("Attention",),
        ("scaled_dot_product_attention.default: q k v mask",),
        ("q", "k", "v", "mask"),
    ),
    Op("lstm", ("LSTM",), ("lstm.input: x", "lstm.data: x"), _XWRB, _RECURS),
    Op("gru", ("GRU",), ("gru.input: x", "gru.data: x"), _XWRB, _RECURS),
    Op(
        "rnn",
        ("RNN",),
        ("rnn_tanh.input: x", "rnn_relu.input: x", "rnn_tanh.data: x", "rnn_relu.data: x"),
        _XWRB,
        _RECURS,
    ),
    Op("cast", ("Cast",), ("to.dtype: x dtype",)),
    Op(
        "where",
        ("Where",),
        (
            "where.self: condition x y",
            "where.ScalarSelf: condition x y",
            "where.ScalarOther: condition x y",
            "where.Scalar: condition x y",
            "masked_fill.Scalar: y condition x",
            "masked_fill.Tensor: y condition x",
        ),
        ("condition", "x", "y"),
    ),
    Op("is_nan", ("IsNaN",), ("isnan.default: x",)),
    Op("constant", ("Constant",), (), ()),
    Op("shape", ("Shape",), ("sym_size.int: x axis",), traits=Trait.ASKS_SHAPE),
    Op(
        "fill",
        ("ConstantOfShape",),
        (
            "new_zeros.default: x shape",
            "new_ones.default: x shape",
            "new_full.default: x shape value",
            "new_empty.default: x shape",
            "zeros_like.default: x",
            "ones_like.default: x",
            "full_like.default: x value",
        ),
        traits=Trait.ASKS_SHAPE,
    ),
    Op("quantize", ("QuantizeLinear",), (), ("x", "scale", "zero_point")),
    Op("dequantize", ("DequantizeLinear",), (), ("x", "scale", "zero_point")),
    Op(
        "fake_quantize",
        (),
        ("qdqgraph:fake_quantize.default: x scale zero_point axis dtype low high",),
        ("x", "scale", "zero_point"),
    ),
)

BY_NAME: dict[str, Op] = {row.name: row for row in TABLE}
BY_ONNX: dict[str, Op] = {spelling: row for row in TABLE for spelling in row.onnx}
BY_ATEN: dict[str, tuple[Op, tuple[str, ...]]] = {
    name.strip(): (row, tuple(arguments.split()))
    for row in TABLE
    for name, _, arguments in (spelling.partition(": ") for spelling in row.aten)
}

LONG_EPILOGUES = frozenset(row.name for row in TABLE if Trait.LONG_EPILOGUE in row.traits)
"""Names of the activations that are several operations long: SiLU and the like."""


def unknown_op(name: str) -> Op:
    """An operator without a row: no roles, no traits, left float."""
    return Op(name, roles=())
