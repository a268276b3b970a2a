"""The trtexec commands for each version: typing flags, shapes, quoting, and what was assumed."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qdqgraph.errors import ModelLoadError, TargetError, UsageError
from qdqgraph.proof.engines.trtexec import commands, qdq_command
from qdqgraph.proof.engines.trtexec_shapes import parse_shapes, shape_flag

DYNAMIC = ("batch", 3, "h", "w")


def model(
    *dims: int | str, quantized: bool, half: bool = False, more: tuple[int | str, ...] = ()
) -> onnx.ModelProto:
    """x → [Q → DQ →] Relu, and perhaps an input `in:2` of other dimensions."""
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    dtype = np.float16 if half else np.float32
    nodes: list[onnx.NodeProto] = []
    if quantized:
        nodes.append(helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], name="q"))
        nodes.append(helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"], name="d"))
    nodes.append(helper.make_node("Relu", ["d" if quantized else "x"], ["y"], name="relu"))
    inputs = [helper.make_tensor_value_info("x", kind, dims)]
    outputs = [helper.make_tensor_value_info("y", kind, None)]
    if more:
        nodes.append(helper.make_node("Neg", ["in:2"], ["n"], name="neg"))
        inputs.append(helper.make_tensor_value_info("in:2", kind, more))
        outputs.append(helper.make_tensor_value_info("n", kind, None))
    stored = [
        numpy_helper.from_array(np.asarray(0.1, dtype), "s"),
        numpy_helper.from_array(np.int8(0), "z"),
    ]
    graph = helper.make_graph(nodes, "g", inputs, outputs, stored if quantized else [])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    onnx.save(model(1, 3, 8, 8, quantized=False), tmp_path / "float.onnx")
    onnx.save(model(1, 3, 8, 8, quantized=True), tmp_path / "qdq.onnx")
    onnx.save(model(1, 3, 8, 8, quantized=True, half=True), tmp_path / "half.onnx")
    onnx.save(model(*DYNAMIC, quantized=False, more=("n", "m")), tmp_path / "dynamic.onnx")
    onnx.save(model(*DYNAMIC, quantized=True, more=("n", "m")), tmp_path / "dynamic.qdq.onnx")
    return tmp_path


TYPING = {"--best", "--int8", "--fp16", "--stronglyTyped"}


@pytest.mark.parametrize(
    ("version", "name", "best", "qdq", "note"),
    [
        ("8.0", "qdq", {"--best"}, {"--int8", "--fp16"}, "before 8.2 exports no layers"),
        ("8", "qdq", {"--best"}, {"--int8", "--fp16"}, ""),
        ("8.6.1", "qdq", {"--best"}, {"--int8", "--fp16"}, ""),
        ("8.6.1", "half", {"--best"}, {"--int8", "--fp16"}, ""),
        ("10", "qdq", {"--best"}, {"--int8", "--fp16"}, ""),
        ("10", "half", {"--best"}, {"--stronglyTyped"}, "built strongly typed"),
        ("10.12", "qdq", {"--best"}, {"--int8", "--fp16"}, "deprecated since TensorRT 10.12"),
        ("11.0", "qdq", set[str](), set[str](), "has no --best"),
        ("11.0", "half", set[str](), set[str](), "has no --best"),
    ],
)
def test_typing_flags_are_those_of_the_version(
    folder: Path, version: str, name: str, best: set[str], qdq: set[str], note: str
) -> None:
    made = commands(folder / "float.onnx", folder / f"{name}.onnx", version)
    assert set(shlex.split(made.best)) & TYPING == best
    assert set(shlex.split(made.qdq)) & TYPING == qdq
    assert note in " ".join(made.notes)
    assert bool(made.notes) == bool(note)


def test_both_builds_write_what_the_next_commands_read(folder: Path) -> None:
    given, made = folder / "float.onnx", folder / "qdq.onnx"
    found = commands(given, made, "8.6", run_dir="my run")
    assert found.lines == (
        "mkdir -p 'my run'",
        f"trtexec --onnx={given} --best '--saveEngine=my run/best.engine' "
        "--profilingVerbosity=detailed '--exportLayerInfo=my run/best.layers.json' "
        "'--exportProfile=my run/best.profile.json' --separateProfileRun",
        f"trtexec --onnx={made} --int8 --fp16 '--saveEngine=my run/qdq.engine' "
        "--profilingVerbosity=detailed '--exportLayerInfo=my run/qdq.layers.json' "
        "'--exportProfile=my run/qdq.profile.json' --separateProfileRun",
        "qdqgraph diff 'my run/best.layers.json' 'my run/qdq.layers.json' "
        "--best-profile 'my run/best.profile.json' --qdq-profile 'my run/qdq.profile.json'",
        f"qdqgraph check {made} --trt-version 8.6 --engine 'my run/qdq.layers.json'",
    )
    assert found.qdq == qdq_command(made, (8, 6), run_dir="my run")


def test_before_8_2_the_layers_come_from_the_log(folder: Path) -> None:
    found = commands(folder / "float.onnx", folder / "qdq.onnx", "8.0")
    assert found.folder == ""
    assert "--nvtxMode=verbose --verbose" in found.qdq
    assert found.qdq.endswith("> qdq.log 2>&1")
    assert "--exportLayerInfo" not in found.qdq
    assert found.diff.startswith("qdqgraph diff best.log qdq.log ")
    assert found.check.endswith("--engine qdq.log")


def test_a_name_that_looks_like_an_option_is_none(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    (folder / "qdq.onnx").rename("-q.onnx")
    found = commands("float.onnx", "-q.onnx", run_dir="-d")
    assert found.folder == "mkdir -p ./-d"
    assert "qdqgraph check ./-q.onnx" in found.check
    assert "qdqgraph diff ./-d/best.layers.json ./-d/qdq.layers.json" in found.diff


def test_dynamic_dimensions_are_assumed_and_said(folder: Path) -> None:
    found = commands(folder / "dynamic.onnx", folder / "dynamic.qdq.onnx")
    flag = "--shapes=x:1x3x224x224,'in:2':1x128"
    for line in (found.best, found.qdq):
        assert flag in shlex.split(line)
    assert found.notes == (
        "input x is batchx3xhxw: assumed 1x3x224x224; --shapes changes",
        "input in:2 is nxm: assumed 1x128; --shapes changes",
    )


def test_shapes_given_are_taken_and_the_rest_assumed(folder: Path) -> None:
    given = commands(folder / "dynamic.onnx", folder / "dynamic.qdq.onnx", shapes="x:4x3x32x48")
    assert "--shapes=x:4x3x32x48,'in:2':1x128" in shlex.split(given.best)
    assert given.notes == ("input in:2 is nxm: assumed 1x128; --shapes changes",)
    both = {"x": [2, 3, 8, 8], "in:2": [2, 2]}
    line = qdq_command(folder / "dynamic.qdq.onnx", "10", both)
    assert "--shapes=x:2x3x8x8,'in:2':2x2" in shlex.split(line)


def test_a_static_network_takes_no_shapes(folder: Path) -> None:
    found = commands(folder / "float.onnx", folder / "qdq.onnx", shapes="x:1x3x8x8")
    assert "--shapes" not in found.best + found.qdq
    assert found.notes == ("--shapes is not needed for x: the file fixes it",)


@pytest.mark.parametrize(
    ("shapes", "what"),
    [
        ("y:1x3x8x8", "no input 'y'.*x, in:2"),
        ("x:1x3x8", "1x3x8 does not fit input x"),
        ("x:1x4x8x8", "does not fit input x, which is batchx3xhxw"),
        ("x", "'x' is no shape"),
        ("x:1x0", "is no shape"),
        ("x:1x3xax4", "is no shape"),
        (":1x3", "is no shape"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(folder: Path, shapes: str, what: str) -> None:
    with pytest.raises(UsageError, match=what):
        commands(folder / "dynamic.onnx", folder / "dynamic.qdq.onnx", shapes=shapes)


def test_shapes_are_spelled_as_trtexec_reads_them() -> None:
    shapes = {"a": [1, 2], "in:0": [3], "b,c": [4]}
    (flag,) = shape_flag(shapes)
    assert flag == "--shapes=a:1x2,'in:0':3,'b,c':4"
    assert parse_shapes(flag.removeprefix("--shapes=")) == shapes
    assert shape_flag({}) == []


def test_files_in_the_wrong_order_or_unreadable_are_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"holds Q and DQ.*qdq\.onnx.*float file, then"):
        commands(folder / "qdq.onnx", folder / "float.onnx")
    with pytest.raises(UsageError, match="holds no Q and DQ"):
        commands(folder / "float.onnx", folder / "float.onnx")
    with pytest.raises(ModelLoadError):
        commands(folder / "none.onnx", folder / "qdq.onnx")


@pytest.mark.parametrize("version", ["7", "7.2"])
def test_versions_without_explicit_quantization_are_refused(folder: Path, version: str) -> None:
    with pytest.raises(TargetError, match=r"does not read QuantizeLinear.*8\.0"):
        qdq_command(folder / "qdq.onnx", version)
