"""The layers TensorRT will build from a QDQ model, without TensorRT and without a GPU.

The rules are those seen in engine dumps of TensorRT 8.2 to 8.5, and hold for every writer of QDQ
files. They are spread over small modules: `flow` moves Q and DQ over data movement, `fusion`
follows what fuses behind a product, `products` and `others` make layers, `estimate` adds up.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from qdqgraph.errors import TargetError
from qdqgraph.frontends.onnx_file.graph import OnnxGraph
from qdqgraph.graph.view import Node, Value
from qdqgraph.proof.classic.flow import Flow, Scale
from qdqgraph.proof.classic.fusion import Fusion
from qdqgraph.proof.classic.others import other_layers
from qdqgraph.proof.classic.products import Books, elements, product_layer
from qdqgraph.proof.estimate import conclude
from qdqgraph.proof.layers import PredictedLayer, Prediction, TensorUse
from qdqgraph.proof.reading.pausing import collector_paused
from qdqgraph.proof.reading.skeleton import view_without_weights
from qdqgraph.proof.rtx.predictor import predict_rtx

if TYPE_CHECKING:
    import onnx


COMPILED_SINCE = (10,)
WINDOWS = frozenset({"conv", "conv_transpose", "max_pool", "average_pool", "global_average_pool"})
"""Without any of these TensorRT 10 compiles a network as one, as engines of two MLPs show."""


def predict(
    model: onnx.ModelProto,
    *,
    target: str = "tensorrt",
    version: tuple[int, ...] = (8, 5),
    folder: Path | None = None,
) -> Prediction:
    """The engine layers of a QDQ model under `--int8 --fp16`, and a verdict.

    `print(predict(onnx.load("model.qdq.onnx")).verdict)` says it in one line.

    The model is not changed, and its weights are not read. `folder` is where external data lies,
    needed only if scales are stored there. `version` is that of TensorRT.

    With `target="tensorrt-rtx"` these are kernels of the TensorRT-RTX compiler, and `version` is
    not looked at; `predict_rtx` tells more.

    Raises `TargetError` for another target than these two, and `InvalidGraphError` for a graph
    that is not legal.
    """
    if target == "tensorrt-rtx":
        return predict_rtx(model, folder=folder).prediction
    if target != "tensorrt":
        raise TargetError(
            f"layers of target {target!r} are not predicted",
            fix="predict for 'tensorrt' or 'tensorrt-rtx'",
        )
    with collector_paused():
        return _predicted(view_without_weights(model, folder), version)


def _predicted(graph: OnnxGraph, version: tuple[int, ...]) -> Prediction:
    flow = Flow(graph)
    compiled = version >= COMPILED_SINCE and not any(node.op.name in WINDOWS for node in flow.nodes)
    books = Books(flow, compiled=compiled)
    order = {node.name: node.order for node in flow.nodes}
    found: list[tuple[float, PredictedLayer]] = []

    def place(layer: PredictedLayer) -> None:
        names = (name for name in layer.nodes if name not in quantizers)
        found.append((max((float(order[name]) for name in names), default=-1.0), layer))

    quantizers = frozenset(n.name for n in flow.nodes if n.op.name in ("quantize", "dequantize"))
    for chain in Fusion(flow, version).chains.values():
        place(product_layer(books, chain))
    for layer in other_layers(books):
        place(layer)
    for value, layer in standalone_layers(books, graph):
        after = value.producer.order if value.producer is not None else -1
        found.append((after + 0.5, layer))
    found.sort(key=lambda item: item[0])
    writers = {value.name: node.name for node in flow.nodes for value in node.outputs}
    inputs = frozenset(value.name for value in graph.inputs)
    return conclude([layer for _, layer in found], inputs, quantizers, writers)


def standalone_layers(books: Books, graph: OnnxGraph) -> Iterator[tuple[Value, PredictedLayer]]:
    """Every Q, DQ and requantization that no layer absorbs, behind the value it reads."""
    flow = books.flow
    values = [*graph.inputs, *(value for node in flow.nodes for value in node.outputs)]
    for value in values:
        asked = flow.demand_of(value).scales
        if not asked or flow.is_static(value):
            continue
        if value.producer in flow.risen or value in books.inside:
            continue
        for scale, nodes in asked.items():
            if flow.codes.get(value) != scale and (value, scale) not in books.written:
                yield value, _quantize(books, value, scale, nodes)
    for value in graph.outputs:
        books.read(value, int8=False)
    for value in books.materialized:
        read = TensorUse(flow.codes_name(value), "int8", elements(value))
        write = TensorUse(value.name, "float", elements(value))
        node = _dequantizer(flow, value)
        yield (
            value,
            PredictedLayer(
                (node.name,),
                "reformat",
                (read,),
                (write,),
                standalone="dequantize",
                reason=f"{value.name} is read as float",
            ),
        )


def _quantize(books: Books, value: Value, scale: Scale, nodes: list[Node]) -> PredictedLayer:
    flow = books.flow
    names = tuple(dict.fromkeys(node.name for node in nodes))
    write = TensorUse(flow.asked_name(value, scale), "int8", elements(value))
    if value in flow.codes:
        read = TensorUse(flow.codes_name(value), "int8", elements(value))
        dequantize = _dequantizer(flow, value).name
        return PredictedLayer(
            (dequantize, *names),
            "reformat",
            (read,),
            (write,),
            standalone="requantize",
            reason=f"{value.name} is int8 with another scale",
        )
    reason = "network input" if value.producer is None else f"{value.name} is written as float"
    read = TensorUse(value.name, "float", elements(value))
    return PredictedLayer(
        names, "reformat", (read,), (write,), standalone="quantize", reason=reason
    )


def _dequantizer(flow: Flow, value: Value) -> Node:
    """The DQ a value of codes comes from, above data movement."""
    node = value.producer
    while node is not None and node.op.name != "dequantize":
        node = flow.moved(node)[0].producer
    assert node is not None  # a value has codes only behind a DQ
    return node
