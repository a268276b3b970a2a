"""`check`, `legalize` and `diff` from the command line: what TensorRT will do, before an engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.cli.contract import run
from tests.networks import residuals


@pytest.fixture
def float_file(tmp_path: Path) -> Path:
    onnx.save(residuals.downsample(), tmp_path / "model.onnx")
    np.save(tmp_path / "data.npy", np.random.default_rng(0).normal(size=(4, 32, 8, 8)).astype("f"))
    return tmp_path / "model.onnx"


def quantize(model: Path) -> Path:
    made = model.with_name("qdq.onnx")
    data = str(model.with_name("data.npy"))
    assert run("quantize", str(model), "-o", str(made), "--data", data).code == 0
    return made


def by_onnxruntime(model: Path) -> Path:
    """Its default: uint8, zero points, int32 biases."""
    from onnxruntime import quantization as q

    class Reader(q.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.feeds = iter({"x": row[None]} for row in np.load(model.with_name("data.npy")))

        def get_next(self) -> dict[str, Any] | None:
            return next(self.feeds, None)

    made = model.with_name("ort.onnx")
    q.quantize_static(str(model), str(made), Reader(), per_channel=True)
    return made


def test_our_own_file_has_no_finding_and_every_product_in_int8(float_file: Path) -> None:
    made = quantize(float_file)
    result = run("check", str(made), "--json")
    assert result.code == 0
    told = json.loads(result.out)
    assert told["findings"] == []
    products = [layer for layer in told["layers"] if layer["product"]]
    convs = [n for n in onnx.load(made).graph.node if n.op_type in ("Conv", "Gemm")]
    assert len(products) == len(convs)
    assert told["verdict"].startswith(
        f"{len(convs)} of {len(convs)} products int8, 0 stand-alone Q/DQ layers beyond the input"
    )


def test_a_file_tensorrt_rejects_is_named_legalized_and_then_accepted(float_file: Path) -> None:
    made = by_onnxruntime(float_file)
    refused = run("check", str(made), "--json")
    assert refused.code == 1
    rules = {finding["rule"] for finding in json.loads(refused.out)["findings"]}
    assert any("bias" in rule or "int32" in rule for rule in rules), rules
    legal = float_file.with_name("legal.onnx")
    assert run("legalize", str(made), "-o", str(legal)).code == 0
    accepted = run("check", str(legal), "--json")
    assert accepted.code == 0
    assert json.loads(accepted.out)["findings"] == []


def test_a_rule_is_explained_with_its_source(float_file: Path) -> None:
    refused = json.loads(run("check", str(by_onnxruntime(float_file)), "--json").out)
    rule = refused["findings"][0]["rule"]
    told = run("check", "--explain", rule)
    assert told.code == 0
    assert "source" in told.out
    assert run("check", "--explain", "no-such-rule").code == 2
    assert run("check").code == 2


def test_two_engines_are_compared(tmp_path: Path) -> None:
    def engine(name: str, layers: list[dict[str, Any]]) -> str:
        (tmp_path / name).write_text(json.dumps({"Layers": layers}))
        return str(tmp_path / name)

    def tensor(name: str, kind: str) -> dict[str, Any]:
        return {
            "Name": name,
            "Location": "Device",
            "Dimensions": [1, 8, 4, 4],
            "Format/Datatype": kind,
        }

    int8 = "Thirty-two wide channel vectorized row major Int8 format"
    half = "Row major linear FP16 format"
    base = {"LayerType": "CaskConvolution", "ParameterType": "Convolution"}
    best = [
        {
            "Name": "w + QuantizeLinear_1 + Conv_1 + Add_2 + Relu_3",
            "Inputs": [tensor("a", int8), tensor("b", int8)],
            "Outputs": [tensor("c", int8)],
            **base,
        }
    ]
    split = [
        {
            "Name": "w + QuantizeLinear_1 + Conv_1",
            "Inputs": [tensor("a", int8)],
            "Outputs": [tensor("m", half)],
            **base,
        },
        {
            "Name": "PWN(Add_2, Relu_3)",
            "LayerType": "PointWiseV2",
            "Inputs": [tensor("m", half), tensor("b", half)],
            "Outputs": [tensor("c", half)],
        },
    ]
    result = run("diff", engine("best.json", best), engine("qdq.json", split), "--json")
    assert result.code == 0
    found = json.loads(result.out)["differences"]
    assert ("fusion", "place-residual") in {(item["kind"], item["mend"]) for item in found}
