"""The three built-in pipelines: all passes, with the options of a row of the target table."""

from __future__ import annotations

from qdqgraph.passes import ALL
from qdqgraph.pipeline.pipeline import Pipeline
from qdqgraph.pipeline.targets import target_named


def preset(name: str) -> Pipeline:
    """The pipeline of a target: `tensorrt`, `tensorrt-rtx` or `onnxruntime`."""
    target = target_named(name)
    passes = [item.with_options(**target.options.get(item.name, {})) for item in ALL]
    return Pipeline(tuple(passes), target)


def tensorrt() -> Pipeline:
    """Classic TensorRT 8 to 10, data centre and Jetson."""
    return preset("tensorrt")


def tensorrt_rtx() -> Pipeline:
    """NVIDIA's TensorRT-RTX compiler."""
    return preset("tensorrt-rtx")


def onnxruntime() -> Pipeline:
    """onnxruntime on the CPU: uint8 activations, int32 bias."""
    return preset("onnxruntime")
