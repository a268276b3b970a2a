"""An onnxruntime session, typed; onnxruntime is imported when one is opened, not before."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

from qdqgraph.errors import CalibrationError
from qdqgraph.graph.view import Array


class Session:
    """Runs a model on the CPU. Keep one alive at a time: several add up their memory.

    `folder` is where external data lies. With `optimize` off the graph runs as it is written.
    Raises `CalibrationError` when onnxruntime refuses the model.
    """

    def __init__(
        self, model: onnx.ModelProto | bytes, folder: Path | None = None, *, optimize: bool = True
    ) -> None:
        content = model if isinstance(model, bytes) else model.SerializeToString()
        ort: Any = importlib.import_module("onnxruntime")
        options = ort.SessionOptions()
        options.log_severity_level = 4
        if not optimize:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        if folder is not None:
            options.add_session_config_entry(
                "session.model_external_initializers_file_folder_path", str(folder.resolve())
            )
        try:
            self._session: Any = ort.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
        except Exception as cause:
            raise CalibrationError(
                f"onnxruntime cannot load the float model: {first_line(cause)}",
                fix="the float model must run on the CPU to be calibrated",
            ) from cause
        self.inputs = frozenset(str(item.name) for item in self._session.get_inputs())

    def run(self, names: Sequence[str], arrays: Mapping[str, Array]) -> list[Array]:
        """The tensors called `names`; of `arrays` only what the model reads is fed."""
        fed = {name: array for name, array in arrays.items() if name in self.inputs}
        return list(self._session.run(list(names), fed))


def first_line(cause: Exception) -> str:
    """What onnxruntime says, without its stack."""
    return next(iter(str(cause).splitlines()), type(cause).__name__)[:300]
