"""Files that another tool quantized: their pairs go, and the weights are float again."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import qdqgraph as qg
from qdqgraph.passes.strip_quantizers import strip_quantizers
from qdqgraph.pipeline.options import Placement
from tests.networks import products, residuals
from tests.reads import activations, operators, tidied, weights
from tests.running import feed_for


def quantized(model: onnx.ModelProto) -> onnx.ModelProto:
    return qg.quantize(model, [feed_for(model)], method="max").proto


@pytest.mark.parametrize("network", [residuals.identity, products.gemm, products.conv_transpose])
def test_what_is_left_is_the_float_graph(network: object) -> None:
    assert callable(network)
    model = network()
    stripped = tidied(quantized(model), strip_quantizers)
    assert operators(stripped) == operators(model)
    onnx.checker.check_model(stripped, full_check=True)
    before = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    after = [numpy_helper.to_array(t) for t in stripped.graph.initializer]
    for weight in (array for name, array in before.items() if name.endswith(".weight")):
        twin = min(
            (a for a in after if a.shape == weight.shape), key=lambda a: np.abs(a - weight).max()
        )
        # Rounded to 8 bits: at most half a step of the largest channel's scale, amax / 127.
        assert np.abs(twin - weight).max() <= 0.5 * np.abs(weight).max() / 127 * 1.001


def test_stripping_and_planning_gives_the_plan_of_the_float_file() -> None:
    model = residuals.identity()
    plan = qg.plan(quantized(model), pipeline=Placement(strip=True).pipeline())
    assert activations(plan) == activations(qg.plan(model))
    assert weights(plan) == weights(qg.plan(model))


def test_requantizing_keeps_the_places_of_the_file() -> None:
    model = residuals.identity()
    pipeline = qg.tensorrt().with_options("place-residual", policy="none")
    source = qg.quantize(model, [feed_for(model)], method="max", pipeline=pipeline).proto
    plan = qg.plan(source, pipeline=Placement(requantize=True, residual="none").pipeline())
    expected = qg.plan(model, pipeline=pipeline)
    written = {read for read in activations(expected) if "(behind)" not in read}
    assert written <= activations(plan)


def test_without_it_the_pairs_of_the_file_stay() -> None:
    plan = qg.plan(quantized(residuals.identity()))
    assert not plan.entries
    assert "already quantized in the file" in {
        why for notes in plan.floats.values() for _, why in notes
    }
