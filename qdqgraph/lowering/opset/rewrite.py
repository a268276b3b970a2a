"""A copy of one node under change, with the constants and nodes it needs beside it.

Adapters edit only this; the model is written when every node of it has been adapted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import onnx
from onnx import AttributeProto, helper, numpy_helper

from qdqgraph.errors import ModelLoadError
from qdqgraph.lowering.opset.values import Body, Shape, Values

_EXPORT_AGAIN = "export the model again at the newer opset"


class NodeRewrite:
    """The new form of one node: edit `node`, add to `before`, `after` and `constants`."""

    def __init__(self, node: onnx.NodeProto, body: Body, values: Values, target: int) -> None:
        self.original = node
        self.target = target
        self.node = onnx.NodeProto()
        self.node.CopyFrom(node)
        self.before: list[onnx.NodeProto] = []
        self.after: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.dropped: list[str] = []
        self.notes: list[str] = []
        self._body, self._values = body, values

    @property
    def base(self) -> str:
        """The stem of new names: the first output, else the node's name, else the operator."""
        named = next((name for name in self.original.output if name), self.original.name)
        return named or self.original.op_type

    def refuse(self, why: str, fix: str = _EXPORT_AGAIN) -> NoReturn:
        """Raise `ModelLoadError`: this node has no exact form at the target opset."""
        op = self.original.op_type
        raise ModelLoadError(
            f"{op} cannot be raised to opset {self.target}: {why}",
            where=place(self.original),
            fix=fix,
        )

    def note(self, what: str) -> None:
        """Record what was changed, for the caller's report."""
        self.notes.append(f"{self.original.op_type} {place(self.original)}: {what}")

    # What is known

    def type_number(self, name: str) -> int | None:
        """Return the element type (`TensorProto.DataType`) of a value, if known."""
        found = self._values.type_of(self._body.path, name)
        return found.elem_type if found and found.elem_type else None

    def shape(self, name: str) -> Shape | None:
        """Return the shape of a value as far as known; None where even the rank is not."""
        found = self._values.type_of(self._body.path, name)
        return found.shape if found else None

    def constant_value(self, name: str) -> npt.NDArray[np.generic] | None:
        """Return the value of a constant of the model or of this rewrite, else None."""
        for tensor in self.constants:
            if tensor.name == name:
                return numpy_helper.to_array(tensor)
        return self._values.constant(self._body.path, name)

    def is_read(self, name: str) -> bool:
        """Return whether anything reads a value of this name."""
        return self._values.is_read(name)

    # Attributes

    def attribute(self, name: str) -> AttributeProto | None:
        """Return an attribute of the node, or None; refuse one that a function call fills in."""
        for attribute in self.node.attribute:
            if attribute.name == name:
                if attribute.ref_attr_name:
                    self.refuse(f"its attribute {name!r} is a parameter of the function around it")
                return attribute
        return None

    def int_attribute(self, name: str, default: int) -> int:
        """Return an integer attribute, or `default` when absent."""
        found = self.attribute(name)
        return default if found is None else found.i

    def text_attribute(self, name: str, default: str) -> str:
        """Return a string attribute, or `default` when absent."""
        found = self.attribute(name)
        return default if found is None else found.s.decode()

    def set_attribute(self, name: str, value: int | str) -> None:
        """Set an attribute in place, or append it."""
        new, old = helper.make_attribute(name, value), self.attribute(name)
        if old is None:
            self.node.attribute.append(new)
        else:
            old.CopyFrom(new)

    def drop_attribute(self, name: str) -> None:
        """Remove an attribute; nothing happens when it is absent."""
        for at, attribute in enumerate(self.node.attribute):
            if attribute.name == name:
                del self.node.attribute[at]
                return

    # New values and nodes

    def add_constant(self, role: str, value: npt.NDArray[np.generic]) -> str:
        """Add `value` as `<first output>_<role>` and return its name.

        In a graph it becomes an initializer. A function has none, so there it is a Constant node.
        """
        name = self._values.fresh_name(f"{self.base}_{role}")
        tensor = numpy_helper.from_array(value, name)
        if self._body.function >= 0 and isinstance(self._body.holder, onnx.FunctionProto):
            self.before.append(helper.make_node("Constant", [], [name], name=name, value=tensor))
        else:
            self.constants.append(tensor)
        return name

    def add_integers(self, role: str, value: Sequence[int]) -> str:
        """Add a one-dimensional int64 constant and return its name."""
        return self.add_constant(role, np.asarray(value, np.int64))

    def new_name(self, role: str) -> str:
        """Return a name that nothing in the model uses, for a new node or value."""
        return self._values.fresh_name(f"{self.base}_{role}")

    def set_input(self, index: int, name: str) -> None:
        """Set input `index`, with empty names for the optional inputs skipped."""
        while len(self.node.input) <= index:
            self.node.input.append("")
        self.node.input[index] = name


def place(node: onnx.NodeProto) -> str:
    """Say which node is meant: by name, else by its first output."""
    if node.name:
        return f"node {node.name!r}"
    made = next((name for name in node.output if name), "nothing")
    return f"the node that makes {made!r}"
