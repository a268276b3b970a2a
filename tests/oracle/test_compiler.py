"""The driver reads what the compiler says, and outlives it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from qdqgraph.errors import ModelLoadError
from qdqgraph.proof.compiler.profiles import Shapes
from qdqgraph.proof.compiler.session import compile_for
from qdqgraph.proof.compiler.verdicts import judge, judge_all
from tests.cli.contract import run
from tests.oracle.compiler import CHILD, WHY_NOT, Compiler, compile_all, installed
from tests.oracle.micro import ROWS
from tests.oracle.net import Net
from tests.oracle.placement import apply_placement, place

needs_compiler = pytest.mark.skipif(not installed(), reason=WHY_NOT)
pytestmark = pytest.mark.oracle


def plain(row: str = "conv-relu") -> onnx.ModelProto:
    return apply_placement(ROWS[row](), place())


@needs_compiler
def test_plans_are_deterministic() -> None:
    first, second = (compile_all([plain("attention-fp16-64")])[0] for _ in range(2))
    assert first.ok
    assert first.figures == second.figures


@needs_compiler
def test_a_file_and_a_model_give_one_plan(tmp_path: Path, compiler: Compiler) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(plain().SerializeToString())
    assert compiler.compile(path).figures == compiler.compile(plain()).figures


@needs_compiler
def test_weights_in_another_file_are_found_beside_the_model(
    tmp_path: Path, compiler: Compiler
) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(plain(), path, save_as_external_data=True, location="weights.bin", size_threshold=256)
    assert (tmp_path / "weights.bin").stat().st_size > 0
    assert compiler.compile(path).figures == compiler.compile(plain()).figures
    told = json.loads(run("check", path, "--compile", "SM89", "--json").out)
    assert told["findings"] == []
    assert told["compiled"]["SM89"]["figures"]["int8_nodes"] == ["conv1", "conv2"]
    assert told["agreement"]["SM89"]["disagreements"] == []


def dynamic(**names: int) -> onnx.ModelProto:
    """The plain row with symbols for some dimensions of its input."""
    model = plain()
    for name, axis in names.items():
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    return model


@needs_compiler
def test_unknown_dimensions_are_best_as_one(compiler: Compiler) -> None:
    report = compiler.compile(dynamic(batch=0))
    assert report.ok, str(report)
    assert report.shapes["x"].max[0] == 8
    assert report.figures.act_bytes == compiler.compile(plain()).figures.act_bytes


@needs_compiler
def test_bytes_are_those_at_the_optimum_of_every_dimension(compiler: Compiler) -> None:
    model = dynamic(batch=0, height=2, width=3)
    shapes = Shapes.of(low="x:1x64x8x8", opt="x:4x64x28x14", high="x:8x64x56x56")
    report = compiler.compile(model, shapes)
    assert report.ok, str(report)
    assert report.exact
    fixed = compiler.compile(plain()).figures
    # four images of half the width
    assert report.figures.act_bytes == fixed.act_bytes * 2
    assert report.figures.act_bytes_folded == fixed.act_bytes_folded * 2
    assert report.figures.kernels == fixed.kernels


@needs_compiler
def test_shapes_that_do_not_fit_the_graph_are_a_finding(compiler: Compiler) -> None:
    model = apply_placement(ROWS["attention-fp16-64"](), place())
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    report = compiler.compile(model, Shapes.of(dims=["batch=1,4,8"]))
    assert report.outcome == "failed"
    assert any("--dim" in finding.fix for finding in judge(model, report)), str(report)


@needs_compiler
def test_several_gpus_give_a_report_each() -> None:
    model = plain()
    reports = compile_for(model, ["SM75", "SM89"])
    assert {sm: report.figures.int8_products for sm, report in reports.items()} == {
        "SM75": 0,
        "SM89": 2,
    }
    assert reports["SM89"].memory["weights"] < reports["SM89"].memory["activations"]
    found = {finding.rule: finding for finding in judge_all(model, reports)}
    assert set(found) == {"rtx-fell-back", "rtx-weight-kernel", "rtx-fake-quantize"}
    assert found["rtx-fell-back"].nodes == ("conv1", "conv2")
    assert found["rtx-fell-back"].what == "runs in float on SM75"
    assert found["rtx-weight-kernel"].nodes == ("conv1/weight", "conv2/weight")


@needs_compiler
def test_the_parser_names_the_node_it_refuses(compiler: Compiler) -> None:
    for name, label in (("relu1", "relu1"), ("", "node_of_relu1")):
        model = plain()
        node = next(n for n in model.graph.node if n.op_type == "Relu")
        node.op_type, node.domain, node.name = "Missing", "com.example", name
        model.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
        report = compiler.compile(model)
        assert report.outcome == "refused"
        [finding] = judge(model, report)
        assert (finding.rule, finding.nodes) == ("rtx-refused", (label,))
        assert "Missing" in finding.what


def computed_scale() -> onnx.ModelProto:
    """A Q whose scale the graph computes: the compiler dies of it."""
    net = Net()
    x = net.input(1, 4, 8, 8)
    largest = net.node("ReduceMax", net.node("Abs", x), keepdims=0)
    scale = net.node("Mul", largest, net.constant(np.float32(1 / 127)))
    zero = net.constant(np.int8(0))
    code = net.node("QuantizeLinear", x, scale, zero)
    product = net.conv(net.node("DequantizeLinear", code, scale, zero), 4, 4)
    return apply_placement(net.model(product), place(bare="conv1"))


@needs_compiler
def test_a_crash_is_a_result_and_the_next_graph_still_compiles(compiler: Compiler) -> None:
    report = compiler.compile(computed_scale())
    assert not report.ok
    [finding] = judge(computed_scale(), report)
    assert finding.rule == "rtx-compiler-crash"
    assert set(finding.nodes) == {"quantizelinear1", "dequantizelinear1"}
    assert "ended with SIGSEGV" in finding.what
    assert compiler.compile(plain()).ok


@needs_compiler
def test_a_hang_is_a_result(tmp_path: Path) -> None:
    sleepy = tmp_path / "sleepy.py"
    sleepy.write_text(
        f"import sys, time; sys.path.insert(0, {str(CHILD.parent)!r})\n"
        "import child; child.build = lambda *_: time.sleep(60)\n"
        "child.main(sys.argv[1])\n"
    )
    with Compiler(limit=1, script=sleepy) as impatient:
        report = impatient.compile(plain())
    assert not report.ok
    assert report.errors == ("the compiler took longer than 1 s",)
    assert report.outcome == "timed-out"


@needs_compiler
def test_a_missing_file_is_the_users_error(compiler: Compiler) -> None:
    with pytest.raises(ModelLoadError, match="no such file"):
        compiler.compile("no such file.onnx")
