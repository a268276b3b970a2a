"""The compiler's `Layers:` message, taken apart into kernels.

It is one line a kernel, with fields in a fixed order. A name may hold any character, braces and
commas too, so fields are found by their markers, from left to right, and never by splitting.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

BYTES = {
    "float": 4.0,
    "half": 2.0,
    "bfloat16": 2.0,
    "bf16": 2.0,
    "int8": 1.0,
    "uint8": 1.0,
    "fp8": 1.0,
    "bool": 1.0,
    "int64": 8.0,
    "double": 8.0,
    "int4": 0.5,
    "fp4": 0.5,
    "e8m0": 1.0,
}
WORD = 4.0
"""Bytes of an element of a type that is not listed: int32 among them."""

FIELDS = (
    "Name",
    "LayerType",
    "Inputs",
    "Constants",
    "Outputs",
    "TacticName",
    "StreamId",
    "Metadata",
)
TENSOR = re.compile(
    r"\{ Name: (?P<name>.*?), Dimensions: \[(?P<shape>[\d, -]*)\],.*?Datatype: (?P<dtype>\w+)", re.S
)
ORIGIN = re.compile(r"^\[ONNX Layer: (.*)\]$", re.S)
UNIT_SEPARATOR = "\x1f"


@dataclass(frozen=True)
class Tensor:
    """An operand of a kernel. `dtype` is the compiler's word, in lower case."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes; an unknown dimension counts as one."""
        count = 1.0
        for dimension in self.shape:
            count *= max(1, dimension) if dimension != 0 else 0
        return int(-(-count * BYTES.get(self.dtype, WORD) // 1))

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(str(d) if d >= 0 else '?' for d in self.shape)}]"


@dataclass(frozen=True)
class Kernel:
    """One launch. `nodes` are the ONNX nodes that it computes, or parts of."""

    name: str
    type: str
    inputs: tuple[Tensor, ...]
    constants: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    nodes: tuple[str, ...]

    @property
    def traffic(self) -> int:
        """Bytes of activations read and written."""
        return sum(t.size for t in (*self.inputs, *self.outputs))

    def __str__(self) -> str:
        operands = f"{' '.join(map(str, self.inputs))} -> {' '.join(map(str, self.outputs))}"
        return f"{self.type:16s} {operands} | {','.join(self.nodes)}"


def read_layers(message: str) -> tuple[Kernel, ...]:
    """The kernels of a `Layers:` message, in launch order."""
    body = message.partition("Layers:")[2].partition("\nI/O Tensors:")[0]
    return tuple(_kernel(line) for line in body.splitlines() if line.startswith("Name: "))


def _kernel(line: str) -> Kernel:
    found: dict[str, str] = {}
    key, start = "", 0
    for marker in FIELDS:
        text = f"{marker}: " if not key else f", {marker}: "
        at = line.find(text, start)
        if at < 0:
            continue
        if key:
            found[key] = line[start:at]
        key, start = marker, at + len(text)
    found[key] = line[start:]
    origins = (
        ORIGIN.match(part.strip()) for part in found.get("Metadata", "").split(UNIT_SEPARATOR)
    )
    return Kernel(
        name=found.get("Name", ""),
        type=found.get("LayerType", ""),
        inputs=_tensors(found.get("Inputs", "")),
        constants=_tensors(found.get("Constants", "")),
        outputs=_tensors(found.get("Outputs", "")),
        nodes=tuple(origin[1] for origin in origins if origin),
    )


def _tensors(text: str) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(
            m["name"], m["dtype"].lower(), tuple(int(d) for d in re.findall(r"-?\d+", m["shape"]))
        )
        for m in TENSOR.finditer(text)
    )
