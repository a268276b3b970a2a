"""The verdict of a prediction: counts, and bytes moved as predicted and as they could be."""

from __future__ import annotations

from collections.abc import Mapping

from qdqgraph.proof.layers import FLOAT_BYTES, PredictedLayer, Prediction


def conclude(
    layers: list[PredictedLayer],
    network_inputs: frozenset[str],
    quantizers: frozenset[str],
    writers: Mapping[str, str],
) -> Prediction:
    """The prediction made of these layers, which are in topological order."""
    products = [layer for layer in layers if layer.product is not None]
    inside = [
        layer for layer in layers if layer.standalone and not _at_input(layer, network_inputs)
    ]
    between = float_between(layers)
    sizes = [layer.bytes for layer in layers]
    return Prediction(
        layers=tuple(layers),
        products=len(products),
        int8_products=sum(layer.input_precision == "int8" for layer in products),
        standalone_inside=len(inside),
        float_between=between,
        bytes_moved=sum(sizes),
        bytes_ideal=_ideal_bytes(layers, sizes, set(map(id, inside)), frozenset(between)),
        quantizers=quantizers,
        writers=writers,
    )


def _at_input(layer: PredictedLayer, network_inputs: frozenset[str]) -> bool:
    return layer.standalone == "quantize" and layer.inputs[0].name in network_inputs


def float_between(layers: list[PredictedLayer]) -> tuple[str, ...]:
    """Float tensors that come from an int8 tensor and reach one again, in topological order.

    A tensor comes from int8 when the layer that writes it reads an int8 tensor, or a float one
    that comes from int8; reaching is the mirror image.
    """
    behind: set[str] = set()
    ahead: set[str] = set()
    for layer in layers:
        reads = any(use.precision == "int8" or use.name in behind for use in layer.inputs)
        if reads:
            behind.update(use.name for use in layer.outputs if use.precision == "float")
    for layer in reversed(layers):
        writes = any(use.precision == "int8" or use.name in ahead for use in layer.outputs)
        if writes:
            ahead.update(use.name for use in layer.inputs if use.precision == "float")
    written = (use.name for layer in layers for use in layer.outputs if use.precision == "float")
    return tuple(dict.fromkeys(name for name in written if name in behind and name in ahead))


def _ideal_bytes(
    layers: list[PredictedLayer], sizes: list[int], inside: set[int], between: frozenset[str]
) -> int:
    total = 0
    for layer, size in zip(layers, sizes, strict=True):
        if layer.elided or id(layer) in inside:
            continue
        total += size
        for use in (*layer.inputs, *layer.outputs):
            if use.precision == "float" and use.name in between:
                total -= (use.elements or 0) * (FLOAT_BYTES - 1)
    return total
