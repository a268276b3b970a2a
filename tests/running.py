"""Models run by onnxruntime with its optimizations off: the oracle for every rewrite."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

Feed = dict[str, npt.NDArray[np.generic]]


def feed_for(model: onnx.ModelProto, seed: int = 0) -> Feed:
    """Normal floats, ones for flags, small integers; symbolic dimensions become 2."""
    random = np.random.default_rng(seed)
    stored = {tensor.name for tensor in model.graph.initializer}
    feed: Feed = {}
    for info in model.graph.input:
        if info.name in stored:
            continue
        tensor = info.type.tensor_type
        shape = [dim.dim_value or 2 for dim in tensor.shape.dim]
        kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        feed[info.name] = {
            "f": lambda s=shape: random.normal(size=s),
            "i": lambda s=shape: random.integers(0, 8, s),
            "b": lambda s=shape: np.ones(s),
        }[kind.kind]().astype(kind)
    return feed


def run(model: onnx.ModelProto, feed: Feed) -> list[npt.NDArray[np.float32]]:
    """All outputs of the model."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return [np.asarray(array) for array in session.run(None, feed)]


def distance(model: onnx.ModelProto, other: onnx.ModelProto, seed: int = 0) -> float:
    """Largest relative distance (2-norm of the difference over that of the output) of two models.

    The norm, not single elements: an element near zero is a sum of large terms that cancel, and
    carries their rounding.
    """
    feed = feed_for(model, seed)
    pairs = zip(run(model, feed), run(other, feed), strict=True)
    return max(
        float(np.linalg.norm(a.astype(np.float64) - b) / max(np.linalg.norm(b), 1e-30))
        for a, b in pairs
    )
