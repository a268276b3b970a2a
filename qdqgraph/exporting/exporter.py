"""`qg.export`: `torch.onnx.export` with calibration data, and the file comes out quantized."""

from __future__ import annotations

from contextlib import nullcontext
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import onnx

from qdqgraph.calibration.choice import DEFAULT_METHOD
from qdqgraph.errors import QdqGraphError, UsageError
from qdqgraph.exporting.arguments import (
    check_arguments,
    input_names,
    torch_onnx,
    uses_dynamo,
)
from qdqgraph.exporting.destination import (
    Destination,
    as_path,
    check_destination,
    data_of,
    folder_beside,
    remove_replaced,
    written_bytes,
)
from qdqgraph.exporting.example import assign_inputs, example_of
from qdqgraph.exporting.failure import capture_error
from qdqgraph.exporting.interception import original_export
from qdqgraph.exporting.prepared import is_prepared, lower_prepared
from qdqgraph.exporting.result import ExportedModel, open_exported
from qdqgraph.exporting.settings import Settings
from qdqgraph.exporting.wrappers import unwrap
from qdqgraph.job import model_inputs
from qdqgraph.pipeline.pipeline import Pipeline
from qdqgraph.pipeline.targets import TargetName

if TYPE_CHECKING:
    from qdqgraph.exporting.lower import LoweredModel


def export(
    model: object,
    args: Any = (),
    f: Destination = None,
    *,
    calibration: object = None,
    target: TargetName | str = "tensorrt",
    method: str = DEFAULT_METHOD,
    weight_method: Literal["max", "mse"] = "max",
    pipeline: Pipeline | None = None,
    trt_version: str = "10",
    samples: int | None = None,
    preprocess: str | None = None,
    on_nonfinite: Literal["error", "skip"] = "error",
    random: bool = False,
    allow_empty: bool = False,
    **export_arguments: Any,
) -> ExportedModel | LoweredModel:
    """Export a model with `torch.onnx.export` and quantize the result; a drop-in for it.

    `model`, `args`, `f` and `export_arguments` are what `torch.onnx.export` takes, for either
    exporter. `f` may be a path, which appears whole and checked or not at all, a binary file or
    `BytesIO`, which is written last, or, with the dynamo exporter, None. In all cases the model is
    given back, with its reasons (`.plan.why(name)`) and `.notices`; `.save(path)` saves it.

    `calibration` is an iterable of batches as the model is fed: a tensor on any device, a tuple,
    a dict by argument or input name, or what a DataLoader yields: labels behind the inputs are
    ignored where they cannot be taken for an input (see `qdqgraph.exporting.batches`). Also
    whatever `qdqgraph.calibrate` takes: arrays, files, folders, a callable. Batches are split
    where the model was exported with a smaller fixed batch; `samples` counts after the split.
    The other options are those of `qdqgraph.plan` and `qdqgraph.calibrate`.

    The model is exported in eval mode; afterwards each part has the training flag it had. Wrappers
    (DDP, DataParallel, `torch.compile`) are taken off. A model of `prepare_qat` is lowered.

    Raises `UsageError` for an argument that nobody knows or that cannot be honoured, and without
    torch; `CaptureError` naming the line of the model when the exporter fails;
    `CalibrationError`, `NothingToQuantizeError` and `OutputError` as `qdqgraph.quantize` does.

        qg.export(model, example, "model.onnx", calibration=loader, input_names=["images"])
    """
    torch_onnx()
    settings = Settings(
        target=target,
        method=method,
        weight_method=weight_method,
        pipeline=pipeline,
        trt_version=trt_version,
        samples=samples,
        preprocess=preprocess,
        on_nonfinite=on_nonfinite,
        random=random,
        allow_empty=allow_empty,
    )
    check_arguments(export_arguments, ("calibration", *Settings.__slots__))
    bare = unwrap(model)
    if is_prepared(bare):
        planning = (*(["calibration"] if calibration is not None else []), *settings.changed)
        return lower_prepared(bare, args, f, export_arguments, planning)
    check_destination(f, dynamo=uses_dynamo(bare, export_arguments))
    settings.check(calibration)
    path = as_path(f)
    if path is None:
        model_file = _exported(bare, args, None, export_arguments)
        return _quantized(bare, args, f, export_arguments, model_file, calibration, settings)
    with folder_beside(path) as folder:
        model_file = _exported(bare, args, folder / path.name, export_arguments)
        return _quantized(bare, args, f, export_arguments, model_file, calibration, settings)


def _quantized(
    bare: object,
    args: object,
    f: object,
    arguments: dict[str, Any],
    source: Path | onnx.ModelProto,
    calibration: object,
    settings: Settings,
) -> ExportedModel:
    """Quantize what the exporter wrote, and put it where it was to go."""
    exported = open_exported(source)
    example = example_of(bare, args, arguments.get("kwargs"), dynamo=uses_dynamo(bare, arguments))
    names = assign_inputs(example, model_inputs(exported), input_names(arguments))
    made = settings.quantize(exported, calibration, example, names)
    path = as_path(f)
    if path is None:
        if f is not None:
            cast("Any", f).write(written_bytes(exported))
        return exported
    external = "never" if arguments.get("external_data") is False else "auto"
    replaced = data_of(path)
    exported.save(path, external=external)
    remove_replaced(replaced, path)
    saved = open_exported(path)
    saved.plan = made
    return saved


def _exported(
    model: object, args: object, path: Path | None, arguments: dict[str, Any]
) -> Path | onnx.ModelProto:
    """Run the caller's `torch.onnx.export`; the file, or the model where there is no path."""
    import torch

    from qdqgraph.frontends.torch_fx.capture import evaluating

    run = cast("Any", original_export())
    dynamo = uses_dynamo(model, arguments)
    buffer = None if dynamo else BytesIO()
    module = model if isinstance(model, torch.nn.Module) else None
    with evaluating(module) if module is not None else nullcontext():
        try:
            program = run(model, args, path or buffer, **arguments)
        except QdqGraphError:
            raise
        except Exception as cause:
            raise capture_error(cause, model) from cause
    if path is not None:
        if not path.exists():
            raise UsageError("torch.onnx.export wrote no file", where=str(path))
        return path
    return program.model_proto if buffer is None else onnx.load_from_string(buffer.getvalue())
