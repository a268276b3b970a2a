"""The compiler is a package of NVIDIA's that may be absent, and it builds for six GPU families.

>>> parse_sms("SM89,sm120")
('SM89', 'SM120')
"""

from __future__ import annotations

import importlib.util

from qdqgraph.errors import UsageError

PACKAGE = "tensorrt_rtx"
SMS = ("SM75", "SM80", "SM86", "SM89", "SM120", "SM121")
"""Compute capabilities that TensorRT-RTX 1.7 builds for: Turing, two of Ampere, Ada, two of
Blackwell."""
INSTALL = "pip install 'qdqgraph[tensorrt-rtx]' (under NVIDIA's proprietary licence)"
WHY_NOT = f"{PACKAGE} is not installed: {INSTALL}"


def installed() -> bool:
    """True when the compiler is there to be asked."""
    return importlib.util.find_spec(PACKAGE) is not None


def require() -> None:
    """Raises `UsageError` that says how to get the compiler, where it is not installed."""
    if not installed():
        raise UsageError("the TensorRT-RTX compiler is not installed", fix=INSTALL)


def parse_sms(text: str) -> tuple[str, ...]:
    """The compute capabilities named in a list with commas, each once.

    Raises `UsageError` for none and for an unknown one.
    """
    names = [part.strip().upper() for part in text.split(",") if part.strip()]
    unknown = [name for name in names if name not in SMS]
    if unknown or not names:
        raise UsageError(
            f"TensorRT-RTX does not build for {unknown[0]!r}" if unknown else "no GPU to build for",
            where="--compile",
            fix=f"any of {', '.join(SMS)}, with commas between",
        )
    return tuple(dict.fromkeys(names))
