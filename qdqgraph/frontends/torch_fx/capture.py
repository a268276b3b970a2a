"""A torch module becomes a flat graph of ATen calls, in eval mode, its parameters still its own."""

from __future__ import annotations

import traceback
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import fx

from qdqgraph.errors import CaptureError
from qdqgraph.frontends.torch_fx.functionalize import functionalize

_TORCH = Path(torch.__file__).parent
_HERE = Path(__file__).parent


def capture(
    module: torch.nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: object = None,
) -> fx.GraphModule:
    """Capture `module` as called with `args` and `kwargs`, without in-place operators.

    The result computes what the module computes in eval mode and shares its parameters; the
    module itself is left as it was, the training flags of its parts included. A tensor passed in
    is never overwritten, even where the module would. `dynamic_shapes` are those of
    `torch.export.export`. Raises `CaptureError` naming the line of the model at fault.

    >>> graph_module = capture(torch.nn.Conv2d(3, 8, 3), (torch.zeros(1, 3, 8, 8),))
    >>> graph_module(torch.zeros(1, 3, 8, 8)).shape
    torch.Size([1, 8, 6, 6])
    """
    if not isinstance(module, torch.nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise CaptureError(
            f"cannot capture a {type(module).__name__}", fix="pass a torch.nn.Module instance"
        )
    if isinstance(args, torch.Tensor):
        args = (args,)
    with evaluating(module):
        try:
            exported = torch.export.export(
                module,
                tuple(args),
                dict(kwargs or {}),
                dynamic_shapes=cast("dict[str, Any] | None", dynamic_shapes),
            )
        except Exception as cause:
            raise CaptureError(
                f"torch.export cannot capture {type(module).__name__}: {_first_line(cause)}",
                where=_model_line(cause),
                fix="make that line free of Python control flow on tensor values, or export the "
                "model to ONNX another way and open the file",
            ) from cause
    captured = exported.module(check_guards=False)
    functionalize(captured)
    return captured


@contextmanager
def evaluating(module: torch.nn.Module) -> Generator[None, None, None]:
    """Eval mode for the time being; afterwards each part has the flag it had before."""
    training = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, flag in training.items():
            part.training = flag


def _first_line(cause: BaseException) -> str:
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return lines[0] if lines else type(cause).__name__


def _model_line(cause: BaseException) -> str:
    """`file:line in function, code` of the innermost frame that belongs to neither torch nor us."""
    found = ""
    error: BaseException | None = cause
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        for frame in traceback.extract_tb(error.__traceback__):
            path = Path(frame.filename)
            if path.suffix == ".py" and not {_TORCH, _HERE} & set(path.parents):
                found = f"{frame.filename}:{frame.lineno} in {frame.name}: {frame.line}"
        if found and " in forward" in found:
            return found
        error = error.__cause__ or error.__context__
    return found
