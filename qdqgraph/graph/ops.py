"""What a row of the op table says: names, input roles, traits.

A rule asks for traits (`node.op.weighted`, `node.moves_data`), never for lists of names. The rows
are in `op_table`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol


class Reading(Protocol):
    """What a condition in the table may ask of a node: its attributes and inputs."""

    def text(self, name: str, default: str = "") -> str:
        """A string attribute."""
        ...

    def float(self, name: str, default: float = 0.0) -> float:
        """A float attribute."""
        ...

    def __getitem__(self, role: str) -> Any: ...


class Trait(enum.Flag):
    """What the rules ask of an operator."""

    NONE = 0
    WEIGHTED = enum.auto()
    """A product with an integer kernel: convolutions, Gemm, MatMul."""
    MOVES = enum.auto()
    """Output values are input values, elsewhere: Q and DQ commute with it."""
    REORDERS = enum.auto()
    """Moves every value exactly once: the output has the statistics of the input."""
    PARTS = enum.auto()
    """Each output holds some of the values of the input: slices, splits."""
    ACTIVATION = enum.auto()
    """A pointwise function of one tensor that fuses behind a convolution."""
    LONG_EPILOGUE = enum.auto()
    """SiLU-like activation: no int8 depthwise kernel takes it as an epilogue."""
    AVERAGES = enum.auto()
    """Averages windows or axes: a scale does not commute with the rounding."""
    FORWARDS = enum.auto()
    """Does nothing at inference: Identity, Dropout."""
    NON_NEGATIVE = enum.auto()
    """Output is never below zero."""
    RECURS = enum.auto()
    """Walks along a sequence with a state: LSTM, GRU. One operator may hold several layers."""
    ASKS_SHAPE = enum.auto()
    """Reads shape and dtype of a tensor, not its contents."""


_ASKED = ("weighted", "moves", "activation", "forwards", "parts", "recurs", "asks_shape")


@dataclass(frozen=True, slots=True)
class Op:
    """One row of the table: canonical name, spellings, input roles, traits.

    `onnx` are operator types of the default domain. `aten` are `overload: argument names`.
    `roles` names the inputs by position; an operator with any number of like inputs has none.
    `commutes` says that the operands may be swapped. `moves_when` narrows the trait MOVES to
    the attributes for which it holds.
    """

    name: str
    onnx: tuple[str, ...] = ()
    aten: tuple[str, ...] = ()
    roles: tuple[str, ...] = ("x",)
    traits: Trait = Trait.NONE
    commutes: bool = False
    moves_when: Callable[[Reading], bool] | None = None

    weighted: bool = field(init=False)
    """True for products that have an integer kernel."""
    moves: bool = field(init=False)
    """True for operators whose output values are input values, `moves_when` aside."""
    activation: bool = field(init=False)
    """True for pointwise functions that fuse behind a convolution."""
    forwards: bool = field(init=False)
    """True for operators that do nothing at inference."""
    parts: bool = field(init=False)
    """True for operators whose outputs are parts of the input."""
    recurs: bool = field(init=False)
    """True for operators that walk along a sequence with a state."""
    asks_shape: bool = field(init=False)
    """True for operators that read the shape of a tensor and not its contents."""

    def __post_init__(self) -> None:
        # Asked of every node many times over; membership in a Flag takes ten times as long.
        for name in _ASKED:
            object.__setattr__(self, name, Trait[name.upper()] in self.traits)

    def __str__(self) -> str:
        return self.name
