"""`package.module:callable` becomes the iterable that the callable returns."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable
from typing import cast

from qdqgraph.calibration.data.feeds import nearest
from qdqgraph.errors import CalibrationError, UsageError

_REFERENCE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


def is_reference(text: str) -> bool:
    """True for the form `package.module:callable`, which no path to data has.

    >>> is_reference("mydata.calib:batches"), is_reference("C:/calib.npz")
    (True, False)
    """
    return _REFERENCE.fullmatch(text) is not None


def resolve(text: str) -> Callable[[], object]:
    """Import the callable that `text` refers to.

    The working directory is searched last, as installed commands do not search it by
    themselves. Raises UsageError where the module, or the name in it, cannot be had.
    """
    module_name, _, name = text.partition(":")
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        what = f"module '{module_name}' cannot be imported: {type(error).__name__}: {error}"
        fix = "install it, or run from the folder that holds it"
        raise UsageError(what, where=text, fix=fix) from error
    found = getattr(module, name, None)
    if not callable(found):
        callables = [n for n, value in vars(module).items() if callable(value)]
        what = f"module '{module_name}' has no callable '{name}'"
        close = nearest(name, callables)
        fix = f"did you mean '{module_name}:{close}'?" if close else f"define {name}() in it"
        raise UsageError(what, where=text, fix=fix)
    return cast("Callable[[], object]", found)


def call(function: Callable[[], object], label: str) -> object:
    """Return what the callable gives; what it raises becomes a CalibrationError."""
    try:
        return function()
    except Exception as error:
        what = f"{label}() raises {type(error).__name__}: {error}"
        fix = "it is called without arguments and returns an iterable of samples"
        raise CalibrationError(what, where="sample 0", fix=fix) from error
