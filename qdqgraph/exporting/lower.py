"""`qg.lower`: the trained network as a QDQ ONNX file, computing what it computes in eval mode."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import onnx
import torch
from torch import fx
from torch.utils import _pytree as pytree

from qdqgraph.errors import CalibrationError, UsageError
from qdqgraph.exporting.failure import capture_error
from qdqgraph.exporting.interception import original_export
from qdqgraph.exporting.layout import transpose_projections
from qdqgraph.exporting.levels import Levels, compare_levels, observe_levels
from qdqgraph.exporting.settle import settle
from qdqgraph.exporting.translation import translations
from qdqgraph.model import Model
from qdqgraph.storage.load import LoadedModel, load_model
from qdqgraph.storage.save import check_output
from qdqgraph.training.prepared import PreparedModule, unwrap

OPSETS = {"int4": 21, "uint4": 21, "int16": 21, "fp8": 19}
"""The first ONNX opset whose QuantizeLinear has the format; int8 is in all that are exported."""
UNKNOWN = "say in custom_translation_table how an operator of your own is written in ONNX"
FIRST_OPSET = 18
HALF_OPSET = 19
"""The first that quantizes float16 and bfloat16."""


class LoweredModel(Model):
    """What `lower` wrote, and how close it is to torch on the example.

    `flipped` is the share of activation codes that differ between torch and onnxruntime: sums
    accumulated in another order land on the other side of a rounding now and then. `difference`
    is the largest difference of an output. Both are None when nothing was compared.
    """

    def __init__(self, proto: onnx.ModelProto, loaded: LoadedModel | None = None) -> None:
        super().__init__(proto, loaded)
        self.flipped: float | None = None
        self.difference: float | None = None
        self.notices: tuple[str, ...] = ()


def lower(
    model: object,
    args: Sequence[Any],
    f: str | os.PathLike[str] | io.BytesIO | None = None,
    *,
    kwargs: Mapping[str, Any] | None = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    dynamic_shapes: object = None,
    opset_version: int | None = None,
    custom_translation_table: Mapping[Any, Any] | None = None,
    compare: bool = True,
) -> LoweredModel:
    """Write a prepared module as QDQ ONNX: Q and DQ at activations, codes and DQ for weights.

    Trained batch norms fold exactly (see `exporting.settle`). The module keeps its mode and its
    parameters. `args`, `kwargs` and `dynamic_shapes` are as in `torch.export.export`; without the
    latter the file has the shapes of `args`; `custom_translation_table` says how operators of your
    own are written, as in `torch.onnx.export`. `compare` runs the file once in onnxruntime, on the
    example. Without `f`, a path or buffer, nothing is saved. Raises `UsageError` for a module that
    was never prepared or that computes in float64, `CalibrationError` listing quantizers without a
    scale, `CaptureError` for an operator that the exporter does not know, `OutputError` for a file
    that cannot be written.
    """
    prepared = ready(model)
    path = f if isinstance(f, (str, os.PathLike)) else None
    if path is not None:
        check_output(path)
    args = (args,) if isinstance(args, torch.Tensor) else tuple(args)
    flat = tuple(prepared.leaves(args, dict(kwargs or {})))
    seen = observe_levels(prepared, flat)
    settled = settle(prepared, seen)
    transpose_projections(settled, seen)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        kept = _drop_numbers(settled)
        opset = opset_version or _opset(prepared, seen)
        shapes = flat_shapes(args, dict(kwargs or {}), dynamic_shapes)
        table: Any = {**translations(opset), **(custom_translation_table or {})}
        try:
            with torch.no_grad():
                original_export()(
                    settled,
                    tuple(flat[i] for i in kept),
                    str(file),
                    dynamo=True,
                    verbose=False,
                    opset_version=opset,
                    input_names=input_names,
                    output_names=output_names,
                    dynamic_shapes=None if shapes is None else tuple(shapes[i] for i in kept),
                    custom_translation_table=table,
                )
        except torch.onnx.OnnxExporterError as cause:
            raise capture_error(cause, prepared, UNKNOWN) from cause
        compared = compare_levels(seen, file, flat) if compare else None
        if path is not None:
            loaded = load_model(file)
            Model(loaded.model, loaded).save(path)
            loaded = load_model(path)
            result = LoweredModel(loaded.model, loaded)
        else:
            result = LoweredModel(cast("Any", onnx).load(file))
    if isinstance(f, io.BytesIO):
        f.write(result.proto.SerializeToString())
    if compared is not None:
        result.flipped, result.difference = compared.flipped, compared.difference
    result.notices = tuple(prepared.notices)
    return result


def ready(model: object) -> PreparedModule:
    """The prepared module inside `model`.

    Raises `UsageError` if there is none, `CalibrationError` if quantizers have no scale.
    """
    prepared = unwrap(model)
    if prepared is None:
        raise UsageError(
            f"{type(model).__name__} holds no quantizers",
            fix="lower what qg.prepare_qat returned; it does not change the module given to it",
        )
    missing = prepared.uncalibrated()
    if missing:
        raise CalibrationError(
            f"{len(missing)} of {len(prepared.quantizers)} quantizers have no scale",
            where=", ".join(missing[:5]),
            fix="give prepare_qat calibration batches, or train first",
        )
    return prepared


def flat_shapes(
    args: tuple[Any, ...], kwargs: dict[str, Any], shapes: object
) -> tuple[Any, ...] | None:
    """`dynamic_shapes` of a call, one item for each leaf of its arguments."""
    if shapes is None:
        return None
    if isinstance(shapes, Mapping):
        by_name = cast("Mapping[str, object]", shapes)
        first = [by_name[name] for name in by_name if name not in kwargs]
        wanted = (tuple(first), {name: by_name.get(name) for name in kwargs})
    else:
        given = tuple(cast("Iterable[object]", shapes))
        wanted = (given[: len(args)], dict(zip(kwargs, given[len(args) :], strict=False)))
    try:
        return tuple(pytree.tree_structure((args, kwargs)).flatten_up_to(wanted))
    except ValueError as cause:
        raise UsageError(
            f"dynamic_shapes does not mirror the arguments: {cause}",
            fix="give one entry for each argument, nested as it is",
        ) from cause


def _opset(prepared: PreparedModule, seen: Levels) -> int:
    formats = {quantizer.spec.dtype for quantizer in prepared.quantizers.values()}
    types = {kind.dtype for kind in seen.kinds.values()}
    if torch.float64 in types:
        raise UsageError(
            "the module computes in float64, which QuantizeLinear does not take",
            fix="call .float() on it first",
        )
    half = HALF_OPSET if types & {torch.float16, torch.bfloat16} else FIRST_OPSET
    return max(FIRST_OPSET, half, *(OPSETS.get(name, FIRST_OPSET) for name in formats))


def _drop_numbers(settled: fx.GraphModule) -> list[int]:
    """Remove inputs that are no tensors and that nothing reads; positions of those left.

    Results that are no tensors go too: a file has no place for them.
    """
    end = next(node for node in settled.graph.nodes if node.op == "output")
    results = cast("Iterable[object]", end.args[0])
    end.args = (tuple(item for item in results if isinstance(item, fx.Node)),)
    placeholders = [node for node in settled.graph.nodes if node.op == "placeholder"]
    kept: list[int] = []
    for position, node in enumerate(placeholders):
        if node.users or isinstance(node.meta.get("val"), torch.Tensor):
            kept.append(position)
        else:
            settled.graph.erase_node(node)
    settled.recompile()
    return kept
