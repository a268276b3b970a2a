"""A written file is good: it loads, the checker accepts it, scales are sound, its interface held.

`verify_file` is what `save_model` is given as `validate`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx

from qdqgraph.errors import ModelLoadError, OutputError
from qdqgraph.storage.load import LoadedModel, load_model
from qdqgraph.verification.interface import check_interface
from qdqgraph.verification.pieces import nested
from qdqgraph.verification.piecewise import PiecewiseCheck, UnverifiedNode, unknown_ops
from qdqgraph.verification.scale_check import QUANTIZE_OPS, check_scales
from qdqgraph.verification.verdicts import check_by_onnx, load_in_runtime, refused

WHOLE_NODES = 5000
"""A larger graph is loaded in parts: onnxruntime's loading time is super-linear in nodes."""

Level = Literal["full", "fast"]


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was checked, and what could not be.

    `nodes` counts all nodes, subgraphs included, and `quantize_nodes` the Q/DQ among them.
    `pieces` is how many parts onnxruntime loaded: 1 for the file as a whole, 0 at level `fast`.
    `dynamic_scales` are scales computed at run time, `unverified` the nodes onnxruntime was not
    asked about because it does not know them or their types.
    """

    level: Level
    nodes: int
    quantize_nodes: int
    pieces: int
    dynamic_scales: int
    unverified: tuple[UnverifiedNode, ...] = ()

    @property
    def unverified_ops(self) -> tuple[tuple[str, int], ...]:
        """Operators among the unverified nodes with their counts, by name."""
        return tuple(sorted(Counter(node.op for node in self.unverified).items()))


def verify_file(
    path: Path, *, level: Level = "full", io_of: onnx.ModelProto | None = None
) -> VerifyReport:
    """Check the file at `path`; its weights are mapped, never read whole.

    Both levels parse it, check all external references, run the ONNX checker, require finite
    positive scales, and require the graph inputs and outputs of `io_of`. `full` adds type and
    shape inference and loading in onnxruntime. Where that cannot load the whole file, because an
    operator is unknown to it, has no kernel, or because the graph has over 5,000 nodes, the rest
    is loaded in parts cut at tensors.

    Raises `OutputError` naming the first node that is wrong.
    """
    try:
        loaded = load_model(path)
    except ModelLoadError as error:
        raise OutputError(
            f"the written file is not a model: {error.what}", where=error.where, fix=error.fix
        ) from error
    model = loaded.model
    dynamic = check_scales(model, loaded.data)
    if io_of is not None:
        check_interface(model, io_of)
    unknown = unknown_ops(model)
    # The checker refuses an unknown operator in a standard domain (many TensorRT plugins are
    # written so) and an interface of unknown rank; then it gets the parts instead.
    by_path = not any(domain in ("", "ai.onnx", "ai.onnx.ml") for domain, _ in unknown)
    by_path = by_path and _interface_has_ranks(model)
    full = level == "full"
    if by_path:
        check_by_onnx(path, full=full)
    pieces, unverified = 0, ()
    if full and by_path and not unknown and _load_whole(loaded):
        pieces = 1
    elif full or not by_path:
        check = PiecewiseCheck(model, loaded.data, set(unknown), not by_path, full)
        check.run()
        pieces = check.pieces
        unverified = tuple(check.unverified[index] for index in sorted(check.unverified))
    every = [inner for node in model.graph.node for inner in nested(node)]
    quantizers = sum(node.op_type in QUANTIZE_OPS for node in every)
    return VerifyReport(level, len(every), quantizers, pieces, dynamic, unverified)


def _load_whole(loaded: LoadedModel) -> bool:
    """Whether onnxruntime loads the file; False where parts of it may still load."""
    if len(loaded.model.graph.node) > WHOLE_NODES:
        return False
    _, refusal = load_in_runtime(loaded.path)
    if refusal is not None and refusal.kind == "invalid":
        raise refused("onnxruntime", refusal.message, refusal.node)
    return refusal is None


def _interface_has_ranks(model: onnx.ModelProto) -> bool:
    return all(
        value.type.tensor_type.HasField("shape")
        for value in (*model.graph.input, *model.graph.output)
        if value.type.WhichOneof("value") == "tensor_type"
    )
