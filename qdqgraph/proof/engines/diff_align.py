"""Which layers of two engines compute the same product, and which ONNX operators a layer names.

Products are aligned by the weight in their names, then by the ONNX node, and, where node numbers
differ and no weights are named, by their place in the engine.
"""

from __future__ import annotations

import re
from collections import Counter

from qdqgraph.proof.engines.layers import Engine, EngineLayer

_OPERATOR = re.compile(r"(?:.*/)?([A-Z][A-Za-z]+?)(?:_\d+)?$")
_PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_QUANTIZER = re.compile(r"(?:.*/)?(?:Quantize|Dequantize)Linear(?:_\d+)?$")
_PRODUCT_TYPES = re.compile(r"conv|gemm|matrixmultiply|matmul", re.IGNORECASE)


def operators_of(layer: EngineLayer) -> Counter[str]:
    """How often each ONNX operator is named in a layer."""
    found = (_OPERATOR.fullmatch(name) for name in layer.nodes)
    return Counter(match.group(1) for match in found if match is not None)


def operator_names(layer: EngineLayer) -> set[str]:
    """The ONNX operators in a layer, Q and DQ aside, by name."""
    return {
        name for name in layer.nodes if _OPERATOR.fullmatch(name) and not _QUANTIZER.fullmatch(name)
    }


def align(best: Engine, qdq: Engine) -> list[tuple[EngineLayer, EngineLayer]]:
    """Layers that compute the same product, in the order of the QDQ engine."""
    mine, its = products_of(best), products_of(qdq)
    weights = {key: layer for layer in mine for key in layer.nodes if "weight" in key.lower()}
    pairs = [(weights[key], layer) for layer in its for key in layer.nodes if key in weights]
    if not pairs:
        names = {key: layer for layer in mine for key in layer.nodes if _tells(key)}
        pairs = [(names[key], layer) for layer in its for key in layer.nodes if key in names]
    if 2 * len(pairs) < len(its) and len(mine) == len(its):
        pairs = list(zip(mine, its, strict=True))
    first = {layer.name: (partner, layer) for partner, layer in reversed(pairs)}
    return [first[layer.name] for layer in its if layer.name in first]


def _is_product(name: str) -> bool:
    match = _OPERATOR.fullmatch(name)
    return match is not None and match.group(1) in _PRODUCTS


def _tells(name: str) -> bool:
    """True for names that can stand for a product: also those that do not say their operator."""
    return _is_product(name) or _OPERATOR.fullmatch(name) is None


def products_of(engine: Engine) -> list[EngineLayer]:
    """The layers that convolve or multiply matrices, by a node in their name or by their type."""
    return [
        layer
        for layer in engine.layers
        if any(map(_is_product, layer.nodes))
        or (_PRODUCT_TYPES.search(layer.type) and any(layer.branches))
    ]
