"""What the report of `legalize` says is what happens to the numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnxruntime.quantization import QuantFormat, quantize_dynamic, quantize_static

from qdqgraph.proof.contract.checking import check_contract
from qdqgraph.proof.legalize.legalizing import legalize
from tests.unit.proof.test_contract import conv_net
from tests.unit.proof.test_legalize import (
    DQ,
    Array,
    Images,
    Q,
    constant,
    float_net,
    legal,
    model_of,
    ops,
    run,
)


def round_trip(model: onnx.ModelProto, codes: str, x: Array) -> Array:
    """`x` through the Q that writes `codes` and back, per tensor, in float64."""
    quantize = next(n for n in ops(model, Q) if n.output[0] == codes)
    scale, zero = (constant(model, name) for name in quantize.input[1:])
    limits = np.iinfo(zero.dtype)
    steps = np.clip(np.rint(x / float(scale)) + int(zero), limits.min, limits.max)
    return (steps - int(zero)) * float(scale)


@pytest.mark.parametrize("kind", ["relu", "clip"])
@pytest.mark.parametrize("layout", [QuantFormat.QDQ, QuantFormat.QOperator])
def test_the_noise_told_for_each_quantizer_is_the_noise_measured(
    kind: str, layout: QuantFormat, tmp_path: Path
) -> None:
    path = tmp_path / "q.onnx"
    quantize_static(float_net(kind), path, Images(), quant_format=layout)
    source = onnx.load(path)
    made, report = legal(source)
    changes = [c for c in report.changes if c.kind == "activation" and not c.exact]
    assert changes
    for change in changes:
        # The old range, from the report's step alone; half of it where values cannot be negative.
        low = 0.0 if change.noise_db > 5 else -80 * change.step_before
        x = np.random.default_rng(3).uniform(low, 80 * change.step_before, 20_000)
        noise = np.mean((round_trip(made, change.name, x) - x) ** 2)
        assert 10 * np.log10(noise / (change.step_before**2 / 12)) == pytest.approx(
            change.noise_db,
            abs=0.15,  # 20,000 samples: the variance is known to 1 %, 0.05 dB; thrice that
        )
        worst = np.abs(round_trip(made, change.name, x) - x).max()
        assert worst <= change.step_after / 2 * (1 + 1e-6)
    mean = f"{np.mean([c.noise_db for c in changes]):+.1f} dB of noise in the mean"
    assert any(mean in line for line in report.lines())


def constants_net(joined: bool) -> onnx.ModelProto:
    """Q -> DQ -> (Div by a quantized scalar | Concat with a quantized row) -> y."""
    nodes = [
        helper.make_node(Q, ["x", "s", "z"], ["q"], "q"),
        helper.make_node(DQ, ["q", "s", "z"], ["d"], "d"),
        helper.make_node(DQ, ["c", "t", "u"], ["cd"], "cd"),
    ]
    if joined:
        nodes.append(helper.make_node("Concat", ["cd", "d"], ["y"], "join", axis=0))
    else:
        nodes.append(helper.make_node("Div", ["d", "cd"], ["y"], "div"))
    arrays = {
        "s": np.float32(0.02),
        "z": np.uint8(128),
        "t": np.float32(0.0055),
        "u": np.uint8(0),
        "c": np.uint8([[1, 200, 255, 7]]) if joined else np.uint8(255),
    }
    return model_of(nodes, [3, 4], arrays)


@pytest.mark.parametrize("joined", [False, True])
def test_quantized_constants_that_are_no_weights_become_float_exactly(joined: bool) -> None:
    source = constants_net(joined)
    made, report = legal(source)
    assert report.exact
    assert [c.kind for c in report.changes].count("constant") == 1
    assert len(ops(made, DQ)) == 1
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    np.testing.assert_array_equal(run(made, x), run(source, x))


def test_codes_that_several_operators_read_are_dequantized_once() -> None:
    nodes = [
        helper.make_node(Q, ["x", "s", "z"], ["q"], "q"),
        helper.make_node(
            "QLinearAdd", ["q", "s", "z", "q", "s", "z", "s", "z"], ["a"], "a",
            domain="com.microsoft",
        ),
        helper.make_node(
            "QLinearMul", ["q", "s", "z", "a", "s", "z", "s", "z"], ["m"], "m",
            domain="com.microsoft",
        ),
        helper.make_node(DQ, ["m", "s", "z"], ["y"], "d"),
    ]  # fmt: skip
    made, _ = legal(model_of(nodes, [3, 4], {"s": np.float32(0.05), "z": np.uint8(128)}))
    assert sorted(n.input[0] for n in ops(made, DQ)) == ["a", "m", "q"]


def test_dynamic_quantization_is_a_finding_and_the_report_says_it_runs_in_float(
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(3)
    arrays = {"w": rng.normal(size=(8, 3, 3, 3)).astype(np.float32)}
    conv = helper.make_node("Conv", ["x", "w"], ["y"], "conv", pads=[1] * 4)
    quantize_dynamic(model_of([conv], [1, 3, 8, 8], arrays), tmp_path / "d.onnx")
    source = onnx.load(tmp_path / "d.onnx")
    whats = [f.what for f in check_contract(source, target="tensorrt", version=(10,))]
    assert whats == [
        "DynamicQuantizeLinear quantizes anew at every inference, for which there is no int8 form",
        "ConvInteger works on integer codes",
    ]
    made, report = legal(source)
    assert {n.op_type for n in made.graph.node} == {"Conv", "Cast", "Mul"}
    assert any("no int8 form: quantize the float model" in line for line in report.lines())
    x = rng.normal(size=(1, 3, 8, 8)).astype(np.float32)
    # The activation's own rounding is gone; its step is (max - min) / 255 of about 7 / 255, over
    # 27 weights of about 1: noise of 0.008 · √27 = 0.04 a value, five times that at most.
    assert np.abs(run(made, x) - run(source, x)).max() < 0.2


def test_an_int32_product_that_is_read_as_such_is_left_and_reported(tmp_path: Path) -> None:
    arrays = {"w": np.ones((4, 4), np.int8), "one": np.ones(4, np.int32)}
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"], "dynamic"),
        helper.make_node("MatMulInteger", ["q", "w", "z"], ["i"], "product"),
        helper.make_node("Add", ["i", "one"], ["j"], "bias"),
        helper.make_node("Cast", ["j"], ["y"], "cast", to=TensorProto.FLOAT),
    ]
    model = model_of(nodes, [2, 4], arrays)
    report = legalize(model, version=(8, 6))
    onnx.checker.check_model(model, full_check=True)
    assert {f.rule for f in report.errors} == {"unsupported-operator"}


def test_a_file_as_nvidias_own_tool_writes_it_stays_byte_for_byte() -> None:
    """int8 codes and scales along axis 0, float bias, zero points of zero, a scalar scale."""
    model = conv_net(19)
    before = model.SerializeToString(deterministic=True)
    told: Any = legalize(model, target="tensorrt-rtx", version=()).to_json()
    assert told == {"exact": True, "changes": [], "left": []}
    assert model.SerializeToString(deterministic=True) == before
