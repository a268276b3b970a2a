"""`check --compile` from the command line: usage, exit codes, and what it shows of a plan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest

from qdqgraph.cli import compile_options
from qdqgraph.proof.compiler import package
from qdqgraph.proof.compiler.profiles import Shapes
from qdqgraph.proof.compiler.report import Report, read_answer
from qdqgraph.storage.load import LoadedModel
from tests.cli.contract import run
from tests.unit.proof.compiler.message import gemm_lines, gemm_model, message


@pytest.fixture
def model(tmp_path: Path) -> Path:
    onnx.save(gemm_model(batch="N"), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


class StandIn:
    """In place of the compiler: float on SM75, a crash on SM80, int8 elsewhere."""

    def __init__(self) -> None:
        self.shapes: Shapes | None = None
        self.limit = 0.0

    def __call__(
        self, source: LoadedModel, sms: tuple[str, ...], *, shapes: Shapes, limit: float
    ) -> dict[str, Report]:
        self.shapes, self.limit = shapes, limit
        return {sm: self.report(source.model, sm) for sm in sms}

    def report(self, model: onnx.ModelProto, sm: str) -> Report:
        if sm == "SM80":
            return Report("crashed", ("the compiler process ended with SIGSEGV",), sm=sm)
        layers = message(*gemm_lines(low=sm != "SM75", batch=2))
        shapes = {"x": [[1, 10], [2, 10], [8, 10]]}
        return read_answer(model, {"layers": layers, "shapes": shapes, "version": "1.7"}, sm)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    made = StandIn()
    monkeypatch.setattr(package, "installed", lambda: True)
    monkeypatch.setattr(compile_options, "compile_for", made)
    return made


def test_without_the_package_usage_says_how_to_get_it_and_whose_it_is(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package, "installed", lambda: False)
    result = run("check", model, "--compile", "SM89")
    assert result.code == 2
    assert "pip install 'qdqgraph[tensorrt-rtx]'" in result.err
    assert "NVIDIA's proprietary licence" in result.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--compile", "SM90"], "SM75, SM80, SM86, SM89, SM120, SM121"),
        (["--compile", ""], "no GPU to build for"),
        (["--compile", "SM89", "--shapes", "x=1"], "not a shape"),
        (["--compile", "SM89", "--dim", "N=x"], "not a dimension"),
        (["--dim", "N=1,2,3"], "shapes without --compile"),
        (["--compile", "SM89", "--time-limit", "0"], "--time-limit"),
        (["--compile", "SM89", "--target", "tensorrt-rtx", "--engine", "e.json"], "--engine"),
    ],
)
def test_wrong_usage_says_what_is_right(
    model: Path, stand_in: StandIn, options: list[str], words: str
) -> None:
    result = run("check", model, *options)
    assert result.code == 2, result.text
    assert words in result.err


def test_a_clean_plan_is_shown_with_its_figures(model: Path, stand_in: StandIn) -> None:
    options = ["--dim", "N=1,2,8", "--time-limit", "30", "--layers"]
    result = run("check", model, "--compile", "SM89,SM120", *options)
    assert result.code == 0, result.text
    assert stand_in.shapes == Shapes(dims={"N": (1, 2, 8)})
    assert stand_in.limit == 30
    shown = " ".join(result.out.split())
    assert "0 findings" in shown
    assert "│ int8 products │ 1 of 1 │ 1 of 1 │" in shown
    assert "SM89: x is 1x10 to 8x10; bytes are those at 2x10" in shown
    assert "│ gemm │ product │ int8[2,10] │ float[2,10] │" in shown
    assert shown.count("fc, x_dq, w_dq") == 2


def test_float_products_are_warnings(model: Path, stand_in: StandIn) -> None:
    assert run("check", model, "--compile", "SM75").code == 0
    result = run("check", model, "--compile", "SM75", "--fail-on", "warning")
    assert result.code == 1
    assert "warning rtx-fell-back [fc]: runs in float on SM75" in result.out


def test_a_crash_is_a_finding_beside_the_other_plans(model: Path, stand_in: StandIn) -> None:
    result = run("check", model, "--compile", "SM80,SM89", "--json")
    assert result.code == 1
    told: dict[str, Any] = json.loads(result.out)
    assert [finding["rule"] for finding in told["findings"]] == ["rtx-compiler-crash"]
    assert told["compiled"]["SM80"]["outcome"] == "crashed"
    plan = told["compiled"]["SM89"]
    assert plan["figures"]["int8_nodes"] == ["fc"]
    assert plan["shapes"] == {"x": {"min": [1, 10], "opt": [2, 10], "max": [8, 10]}}
    assert [kernel["nodes"] for kernel in plan["kernels"]] == [["x_q"], ["fc", "x_dq", "w_dq"]]


def test_the_prediction_is_compared_with_each_plan(model: Path, stand_in: StandIn) -> None:
    told = json.loads(run("check", model, "--compile", "SM75,SM80,SM89", "--json").out)
    assert set(told["agreement"]) == {"SM75", "SM89"}
    assert told["agreement"]["SM89"]["agreeing"] == 1
    assert told["agreement"]["SM75"]["disagreements"] == [
        {"node": "fc", "predicted": "int8", "compiled": "float"}
    ]
    shown = run("check", model, "--compile", "SM75").out
    assert "prediction for SM75: 0 of 1 products as predicted" in shown
    assert "fc: predicted int8, compiled float" in shown


def test_without_compile_there_is_no_plan(model: Path, stand_in: StandIn) -> None:
    told = json.loads(run("check", model, "--json").out)
    assert told["compiled"] is None
    assert told["verdict"].startswith("1 of 1 products int8")


def test_rules_of_the_compiler_are_explained() -> None:
    result = run("check", "--explain", "rtx-weight-kernel")
    assert result.code == 0
    assert "dequantized by a kernel of its own" in result.out
