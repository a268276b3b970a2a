"""A torch module becomes a flat graph of ATen calls, in eval mode, its parameters still its own."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeGuard, cast

import torch
from torch import fx
from torch.export import ExportedProgram

from qdqgraph.errors import CaptureError
from qdqgraph.frontends.torch_fx.example import distinct, with_free_batch
from qdqgraph.frontends.torch_fx.foreign_modules import foreign_quantizers, forget_state
from qdqgraph.frontends.torch_fx.functionalize import functionalize
from qdqgraph.frontends.torch_fx.modes import set_training
from qdqgraph.frontends.torch_fx.wrappers import unwrapped

_TORCH = Path(torch.__file__).parent
_HERE = Path(__file__).parent


def capture(
    module: torch.nn.Module | ExportedProgram,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: object = None,
    *,
    dynamic_batch: bool = False,
) -> fx.GraphModule:
    """Capture `module` as called with `args` and `kwargs`, without in-place operators.

    Takes a module (also symbolically traced, or inside DDP, DataParallel and torch.compile
    wrappers), an `ExportedProgram`, or what `capture` returned. The result computes what the
    module computes in eval mode and shares its parameters; the module itself is left as it was,
    the training flags of its parts included. A tensor passed in is never overwritten, even where
    the module would. `dynamic_shapes` are those of `torch.export.export`; `dynamic_batch` leaves
    the first dimension of every tensor free where the module allows it. Raises `CaptureError`
    naming the line of the model at fault, or the wrapper that cannot be looked into.

    >>> graph_module = capture(torch.nn.Conv2d(3, 8, 3), (torch.zeros(1, 3, 8, 8),))
    >>> graph_module(torch.zeros(1, 3, 8, 8)).shape
    torch.Size([1, 8, 6, 6])
    """
    if isinstance(module, ExportedProgram):
        return _settled(module)
    module = unwrapped(module)
    if is_capture(module):
        return module
    if isinstance(args, torch.Tensor):
        args = (args,)
    with foreign_quantizers(module) as quantizers:
        exported = _capture(module, tuple(args), dict(kwargs or {}), dynamic_shapes, dynamic_batch)
    captured = _settled(exported)
    forget_state(captured, quantizers)
    return captured


def _capture(
    module: torch.nn.Module,
    args: tuple[Any, ...],
    named: dict[str, Any],
    dynamic_shapes: object,
    dynamic_batch: bool,
) -> ExportedProgram:
    if dynamic_batch and dynamic_shapes is None:
        freed = with_free_batch(module, args, named)
        if freed is not None:
            try:
                return _export(module, *freed)
            except CaptureError:
                pass  # a batch of fixed size is better than none: the plain call says what is wrong
    return _export(module, args, named, dynamic_shapes)


def is_capture(module: torch.nn.Module) -> TypeGuard[fx.GraphModule]:
    """True for what `capture` returns: flat calls of operators, and no module of its own."""
    return (
        isinstance(module, fx.GraphModule)
        and hasattr(module, "_in_spec")
        and not any(node.op in ("call_module", "call_method") for node in module.graph.nodes)
    )


def _settled(exported: ExportedProgram) -> fx.GraphModule:
    captured = exported.module(check_guards=False)
    functionalize(captured)
    set_training(captured, False, frozen_batch_norm=False)
    return captured


def _export(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], shapes: object
) -> ExportedProgram:
    args, kwargs = distinct((args, kwargs))
    with evaluating(module), quietly():
        try:
            return torch.export.export(
                module, args, kwargs, dynamic_shapes=cast("dict[str, Any] | None", shapes)
            )
        except Exception as cause:
            raise CaptureError(
                f"torch.export cannot capture {type(module).__name__}: {_first_line(cause)}",
                where=_model_line(cause),
                fix="make that line free of Python control flow on tensor values, capture the part "
                "of the model without it, or export to ONNX another way and open the file",
            ) from cause


@contextmanager
def evaluating(module: torch.nn.Module) -> Generator[None, None, None]:
    """Eval mode for the time being; afterwards each part has the flag it had before."""
    training = {part: part.training for part in module.modules()}
    try:
        module.eval()
    except NotImplementedError:  # captures for pt2e quantization forbid it
        for part in training:
            part.training = False
    try:
        yield
    finally:
        for part, flag in training.items():
            part.training = flag


@contextmanager
def quietly() -> Generator[None, None, None]:
    """Recurrent layers and hooks of weight_norm set weights anew at each call: it warns of that."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"The tensor attributes? self\..* assigned during export")
        yield


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
