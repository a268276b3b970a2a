"""The codes that activations take: in torch, and in the file, on the same example.

Two runtimes add up the same numbers in another order, and a sum beside a rounding boundary lands
on its other side now and then. That is all that may differ.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx
from typing_extensions import override

from qdqgraph.quantizer import Quantizer
from qdqgraph.training.prepared import PreparedModule

DEQUANTIZE = "DequantizeLinear"


@dataclass(frozen=True, slots=True)
class Kind:
    """Type and rank of a tensor."""

    dtype: torch.dtype
    rank: int


@dataclass(slots=True)
class Levels:
    """What one example met in torch: kinds by call, what quantizers gave in call order, results."""

    kinds: dict[str, Kind] = field(default_factory=dict[str, Kind])
    rounded: dict[str, list[Tensor]] = field(default_factory=dict[str, list[Tensor]])
    results: list[Tensor] = field(default_factory=list[Tensor])


@dataclass(frozen=True, slots=True)
class Comparison:
    """Share of activation codes that differ, and the largest difference of a result."""

    flipped: float
    difference: float


@torch.no_grad()
def observe_levels(prepared: PreparedModule, flat: tuple[Any, ...]) -> Levels:
    """Run the example through the module in eval mode; the module keeps its mode."""
    training = prepared.training
    prepared.train(False)
    try:
        recorder = _Recorder(prepared.graph_module)
        results = cast("tuple[object, ...]", recorder.run(*flat))
    finally:
        prepared.train(training)
    recorder.seen.results = [result for result in results if isinstance(result, Tensor)]
    return recorder.seen


class _Recorder(fx.Interpreter):
    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.seen = Levels()
        self._constant: set[fx.Node] = set()

    @override
    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.op == "get_attr" or (
            n.all_input_nodes and self._constant.issuperset(n.all_input_nodes)
        ):
            self._constant.add(n)
        if isinstance(result, Tensor):
            self.seen.kinds[n.name] = Kind(result.dtype, result.dim())
        if n.op == "call_module" and n not in self._constant:
            quantizer = self.fetch_attr(str(n.target))
            if isinstance(quantizer, Quantizer):
                self.seen.rounded.setdefault(str(n.target).rpartition(".")[2], []).append(result)
        return result


def compare_levels(seen: Levels, file: Path, flat: tuple[Any, ...]) -> Comparison | None:
    """Run the file in onnxruntime, unoptimized, on the example that `seen` is of.

    None where its inputs, or its quantizers, are not those of the graph any more, where it holds
    operators that onnxruntime does not know, and for half precision: scales are halves in a file.
    """
    if {kind.dtype for kind in seen.kinds.values()} & {torch.float16, torch.bfloat16}:
        return None
    import onnx

    model: onnx.ModelProto = cast("Any", onnx).load(file, load_external_data=False)
    defined = {"", "ai.onnx.ml", *(function.domain for function in model.functions)}
    if any(node.domain not in defined for node in model.graph.node):
        return None
    behind = {n.input[0]: n.output[0] for n in model.graph.node if n.op_type == DEQUANTIZE}
    wanted: list[tuple[str, Tensor]] = []
    count: dict[str, int] = {}
    for node in model.graph.node:
        name = node.input[1].removesuffix("_scale") if node.op_type == "QuantizeLinear" else ""
        number = count[name] = count.get(name, -1) + 1
        if number < len(seen.rounded.get(name, ())) and node.output[0] in behind:
            wanted.append((behind[node.output[0]], seen.rounded[name][number]))
    given = {value.name for value in model.graph.output}
    results = [value.name for value in model.graph.output]
    model.graph.output.extend(
        onnx.ValueInfoProto(name=name) for name, _ in wanted if name not in given
    )
    probe = file.with_name("probe.onnx")
    probe.write_bytes(model.SerializeToString())
    ort: Any = importlib.import_module("onnxruntime")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(str(probe), options, providers=["CPUExecutionProvider"])
    names: list[str] = [value.name for value in session.get_inputs()]
    tensors = [leaf.detach().cpu().numpy() for leaf in flat if isinstance(leaf, Tensor)]
    if len(names) != len(tensors) or len(results) != len(seen.results):
        return None
    outputs: list[npt.NDArray[Any]] = session.run(
        [*(name for name, _ in wanted), *results], dict(zip(names, tensors, strict=True))
    )
    rounded = outputs[: len(wanted)]
    differing = sum(
        int(np.count_nonzero(found != expected.cpu().numpy()))
        for found, (_, expected) in zip(rounded, wanted, strict=True)
    )
    total = sum(found.size for found in rounded)
    ends = zip(outputs[len(wanted) :], seen.results, strict=True)
    difference = max(
        (
            float(np.abs(found - expected.cpu().numpy()).max(initial=0.0))
            for found, expected in ends
        ),
        default=0.0,
    )
    return Comparison(differing / max(total, 1), difference)
