"""INT8 quantization for TensorRT as graph passes.

    import qdqgraph as qg
    qg.quantize("model.onnx", batches, output="model.qdq.onnx")

Importing the package imports neither torch nor onnxruntime; names load when first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from qdqgraph import errors as errors
from qdqgraph._version import __version__

if TYPE_CHECKING:
    from qdqgraph.exporting.block import quantized_export as quantized_export
    from qdqgraph.exporting.exporter import export as export
    from qdqgraph.exporting.lower import lower as lower
    from qdqgraph.exporting.onto import lower_onto as lower_onto
    from qdqgraph.frontends.torch_fx.capture import capture as capture
    from qdqgraph.job import ModelPlan as ModelPlan
    from qdqgraph.job import apply as apply
    from qdqgraph.job import calibrate as calibrate
    from qdqgraph.job import plan as plan
    from qdqgraph.job import quantize as quantize
    from qdqgraph.model import Model as Model
    from qdqgraph.model import open_model as _open_model
    from qdqgraph.pipeline.context import Context as Context
    from qdqgraph.pipeline.passes import Pass as Pass
    from qdqgraph.pipeline.passes import Skip as Skip
    from qdqgraph.pipeline.passes import rule as rule
    from qdqgraph.pipeline.passes import sweep as sweep
    from qdqgraph.pipeline.pipeline import Pipeline as Pipeline
    from qdqgraph.pipeline.presets import onnxruntime as onnxruntime
    from qdqgraph.pipeline.presets import tensorrt as tensorrt
    from qdqgraph.pipeline.presets import tensorrt_rtx as tensorrt_rtx
    from qdqgraph.training.normalize import normalize as normalize
    from qdqgraph.training.prepare import prepare_qat as prepare_qat

    open = _open_model

_PUBLIC = {
    "Context": ("qdqgraph.pipeline.context", "Context"),
    "Model": ("qdqgraph.model", "Model"),
    "ModelPlan": ("qdqgraph.job", "ModelPlan"),
    "Pass": ("qdqgraph.pipeline.passes", "Pass"),
    "Pipeline": ("qdqgraph.pipeline.pipeline", "Pipeline"),
    "Skip": ("qdqgraph.pipeline.passes", "Skip"),
    "apply": ("qdqgraph.job", "apply"),
    "calibrate": ("qdqgraph.job", "calibrate"),
    "capture": ("qdqgraph.frontends.torch_fx.capture", "capture"),
    "export": ("qdqgraph.exporting.exporter", "export"),
    "lower": ("qdqgraph.exporting.lower", "lower"),
    "lower_onto": ("qdqgraph.exporting.onto", "lower_onto"),
    "normalize": ("qdqgraph.training.normalize", "normalize"),
    "onnxruntime": ("qdqgraph.pipeline.presets", "onnxruntime"),
    "open": ("qdqgraph.model", "open_model"),
    "plan": ("qdqgraph.job", "plan"),
    "prepare_qat": ("qdqgraph.training.prepare", "prepare_qat"),
    "quantize": ("qdqgraph.job", "quantize"),
    "quantized_export": ("qdqgraph.exporting.block", "quantized_export"),
    "rule": ("qdqgraph.pipeline.passes", "rule"),
    "sweep": ("qdqgraph.pipeline.passes", "sweep"),
    "tensorrt": ("qdqgraph.pipeline.presets", "tensorrt"),
    "tensorrt_rtx": ("qdqgraph.pipeline.presets", "tensorrt_rtx"),
}

__all__ = ["__version__", "errors", *_PUBLIC]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        module, attribute = _PUBLIC[name]
        try:
            return getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as cause:
            if (cause.name or "").partition(".")[0] not in ("torch", "onnxscript"):
                raise
            raise errors.UsageError(
                f"qdqgraph.{name} needs {cause.name}, which is not installed",
                fix="pip install 'qdqgraph[torch]'",
            ) from cause
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
