"""`qg.lower_onto`: a trained network into the ONNX file that its float model was exported to.

The file keeps its nodes, names, metadata and custom edits; it gets the weights as `lower` writes
them, the folded biases, and Q and DQ with the trained scales. Layers are found by structure and by
the weights they had when the module was prepared, never by name.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from qdqgraph.errors import MismatchError, UsageError
from qdqgraph.exporting.lower import ready
from qdqgraph.exporting.placing import Placing
from qdqgraph.exporting.trained import read_trained
from qdqgraph.job import Source, is_same_file, plan
from qdqgraph.lowering.insert import insert_plan
from qdqgraph.lowering.opset_floor import raise_for_plan
from qdqgraph.model import Model
from qdqgraph.passes import ALL
from qdqgraph.passes.drop_needless import drop_needless
from qdqgraph.pipeline.options import tidy_pipeline
from qdqgraph.pipeline.pipeline import Pipeline
from qdqgraph.pipeline.spelling import split_spelling
from qdqgraph.pipeline.targets import Dialect
from qdqgraph.planning.matching import Leftover, match
from qdqgraph.storage.save import check_output
from qdqgraph.training.origin import Origin


@dataclass(frozen=True, slots=True)
class OntoResult:
    """The file's model with the trained network in it, saved or not.

    `products` were found, of all that were prepared; `quantizers` are pairs written. `left` lists
    what was not carried over: empty, unless that was allowed.
    """

    model: Model
    products: int
    quantizers: int
    left: tuple[Leftover, ...]
    notices: tuple[str, ...]


def lower_onto(
    model: object,
    source: Source,
    output: str | os.PathLike[str] | None = None,
    *,
    scales_only: bool = False,
    partial: bool = False,
) -> OntoResult:
    """Write what `prepare_qat` and training made of a network into an ONNX file of that network.

    `source` is the float network as it was when it was prepared, from either exporter, batch norms
    folded or not, nodes renamed or reordered. Written are int8 weights, folded biases, other
    trained parameters and scales, exactly as `lower` would write them; `output` may be the source
    itself, which is replaced whole or not at all. Without `output` nothing is saved.

    `scales_only` leaves the numbers of the file alone: its own float weights are rounded on the
    trained scales of weights, for a file whose weights are meant to differ from those trained.
    Channels that training switched off take the range of the file's weights, and a notice tells
    where more than 0.1 % of the weights lie beyond their scale.

    Raises `MismatchError`, whose `entries` list all that is unmatched, ambiguous, changed or extra,
    before anything is written. With `partial` they are listed in the result: such layers keep their
    float weights and run in float. `UsageError` and `CalibrationError` are those of `lower`.
    """
    prepared = ready(model)
    origin = prepared.origin
    if origin is None:
        raise UsageError(
            "the module does not know the network it was made of",
            fix="prepare it with this version of prepare_qat and load its state dict",
        )
    if output is not None:
        check_output(output)
    in_place = output is not None and is_same_file(source, output)
    made = plan(source, pipeline=_pipeline(origin), trt_version=origin.trt_version)
    trained = read_trained(prepared, origin)
    changed = () if scales_only else tuple(trained.constants)
    matching = match(origin.fingerprint, made.onnx_graph, changed)
    placing = Placing(made, matching, origin, trained, scales_only=scales_only)
    placing.parameters()
    placing.quantizers(prepared.quantizers)
    left = tuple(placing.left)
    if left and (not partial or not matching.products):
        raise MismatchError(
            f"{len(left)} parts of the network and the file do not fit; nothing was written",
            entries=left,
            fix="give the float export of the very network that was prepared"
            + (", or partial=True" if matching.products else ""),
        )
    if left:
        made.author = drop_needless.name
        drop_needless.run(made.context)
    made.model.graph = made.context.graph = raise_for_plan(made.model.graph, made, None)
    placing.norms(made.model.graph)
    pairs = insert_plan(made, Dialect())
    if output is not None:
        made.model.save(Path(output), in_place=in_place)
    notices = (*prepared.notices, *made.notices)
    return OntoResult(made.model, len(matching.products), pairs, left, notices)


def _pipeline(origin: Origin) -> Pipeline:
    """The pipeline that planned the network, without what names its tensors: the reads that were
    quantized are taken from the network, whatever rule chose them.
    """
    known = {item.name for item in ALL}
    kept: list[str] = []
    for text in origin.passes:
        name, options = split_spelling(text)
        if name in known and "scope" not in options:
            kept.append(text)
    return tidy_pipeline(kept, origin.target)
