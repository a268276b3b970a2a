"""Every call of `torch.onnx.export` is seen for a while, whatever name the caller knows it by.

A script may have done `from torch.onnx import export` long ago, so replacing the attribute is not
enough: the function object itself is given other code for the time being, and gets its own back.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from types import FunctionType
from typing import Any, Protocol, cast

from qdqgraph.errors import UsageError
from qdqgraph.exporting.arguments import torch_onnx

_MARK = "__qdqgraph_interception__"


class Listener(Protocol):
    """What is told about exports, each time with a function that does what was asked for."""

    def exporting(self, arguments: dict[str, Any], run: Callable[[], Any]) -> Any:
        """`torch.onnx.export` was called with these arguments (by name, defaults filled in)."""

    def saving(self, program: object, path: object, run: Callable[[], Any]) -> Any:
        """`ONNXProgram.save` was called, and not by `torch.onnx.export`."""


def original_export() -> Callable[..., Any]:
    """`torch.onnx.export` as it is without any interception, of which it tells nobody."""
    export = torch_onnx().export
    active = getattr(_innermost(export), _MARK, None)
    return export if active is None else active.unseen


class Interception:
    """Tells `listener` of every export in the process, between `start` and `stop`."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self._inside = threading.local()

    def start(self) -> None:
        """Take hold of torch's functions. Raises `UsageError` where someone else has."""
        function = _innermost(torch_onnx().export)
        if getattr(function, _MARK, None) is not None:
            raise UsageError(
                "quantized_export inside quantized_export",
                fix="use one block; a callable calibration is asked for each file",
            )
        if not isinstance(function, FunctionType) or function.__closure__ is not None:
            raise UsageError(
                f"torch.onnx.export was replaced by {function!r}",
                fix="call qg.export in place of torch.onnx.export",
            )
        self.function, self.code = function, function.__code__
        self.signature = inspect.signature(function)
        self.original = FunctionType(
            function.__code__, function.__globals__, function.__name__, function.__defaults__
        )
        self.original.__kwdefaults__ = function.__kwdefaults__
        self.original.__module__, self.original.__doc__ = function.__module__, function.__doc__
        program: Any = getattr(torch_onnx(), "ONNXProgram", None)
        self.program, self.save = program, getattr(program, "save", None)
        setattr(function, _MARK, self)
        cast("Any", function).__signature__ = self.signature
        function.__code__ = _stand_in.__code__
        if self.save is not None:
            program.save = _saver(self, self.save)

    def stop(self) -> None:
        """Give everything back as it was."""
        self.function.__code__ = self.code
        delattr(self.function, _MARK)
        del cast("Any", self.function).__signature__
        if self.save is not None:
            self.program.save = self.save

    def export(self, *args: Any, **kwargs: Any) -> Any:
        """What a call of `torch.onnx.export` does meanwhile."""
        if getattr(self._inside, "export", False):
            return self.original(*args, **kwargs)
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError:  # torch's own message is the better one
            return self.original(*args, **kwargs)
        bound.apply_defaults()
        return self.listener.exporting(dict(bound.arguments), lambda: self.unseen(*args, **kwargs))

    def unseen(self, *args: Any, **kwargs: Any) -> Any:
        """The original, of whose own calls (it saves programs) nobody is told."""
        before = getattr(self._inside, "export", False)
        self._inside.export = True
        try:
            return self.original(*args, **kwargs)
        finally:
            self._inside.export = before

    def saved(self, program: object, path: object, run: Callable[[], Any]) -> Any:
        """What a call of `ONNXProgram.save` does meanwhile."""
        if getattr(self._inside, "export", False):
            return run()
        return self.listener.saving(program, path, run)


def _stand_in(*args: Any, **kwargs: Any) -> Any:
    # Runs with the global names of torch.onnx, so it can use no name of this module.
    from qdqgraph.exporting.interception import forward

    return forward(*args, **kwargs)


def forward(*args: Any, **kwargs: Any) -> Any:
    """Hand a call of `torch.onnx.export` to the interception in force."""
    return getattr(_innermost(torch_onnx().export), _MARK).export(*args, **kwargs)


def _saver(interception: Interception, save: Callable[..., Any]) -> Callable[..., Any]:
    def intercepted(program: object, destination: object, *args: Any, **kwargs: Any) -> Any:
        run = lambda: save(program, destination, *args, **kwargs)  # noqa: E731
        return interception.saved(program, destination, run)

    return intercepted


def _innermost(function: Any) -> Any:
    return inspect.unwrap(function)
