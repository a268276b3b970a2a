"""An exporter's failure, said with the line of the model that caused it."""

from __future__ import annotations

import traceback
from pathlib import Path

from qdqgraph.errors import CaptureError


def capture_error(cause: BaseException, model: object) -> CaptureError:
    """What to raise `from cause`, an error of `torch.onnx.export`."""
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    said = f"{type(cause).__name__}: {lines[0]}" if lines else type(cause).__name__
    return CaptureError(
        f"torch.onnx.export cannot export {type(model).__name__}: {said}",
        where=_model_line(cause),
        fix="the traceback above is the exporter's own; the same call of torch.onnx.export fails "
        "alike, try its other exporter (dynamo=)",
    )


def _model_line(cause: BaseException) -> str:
    """`file:line in function: code` of the innermost frame of the user's that the error names."""
    import torch

    libraries = {Path(torch.__file__).parent, Path(__file__).parents[1]}
    found, error, seen = "", cause, set[int]()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        for frame in traceback.extract_tb(error.__traceback__):
            path = Path(frame.filename)
            if path.suffix == ".py" and not libraries & set(path.parents):
                found = f"{frame.filename}:{frame.lineno} in {frame.name}: {frame.line}"
        if " in forward" in found:
            return found
        error = error.__cause__ or error.__context__
    return found
