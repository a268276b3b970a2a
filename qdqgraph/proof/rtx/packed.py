"""A projection that makes q, k and v at once, as the compiler recognizes it.

A product with a bias or none, parted into three equal parts, each of which becomes heads: by a
Reshape and a Transpose. Or heads first, then parts: Reshape, Transpose, three Gathers. Such a
product is computed on a float weight when the weight has a scale per channel.
"""

from __future__ import annotations

from qdqgraph.graph.view import Node, Value
from qdqgraph.graph.walk import is_affine

PARTS = 3


def is_packed_projection(node: Node) -> bool:
    """True when three equal parts of what this product writes become q, k and v."""
    value = node.output
    for _ in range(2):
        readers = _readers(value)
        if len(readers) == 1 and readers[0].op.name == "add" and is_affine(readers[0]):
            value = readers[0].output
    readers = _readers(value)
    if len(readers) == 1 and readers[0].op.name == "split":
        return _equal_heads(readers[0].outputs)
    if len(readers) == PARTS and all(reader.op.name == "slice" for reader in readers):
        return _equal_heads([reader.output for reader in readers])
    if len(readers) == 1 and readers[0].op.name == "reshape":
        return _gathered_heads(readers[0].output)
    return False


def packed_nodes(node: Node) -> list[Node]:
    """The nodes between a packed projection and its three parts, Split included."""
    found: list[Node] = []
    value = node.output
    while True:
        readers = _readers(value)
        if len(readers) != 1:
            return found
        found.append(readers[0])
        if readers[0].op.name == "split":
            return found
        value = readers[0].output


def _gathered_heads(value: Value) -> bool:
    readers = _readers(value)
    if len(readers) != 1 or readers[0].op.name != "transpose":
        return False
    parts = _readers(readers[0].output)
    if len(parts) == 1 and parts[0].op.name == "split":
        return len(parts[0].outputs) == PARTS
    picks = all(part.op.name in ("gather", "slice") for part in parts)
    return len(parts) == PARTS and picks


def _equal_heads(parts: list[Value]) -> bool:
    if len(parts) != PARTS or len({part.shape for part in parts}) != 1:
        return False
    for part in parts:
        readers = _readers(part)
        if len(readers) != 1 or readers[0].op.name != "reshape":
            return False
        behind = _readers(readers[0].output)
        if len(behind) != 1 or behind[0].op.name != "transpose":
            return False
    return True


def _readers(value: Value) -> list[Node]:
    return [edge.node for edge in value.data_uses]
