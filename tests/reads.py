"""What a plan says, as plain sets of strings that tests compare."""

from __future__ import annotations

import onnx

from qdqgraph.model import Model, open_model
from qdqgraph.pipeline.context import Context
from qdqgraph.pipeline.passes import Pass
from qdqgraph.pipeline.pipeline import Pipeline
from qdqgraph.pipeline.presets import preset
from qdqgraph.pipeline.targets import TARGETS
from qdqgraph.planning.plan import Plan


def context(source: onnx.ModelProto | Model, target: str = "tensorrt") -> Context:
    """A fresh context on a model."""
    graph = open_model(source).graph
    return Context(graph, Plan(graph), TARGETS[target])


def after(source: onnx.ModelProto, *passes: Pass, target: str = "tensorrt") -> Context:
    """The context after these passes and no others."""
    made = context(source, target)
    stages = tuple(dict.fromkeys(item.stage for item in passes))
    Pipeline(passes, made.target).run(made, stages)
    return made


def tidied(source: onnx.ModelProto, *passes: Pass) -> onnx.ModelProto:
    """The model after these passes."""
    model = open_model(source)
    made = Context(model.graph, Plan(model.graph))
    Pipeline(passes, made.target).run(made, ("tidy",))
    return model.proto


def operators(model: onnx.ModelProto) -> list[str]:
    """Operator types in file order."""
    return [node.op_type for node in model.graph.node]


def activations(plan: Plan) -> set[str]:
    """`tensor -> node:role` of every quantized read that is no weight; `(behind)` where carried."""
    return {
        f"{entry.edge.value.name} -> {entry.edge}{' (behind)' if entry.carried else ''}"
        for entry in plan.entries.values()
        if not entry.edge.value.is_const
    }


def weights(plan: Plan) -> dict[str, str]:
    """Format of each quantized constant, by the read."""
    return {
        str(edge): str(entry.quantizer.spec)
        for edge, entry in plan.entries.items()
        if edge.value.is_const
    }


def groups(plan: Plan) -> set[frozenset[str]]:
    """Quantizers that share a scale, groups of one left out."""
    found = (frozenset(q.id for q in members) for members in plan.members().values())
    return {group for group in found if len(group) > 1}


def reasons(plan: Plan) -> dict[str, list[str]]:
    """Why nodes stay float, by node name."""
    return {node.name: [why for _, why in notes] for node, notes in plan.floats.items()}


def as_preset(target: str, name: str) -> Pass:
    """The pass as a target's preset runs it."""
    return next(item for item in preset(target) if item.name == name)
