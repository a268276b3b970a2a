"""The plan becomes Q/DQ nodes: one pair a quantizer, read by the edges that bind to it."""

from __future__ import annotations

import numpy as np

from qdqgraph.errors import CalibrationError
from qdqgraph.graph.view import Edge, Node, Value
from qdqgraph.graph.weights import weight_edge
from qdqgraph.pipeline.targets import Dialect
from qdqgraph.planning.plan import Entry, Plan, Quantizer
from qdqgraph.planning.spec import Encoding, QuantSpec

INT32 = np.iinfo(np.int32)


def insert_plan(plan: Plan, dialect: Dialect) -> int:
    """Insert every quantizer that is emitted; returns how many pairs were made.

    Raises `CalibrationError` when a quantizer has no scale yet.
    """
    graph = plan.graph
    if dialect.integer_bias:
        _insert_biases(plan)
    made = 0
    for identity, emitted in _in_graph_order(plan):
        quantizer = plan.quantizers[identity]
        if quantizer.encoding is None:
            raise CalibrationError(
                "this quantizer has no scale",
                where=identity,
                fix="calibrate the plan before applying it",
            )
        graph.author = "insert"
        edges = [entry.edge for entry in emitted]
        graph.insert_quantizer(
            quantizer.source, edges, quantizer.encoding, _origin(quantizer, emitted)
        )
        made += 1
    return made


def _in_graph_order(plan: Plan) -> list[tuple[str, list[Entry]]]:
    """Quantizers with the entries they are emitted for, by first reader: the order of passes, or
    of a plan file, leaves no trace in the model."""
    position = {node: i for i, node in enumerate(plan.graph.nodes)}

    def place(entry: Entry) -> tuple[int, int]:
        return position[entry.edge.node], entry.edge.index

    found: dict[str, list[Entry]] = {}
    for entry in sorted(plan.entries.values(), key=place):
        if not entry.carried:
            found.setdefault(entry.quantizer.id, []).append(entry)
    return list(found.items())


def _origin(quantizer: Quantizer, entries: list[Entry]) -> str:
    """What the file itself says about a pair: who placed it, and why."""
    first = entries[0]
    more = f" (+{len(entries) - 1} more readers)" if len(entries) > 1 else ""
    return f"qdqgraph {first.author}: {first.reason}{more}"


def _insert_biases(plan: Plan) -> None:
    """int32 codes of scale s_x · s_w for each constant bias of an int8 product (onnxruntime)."""
    for node in plan.graph.nodes:
        bias = node["bias"] if node.op.weighted else None
        weight = weight_edge(node)
        if bias is None or weight is None or not bias.is_const or node.float("beta", 1.0) != 1.0:
            continue
        x, w = plan.quantizer_on(node.edges[0]), plan.quantizer_on(weight)
        if x is None or w is None or x.encoding is None or w.encoding is None:
            continue
        _insert_bias(plan, node, bias, node.edge("bias"), x.encoding, w.encoding)


def _insert_bias(plan: Plan, node: Node, bias: Value, edge: Edge, x: Encoding, w: Encoding) -> None:
    array = bias.const
    if array is None or array.ndim != 1:
        return
    scale = (x.scale.astype(np.float64) * w.scale.astype(np.float64)).astype(np.float32)
    per_channel = w.spec.axis is not None and scale.shape == array.shape
    if not per_channel and scale.ndim:
        return
    if np.any(np.abs(array) > INT32.max * scale.astype(np.float64)):
        plan.notices.append(
            f"the bias of {node.name} stays float: it does not fit 32 bits of its tiny scale"
        )
        return
    spec = QuantSpec(
        dtype="int32",
        granularity="channel" if per_channel else "tensor",
        axis=0 if per_channel else None,
    )
    encoding = Encoding(spec, scale, np.zeros(scale.shape, np.int32))
    graph = plan.graph
    own = graph.add_constant(bias.name, array)
    graph.set_input(edge, own)
    graph.insert_quantizer(own, [edge], encoding, f"qdqgraph insert: int32 bias of {node.name}")
