"""A fingerprint is found again in another graph: product by product, then place by place.

Products with a weight that no other has are certain. Equal ones are told apart by their
surroundings, nearest first. Nothing is ever matched by elimination or by order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, TypeVar

from qdqgraph.graph.view import Edge, Graph, Node
from qdqgraph.graph.weights import activation_edges
from qdqgraph.planning.comparison import Read, kind_of, short_hash
from qdqgraph.planning.fingerprint import (
    FLOAT,
    OF_PRODUCT,
    ConstantPrint,
    Fingerprint,
    ProductPrint,
    ReadPrint,
    Surroundings,
    attributes_of,
    canonical_shape,
    canonical_weight,
    colours_of,
    digest_of,
    label_colour,
    products_in,
    reads_in,
    surroundings,
    weight_of,
)
from qdqgraph.planning.sketch import distance, sketch_of, tolerance_of

Kind: TypeAlias = Literal["unmatched", "ambiguous", "changed", "extra"]
Printed = TypeVar("Printed", ReadPrint, ConstantPrint)


@dataclass(frozen=True, slots=True)
class Leftover:
    """What was not carried over. `kind`: `unmatched`, found in the network and not in the file;
    `ambiguous`, found several times; `changed`, found with another shape, weight or attribute;
    `extra`, found in the file alone. `where` names it, `what` says why.
    """

    kind: Kind
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.where}: {self.what}"


@dataclass(slots=True)
class Matching:
    """Products by their number in the fingerprint, all others by place; and what is left.

    `comparable` are the reads of the file that could have matched.
    """

    products: dict[int, Node]
    reads: dict[Edge, ReadPrint] = field(default_factory=dict[Edge, ReadPrint])
    comparable: frozenset[Edge] = frozenset()
    constants: dict[int, list[Edge]] = field(default_factory=dict[int, list[Edge]])
    left: list[Leftover] = field(default_factory=list[Leftover])
    around: Surroundings = field(default_factory=lambda: Surroundings({}))


def match(wanted: Fingerprint, graph: Graph, changed: Collection[int] = ()) -> Matching:
    """Find what the fingerprint was taken of in `graph`, which was tidied by the same passes.

    Of its constants those of the numbers `changed` are looked for, the others need no place.
    """
    products = products_in(graph)
    labels = {node: _label(node, wanted.products) for node in products}
    made = Matching(_match_products(wanted.products, graph, labels))
    numbers = {node: number for number, node in made.products.items()}
    words = {node: OF_PRODUCT.format(number) for node, number in numbers.items()}
    made.around = surroundings(graph, words)
    _explain(made, wanted.products, [n for n in products if n not in numbers], labels)
    for number, node in made.products.items():
        given, found = wanted.products[number].attributes, attributes_of(node)
        if given != found and given and found:
            what = f"{node.op} with other strides, pads, dilations or groups"
            made.left.append(Leftover("changed", wanted.products[number].name, what))
    varying, constant = reads_in(graph, numbers, made.around)
    _match_reads(made, wanted, varying)
    _match_constants(made, wanted, constant, changed)
    return made


def _label(node: Node, wanted: Sequence[ProductPrint]) -> int | None:
    """The number of the first product with this weight; None if there is none."""
    shape, kind = canonical_shape(node), kind_of(node)
    like = [p for i, p in enumerate(wanted) if p.label == i and (p.kind, p.shape) == (kind, shape)]
    if not like:
        return None
    sketch = sketch_of(canonical_weight(node))
    nearest = min(like, key=lambda p: distance(p.sketch, sketch))
    near = distance(nearest.sketch, sketch) <= tolerance_of(weight_of(node).value.dtype)
    return nearest.label if near else None


def _match_products(
    wanted: Sequence[ProductPrint], graph: Graph, labels: Mapping[Node, int | None]
) -> dict[int, Node]:
    first = {
        node: short_hash("new", kind_of(node)) if label is None else label_colour(label)
        for node, label in labels.items()
    }
    matched: dict[int, Node] = {}
    taken: set[Node] = set()
    rounds = max((len(p.colours) for p in wanted), default=0)
    colours = {node: (colour,) for node, colour in first.items()}
    for number in range(rounds):
        if number == 1:
            if len(matched) == min(len(wanted), len(labels)):
                break
            colours = colours_of(graph, first, rounds)
        here, there = (
            Counter(p.colours[number] for p in wanted),
            Counter(found[number] for found in colours.values()),
        )
        by_colour = {found[number]: node for node, found in colours.items()}
        for i, product in enumerate(wanted):
            colour = product.colours[number]
            node = by_colour.get(colour)
            if node is None or i in matched or node in taken:
                continue
            if here[colour] == 1 == there[colour] and labels[node] is not None:
                matched[i] = node
                taken.add(node)
    return matched


def _explain(
    made: Matching,
    wanted: Sequence[ProductPrint],
    rest: list[Node],
    labels: Mapping[Node, int | None],
) -> None:
    """Say of each product without a partner why: equal ones, another shape, another weight."""
    lost: set[int] = set()
    for i, product in enumerate(wanted):
        if i in made.products:
            continue
        twins = [node for node in rest if labels[node] == product.label]
        if twins:
            names = ", ".join(node.name for node in twins[:3])
            what = f"{len(twins)} of the file have its weight, and none its surroundings: {names}"
            made.left.append(Leftover("ambiguous", product.name, what))
            lost.update(id(node) for node in twins)
            continue
        place = next((n for n in rest if id(n) not in lost and _same_place(made, product, n)), None)
        if place is None:
            what = f"no {product.kind} of the file has its weight {list(product.shape)}"
            made.left.append(Leftover("unmatched", product.name, what))
            continue
        lost.add(id(place))
        shape = canonical_shape(place)
        what = f"{place.name} in its place has other weights"
        if shape != product.shape:
            what = f"its weight was {list(product.shape)}; {place.name} has {list(shape)}"
        made.left.append(Leftover("changed", product.name, what))
    for node in rest:
        if id(node) not in lost:
            what = f"{node.op} with weight {list(canonical_shape(node))} is in the file alone"
            made.left.append(Leftover("extra", node.name, what))


def _same_place(made: Matching, product: ProductPrint, node: Node) -> bool:
    if kind_of(node) != product.kind:
        return False
    above = made.around.above[activation_edges(node)[0].value]
    return above == product.above or made.around.beneath(node.output) == product.below


def _match_reads(made: Matching, wanted: Fingerprint, found: Mapping[Edge, Read]) -> None:
    lost = {OF_PRODUCT.format(i) for i in range(len(wanted.products)) if i not in made.products}
    asked = [item for item in wanted.reads if item.read.print not in lost]
    made.comparable = frozenset(found)
    for item, edges, clear in _assign(made, asked, found, lambda item: item.quantizer):
        if item.quantizer == FLOAT:
            continue
        if clear:
            made.reads.update(dict.fromkeys(edges, item))
        if not clear or not edges:
            made.left.append(_lost(item.name, f"read as {item.read}", edges))


def _match_constants(
    made: Matching, wanted: Fingerprint, found: Mapping[Edge, Read], changed: Collection[int]
) -> None:
    numbers = {id(item): i for i, item in enumerate(wanted.constants)}
    for item, edges, clear in _assign(made, wanted.constants, found, id):
        same = [
            edge
            for edge in edges
            if (array := edge.value.const) is not None and digest_of(array) == item.digest
        ]
        number = numbers[id(item)]
        if number not in changed:
            continue
        if same and clear:
            made.constants[number] = same
        else:
            what = "was trained; what it held before, read where it is"
            made.left.append(_lost(item.name, what, same))


def _lost(name: str, what: str, edges: Sequence[Edge]) -> Leftover:
    if not edges:
        return Leftover("unmatched", name, f"{what}, has no place in the file")
    return Leftover("ambiguous", name, f"{what}, has {len(edges)} places in the file")


def _assign(
    made: Matching,
    wanted: Sequence[Printed],
    found: Mapping[Edge, Read],
    meaning: Callable[[Printed], Hashable],
) -> list[tuple[Printed, list[Edge], bool]]:
    """The reads of the file for each that is wanted, and whether that is clear. Those of one print
    and different meaning are told apart by what stands below them.
    """
    by_read: dict[Read, list[Edge]] = {}
    for edge, read in found.items():
        by_read.setdefault(read, []).append(edge)
    classes: dict[Read, list[Printed]] = {}
    for item in wanted:
        classes.setdefault(item.read, []).append(item)
    pairs: list[tuple[Printed, list[Edge], bool]] = []
    for read, items in classes.items():
        edges = by_read.get(read, [])
        if len({meaning(item) for item in items}) == 1:
            pairs += [(item, edges, True) for item in items]
            continue
        for item in items:
            same = {meaning(other) for other in items if other.below == item.below}
            here = [edge for edge in edges if beneath(made.around, edge) == item.below]
            pairs.append((item, here, len(same) == 1))
    return pairs


def beneath(around: Surroundings, edge: Edge) -> str:
    """What stands below the reader of `edge`."""
    node = edge.node
    return around.beneath(node.output) if node.outputs else ""
