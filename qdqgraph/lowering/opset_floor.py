"""The opset is raised as far as the Q/DQ need, no further, before they are inserted."""

from __future__ import annotations

from qdqgraph.errors import TargetError
from qdqgraph.frontends.onnx_file.graph import OnnxGraph
from qdqgraph.lowering.opset import raise_opset
from qdqgraph.planning.plan import Plan


def needed_opset(plan: Plan) -> tuple[int, str]:
    """Lowest opset whose Q/DQ can say what the plan says, and the quantizer that needs it.

    13 for a scale per channel (before it Q/DQ have no axis), 19 for float16 scales, 21 for four
    bits and blocks (ONNX operator changelog).
    """
    needed, reason = 13, "Q/DQ with a scale per channel"
    for quantizer in plan.used():
        half = quantizer.source.dtype in ("float16", "bfloat16")
        if quantizer.spec.bits == 4 or quantizer.spec.granularity == "block":
            rule = f", rule {quantizer.setting}" if quantizer.setting else ""
            return 21, f"{quantizer.spec} of {quantizer.id}{rule}"
        if half and needed < 19:
            needed, reason = 19, f"a {quantizer.source.dtype} scale of {quantizer.id}"
    return needed, reason


def raise_for_plan(graph: OnnxGraph, plan: Plan, opset: int | None) -> OnnxGraph:
    """The view, or a new one at the opset that the plan or the user needs; the plan follows.

    Raises `TargetError` when the user's `opset` is too low for the plan.
    """
    needed, reason = needed_opset(plan) if plan.entries else (0, "")
    if opset is not None and opset < needed:
        raise TargetError(
            f"opset {opset} cannot express {reason}",
            fix=f"give --opset {needed} or more, or leave it out",
        )
    wanted = max(opset or 0, needed)
    if graph.opset >= wanted:
        return graph
    model = graph.commit()
    plan.notices.extend(raise_opset(model, wanted))
    raised = OnnxGraph(model, graph.data)
    plan.rebind(raised)
    return raised
