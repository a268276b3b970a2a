"""A graph output loses its Q/DQ pair where a symmetric scale would be coarser than the old one.

No operator behind it runs in int8, so TensorRT gains nothing from the pair; the output is then
not rounded at all.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto

from qdqgraph.proof.contract.quantizers import code_element
from qdqgraph.proof.legalize.draft import Draft
from qdqgraph.proof.legalize.encodings import LIMITS, code_range, is_middle
from qdqgraph.proof.reading.by_name import DEQUANTIZE, QUANTIZE, Quantizer, is_quantizer


def drop_output_pairs(draft: Draft) -> None:
    """Drop each Q/DQ pair between a node and a graph output whose codes cannot become int8."""
    gone: set[str] = set()
    for node in draft.model.graph.node:
        if is_quantizer(node) and node.op_type == QUANTIZE:
            last = _last(draft, node)
            if last is not None:
                _take_name(draft, node.input[0], last.output[0])
                gone |= {node.output[0], last.output[0]}
    if gone:
        quantizers = (QUANTIZE, DEQUANTIZE)
        draft.set_nodes(
            [n for n in draft.nodes if n.op_type not in quantizers or n.output[0] not in gone]
        )


def _last(draft: Draft, node: onnx.NodeProto) -> onnx.NodeProto | None:
    """The DQ that makes a graph output of this Q's codes, if the pair can and should go."""
    q = Quantizer(node, draft.read)
    element, source = code_element(q, draft.read), node.input[0]
    readers = draft.read.readers.get(node.output[0], [])
    limits = code_range(q, draft.read, element)
    if limits is None or element not in LIMITS or is_middle(q.zero, element) or len(readers) != 1:
        return None
    last = readers[0]
    if not is_quantizer(last) or last.op_type != DEQUANTIZE or node.output[0] in draft.fixed:
        return None
    result = last.output[0]
    other = code_range(Quantizer(last, draft.read), draft.read, element)
    if result not in draft.outputs or draft.read.readers.get(result) or other != limits:
        return None
    if source in draft.fixed or source not in draft.read.producer or not _same_type(draft, result):
        return None
    draft.note(
        "output",
        result,
        f"no longer rounded to steps of {limits.unit:.6g} and cut off at "
        f"{limits.low:.6g} and {limits.high:.6g}",
        exact=False,
        step_before=limits.unit,
    )
    return last


def _same_type(draft: Draft, name: str) -> bool:
    """Whether the graph output is float32, as what comes before the Q is then too."""
    infos = [info for info in draft.model.graph.output if info.name == name]
    return all(info.type.tensor_type.elem_type == TensorProto.FLOAT for info in infos)


def _take_name(draft: Draft, old: str, new: str) -> None:
    """Let the producer of `old` write `new`, and all its readers read that."""
    producer = draft.read.producer[old]
    for index, name in enumerate(producer.output):
        if name == old:
            producer.output[index] = new
    for reader in draft.read.readers.get(old, ()):
        for index, name in enumerate(reader.input):
            if name == old:
                reader.input[index] = new
