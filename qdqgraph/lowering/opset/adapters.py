"""Which adapter takes a node over which schema change: (operator, opset) → adapter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from qdqgraph.lowering.opset import attributes_to_inputs as inputs
from qdqgraph.lowering.opset import kept_meaning as meaning
from qdqgraph.lowering.opset import sampling
from qdqgraph.lowering.opset.rewrite import NodeRewrite

Adapter = Callable[[NodeRewrite], None]

_REDUCE = ["L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare"]

ADAPTERS: Mapping[tuple[str, int], Adapter] = MappingProxyType(
    {
        ("BatchNormalization", 9): meaning.batch_norm_spatial,
        ("BatchNormalization", 14): meaning.batch_norm_inference,
        ("Clip", 11): inputs.clip_limits,
        ("DFT", 20): inputs.dft_axis,
        ("Dropout", 10): meaning.dropout_mask,
        ("Dropout", 12): inputs.dropout_ratio,
        ("Erf", 13): meaning.erf_type,
        ("GridSample", 20): meaning.grid_sample_mode,
        ("GroupNormalization", 21): meaning.group_norm_channels,
        ("Hardmax", 13): meaning.normalize_axis,
        ("LogSoftmax", 13): meaning.normalize_axis,
        ("Pad", 11): inputs.pads,
        **{(f"Reduce{kind}", 18): inputs.axes for kind in _REDUCE},
        ("ReduceSum", 13): inputs.axes,
        ("Resize", 11): sampling.resize_rule,
        ("Resize", 13): sampling.resize_optional_inputs,
        ("RoiAlign", 16): meaning.roi_align_shift,
        ("Scan", 9): meaning.scan_batch,
        ("Scatter", 11): meaning.scatter_elements,
        ("Slice", 10): inputs.slice_bounds,
        ("Softmax", 13): meaning.normalize_axis,
        ("Split", 13): inputs.split_lengths,
        ("Split", 18): inputs.split_count,
        ("Squeeze", 13): inputs.axes,
        ("TopK", 10): inputs.top_k,
        ("Unsqueeze", 13): inputs.unsqueeze_axes,
        ("Upsample", 9): sampling.upsample_scales,
        ("Upsample", 10): sampling.upsample_to_resize,
    }
)
