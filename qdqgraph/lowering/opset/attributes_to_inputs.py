"""Attributes that a later opset reads from inputs: axes=[1]  becomes  a second input holding [1].

An absent attribute becomes an absent input: the defaults are the same on both sides.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from qdqgraph.lowering.opset.rewrite import NodeRewrite

# Limits of opset 6 Clip, which are those of float32 whatever the input's type.
_FLOAT32_MAX = float(np.finfo(np.float32).max)


def axes(edit: NodeRewrite) -> None:
    """Move `axes` of Squeeze, ReduceSum (13) and the other Reduce operators (18) to input 1.

    Empty axes mean all of them before, and after it with noop_with_empty_axes=0, the default.
    """
    _move_integers(edit, "axes", 1)


def unsqueeze_axes(edit: NodeRewrite) -> None:
    """Move `axes` of Unsqueeze (13) to input 1."""
    _move_integers(edit, "axes", 1, required=True)


def split_lengths(edit: NodeRewrite) -> None:
    """Move `split` of Split (13) to input 1."""
    _move_integers(edit, "split", 1)


def split_count(edit: NodeRewrite) -> None:
    """Give a Split without lengths the num_outputs that opset 18 asks for."""
    if len(edit.node.input) < 2 or not edit.node.input[1]:
        edit.set_attribute("num_outputs", len(edit.node.output))
        edit.note(f"num_outputs={len(edit.node.output)} set")


def slice_bounds(edit: NodeRewrite) -> None:
    """Move `starts`, `ends` and `axes` of Slice (10) to inputs 1, 2 and 3."""
    _move_integers(edit, "starts", 1, required=True)
    _move_integers(edit, "ends", 2, required=True)
    _move_integers(edit, "axes", 3)


def top_k(edit: NodeRewrite) -> None:
    """Move `k` of TopK (10) to input 1, a vector of one element."""
    if edit.attribute("k") is None:
        edit.refuse("it has no k", fix="repair the model: TopK needs its k")
    edit.set_input(1, edit.add_integers("k", [edit.int_attribute("k", 0)]))
    edit.drop_attribute("k")
    edit.note("k became an input")


def pads(edit: NodeRewrite) -> None:
    """Move `pads` and `value` of Pad (11) to inputs 1 and 2, the latter in the data's type."""
    _move_integers(edit, "pads", 1, required=True)
    value = edit.attribute("value")
    if (
        value is not None
        and value.f != 0.0
        and edit.text_attribute("mode", "constant") == "constant"
    ):
        edit.set_input(2, _scalar(edit, "value", value.f))
    edit.drop_attribute("value")


def clip_limits(edit: NodeRewrite) -> None:
    """Move `min` and `max` of Clip (11) to inputs 1 and 2, scalars in the data's type.

    Both sides default to the type's own limits, except that opset 6 limits float64 to float32's.
    """
    wide = edit.type_number(edit.node.input[0]) == TensorProto.DOUBLE
    for index, (name, default) in enumerate((("min", -_FLOAT32_MAX), ("max", _FLOAT32_MAX)), 1):
        found = edit.attribute(name)
        if found is not None or wide:
            edit.set_input(index, _scalar(edit, name, found.f if found is not None else default))
            edit.drop_attribute(name)
            edit.note(f"{name} became an input")


def dropout_ratio(edit: NodeRewrite) -> None:
    """Move `ratio` of Dropout (12) to input 1; without training_mode it stays the identity."""
    if len(edit.node.output) > 1 and edit.is_read(edit.node.output[1]):
        edit.refuse("its mask is read, which is all ones since opset 12 and was undefined before")
    ratio = edit.attribute("ratio")
    if ratio is not None:
        edit.set_input(1, edit.add_constant("ratio", np.asarray(ratio.f, np.float32)))
        edit.drop_attribute("ratio")
        edit.note("ratio became an input")


def dft_axis(edit: NodeRewrite) -> None:
    """Move `axis` of DFT (20) to input 2, always: its default went from 1 to -2."""
    edit.set_input(
        2, edit.add_constant("axis", np.asarray(edit.int_attribute("axis", 1), np.int64))
    )
    edit.drop_attribute("axis")
    edit.note("axis became an input")


def _move_integers(edit: NodeRewrite, name: str, index: int, *, required: bool = False) -> None:
    found = edit.attribute(name)
    if found is None:
        if required:
            edit.refuse(f"it has no {name}", fix=f"repair the model: this operator needs {name}")
        return
    if required or found.ints:
        edit.set_input(index, edit.add_integers(name, found.ints))
    edit.drop_attribute(name)
    edit.note(f"{name} became an input")


def _scalar(edit: NodeRewrite, role: str, value: float) -> str:
    number = edit.type_number(edit.node.input[0])
    if number is None:
        edit.refuse(
            f"{role} must be given in the type of {edit.node.input[0]!r}, which is not known",
            fix="run onnx.shape_inference on the model, or declare the type in value_info",
        )
    dtype = helper.tensor_dtype_to_np_dtype(number)
    with np.errstate(over="ignore"):  # a float16 limit beyond 65504 is infinite: no limit
        return edit.add_constant(role, np.asarray(value).astype(dtype))
