"""What is wrong with where Q and DQ stand: findings drawn from the predicted layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from qdqgraph.proof.findings import Finding
from qdqgraph.proof.layers import PredictedLayer, Prediction
from qdqgraph.proof.placement_rules import PLACEMENT_RULES

Place = tuple[str, tuple[str, ...], tuple[str, ...], str]
"""A rule's id, nodes, tensors, and what happens."""


@dataclass(frozen=True, slots=True)
class Tensors:
    """Float tensors by name: who writes them, who reads them, which lie between int8 layers."""

    writers: dict[str, PredictedLayer]
    readers: dict[str, list[PredictedLayer]]
    between: frozenset[str]


def judge_placement(prediction: Prediction) -> list[Finding]:
    """Findings in the order of layers, each with the pass that mends it.

    A pair at a network input is no finding: somebody has to quantize there.
    """
    by_output = {
        use.name: layer
        for layer in prediction.layers
        for use in layer.outputs
        if use.precision == "float"
    }
    readers: dict[str, list[PredictedLayer]] = {}
    for layer in prediction.layers:
        for use in layer.inputs:
            if use.precision == "float" and layer.standalone is None:
                readers.setdefault(use.name, []).append(layer)
    floats = Tensors(by_output, readers, frozenset(prediction.float_between))
    found: list[Finding] = []
    for layer in prediction.layers:
        for name, nodes, tensors, what in _places(layer, prediction, floats):
            rule = PLACEMENT_RULES[name]
            found.append(Finding(name, rule.severity, nodes, tensors, what, rule.why, rule.fix))
    return found


def _places(
    layer: PredictedLayer,
    prediction: Prediction,
    floats: Tensors,
) -> Iterator[Place]:
    if layer.standalone is not None:
        yield from _standalone(layer, floats)
        return
    between = floats.between
    compute = tuple(name for name in layer.nodes if name not in prediction.quantizers)
    result = layer.outputs[0] if layer.outputs else None
    if layer.product is not None and layer.input_precision == "float":
        quantized = any(name in prediction.quantizers for name in layer.nodes)
        dequantized = any(
            prediction.writers.get(use.name) in prediction.quantizers for use in layer.inputs
        )
        if quantized or dequantized:
            what = f"{layer.product} runs in float: {layer.reason}"
            yield "half-quantized-product", (layer.product,), (), what
    elif layer.product is not None and "is dequantized on its own" in layer.reason:
        tensors = (layer.residual.name,) if layer.residual else ()
        yield "residual-dequantized", compute, tensors, f"{layer.product}: {layer.reason}"
    elif layer.product is not None and result is not None and result.name in between:
        what = f"{layer.product} writes {result.name} as float: {layer.reason}"
        name = "float-trunk" if layer.reason.startswith("no Q reads") else "float-between-int8"
        yield name, compute, (result.name,), what
    elif (
        layer.kind in ("copy", "pool")
        and not layer.elided
        and result is not None
        and result.name in between
        and layer.reason.startswith(result.name)
    ):
        yield "movement-in-float", compute, (result.name,), layer.reason


def _standalone(layer: PredictedLayer, floats: Tensors) -> Iterator[Place]:
    read, written = layer.inputs[0].name, layer.outputs[0].name
    if layer.standalone == "requantize":
        yield "requantize", layer.nodes, (read,), layer.reason
    elif layer.standalone == "dequantize":
        behind = floats.readers.get(written, [])
        only_floats = behind and all(reader.kind == "float" for reader in behind)
        name = "float-kernel-boundary" if only_floats else "stray-dequantize"
        yield name, layer.nodes, (written,), layer.reason
    elif read in floats.writers:
        writer = floats.writers[read]
        boundary = writer.kind == "float" or (
            writer.product is not None and writer.input_precision == "float"
        )
        name = "float-kernel-boundary" if boundary else "stray-quantize"
        yield name, layer.nodes, (read,), layer.reason
