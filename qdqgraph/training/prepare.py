"""A float network becomes one that trains with its quantizers in place.

The plan is made on a copy of the captured graph in which batch norms are folded, as they will be
in the file; its quantizers then go into the graph that trains, where batch norms still train.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from qdqgraph.calibration.choice import DEFAULT_METHOD
from qdqgraph.calibration.weights import channel_amax
from qdqgraph.errors import UsageError
from qdqgraph.frontends.torch_fx.capture import capture, evaluating
from qdqgraph.frontends.torch_fx.graph import FxGraph, fx_node
from qdqgraph.frontends.torch_fx.quantizers import add_quantizer
from qdqgraph.graph.view import Edge, Value
from qdqgraph.pipeline.context import Context
from qdqgraph.pipeline.pipeline import Pipeline
from qdqgraph.pipeline.presets import preset
from qdqgraph.pipeline.targets import TargetName, parse_version
from qdqgraph.planning.plan import Entry, Plan
from qdqgraph.planning.plan import Quantizer as Planned
from qdqgraph.planning.spec import Dtype
from qdqgraph.quantizer import Quantizer
from qdqgraph.quantizer.module import ScaleMode
from qdqgraph.training.graph_copy import copy_sharing_tensors, structure_of
from qdqgraph.training.planning import calibrate_module, plan_module
from qdqgraph.training.prepared import PreparedModule

CODES: dict[int, Dtype] = {8: "int8", 4: "int4"}
UNTRAINABLE = ("fold-batch-norm-before-conv",)
"""Passes left out: they fold a batch norm forwards, where it could not train."""

TAKEN_APART = ("expand-attention",)
"""Passes whose edits the graph that trains needs too; all others tidy the copy that is planned."""


@dataclass(frozen=True, slots=True)
class Scales:
    """How scales behave in training, the same for all quantizers."""

    mode: ScaleMode
    decay: float
    power_of_two: bool


def prepare_qat(
    module: nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None = None,
    *,
    calibration: Iterable[Any] | None = None,
    target: TargetName | str = "tensorrt",
    pipeline: Pipeline | None = None,
    trt_version: str = "10",
    method: str = DEFAULT_METHOD,
    weight_method: Literal["max", "mse"] = "max",
    bits: Literal[8, 4] = 8,
    scales: ScaleMode = "learned",
    decay: float = 0.99,
    power_of_two: bool = False,
    dynamic_shapes: object = None,
) -> PreparedModule:
    """Capture `module` and put in the quantizers that the plan for `target` asks for.

    `module` may be a capture already. The result shares its parameters with `module`, takes the
    same arguments with any batch size, trains in any loop, and is lowered by `qdqgraph.lower`.
    `calibration` is an iterable of batches, each as the module is called; without it activation
    scales start from the first batch trained on. `scales`: `learned` by gradient (with weights),
    `ema` (weights: their present range), or `fixed`. `bits=4` rounds weights and activations to 4
    bits. Raises `CaptureError`, `CalibrationError`, and `UsageError` for options that contradict.

    >>> made = prepare_qat(nn.Conv2d(4, 8, 3), (torch.zeros(1, 4, 8, 8),))
    >>> sorted(made.quantizers)
    ['input', 'weight']
    """
    if bits not in CODES:
        raise UsageError(f"{bits} bits", fix="8 or 4")
    captured = capture(module, args, kwargs, dynamic_shapes, dynamic_batch=True)
    chosen = pipeline or preset(target)
    known = {item.name for item in chosen}
    for name in UNTRAINABLE:
        chosen = chosen.without(name) if name in known else chosen
    spelled = spelled_out(captured, chosen, trt_version)
    plan = plan_module(spelled, pipeline=chosen, trt_version=trt_version)
    set_bits(plan, bits)
    if calibration is not None:
        calibrate_module(plan, calibration, method=method, weight_method=weight_method)
    training = copy_sharing_tensors(spelled, flat=True)
    weights = insert(plan, FxGraph(training), Scales(scales, decay, power_of_two))
    flat = [leaf for leaf in pytree.tree_leaves((tuple(args), dict(kwargs or {})))]
    calibrate_weights(training, weights, flat, weight_method)
    return PreparedModule(
        training,
        structure_of(captured),
        target=chosen.target.name,
        notices=plan.notices,
    )


def spelled_out(captured: fx.GraphModule, pipeline: Pipeline, trt_version: str) -> fx.GraphModule:
    """A copy with the operators taken apart that quantizers go inside of."""
    copied = copy_sharing_tensors(captured)
    graph = FxGraph(copied)
    context = Context(graph, Plan(graph), pipeline.target, parse_version(trt_version))
    for item in pipeline:
        if item.name in TAKEN_APART:
            item.run(context)
    return graph.commit()


def set_bits(plan: Plan, bits: int) -> None:
    """Let every 8-bit integer quantizer of the plan have this width."""
    for quantizer in plan.used():
        signed = quantizer.spec.dtype == "int8"
        if bits != 8 and (signed or quantizer.spec.dtype == "uint8"):
            dtype: Dtype = CODES[bits] if signed else "uint4"
            quantizer.spec = replace(quantizer.spec, dtype=dtype)


def insert(plan: Plan, onto: FxGraph, scales: Scales) -> list[str]:
    """Put the quantizers of `plan` into another graph of the same calls; paths of weights'.

    Reads are found by the names of the calls, which both graphs have from one capture. One module
    serves a group of quantizers that share a scale.
    """
    calls = {fx_node(node).name: node for node in onto.nodes}
    paths: dict[str, str] = {}
    weights: list[str] = []
    onto.author = "prepare-qat"
    for planned, entries in _in_call_order(plan):
        reads: dict[Value, list[Edge]] = {}
        for entry in entries:
            node = calls[fx_node(entry.edge.node).name]
            edge = node.edges[entry.edge.index]
            reads.setdefault(edge.value, []).append(edge)
        group = plan.group_of(planned)
        for source, edges in reads.items():
            if group not in paths:
                made = make_quantizer(planned, source, scales)
                paths[group] = add_quantizer(onto.module, _name(source), made)
                if planned.source.is_const:
                    weights.append(paths[group])
            onto.insert_module(source, edges, paths[group])
    onto.commit()
    return weights


def make_quantizer(planned: Planned, source: Value, scales: Scales) -> Quantizer:
    """The module of a planned quantizer, with its scale if that is known and not a weight's.

    The plan's weights have batch norms in them; those that train do not. Codes of weights are
    symmetric, so that a batch norm of negative gamma can turn their signs (see `lower`).
    """
    constant = planned.source.is_const
    axis = planned.spec.axis
    shape = source.shape or ()
    channels = None if axis is None else int(cast("int", shape[axis]))
    made = Quantizer(
        replace(planned.spec, narrow=True) if constant else planned.spec,
        channels=channels,
        mode=scales.mode,
        decay=0.0 if constant else scales.decay,
        power_of_two=scales.power_of_two,
        origin="weight" if constant else "activation",
    )
    if planned.encoding is not None and not constant:
        made.set_encoding(planned.encoding)
    return made


def calibrate_weights(
    module: fx.GraphModule, paths: list[str], flat: list[Any], method: Literal["max", "mse"]
) -> None:
    """Give quantizers of weights their scales, from the weights that they read."""

    def look(quantizer: nn.Module, read: tuple[torch.Tensor]) -> None:
        assert isinstance(quantizer, Quantizer)
        if quantizer.calibrated:
            return
        weight = read[0].detach().float().cpu().numpy()
        amax = channel_amax(weight, quantizer.spec.axis, method, quantizer.spec.bits)
        quantizer.set_range(torch.tensor(amax, dtype=torch.float32).to(read[0].device))

    handles = [module.get_submodule(path).register_forward_pre_hook(look) for path in paths]
    try:
        with torch.no_grad(), evaluating(module):
            module(*flat)
    finally:
        for handle in handles:
            handle.remove()


def _in_call_order(plan: Plan) -> list[tuple[Planned, list[Entry]]]:
    position = {node: i for i, node in enumerate(plan.graph.nodes)}
    emitted = [entry for entry in plan.entries.values() if not entry.carried]
    found: dict[str, list[Entry]] = {}
    for entry in sorted(emitted, key=lambda e: (position[e.edge.node], e.edge.index)):
        found.setdefault(entry.quantizer.id, []).append(entry)
    return [(plan.quantizers[identity], entries) for identity, entries in found.items()]


def _name(source: Value) -> str:
    """What people call a tensor: a parameter's path, or the module that computes it."""
    node = source.producer
    if node is None:
        return source.name
    path = node.module
    return path if path.rpartition(".")[2].startswith(node.op.name) else f"{path}.{node.op.name}"
