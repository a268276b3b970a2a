"""A model, its prediction, findings and plan become the plain facts that a report shows."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from qdqgraph.calibration.statistics import TensorStatistics
from qdqgraph.graph.view import Graph, Node, Value
from qdqgraph.planning.plan import Plan
from qdqgraph.proof.estimate import float_between
from qdqgraph.proof.findings import Finding, gravest_first
from qdqgraph.proof.layers import PredictedLayer
from qdqgraph.proof.reading.skeleton import view_without_weights
from qdqgraph.report.html.facts import Counts, NodeFact, ReportData
from qdqgraph.report.html.reasons import plan_notes, planned_reads
from qdqgraph.report.html.scales import file_quantizers, planned_quantizers, scale_groups

if TYPE_CHECKING:
    import onnx

QUANTIZERS = ("quantize", "dequantize")
POINTWISE = ("add", "sub", "mul", "div", "pow", "sqrt", "erf", "clip", "min", "max", "batch_norm")


class Predicted(Protocol):
    """What a report asks of a prediction, whoever made it: layers in topological order, a line."""

    @property
    def layers(self) -> tuple[PredictedLayer, ...]:
        """The layers of the engine."""
        ...

    @property
    def verdict(self) -> str:
        """The prediction in one line."""
        ...


def count_model(model: onnx.ModelProto, size: int | None = None) -> Counts:
    """Nodes, products and quantizers of a model as it stands; `size` is that of its file.

    A product counts as int8 when its activation and its weight both come out of a DQ.
    """
    return _counted(view_without_weights(model), size)


def _counted(graph: Graph, size: int | None, planned: Collection[tuple[str, int]] = ()) -> Counts:
    products = [node for node in graph.nodes if node.op.weighted]
    int8 = sum(
        all((p.key, i) in planned or _is_dequantized(p.inputs[i]) for i in range(len(p.inputs[:2])))
        for p in products
    )
    quantizers = sum(node.op.name in QUANTIZERS for node in graph.nodes)
    return Counts(len(graph.nodes), len(products), int8, quantizers, size)


def _is_dequantized(value: Value | None) -> bool:
    """Behind a DQ, also through movers of data such as Transpose."""
    for _ in range(8):
        node = value.producer if value is not None else None
        if node is None or node.op.name == "dequantize":
            return node is not None
        if not node.moves_data or not node.moved_edges:
            return False
        value = node.moved_edges[0].value
    return False


def collect(
    model: onnx.ModelProto,
    *,
    prediction: Predicted | None = None,
    findings: Iterable[Finding] = (),
    plan: Plan | None = None,
    statistics: Mapping[str, TensorStatistics] | None = None,
    before: Counts | None = None,
    size: int | None = None,
    folder: Path | None = None,
    title: str = "",
    target: str = "",
) -> ReportData:
    """Everything a report shows. Arguments are those of `write_report`; weights are not read."""
    graph = view_without_weights(model, folder)
    static = static_values(graph)
    observed = statistics or {}
    planned = planned_reads(plan) if plan is not None else set[tuple[str, int]]()
    nodes = _nodes(graph, static, plan, planned)
    quantizers = file_quantizers(graph, static, plan, observed)
    is_applied = bool(quantizers) or plan is None
    if not is_applied and plan is not None:
        quantizers = planned_quantizers(plan, graph, observed)
    groups, grouped_by = scale_groups(plan, quantizers)
    after = _counted(graph, size, planned)
    layers = None
    if prediction is not None:
        layers = tuple(prediction.layers)
        made = [layer for layer in layers if layer.product is not None]
        int8 = sum(layer.input_precision == "int8" for layer in made)
        after = Counts(after.nodes, len(made), int8, after.quantizers, size)
    verdict = prediction.verdict if prediction is not None else _verdict(after, is_applied)
    return ReportData(
        title=title or graph.model.graph.name or "model",
        target=target,
        verdict=verdict,
        before=before,
        after=after,
        nodes=nodes,
        layers=layers,
        float_between=float_between(list(layers)) if layers is not None else (),
        inputs=tuple(value.name for value in graph.inputs),
        outputs=tuple(dict.fromkeys(value.name for value in graph.outputs)),
        types=_types(graph, static),
        findings=tuple(gravest_first(findings)),
        quantizers=tuple(quantizers),
        groups=tuple(groups),
        grouped_by=grouped_by,
        notices=tuple(plan.notices) if plan is not None else (),
    )


def static_values(graph: Graph) -> set[Value]:
    """Values that do not depend on the network's inputs."""
    found: set[Value] = {value for value in graph.values.values() if value.is_const}
    for node in graph.nodes:
        if all(value is None or value in found for value in node.inputs):
            found.update(node.outputs)
    return found


def _nodes(
    graph: Graph, static: set[Value], plan: Plan | None, planned: Collection[tuple[str, int]]
) -> tuple[NodeFact, ...]:
    notes = plan_notes(plan) if plan is not None else {}
    facts: list[NodeFact] = []
    for node in graph.nodes:
        reads = [value for value in node.inputs if value is not None and value not in static]
        taken = {
            value.name
            for i, value in enumerate(node.inputs)
            if value is not None and ((node.key, i) in planned or _is_dequantized(value))
        }
        facts.append(
            NodeFact(
                name=node.name,
                op=_spelled(node),
                kind=_kind(node),
                reads=tuple(dict.fromkeys(value.name for value in reads)),
                constants=tuple(v.name for v in node.inputs if v is not None and v in static),
                writes=tuple(value.name for value in node.outputs),
                taken=frozenset(taken),
                is_static=all(value in static for value in node.outputs),
                is_product=node.op.weighted,
                notes=tuple(notes.get(node.key, ())),
            )
        )
    return tuple(facts)


def _spelled(node: Node) -> str:
    """The operator as the file spells it."""
    return str(getattr(node.origin, "op_type", node.op.name))


def _kind(node: Node) -> str:
    if node.op.name in QUANTIZERS:
        return "reformat"
    if node.op.weighted:
        return "conv" if node.op.name.startswith("conv") else "gemm"
    if "pool" in node.op.name:
        return "pool"
    if node.moves_data or node.op.forwards:
        return "copy"
    return "pointwise" if node.op.activation or node.op.name in POINTWISE else "float"


def _types(graph: Graph, static: set[Value]) -> dict[str, tuple[str, str]]:
    """dtype and shape of every tensor that depends on the inputs, as text."""
    found: dict[str, tuple[str, str]] = {}
    for name, value in graph.values.items():
        if value not in static:
            shape = value.shape
            dims = "" if shape is None else " × ".join("?" if d is None else str(d) for d in shape)
            found[name] = (value.dtype or "", dims if shape else "scalar" if shape == () else "")
    return found


def _verdict(counts: Counts, is_applied: bool) -> str:
    """What can be said without a prediction."""
    by = "have int8 operands in the file" if is_applied else "get int8 operands by this plan"
    return f"{counts.int8_products} of {counts.products} products {by}; layers were not predicted"
