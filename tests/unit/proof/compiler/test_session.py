"""Whatever the child does, there is a report; the child here is a stand-in for the compiler."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import onnx
import pytest

from qdqgraph.errors import ModelLoadError, UsageError
from qdqgraph.proof.compiler import package
from qdqgraph.proof.compiler.package import parse_sms
from qdqgraph.proof.compiler.profiles import Shapes
from qdqgraph.proof.compiler.report import Refusal
from qdqgraph.proof.compiler.session import Compiler, compile_for
from qdqgraph.proof.compiler.verdicts import judge, judge_all, named_in
from tests.unit.proof.compiler.message import gemm_lines, gemm_model, message

ANSWERING = """
import json, sys
for line in sys.stdin:
    asked = json.loads(line)
    with open(__file__ + ".asked", "a") as log:
        log.write(json.dumps([sys.argv[1], asked]) + chr(10))
    print(json.dumps(ANSWER), flush=True)
"""


def script(folder: Path, body: str) -> Path:
    path = folder / "stand_in.py"
    path.write_text(body)
    return path


def answering(folder: Path, **answer: Any) -> Path:
    """A child that gives one answer, and keeps what it was asked."""
    return script(folder, ANSWERING.replace("ANSWER", repr(answer)))


def asked(path: Path) -> list[list[Any]]:
    return [json.loads(line) for line in Path(f"{path}.asked").read_text().splitlines()]


def test_a_plan_is_read_counted_and_told(tmp_path: Path) -> None:
    child = answering(
        tmp_path,
        version="1.7",
        layers=message(*gemm_lines()),
        memory={"weights": 100, "activations": 50},
        seconds=[0.25, 0.5],
        shapes={},
    )
    with Compiler("SM86", script=child) as compiler:
        report = compiler.compile(gemm_model())
    assert report.ok
    assert judge(gemm_model(), report) == []
    told = report.to_json()
    assert told["figures"]["int8_nodes"] == ["fc"]
    assert told["memory"] == {"weights": 100, "activations": 50}
    assert (told["sm"], told["compiler"], told["seconds"]) == ("SM86", "1.7", 0.75)
    assert [kernel["role"] for kernel in told["kernels"]] == ["quantize", "product"]
    # 10 floats and 10 codes, then 10 codes and 10 floats
    assert [kernel["bytes"] for kernel in told["kernels"]] == [50, 50]
    assert json.loads(json.dumps(told)) == json.loads(json.dumps(report.to_json()))
    assert asked(child)[0][0] == "SM86"


def test_one_model_is_compiled_once_for_each_profile(tmp_path: Path) -> None:
    child = answering(tmp_path, layers=message(*gemm_lines(batch=-1)))
    shapes = Shapes.of(dims=["N=1,4,8"])
    with Compiler(script=child) as compiler:
        for wanted in (shapes, shapes, None):
            compiler.compile(gemm_model(batch="N"), wanted)
    profiles = [request["shapes"] for _, request in asked(child)]
    assert profiles == [{"x": [[1, 10], [4, 10], [8, 10]]}, {"x": [[1, 10], [1, 10], [8, 10]]}]


def test_bytes_of_a_dynamic_plan_are_those_at_the_optimum(tmp_path: Path) -> None:
    dynamic = message("Name: s, LayerType: shape_call, Inputs: [], Outputs: [], Metadata: ").split(
        "\n\n"
    )
    dynamic[0] += "\n" + "\n".join(gemm_lines(batch=-1))
    child = answering(
        tmp_path,
        layers="\n\n".join(dynamic),
        layers_at_opt=message(*gemm_lines(batch=4)),
        shapes={"x": [[1, 10], [4, 10], [8, 10]]},
    )
    with Compiler(script=child) as compiler:
        report = compiler.compile(gemm_model(batch="N"))
    assert report.exact
    assert [kernel.type for kernel in report.kernels] == ["shape_call", "kgen", "gemm"]
    assert (report.figures.act_bytes, report.figures.kernels) == (4 * 100, 2)
    assert report.shapes["x"].opt == (4, 10)


def test_another_plan_at_the_optimum_gives_bytes_but_no_kernels(tmp_path: Path) -> None:
    child = answering(
        tmp_path,
        layers=message(*gemm_lines(batch=-1)),
        layers_at_opt=message(*gemm_lines(low=False, batch=4)),
    )
    with Compiler(script=child) as compiler:
        report = compiler.compile(gemm_model(batch="N"))
    assert not report.exact
    assert report.figures.int8_products == 1
    # rounded floats 320, the weight 400, the product 160 + 400 + 160
    assert report.figures.act_bytes == 320 + 400 + 720


def test_a_float_product_is_a_finding_with_its_cause(tmp_path: Path) -> None:
    child = answering(tmp_path, layers=message(*gemm_lines(low=False)))
    model = gemm_model(scale_shape=(1,))
    with Compiler(script=child) as compiler:
        found = judge(model, compiler.compile(model))
    by_rule = {finding.rule: finding for finding in found}
    assert set(by_rule) == {"rtx-fell-back", "rtx-weight-kernel", "rtx-fake-quantize"}
    assert {finding.severity for finding in found} == {"warning"}
    assert by_rule["rtx-fell-back"].nodes == ("fc",)
    assert "shape [1]" in by_rule["rtx-fell-back"].why
    assert by_rule["rtx-fell-back"].fix == "make 's' a scalar"
    assert by_rule["rtx-weight-kernel"].nodes == ("w_dq",)
    assert by_rule["rtx-fake-quantize"].nodes == ("x_q", "x_dq")


def test_a_prediction_may_say_why_a_product_is_float(tmp_path: Path) -> None:
    child = answering(tmp_path, layers=message(*gemm_lines(low=False)))
    with Compiler(script=child) as compiler:
        report = compiler.compile(gemm_model())
    for reasons, expected in ({"fc": "the weight is packed"}, "packed"), ({}, "both factors"):
        found = {f.rule: f for f in judge(gemm_model(), report, reasons)}
        assert expected in found["rtx-fell-back"].why


def test_a_crash_is_a_finding_and_the_next_graph_gets_another_child(tmp_path: Path) -> None:
    body = ANSWERING.replace("ANSWER", repr({"layers": message(*gemm_lines())})).replace(
        "    print(",
        "    import os, signal\n    if os.path.exists(__file__ + '.armed'):\n"
        "        os.remove(__file__ + '.armed')\n"
        "        os.kill(os.getpid(), signal.SIGSEGV)\n    print(",
    )
    child = script(tmp_path, body)
    Path(f"{child}.armed").touch()
    with Compiler(script=child) as compiler:
        crashed = compiler.compile(gemm_model())
        after = compiler.compile(gemm_model(batch=1, scale_shape=(1,)))
    assert crashed.outcome == "crashed"
    [finding] = judge(gemm_model(), crashed)
    assert (finding.rule, finding.severity) == ("rtx-compiler-crash", "error")
    assert finding.what == "the compiler process ended with SIGSEGV"
    assert after.ok


def test_a_crash_names_the_scales_that_the_graph_computes() -> None:
    from qdqgraph.proof.compiler.report import Report

    model = gemm_model()
    model.graph.node.insert(0, onnx.helper.make_node("Abs", ["raw"], ["s2"], "abs"))
    for name in ("x_q", "x_dq"):
        next(node for node in model.graph.node if node.name == name).input[1] = "s2"
    [finding] = judge(model, Report("crashed", ("ended",)))
    assert finding.nodes == ("x_q", "x_dq")


def test_half_an_answer_is_a_crash(tmp_path: Path) -> None:
    child = script(tmp_path, "import sys; sys.stdin.readline(); sys.stdout.write('{'); sys.exit(3)")
    with Compiler(script=child) as compiler:
        report = compiler.compile(gemm_model())
    assert report.errors == ("the compiler process ended with exit code 3",)


def test_a_hang_is_stopped_and_is_a_finding(tmp_path: Path) -> None:
    child = script(tmp_path, "import time; time.sleep(60)")
    started = time.monotonic()
    with Compiler(limit=0.2, script=child) as compiler:
        report = compiler.compile(gemm_model())
    assert time.monotonic() - started < 10  # the limit, and time to end a process
    [finding] = judge(gemm_model(), report)
    assert (finding.rule, finding.severity) == ("rtx-compiler-hang", "error")
    assert finding.what == "the compiler took longer than 0.2 s"
    assert "--time-limit" in finding.fix


def test_a_compiler_that_cannot_be_loaded_is_no_verdict_on_the_model(tmp_path: Path) -> None:
    child = answering(tmp_path, unusable="libcudart.so.13: no such file")
    with Compiler(script=child) as compiler, pytest.raises(UsageError, match="libcudart"):
        compiler.compile(gemm_model())


def test_a_refusal_names_the_node_even_where_it_has_no_name(tmp_path: Path) -> None:
    noise = "[checkMacros.cpp::catch] Error (cudaError 35: no driver)"
    text = f"Invalid Node - fc\nfc: sizes differ. In check at /_src/a.cpp:1\n{noise}"
    said = {"index": 3, "op": "MatMul", "what": text, "inside": False}
    for name, given in (("fc", "fc"), ("", "")):
        child = answering(tmp_path, refusals=[{**said, "node": given}], errors=["again"])
        model = gemm_model()
        model.graph.node[3].name = name
        with Compiler(script=child) as compiler:
            report = compiler.compile(model)
        label = name or "node_of_y"
        assert report.outcome == "refused"
        assert report.refusals[0].node == label
        [finding] = judge(model, report)
        assert (finding.rule, finding.nodes) == ("rtx-refused", (label,))
        assert finding.severity == "error"
        assert finding.what.endswith("fc: sizes differ.")
    assert report.refusals == (
        Refusal("node_of_y", "MatMul", "Invalid Node - fc fc: sizes differ."),
    )


def test_an_error_of_the_builder_names_the_nodes_it_speaks_of(tmp_path: Path) -> None:
    text = "Myelin (Cannot compile operation 'fc_U4' for Turing: FP32 GEMM is not supported. In a"
    child = answering(tmp_path, layers="", errors=[text, text, "ModelImporter.cpp:140: again"])
    with Compiler(script=child) as compiler:
        [finding] = judge(gemm_model(), compiler.compile(gemm_model()))
    assert (finding.rule, finding.nodes) == ("rtx-build-failed", ("fc",))
    assert "float16" in finding.fix
    assert named_in("{ForeignNode[fc...w_dq]}", ["fc", "w_dq", "x_q"]) == ["fc", "w_dq"]


def test_a_finding_for_several_gpus_is_told_once(tmp_path: Path) -> None:
    child = answering(tmp_path, layers=message(*gemm_lines(low=False)))
    model, reports = gemm_model(), {}
    for sm in ("SM80", "SM89"):
        with Compiler(sm, script=child) as compiler:
            reports[sm] = compiler.compile(model)
    found = judge_all(model, reports)
    assert len(found) == 3
    assert all(finding.what.endswith(" on SM80, SM89") for finding in found)


def test_a_file_is_compiled_where_it_lies(tmp_path: Path) -> None:
    child = answering(tmp_path, layers=message(*gemm_lines()))
    path = tmp_path / "model.onnx"
    path.write_bytes(gemm_model().SerializeToString())
    with Compiler(script=child) as compiler:
        assert compiler.compile(path).ok
        with pytest.raises(ModelLoadError, match="no such file"):
            compiler.compile(tmp_path / "other.onnx")
    assert asked(child)[0][1] == {"path": str(path), "shapes": {}}


def test_a_model_in_memory_with_weights_elsewhere_is_the_users_error(tmp_path: Path) -> None:
    model = gemm_model()
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "w")
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    entry = weight.external_data.add()
    entry.key, entry.value = "location", "weights.bin"
    with (
        Compiler(script=tmp_path / "never.py") as compiler,
        pytest.raises(UsageError, match="path of the model"),
    ):
        compiler.compile(model)


def test_without_the_package_one_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "installed", lambda: False)
    with pytest.raises(UsageError, match=r"pip install 'qdqgraph\[tensorrt-rtx\]'.*NVIDIA"):
        compile_for(gemm_model(), ["SM89"])


def test_gpus_are_read_from_a_list() -> None:
    assert parse_sms(" sm89, SM120,SM89 ") == ("SM89", "SM120")
    for text in ("SM90", "", "SM89;SM120"):
        with pytest.raises(UsageError, match="SM75, SM80, SM86, SM89, SM120, SM121"):
            parse_sms(text)
