"""Our plan for a micro graph: planned for a target, calibrated on seeded data, applied."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

import qdqgraph as qg
from tests.oracle.net import Array


@dataclass(frozen=True)
class Quantized:
    """The model as written, and the names of the products that the plan meant to run in int8."""

    model: onnx.ModelProto
    products: frozenset[str]


def quantize(model: onnx.ModelProto, target: str) -> Quantized:
    """Plan, calibrate by the largest magnitude, and insert Q/DQ."""
    feeds = [feed(model, seed) for seed in (1, 2)]
    plan = qg.plan(model, target=target)
    qg.calibrate(plan, feeds, method="max")
    products = frozenset(
        node.name
        for node in plan.graph.nodes
        if node.op.weighted and all(edge in plan.entries for edge in node.edges[:2])
    )
    return Quantized(qg.apply(plan).proto, products)


def feed(model: onnx.ModelProto, seed: int) -> dict[str, Array]:
    """One sample: standard normal floats, or uniform pixels."""
    random = np.random.default_rng(seed)
    sample: dict[str, Array] = {}
    for info in model.graph.input:
        shape = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        pixels = dtype.kind == "u"
        drawn = random.integers(0, 256, shape) if pixels else random.normal(size=shape)
        sample[info.name] = drawn.astype(dtype)
    return sample
