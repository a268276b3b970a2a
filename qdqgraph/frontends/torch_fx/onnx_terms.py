"""ATen arguments in the words of ONNX: pads of both ends, sizes of a split, perm of a transpose.

Each function takes the arguments by their canonical names and returns the operator, which they
may narrow (an adaptive pool is global only for output size 1), and the arguments to go on with.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias, cast

import torch
from torch import fx

from qdqgraph.frontends.torch_fx.overloads import dims, example
from qdqgraph.graph.op_table import BY_NAME, unknown_op
from qdqgraph.graph.ops import Op

Named: TypeAlias = "dict[str, object]"


def in_onnx_terms(op: Op, named: Named, node: fx.Node) -> tuple[Op, Named]:
    """`named` under ONNX conventions, and the operator it then is."""
    change = CHANGES.get(op.name)
    return change(op, dict(named), node) if change else (op, named)


def _rank(raw: object) -> int:
    value = example(raw)
    return 0 if value is None else value.dim()


def _numbers(raw: object) -> list[object]:
    if raw is None:
        return []
    return list(cast("Sequence[object]", raw)) if isinstance(raw, (list, tuple)) else [raw]


def _spatial_rank(node: fx.Node) -> int:
    found = re.search(r"(\d)d", str(node.target))
    return int(found[1]) if found else 0


def _per_axis(named: Named, node: fx.Node, *names: str) -> None:
    """Write a single number out once for each spatial axis."""
    for name in names:
        numbers = _numbers(named.get(name))
        named[name] = numbers * _spatial_rank(node) if len(numbers) == 1 else numbers


def _conv(op: Op, named: Named, node: fx.Node) -> tuple[Op, Named]:
    pads = named.get("pads")
    _per_axis(named, node, "strides", "dilations")
    if isinstance(pads, str):
        weight = example(named["weight"])
        kernel = [] if weight is None else [int(k) for k in weight.shape[2:]]
        dilations = cast("list[int]", named["dilations"])
        same = pads == "same"
        total = [d * (k - 1) if same else 0 for k, d in zip(kernel, dilations, strict=True)]
        named["pads"] = [t // 2 for t in total] + [t - t // 2 for t in total]
    else:
        _per_axis(named, node, "pads")
        named["pads"] = cast("list[int]", named["pads"]) * 2
    if "output_padding" in named:
        _per_axis(named, node, "output_padding")
    return op, named


def _pool(op: Op, named: Named, node: fx.Node) -> tuple[Op, Named]:
    if "output_size" in named:
        return _adaptive(op, named, node)
    _per_axis(named, node, "kernel_shape", "strides", "pads", "dilations")
    named["strides"] = named["strides"] or named["kernel_shape"]
    named["pads"] = cast("list[int]", named["pads"]) * 2
    if not named["dilations"]:
        del named["dilations"]
    return op, named


def _adaptive(op: Op, named: Named, node: fx.Node) -> tuple[Op, Named]:
    """Global for output size 1; equal windows where that divides the input's; else unknown."""
    _per_axis(named, node, "output_size")
    sizes = cast("list[object]", named.pop("output_size"))
    if all(size == 1 for size in sizes):
        return op, named
    value = example(named["x"])
    given = dims(value)[-len(sizes) :] if value is not None else []
    kernel = [
        a // b
        for a, b in zip(given, sizes, strict=False)
        if isinstance(a, int) and isinstance(b, int) and a % b == 0
    ]
    if len(kernel) < len(sizes):
        return unknown_op(f"aten:{op.name}"), named
    named |= {"kernel_shape": kernel, "strides": kernel, "pads": [0] * (2 * len(kernel))}
    return BY_NAME["max_pool" if op.name == "global_max_pool" else "average_pool"], named


def _with_alpha(op: Op, named: Named, node: fx.Node) -> tuple[Op, Named]:
    """x + alpha·y is an Add only for alpha 1."""
    plain = named.pop("alpha", 1) == 1
    return op if plain else unknown_op(f"aten:{op.name}.alpha"), named


def _lists(*names: str) -> Callable[[Op, Named, fx.Node], tuple[Op, Named]]:
    """ONNX has a list where ATen has one number."""

    def change(op: Op, named: Named, node: fx.Node) -> tuple[Op, Named]:
        for name in names:
            if named.get(name) is not None:
                named[name] = _numbers(named[name])
        return op, named

    return change


def _transpose(op: Op, named: Named, node: fx.Node) -> tuple[Op, Named]:
    rank = _rank(named["x"])
    order = list(range(rank))
    if "perm" in named:
        order = [int(cast("int", axis)) % rank for axis in _numbers(named["perm"])]
    elif "dim0" in named:
        a, b = (int(cast("int", named.pop(key))) % rank for key in ("dim0", "dim1"))
        order[a], order[b] = order[b], order[a]
    else:
        order.reverse()
    return op, {**named, "perm": order}


def _flatten(op: Op, named: Named, node: fx.Node) -> tuple[Op, Named]:
    """ONNX Flatten gives two axes; any other flattening is a Reshape."""
    rank, out = _rank(named["x"]), example(node)
    start, end = (int(cast("int", named[key])) % max(rank, 1) for key in ("start", "end"))
    if start == 1 and end == rank - 1:
        return op, {"x": named["x"], "axis": 1}
    shape = None if out is None else [d if isinstance(d, int) else -1 for d in dims(out)]
    known = shape is not None and shape.count(-1) < 2
    return BY_NAME["reshape"], {"x": named["x"], "shape": shape if known else None}


def _reshape(op: Op, named: Named, node: fx.Node) -> tuple[Op, Named]:
    if "axis" not in named:
        return op, named
    return _flatten(BY_NAME["flatten"], {"x": named["x"], "start": 0, "end": 0}, node)


def _split(op: Op, named: Named, node: fx.Node) -> tuple[Op, Named]:
    """Sizes of the pieces, as they came out."""
    axis = int(cast("int", named["axis"]))
    pieces = cast("Sequence[torch.Tensor]", node.meta.get("val") or ())
    sizes = [dims(piece)[axis] for piece in pieces]
    return op, {**named, "split": sizes if all(isinstance(s, int) for s in sizes) else None}


def _pad(op: Op, named: Named, node: fx.Node) -> tuple[Op, Named]:
    """ATen lists (begin, end) from the last axis on; ONNX all begins, then all ends."""
    given = _numbers(named["pads"])
    rank = max(_rank(named["x"]), len(given) // 2)
    begins, ends = [0] * rank, [0] * rank
    for i in range(len(given) // 2):
        begins[rank - 1 - i] = cast("int", given[2 * i])
        ends[rank - 1 - i] = cast("int", given[2 * i + 1])
    named["pads"] = begins + ends
    modes = {"replicate": "edge", "circular": "wrap"}
    if "mode" in named:
        named["mode"] = modes.get(str(named["mode"]), named["mode"])
    return op, named


def _resize(op: Op, named: Named, node: fx.Node) -> tuple[Op, Named]:
    """Scales and sizes of all axes, batch and channels among them."""
    value = example(named["x"])
    leading: list[object] = [] if value is None else dims(value)[:2]
    if named.get("scales") is not None:
        named["scales"] = [1.0, 1.0, *_numbers(named["scales"])]
    if named.get("sizes") is not None:
        sizes = [*leading, *_numbers(named["sizes"])]
        named["sizes"] = sizes if all(isinstance(s, (int, fx.Node)) for s in sizes) else None
    if "align_corners" in named:
        aligned = named.pop("align_corners")
        named["coordinate_transformation_mode"] = "align_corners" if aligned else "half_pixel"
    return op, named


def _layer_norm(op: Op, named: Named, node: fx.Node) -> tuple[Op, Named]:
    return op, {**named, "axis": -len(_numbers(named["axis"]))}


def _batch_norm(op: Op, named: Named, node: fx.Node) -> tuple[Op, Named]:
    """Without gain and bias they are ones and zeros."""
    mean = example(named["mean"])
    if mean is not None:
        for name, number in (("gamma", 1.0), ("beta", 0.0)):
            if named[name] is None:
                named[name] = [number] * mean.numel()
    return op, named


CHANGES: Mapping[str, Callable[[Op, Named, fx.Node], tuple[Op, Named]]] = {
    "conv": _conv,
    "conv_transpose": _conv,
    "max_pool": _pool,
    "average_pool": _pool,
    "global_average_pool": _pool,
    "global_max_pool": _pool,
    "add": _with_alpha,
    "sub": _with_alpha,
    "reduce_mean": _lists("axes"),
    "squeeze": _lists("axes"),
    "unsqueeze": _lists("axes"),
    "slice": _lists("axes", "starts", "ends", "steps"),
    "transpose": _transpose,
    "flatten": _flatten,
    "reshape": _reshape,
    "split": _split,
    "pad": _pad,
    "resize": _resize,
    "layer_norm": _layer_norm,
    "batch_norm": _batch_norm,
}
