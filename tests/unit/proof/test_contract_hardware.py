"""Rules about the GPU speak when it is named, and about the formats it lacks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qdqgraph.errors import UsageError
from qdqgraph.proof.contract.checking import check_contract
from qdqgraph.proof.contract.hardware import HARDWARE_RULES, parse_sm
from qdqgraph.proof.contract.rules import BY_ID
from tests.cli.contract import run
from tests.unit.proof.test_contract import conv_net, node, retyped, store


def found(
    model: onnx.ModelProto, sm: int | None, target: Any = "tensorrt-rtx", version: Any = (10, 8)
) -> set[str]:
    return {f.rule for f in check_contract(model, target=target, version=version, sm=sm)}


def gemm_net(dtype: type[np.floating[Any]] = np.float32) -> onnx.ModelProto:
    """x -> Q -> DQ -> MatMul(codes -> DQ) -> y."""
    model = conv_net(opset=19, weight_op="MatMul")
    node(model.graph, "conv").input.pop()
    for name in ("s", "ws"):
        found_ = next(t for t in model.graph.initializer if t.name == name)
        store(model.graph, name, numpy_helper.to_array(found_).astype(dtype))
    store(model.graph, "w", np.ones((4, 4), np.int8))
    return model


def formatted(element: int, opset: int) -> onnx.ModelProto:
    """conv_net with its activation, or for int4 its weight, in another number format."""
    model = conv_net(opset=opset)
    retyped("wz" if element == TensorProto.INT4 else "z", element)(model.graph)
    return model


@pytest.mark.parametrize(
    ("model", "rule", "lacks", "has", "targets"),
    [
        (formatted(TensorProto.FLOAT8E4M3FN, 19), "fp8-hardware", (80, 86), (89, 120), "both"),
        (formatted(TensorProto.FLOAT4E2M1, 23), "fp4-hardware", (89, 90), (100, 120), "both"),
        (formatted(TensorProto.INT4, 21), "int4-hardware", (75,), (80, 89), "rtx"),
        (conv_net(), "int8-conv-hardware", (75,), (80, 89), "rtx"),
        (gemm_net(), "float32-gemm-hardware", (75,), (80, 89), "rtx"),
        (conv_net(), "int8-hardware", (61, 70), (75, 89), "classic"),
    ],
)
def test_a_rule_holds_for_gpus_below_its_bound(
    model: onnx.ModelProto, rule: str, lacks: tuple[int, ...], has: tuple[int, ...], targets: str
) -> None:
    for target in ("tensorrt", "tensorrt-rtx"):
        speaks = targets == "both" or (targets == "rtx") == (target == "tensorrt-rtx")
        assert all((rule in found(model, sm, target)) == speaks for sm in lacks)
        assert not any(rule in found(model, sm, target) for sm in (*has, None))


def test_half_precision_products_are_taken_where_float32_ones_are_not() -> None:
    assert "float32-gemm-hardware" in found(gemm_net(), 75)
    assert "float32-gemm-hardware" not in found(gemm_net(np.float16), 75)
    model = conv_net()
    store(model.graph, "w", np.ones((4, 4, 1, 1, 1), np.int8))
    assert {"float32-conv3d-hardware", "int8-conv-hardware"} == found(model, 75)
    assert found(model, 80) == set()


def test_bfloat16_needs_ampere_and_is_said_once() -> None:
    model = conv_net()
    for name in ("b1", "b2"):
        model.graph.initializer.append(helper.make_tensor(name, TensorProto.BFLOAT16, [1], [1.0]))
    rules = [f.rule for f in check_contract(model, target="tensorrt", version=(10,), sm=75)]
    assert rules == ["bf16-hardware"]
    assert found(model, 80) == set()


def test_formats_need_their_opset_and_do_not_mix() -> None:
    eight = formatted(TensorProto.FLOAT8E4M3FN, 17)
    assert "format-opset" in found(eight, None)
    assert "format-opset" not in found(formatted(TensorProto.FLOAT8E4M3FN, 19), None)
    assert "int8-with-fp8" in found(eight, None, "tensorrt")
    assert "int8-with-fp8" not in found(eight, None)


@pytest.mark.parametrize(
    ("version", "rules"),
    [
        ((8, 0), ["transposed-axis-0", ""]),
        ((9, 1), ["transposed-axis-0", ""]),
        ((9, 2), ["", "transposed-axis-1"]),
        ((9, 3), ["", "transposed-axis-1"]),
        ((10,), ["transposed-axis-unsettled", "transposed-axis-unsettled"]),
        ((10, 1), ["transposed-axis-unsettled", "transposed-axis-unsettled"]),
        ((10, 2), ["", "transposed-axis-1"]),
        ((10, 9), ["", "transposed-axis-1"]),
    ],
)
def test_the_axis_of_transposed_weights_by_version(
    version: tuple[int, ...], rules: list[str]
) -> None:
    """Findings with the scales along axis 1, and along axis 0."""
    for axis, rule in zip((1, 0), rules, strict=True):
        model = conv_net(opset=13, weight_op="ConvTranspose")
        node(model.graph, "wdq").attribute[0].i = axis
        transposed = {r for r in found(model, None, "tensorrt", version) if "transposed" in r}
        assert transposed == ({rule} if rule else set())


def test_a_scalar_constant_behind_a_dequantizer_is_refused_by_rtx_alone() -> None:
    model = conv_net()
    store(model.graph, "w", np.asarray(1, np.int8))
    node(model.graph, "wdq").input[1:] = ["s", "z"]
    assert "scalar-dequantize" in found(model, None)
    assert "scalar-dequantize" not in found(model, None, "tensorrt")


def test_every_hardware_rule_is_known_and_bounded() -> None:
    assert all(BY_ID[rule.id] is rule and rule.before_sm for rule in HARDWARE_RULES)


def test_the_command_takes_a_gpu(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(formatted(TensorProto.FLOAT8E4M3FN, 19), path)
    for text, lacking in (("SM86", True), ("8.9", False), ("120", False)):
        result = run("check", str(path), "--target", "tensorrt-rtx", "--sm", text, "--json")
        rules = {finding["rule"] for finding in json.loads(result.out)["findings"]}
        assert ("fp8-hardware" in rules) == lacking
    with pytest.raises(UsageError, match="no compute capability 'Ada'"):
        parse_sm("Ada")
