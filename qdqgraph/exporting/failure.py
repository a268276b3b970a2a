"""An exporter's failure, said with the line of the model that caused it."""

from __future__ import annotations

import re
import traceback
from pathlib import Path

from qdqgraph.errors import CaptureError

_COLOR = re.compile(r"\x1b\[[0-9;]*m")


THEIRS = (
    "the traceback above is the exporter's own: torch.onnx.export itself fails alike; mend the "
    "line, or try the other exporter (dynamo=)"
)


def capture_error(cause: BaseException, model: object, fix: str = THEIRS) -> CaptureError:
    """What to raise `from cause`, an error of `torch.onnx.export`."""
    root = _chain(cause)[-1]
    lines = [line.strip() for line in _COLOR.sub("", str(root)).splitlines() if line.strip()]
    said = f"{type(root).__name__}: {lines[0]}" if lines else type(root).__name__
    return CaptureError(
        f"torch.onnx.export cannot export {type(model).__name__}: {said}",
        where=_model_line(cause),
        fix=fix,
    )


def _chain(error: BaseException) -> list[BaseException]:
    """The error, what caused it, and so on."""
    chain: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in chain:
        chain.append(following)
        following = following.__cause__
    return chain


def _model_line(cause: BaseException) -> str:
    """`file:line in function: code` of the innermost line of the model or the user."""
    import torch

    libraries = {Path(torch.__file__).parents[1], Path(__file__).parents[1]}
    found = ""
    for error in _chain(cause):
        for frame in traceback.extract_tb(error.__traceback__):
            own = not libraries & set(Path(frame.filename).parents)
            if frame.filename.endswith(".py") and (own or frame.name == "forward"):
                found = f"{frame.filename}:{frame.lineno} in {frame.name}: {frame.line}"
    return found
