"""Upsample and Resize 10, which had one sampling rule, as Resize 11 that names it.

    Upsample(x, scales)   becomes   Resize(x, , scales; asymmetric, floor)

Read position: x_in = x_out / scale, at every version of both. Nearest: down to the lower neighbour
when enlarging; up to the higher one when shrinking (the opset 10 test vectors of ONNX, and
onnxruntime, agree on that).
"""

from __future__ import annotations

import math

import numpy as np

from qdqgraph.lowering.opset.rewrite import NodeRewrite


def upsample_scales(edit: NodeRewrite) -> None:
    """Move `scales` of Upsample (9) to input 1."""
    scales = edit.attribute("scales")
    if scales is None:
        edit.refuse("it has no scales", fix="repair the model: Upsample needs its scales")
    edit.set_input(1, edit.add_constant("scales", np.asarray(scales.floats, np.float32)))
    edit.drop_attribute("scales")
    edit.note("scales became an input")


def upsample_to_resize(edit: NodeRewrite) -> None:
    """Rename Upsample (10) to Resize, which has its form at opset 10."""
    edit.node.op_type = "Resize"
    edit.note("renamed to Resize")


def resize_rule(edit: NodeRewrite) -> None:
    """Name the sampling rule that Resize (11) otherwise takes to be half_pixel; skip `roi`."""
    if len(edit.node.input) != 2:
        edit.refuse("it has no scales", fix="repair the model: Resize needs its scales")
    if edit.text_attribute("mode", "nearest") == "nearest":
        edit.set_attribute("nearest_mode", _nearest_mode(edit))
    edit.set_attribute("coordinate_transformation_mode", "asymmetric")
    data, scales = edit.node.input
    # Until 12 roi is required, and empty when not used.
    roi = "" if edit.target >= 13 else edit.add_constant("roi", np.zeros(0, np.float32))
    edit.node.input[:] = [data, roi, scales]
    edit.note("asymmetric coordinates and nearest_mode set as attributes")


def resize_optional_inputs(edit: NodeRewrite) -> None:
    """Give a Resize (13) with sizes no scales; spell the coordinates that 13 took away anew.

    tf_half_pixel_for_nn reads floor((x + 0.5) / s); so does half_pixel, (x + 0.5) / s - 0.5,
    rounded with halves up. What lies outside is clamped to the border by both.
    """
    inputs = edit.node.input
    if len(inputs) > 3 and inputs[3] and inputs[2]:
        scales = edit.constant_value(inputs[2])
        if scales is not None and scales.size == 0:
            edit.set_input(2, "")
            edit.note("empty scales dropped, sizes are given")
    if (
        edit.text_attribute("coordinate_transformation_mode", "half_pixel")
        == "tf_half_pixel_for_nn"
    ):
        mode = edit.text_attribute("mode", "nearest")
        nearest = edit.text_attribute("nearest_mode", "round_prefer_floor")
        if (mode, nearest) != ("nearest", "floor"):
            edit.refuse(f"opset 13 took away tf_half_pixel_for_nn, here with {mode}, {nearest}")
        edit.set_attribute("coordinate_transformation_mode", "half_pixel")
        edit.set_attribute("nearest_mode", "round_prefer_ceil")
        edit.note("tf_half_pixel_for_nn with floor written as half_pixel with round_prefer_ceil")


def _nearest_mode(edit: NodeRewrite) -> str:
    scales = edit.constant_value(edit.node.input[1])
    if scales is not None:
        known = [float(scale) for scale in np.asarray(scales, np.float64).ravel()]
        # Shrinking by a power of two reads whole positions only: both roundings agree.
        rounded = [scale for scale in known if scale > 1 or math.frexp(scale)[0] != 0.5]
        if all(scale > 1 for scale in rounded):
            return "floor"
        if all(scale < 1 for scale in rounded):
            return "ceil"
        edit.refuse("it enlarges one dimension and shrinks another, each rounded its own way")
    if edit.original.op_type == "Upsample":
        return "floor"  # its scales are at least 1, by its definition
    before, after = edit.shape(edit.node.input[0]), edit.shape(edit.node.output[0])
    if before is None or after is None or None in before + after:
        edit.refuse(
            "whether it enlarges or shrinks is not known: its scales are computed or replaceable"
        )
    if any((new or 0) < (old or 0) for old, new in zip(before, after, strict=True)):
        edit.refuse("its scales are computed, and it shrinks a dimension")
    return "floor"  # floor(size * scale) >= size only where scale >= 1
