"""Where a prepared module comes from: the float network as it was, for finding it in a file again.

Taken by `prepare_qat`, before training changes the weights that tell one layer from another. Calls
are known by their number among the calls of the graph, which copying and pickling keep.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor, fx

from qdqgraph.frontends.torch_fx.graph import fx_node
from qdqgraph.frontends.torch_fx.modes import BATCH_NORM
from qdqgraph.frontends.torch_fx.tensors import held, to_array
from qdqgraph.graph.view import Edge, Node
from qdqgraph.planning.comparison import is_traceless
from qdqgraph.planning.fingerprint import (
    FLOAT,
    OF_PRODUCT,
    ConstantPrint,
    Fingerprint,
    ReadPrint,
    digest_of,
    product_prints,
    products_in,
    reads_in,
    surroundings,
    weight_of,
)
from qdqgraph.planning.matching import beneath
from qdqgraph.planning.sketch import outputs_first
from qdqgraph.training.planning import TorchPlan


@dataclass(frozen=True, slots=True)
class ProductCall:
    """A product in the graph that trains: number of the call, arguments that hold its parameters,
    rank of its result. `order` are the axes of the weight, output channels first; `folded` says
    that the batch norm behind it is folded in the file.
    """

    number: int
    weight: int
    bias: int | None
    rank: int
    order: tuple[int, ...]
    folded: bool


@dataclass(frozen=True, slots=True, eq=False)
class Origin:
    """The fingerprint of a network, and where its parts are in the graph that trains.

    `calls` are of the products of the fingerprint, `arguments` (call, argument) of its constants.
    `passes` are the spellings of the pipeline. `digests` stand for the parameters at capture.
    """

    fingerprint: Fingerprint
    calls: tuple[ProductCall, ...]
    arguments: tuple[tuple[int, int], ...]
    passes: tuple[str, ...]
    target: str
    trt_version: str
    digests: Mapping[str, str]


def numbered_calls(module: fx.GraphModule) -> list[fx.Node]:
    """The calls of a graph by their number; calls of quantizers do not count."""
    return [node for node in module.graph.nodes if node.op == "call_function"]


def digests_of(module: fx.GraphModule) -> dict[str, str]:
    """The contents of each float parameter and buffer that the graph reads, in a few digits."""
    found: dict[str, str] = {}
    for node in module.graph.nodes:
        tensor = held(module, str(node.target)) if node.op == "get_attr" else None
        if isinstance(tensor, Tensor) and tensor.is_floating_point():
            found[str(node.target)] = digest_of(to_array(tensor))
    return found


def take_origin(plan: TorchPlan, training: fx.GraphModule, trt_version: str) -> Origin:
    """The origin of `training`, a graph of the same calls that `plan` was inserted into."""
    graph = plan.fx_graph
    calls = {node.name: node for node in numbered_calls(training)}
    groups = _quantizers(plan, calls)
    numbers = {name: i for i, name in enumerate(calls)}
    products = [node for node in products_in(graph) if fx_node(node).name in calls]
    around = surroundings(graph, {n: OF_PRODUCT.format(i) for i, n in enumerate(products)})
    varying, constant = reads_in(graph, {n: i for i, n in enumerate(products)}, around)
    reads: list[ReadPrint] = []
    for edge, entry in plan.entries.items():
        group = plan.group_of(entry.quantizer)
        if edge in varying and group in groups and not is_traceless(edge.node, around.above):
            below = beneath(around, edge)
            reads.append(ReadPrint(varying[edge], below, groups[group], entry.carried, str(edge)))
    told = {item.read for item in reads}
    for edge, read in varying.items():
        if read in told and edge not in plan.entries:
            reads.append(ReadPrint(read, beneath(around, edge), FLOAT, False, str(edge)))
    constants: list[ConstantPrint] = []
    arguments: list[tuple[int, int]] = []
    for edge, read in constant.items():
        place = _argument(plan, edge)
        array = edge.value.const
        number = numbers.get(fx_node(edge.node).name)
        if place is not None and number is not None and array is not None:
            below = beneath(around, edge)
            constants.append(ConstantPrint(read, below, digest_of(array), edge.value.name))
            arguments.append((number, place))
    return Origin(
        Fingerprint(product_prints(graph, products), tuple(reads), tuple(constants)),
        tuple(_product_call(plan, node, calls, numbers) for node in products),
        tuple(arguments),
        tuple(item.spelling for item in plan.pipeline),
        plan.pipeline.target.name,
        trt_version,
        digests_of(training),
    )


def _product_call(
    plan: TorchPlan, node: Node, calls: Mapping[str, fx.Node], numbers: Mapping[str, int]
) -> ProductCall:
    origin = fx_node(node)
    call = calls[origin.name]
    edge = weight_of(node)
    weight = _argument(plan, edge)
    assert weight is not None
    bias = node["bias"]
    behind = [user.target is BATCH_NORM for user in call.users]
    left = any(edge.node.op.name == "batch_norm" for edge in node.output.uses)
    return ProductCall(
        numbers[origin.name],
        weight,
        None if bias is None else _argument(plan, node.edge("bias")),
        len(node.output.shape or ()),
        outputs_first(node, edge, len(edge.value.shape or ())),
        behind == [True] and not left,
    )


def _quantizers(plan: TorchPlan, calls: Mapping[str, fx.Node]) -> dict[str, str]:
    """The name of the quantizer of each group, as the calls in training read it."""
    found: dict[str, str] = {}
    for edge, entry in plan.entries.items():
        origin = fx_node(edge.node)
        sources: list[Any] = list(plan.fx_graph.origins(edge.value))
        call = calls.get(origin.name)
        if call is None or entry.carried:
            continue
        for before, now in zip(_items(origin), _items(call), strict=False):
            if before in sources and isinstance(now, fx.Node) and now.op == "call_module":
                name = str(now.target).rpartition(".")[2]
                found.setdefault(plan.group_of(entry.quantizer), name)
    return found


def _items(call: fx.Node) -> list[Any]:
    """The arguments of a call, those in lists one by one."""
    return [
        item
        for held in call.args
        for item in (cast("list[Any]", held) if isinstance(held, (list, tuple)) else [held])
    ]


def _argument(plan: TorchPlan, edge: Edge) -> int | None:
    """Which argument of the call holds what `edge` reads; None for numbers and items of lists."""
    held_by: list[Any] = list(plan.fx_graph.origins(edge.value))
    arguments = fx_node(edge.node).args
    return next((i for i, item in enumerate(arguments) if item in held_by), None)
