"""What the TensorRT-RTX compiler builds from a QDQ model, without the compiler.

The rules were found by compiling several thousand small graphs for SM89 with version 1.7 and
comparing the kernels that its log lists; SM80 and SM120 differ in fp8 and in few pools only.
Nothing here says how fast or how exact an engine is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qdqgraph.graph.view import Node
from qdqgraph.proof.estimate import conclude
from qdqgraph.proof.findings import Finding, gravest_first
from qdqgraph.proof.layers import PredictedLayer, Prediction
from qdqgraph.proof.reading.skeleton import view_without_weights
from qdqgraph.proof.rtx.codes import Codes
from qdqgraph.proof.rtx.description import layers_of
from qdqgraph.proof.rtx.facts import not_modelled
from qdqgraph.proof.rtx.folding import finish
from qdqgraph.proof.rtx.joining import join, note_readers
from qdqgraph.proof.rtx.launches import launch_all
from qdqgraph.proof.rtx.plan import Plan
from qdqgraph.proof.rtx.products import why_float
from qdqgraph.proof.rtx.rules import explain

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True, slots=True)
class RtxPrediction:
    """The predicted plan of one model.

    `products` tells for each product, by the compiler's name of its node, whether it multiplies
    int8; a node without a name is called `node_of_<its first output>`. `reasons` gives a sentence
    and `rules` a rule id for each that does not. `attention` are groups of products that one
    attention kernel computes. `kernels` counts all launches, those that dequantize a weight at
    every inference (`weight_kernels`) included; `kernels_folded` counts a product and its own
    pointwise kernel once. `prediction` is the same as engine layers. `not_modelled` are operators
    that become kernels in numbers which this prediction does not know (recurrences, loops): with
    any, the two counts are the least that there will be.
    """

    products: Mapping[str, bool]
    reasons: Mapping[str, str]
    rules: Mapping[str, str]
    attention: tuple[tuple[str, ...], ...]
    kernels: int
    kernels_folded: int
    weight_kernels: int
    prediction: Prediction
    findings: tuple[Finding, ...]
    not_modelled: tuple[str, ...] = ()

    @property
    def layers(self) -> tuple[PredictedLayer, ...]:
        """The kernels in launch order, a product and its pointwise kernel as one layer."""
        return self.prediction.layers

    @property
    def verdict(self) -> str:
        """The prediction in one line."""
        weights = "" if self.weight_kernels == 1 else "s"
        least = "at least " if self.not_modelled else ""
        aside = f", {', '.join(self.not_modelled)} not modelled" if self.not_modelled else ""
        return (
            f"{sum(self.products.values())} of {len(self.products)} products int8, "
            f"{least}{self.kernels_folded} kernels "
            f"({self.kernels} with epilogues apart{aside}), "
            f"{self.prediction.standalone_inside} stand-alone Q/DQ beyond the input, "
            f"{self.weight_kernels} weight{weights} dequantized at every inference"
        )


def predict_rtx(model: onnx.ModelProto, *, folder: Path | None = None) -> RtxPrediction:
    """The plan that the TensorRT-RTX compiler makes of a QDQ model, whoever wrote it.

    `print(predict_rtx(onnx.load("model.qdq.onnx")).verdict)` says it in one line.

    The model is not changed, and its weights are not read. `folder` is where external data lies,
    needed only if scales are stored there. Raises `InvalidGraphError` for a graph that is not
    legal.
    """
    names = {
        proto.output[0]: proto.name or f"node_of_{proto.output[0]}"
        for proto in model.graph.node
        if proto.output
    }
    graph = view_without_weights(model, folder)
    codes = Codes(graph)
    label = {
        node: names.get(node.outputs[0].name, node.name) for node in graph.nodes if node.outputs
    }
    products = [
        node for node in graph.nodes if node.op.weighted and not codes.is_static(node.output)
    ]
    found = {node: why_float(codes, node) for node in products}
    floats = {node: rule for node, rule in found.items() if rule}
    told = {node: explain(codes, node, rule, label[node]) for node, rule in floats.items()}

    plan = Plan(graph, codes, floats)
    launch_all(plan)
    note_readers(plan)
    join(plan)
    kernels = finish(plan)
    count = len(kernels) + plan.weight_kernels
    cores = dict.fromkeys(plan.cores.values())
    quantizers = frozenset(n.name for n in graph.nodes if n.op.name in ("quantize", "dequantize"))
    reasons: dict[Node, str] = {node: cause for node, (_, cause, _) in told.items()}
    prediction = conclude(
        layers_of(plan, kernels, reasons),
        frozenset(value.name for value in graph.inputs),
        quantizers,
        {value.name: node.name for node in graph.nodes for value in node.outputs},
    )
    return RtxPrediction(
        products={label[node]: not rule for node, rule in found.items()},
        reasons={label[node]: cause for node, cause in reasons.items()},
        rules={label[node]: rule for node, (rule, _, _) in told.items()},
        attention=tuple((label[core.scores], label[core.mix]) for core in cores),
        kernels=count,
        kernels_folded=count - sum(kernel.folded is not None for kernel in kernels),
        weight_kernels=plan.weight_kernels,
        prediction=prediction,
        findings=tuple(gravest_first(finding for _, _, finding in told.values())),
        not_modelled=not_modelled(graph.nodes),
    )
