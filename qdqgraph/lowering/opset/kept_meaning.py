"""Nodes whose default, name or rule changed: the new node says what the old one meant."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from qdqgraph.lowering.opset.rewrite import NodeRewrite
from qdqgraph.lowering.opset.values import Shape


def normalize_axis(edit: NodeRewrite) -> None:
    """Keep Softmax, LogSoftmax, Hardmax over all dimensions from `axis` on; 13 takes one only.

    Where at most one of these dimensions is larger than 1, that one is the axis. Otherwise
    x → softmax  becomes  x → flatten → softmax → reshape.
    """
    axis = edit.int_attribute("axis", 1)
    # Old graphs often hide the rank behind a computed Reshape, but declare their outputs.
    shape = edit.shape(edit.node.input[0]) or edit.shape(edit.node.output[0])
    single = _single_axis(axis, shape)
    if single is not None:
        if edit.attribute("axis") is None or single != axis:
            edit.set_attribute("axis", single)
            edit.note(f"axis={single} set")
        return
    source, result = edit.node.input[0], edit.node.output[0]
    flat, matrix = edit.new_name("flat"), edit.new_name("matrix")
    target_shape = _reshape_target(edit, shape)
    edit.before.append(
        helper.make_node("Flatten", [source], [flat], name=edit.new_name("flatten"), axis=axis)
    )
    edit.after.append(
        helper.make_node("Reshape", [matrix, target_shape], [result], name=edit.new_name("reshape"))
    )
    edit.node.input[0], edit.node.output[0] = flat, matrix
    edit.set_attribute("axis", -1)
    edit.note(f"Flatten(axis={axis}) and Reshape put around it")


def _single_axis(axis: int, shape: Shape | None) -> int | None:
    if axis == -1 or not shape:
        return -1 if axis == -1 else None
    first = axis + len(shape) if axis < 0 else axis
    large = [at for at in range(first, len(shape)) if shape[at] != 1]
    if first >= len(shape) or len(large) > 1:
        return None
    return large[0] if large else first


def _reshape_target(edit: NodeRewrite, shape: Shape | None) -> str:
    if shape and shape.count(None) <= 1:
        # One may be left open; let it be the batch, which files often declare too tightly.
        open_at = shape.index(None) if None in shape else 0
        sizes = [-1 if at == open_at or dim is None else dim for at, dim in enumerate(shape)]
        return edit.add_integers("shape", sizes)
    name = edit.new_name("shape")
    source = edit.node.input[0]
    edit.before.append(helper.make_node("Shape", [source], [name], name=edit.new_name("shape_of")))
    return name


def batch_norm_spatial(edit: NodeRewrite) -> None:
    """Drop `spatial` of BatchNormalization (9): statistics are per channel, as with spatial=1."""
    if edit.attribute("spatial") is None:
        return
    shape = edit.shape(edit.node.input[0])
    if edit.int_attribute("spatial", 1) != 1 and (shape is None or len(shape) != 2):
        edit.refuse("spatial=0 has statistics per element, which opset 9 took away")
    edit.drop_attribute("spatial")
    edit.note("spatial dropped")


def batch_norm_inference(edit: NodeRewrite) -> None:
    """Refuse a BatchNormalization (14) whose extra outputs say that it is training."""
    if any(edit.node.output[1:]):
        edit.refuse(
            "its mean and variance outputs make it a training node",
            fix="export the model in inference mode (torch: model.eval())",
        )


def dropout_mask(edit: NodeRewrite) -> None:
    """Drop the unread mask of Dropout (10), which turned from float to bool."""
    if len(edit.node.output) < 2:
        return
    mask = edit.node.output[1]
    if mask and edit.is_read(mask):
        edit.refuse("its mask is read, which is of type bool since opset 10")
    del edit.node.output[1:]
    edit.dropped.append(mask)
    edit.note("unread mask output dropped")


def erf_type(edit: NodeRewrite) -> None:
    """Refuse an Erf (13) of integers: they were taken out of its types."""
    floats = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
    number = edit.type_number(edit.node.input[0])
    if number is not None and number not in floats:
        edit.refuse("opset 13 has no Erf of integers", fix="put a Cast to float before it")


def scan_batch(edit: NodeRewrite) -> None:
    """Refuse a Scan of opset 8: it had a batch axis and sequence lengths, opset 9 has neither."""
    edit.refuse("opset 9 took away its batch axis and sequence lengths")


def scatter_elements(edit: NodeRewrite) -> None:
    """Rename Scatter (11) to ScatterElements, which is the same operator."""
    edit.node.op_type = "ScatterElements"
    edit.note("renamed to ScatterElements")


def grid_sample_mode(edit: NodeRewrite) -> None:
    """Rename the modes of GridSample (20): bilinear → linear, bicubic → cubic."""
    mode = edit.text_attribute("mode", "linear")
    renamed = {"bilinear": "linear", "bicubic": "cubic"}.get(mode)
    if renamed is not None:
        edit.set_attribute("mode", renamed)
        edit.note(f"mode {mode} renamed to {renamed}")


def roi_align_shift(edit: NodeRewrite) -> None:
    """Set the coordinates of RoiAlign (16) to those of opset 10, without the half-pixel shift."""
    edit.set_attribute("coordinate_transformation_mode", "output_half_pixel")
    edit.note("coordinate_transformation_mode=output_half_pixel set")


def group_norm_channels(edit: NodeRewrite) -> None:
    """Repeat scale and bias of GroupNormalization (21) from one a group to one a channel."""
    shape = edit.shape(edit.node.input[0])
    channels = shape[1] if shape is not None and len(shape) > 1 else None
    groups = edit.int_attribute("num_groups", 0)
    number = edit.type_number(edit.node.input[0])
    if channels is None or groups < 1 or channels % groups or number is None:
        edit.refuse(
            "scale and bias are now per channel, and type or channel count of "
            f"{edit.node.input[0]!r} is not known",
            fix="run onnx.shape_inference on the model, or declare its value_info",
        )
    if number != TensorProto.FLOAT:
        edit.set_attribute("stash_type", number)
        edit.note("stash_type set: opset 18 computes in the type of its input")
    if channels == groups:
        return
    for index, role in ((1, "scale"), (2, "bias")):
        name = edit.node.input[index]
        value = edit.constant_value(name)
        if value is not None:
            repeated = edit.add_constant(role, np.repeat(value, channels // groups))
        else:
            repeated = edit.new_name(role)
            which = edit.add_integers(f"{role}_group", _group_of_channel(channels, groups))
            edit.before.append(
                helper.make_node(
                    "Gather", [name, which], [repeated], name=edit.new_name(f"{role}_gather")
                )
            )
        edit.set_input(index, repeated)
    edit.note("scale and bias repeated for each channel")


def _group_of_channel(channels: int, groups: int) -> list[int]:
    return [channel * groups // channels for channel in range(channels)]
