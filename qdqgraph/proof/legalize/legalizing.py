"""A model quantized by another tool, made legal for TensorRT: exactly, or with the loss told.

    report = legalize(onnx.load("from_onnxruntime.onnx"))

The order matters: operators on codes are unfolded first, so that all quantizers are Q/DQ; biases
and clips are made explicit while the old scales still say what they stood for; then the codes.
"""

from __future__ import annotations

import onnx

from qdqgraph.lowering.opset.raising import raise_opset
from qdqgraph.proof.contract.checking import check_contract
from qdqgraph.proof.contract.rules import ContractTarget
from qdqgraph.proof.legalize.activations import symmetric_activations
from qdqgraph.proof.legalize.bias import float_biases, float_constants
from qdqgraph.proof.legalize.chains import pair_chains
from qdqgraph.proof.legalize.clips import restore_clips
from qdqgraph.proof.legalize.draft import Draft
from qdqgraph.proof.legalize.integers import float_integer_products
from qdqgraph.proof.legalize.operators import name_default_domain, unfold_operators
from qdqgraph.proof.legalize.outputs import drop_output_pairs
from qdqgraph.proof.legalize.report import LegalizeReport
from qdqgraph.proof.legalize.weights import symmetric_weights
from qdqgraph.proof.reading.by_name import opset_of
from qdqgraph.proof.reading.vetting import refuse_short_nodes
from qdqgraph.storage.references import DataFolder

OPSET = 13
"""Q/DQ have an axis from this opset on, and no TensorRT with Q/DQ reads less."""


def legalize(
    model: onnx.ModelProto,
    *,
    target: ContractTarget = "tensorrt",
    version: tuple[int, ...] = (10,),
    data: DataFolder | None = None,
    sm: int | None = None,
) -> LegalizeReport:
    """Rewrite `model` in place so that TensorRT takes its Q/DQ; returns what was done and lost.

    Mul - Round - Clip - Mul becomes Q/DQ.
    uint8 codes with zero point 128 become int8 with zero point 0, exactly; other zero points get
    a symmetric scale that covers the same range. int32 biases and quantized constants that are
    no weights become float. QLinear* operators become float ones between Q and DQ, ConvInteger
    and MatMulInteger float products. A Relu or Clip that a quantizer stood for is put back. A
    graph output whose quantizer is not symmetric is no longer quantized. Bodies of If, Loop and
    Scan are left as they are.

    `report.left` is the input contract's verdict for `target` at `version`, on a GPU of compute
    capability `sm` (89 for 8.9) if that is given, on the result. `data`
    is the folder of external tensors. Raises `InvalidGraphError` or `ModelLoadError` for a model
    whose opset cannot be raised to 13, or that is damaged.
    """
    refuse_short_nodes(model.graph.node, opset_of(model))
    draft = Draft(model, data)
    if opset_of(model) < OPSET and _is_quantized(model):
        for line in raise_opset(model, OPSET)[:1]:
            draft.note("form", model.graph.name or "model", line)
        draft = _again(draft)
    if pair_chains(draft):
        draft = _again(draft)
    name_default_domain(draft)
    unfold_operators(draft)
    float_integer_products(draft)
    float_biases(draft)
    float_constants(draft)
    restore_clips(draft)
    drop_output_pairs(draft)
    symmetric_activations(draft)
    symmetric_weights(draft)
    if draft.changes:
        draft.sweep()
    left = check_contract(model, target=target, version=version, data=data, sm=sm)
    return LegalizeReport(draft.changes, left)


def _again(draft: Draft) -> Draft:
    fresh = Draft(draft.model, draft.data)
    fresh.changes = draft.changes
    return fresh


def _is_quantized(model: onnx.ModelProto) -> bool:
    marks = ("QuantizeLinear", "DequantizeLinear", "QLinear", "Integer", "QGemm")
    return any(mark in node.op_type for node in model.graph.node for mark in marks)
