"""The per-target table: which options each pass runs with, and the dialect of the written file.

Every row can be overridden: `place-weighted{depthwise=int8}` on the command line, or
`tensorrt_rtx().with_options("place-weighted", depthwise="int8")`.

Sources: classic TensorRT's rules come from engine dumps and NVIDIA's documentation, TensorRT-RTX's
from plans its compiler printed for small graphs, onnxruntime's from timing its CPU kernels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, TypeAlias

from qdqgraph.errors import UsageError
from qdqgraph.pipeline.spelling import Option

TargetName: TypeAlias = Literal["tensorrt", "tensorrt-rtx", "onnxruntime"]
Version: TypeAlias = "tuple[int, ...]"


@dataclass(frozen=True, slots=True)
class Dialect:
    """How numbers are written: int8 symmetric for TensorRT, uint8 and int32 bias for the CPU.

    `unsigned` takes zero point 0 for groups that are never negative and 128 elsewhere.
    """

    unsigned: bool = False
    integer_bias: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """A row of the table: `options` by pass name, and the dialect."""

    name: TargetName
    dialect: Dialect = Dialect()
    options: Mapping[str, Mapping[str, Option]] = field(
        default_factory=dict[str, Mapping[str, Option]]
    )


TARGETS: Mapping[str, Target] = MappingProxyType(
    {
        "tensorrt": Target(
            "tensorrt",
            Dialect(),
            {
                "place-weighted": {
                    "depthwise": "fusible",
                    "small": "rule",
                    "transposed": "int8",
                    "clone_shared": True,
                },
                "place-pools": {"average": "around"},
                "expand-attention": {"products": "float"},
                "place-attention": {"products": "float"},
                "place-packed": {"enabled": False},
                "place-residual": {"policy": "skip", "through": "silu"},
                "emit-pairs": {"movers": "behind"},
                "place-features": {"enabled": False},
                "place-squeeze-excite": {"enabled": True},
            },
        ),
        "tensorrt-rtx": Target(
            "tensorrt-rtx",
            Dialect(),
            {
                "place-weighted": {
                    "depthwise": "float",
                    "small": "int8",
                    "transposed": "float",
                    "clone_shared": True,
                },
                "place-pools": {"average": "windows"},
                "expand-attention": {"products": "int8"},
                "place-attention": {"products": "int8"},
                "place-packed": {"enabled": True},
                "place-residual": {"policy": "skip", "through": "any", "behind": "any"},
                "emit-pairs": {"movers": "forks"},
                "place-features": {"enabled": True},
                "place-squeeze-excite": {"enabled": False},
            },
        ),
        "onnxruntime": Target(
            "onnxruntime",
            Dialect(unsigned=True, integer_bias=True),
            {
                "place-weighted": {
                    "depthwise": "int8",
                    "small": "int8",
                    "transposed": "float",
                    "clone_shared": False,
                },
                "place-pools": {"average": "around"},
                "expand-attention": {"products": "float"},
                "place-attention": {"products": "float"},
                "place-packed": {"enabled": False},
                "place-residual": {"policy": "both", "through": "any", "together": False},
                "emit-pairs": {"movers": "around"},
                "place-features": {"enabled": False},
                "place-squeeze-excite": {"enabled": True},
            },
        ),
    }
)


def target_named(name: str) -> Target:
    """The row of this name. Raises `UsageError` listing the known ones."""
    if name not in TARGETS:
        raise UsageError(f"target {name!r} is unknown", fix=f"one of {', '.join(TARGETS)}")
    return TARGETS[name]


def parse_version(text: str) -> Version:
    """`8.5` as (8, 5). A missing minor number means any of that major version.

    >>> parse_version("10")
    (10,)
    """
    try:
        return tuple(int(part) for part in text.split("."))
    except ValueError:
        raise UsageError(
            f"{text!r} is no TensorRT version", fix="write for example 8.6 or 10"
        ) from None
