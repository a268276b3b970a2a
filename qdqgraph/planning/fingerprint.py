"""What a network is known by, whatever its nodes are called: weights in a few numbers, and places.

A fingerprint is taken while the weights are still those that every export of the network holds. A
product is known by its weight; where several have equal ones, by what stands above and below it,
further and further away until they differ (Weisfeiler and Lehman). All other places are known by
the way to the products around them, so that a difference in one layer stays there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from qdqgraph.graph.view import Array, Edge, Graph, Node, Value
from qdqgraph.graph.weights import activation_edges, weight_edge
from qdqgraph.planning.comparison import (
    Read,
    biased,
    is_nested,
    is_traceless,
    kind_of,
    read_of,
    short_hash,
    structural_prints,
)
from qdqgraph.planning.sketch import TOLERANCE, Sketch, distance, outputs_first, sketch_of

FEW, MANY = 3, 40
"""Rounds of refinement: at least, for files with a layer more or less, and at most."""
FLOAT = ""
"""In place of a quantizer: a read that stays float, told apart from a quantized one like it."""
OF_PRODUCT = "product {}"
"""The print of a read by the product of this number."""


@dataclass(frozen=True, slots=True, eq=False)
class ProductPrint:
    """A product with a constant weight. `shape` and `sketch` have the output channels first.

    `label` is the number of the first product with an equal weight; `colours` are what it is known
    by when looking 0, 1, ... products far; `above` and `below` hold the way to the next products.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    attributes: str
    sketch: Sketch
    label: int
    colours: tuple[str, ...]
    above: str
    below: str


@dataclass(frozen=True, slots=True)
class ReadPrint:
    """A quantized read; `quantizer` names what it is quantized with, `name` the read itself."""

    read: Read
    below: str
    quantizer: str
    carried: bool
    name: str


@dataclass(frozen=True, slots=True)
class ConstantPrint:
    """A float constant that is no weight or bias of a product; `digest` stands for its contents."""

    read: Read
    below: str
    digest: str
    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Fingerprint:
    """A network, its quantized reads and its constants, without names and without tensors."""

    products: tuple[ProductPrint, ...]
    reads: tuple[ReadPrint, ...] = ()
    constants: tuple[ConstantPrint, ...] = ()


@dataclass(slots=True)
class Surroundings:
    """For each value the way up to the anchors it is made of, and down to those that read it."""

    above: Mapping[Value, str]
    below: Mapping[Value, frozenset[str]] = field(default_factory=dict[Value, frozenset[str]])

    def beneath(self, value: Value) -> str:
        """What stands below a value, as one word."""
        return short_hash(*sorted(self.below.get(value, ())))


def products_in(graph: Graph) -> list[Node]:
    """Products whose weight is a float constant, in graph order."""
    return [
        node
        for node in graph.nodes
        if (weight := weight_edge(node)) is not None
        and weight.value.is_float
        and len(activation_edges(node)) == 1
    ]


def weight_of(node: Node) -> Edge:
    """The read of the weight of one of `products_in`."""
    edge = weight_edge(node)
    assert edge is not None
    return edge


def canonical_weight(node: Node) -> Array:
    """The weight of one of `products_in`, output channels first."""
    edge = weight_of(node)
    array = edge.value.const
    assert array is not None
    return array.transpose(outputs_first(node, edge, array.ndim))


def canonical_shape(node: Node) -> tuple[int, ...]:
    """The shape of the weight of one of `products_in`, output channels first."""
    edge = weight_of(node)
    shape = edge.value.shape or ()
    return tuple(int(shape[i] or 0) for i in outputs_first(node, edge, len(shape)))


def surroundings(graph: Graph, anchors: Mapping[Node, str]) -> Surroundings:
    """The ways up and down from each value, as far as the next anchors."""
    above = structural_prints(graph, anchors)
    below: dict[Value, frozenset[str]] = {}
    places = {value: i for i, value in enumerate(graph.outputs)}
    for node in graph.reversed_nodes():
        for value in node.outputs:
            below[value] = _readers(value, above, below, anchors, places)
    for value in graph.inputs:
        below[value] = _readers(value, above, below, anchors, places)
    return Surroundings(above, below)


def _readers(
    value: Value,
    above: Mapping[Value, str],
    below: Mapping[Value, frozenset[str]],
    anchors: Mapping[Node, str],
    places: Mapping[Value, int],
) -> frozenset[str]:
    found: set[str] = set()
    if value in places:
        found.add(f"output {places[value]}")
    for edge in value.data_uses:
        node = edge.node
        if edge.index < 0 or not node.outputs:
            continue
        if node in anchors:
            found.add(short_hash("to", anchors[node]))
        elif node.composite is not None:
            last = node.composite.nodes[0].output
            found.add(short_hash(node.composite.kind.name, *sorted(below.get(last, ()))))
        elif is_traceless(node, above) or biased(node, above) is edge:
            found.update(*(below.get(output, frozenset()) for output in node.outputs))
        else:
            role = "" if node.op.commutes or not node.op.roles else edge.role
            behind = [item for out in node.outputs for item in sorted(below.get(out, ()))]
            found.add(short_hash(kind_of(node), role, *behind))
    return frozenset(found)


def colours_of(
    graph: Graph, first: Mapping[Node, str], rounds: int | None = None
) -> dict[Node, tuple[str, ...]]:
    """What each product is known by, looking further each round; until nothing more differs."""
    found = {node: [colour] for node, colour in first.items()}
    for number in range(1, MANY if rounds is None else rounds):
        if rounds is None and number > FEW:
            known = _distinct(found, number - 1)
            if known in (len(found), _distinct(found, number - 2)):
                break
        around = surroundings(graph, {node: colours[-1] for node, colours in found.items()})
        for node, colours in found.items():
            source = activation_edges(node)[0].value
            beneath = around.beneath(node.output)
            colours.append(short_hash(colours[-1], around.above[source], beneath))
    return {node: tuple(colours) for node, colours in found.items()}


def _distinct(found: Mapping[Node, Sequence[str]], number: int) -> int:
    return len({colours[number] for colours in found.values()})


def attributes_of(node: Node) -> str:
    """What a product does beside its weight; '' where the file leaves it to the runtime."""
    if node.op.name not in ("conv", "conv_transpose"):
        factors = (node.float("alpha", 1.0), node.float("beta", 1.0))
        return f"{weight_of(node).index};{node.int('transA', 0)};{factors}"
    if node.text("auto_pad", "NOTSET") != "NOTSET":
        return ""
    axes = len(weight_of(node).value.shape or ()) - 2
    given = [
        node.ints("strides") or [1] * axes,
        node.ints("pads") or [0] * 2 * axes,
        node.ints("dilations") or [1] * axes,
        node.ints("output_padding") or [0] * axes,
        [node.int("group", 1)],
    ]
    return ";".join(",".join(map(str, item)) for item in given)


def label_colour(label: int) -> str:
    """The first colour of products whose weights are those of the product of this number."""
    return short_hash("label", str(label))


def product_prints(graph: Graph, products: Sequence[Node]) -> tuple[ProductPrint, ...]:
    """The prints of all products; the graph's values, nodes and weights are read, not kept."""
    sketches = [sketch_of(canonical_weight(node)) for node in products]
    labels: list[int] = []
    for i, (node, sketch) in enumerate(zip(products, sketches, strict=True)):
        labels.append(
            next(
                (
                    j
                    for j in range(i)
                    if labels[j] == j
                    and kind_of(products[j]) == kind_of(node)
                    and distance(sketches[j], sketch) <= TOLERANCE
                ),
                i,
            )
        )
    colours = colours_of(
        graph, {node: label_colour(label) for node, label in zip(products, labels, strict=True)}
    )
    around = surroundings(graph, {n: OF_PRODUCT.format(i) for i, n in enumerate(products)})
    return tuple(
        ProductPrint(
            name=weight_of(node).value.name,
            kind=kind_of(node),
            shape=canonical_shape(node),
            attributes=attributes_of(node),
            sketch=sketch,
            label=label,
            colours=colours[node],
            above=around.above[activation_edges(node)[0].value],
            below=around.beneath(node.output),
        )
        for node, sketch, label in zip(products, sketches, labels, strict=True)
    )


def reads_in(
    graph: Graph, numbers: Mapping[Node, int], around: Surroundings
) -> tuple[dict[Edge, Read], dict[Edge, Read]]:
    """All reads of floats that can be known again: of what varies and of weights; of constants.

    `numbers` are those of the products. What moves data has no reads of its own, and the bias of
    a product belongs to the product.
    """
    varying: dict[Edge, Read] = {}
    constant: dict[Edge, Read] = {}
    for node in graph.nodes:
        weight = weight_edge(node)
        owned = weight is not None and node.op.weighted
        if not owned and is_traceless(node, around.above):
            continue
        for edge in node.edges:
            value = node.inputs[edge.index]
            if edge.index < 0 or value is None or not value.is_float:
                continue
            if owned:
                role = "weight" if edge is weight else "" if value.is_const else "x"
                if role and node in numbers:
                    told = OF_PRODUCT.format(numbers[node])
                    varying[edge] = Read(kind_of(node), role, (), told)
            elif value.is_const:
                if biased(node, around.above) is None:
                    constant[edge] = read_of(edge, around.above)
            elif not is_nested(value):
                varying[edge] = read_of(edge, around.above)
    return varying, constant


def digest_of(array: Array) -> str:
    """Stands for the contents of a constant, whatever its shape; float32 is the common type."""
    flat = np.ascontiguousarray(array, np.float32)
    return hashlib.blake2b(flat.tobytes(), digest_size=8).hexdigest()
