"""The driver reads what the compiler says, and outlives it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.oracle.compiler import CHILD, WHY_NOT, Compiler, compile_all, installed
from tests.oracle.figures import count
from tests.oracle.layers import Kernel, Tensor, read_layers
from tests.oracle.micro import ROWS
from tests.oracle.net import Net
from tests.oracle.placement import apply_placement, place

needs_compiler = pytest.mark.skipif(not installed(), reason=WHY_NOT)
pytestmark = pytest.mark.oracle


def plain(row: str = "conv-relu") -> onnx.ModelProto:
    return apply_placement(ROWS[row](), place())


def test_names_may_hold_the_markers_of_the_log() -> None:
    name = "a, LayerType {x}], [y"
    operand = "{ Name: %s, Dimensions: [1,-1], Strides: [4,1], Datatype: %s, Format: (Linear) x }"
    line = (
        f"Name: k_myl0_0, LayerType: kgen, Inputs: [ {operand % (name, 'Half')}], Constants: [], "
        f"Outputs: [ {operand % ('b', 'Int8')}, {operand % ('c', 'Float')}], TacticName: t, "
        f"StreamId: 0, Metadata: [ONNX Layer: {name}]\x1f[ONNX Layer: q]"
    )
    kernels = read_layers(f"Layers:\n{line}\n\nI/O Tensors:\n Name: b, IOMode: Output")
    assert kernels == (
        Kernel(
            "k_myl0_0",
            "kgen",
            (Tensor(name, "half", (1, -1)),),
            (),
            (Tensor("b", "int8", (1, -1)), Tensor("c", "float", (1, -1))),
            (name, "q"),
        ),
    )
    # an unknown dimension counts once: 2 + 1 + 4 bytes
    assert kernels[0].traffic == 7


def test_each_product_takes_one_pointwise_kernel_with_it() -> None:
    def tensor(name: str, dtype: str) -> Tensor:
        return Tensor(name, dtype, (1, 10))

    codes, weight = tensor("codes", "int8"), Tensor("w", "int8", (10, 10))
    kernels = [
        Kernel("q", "kgen", (tensor("x", "float"),), (), (codes,), ("q",)),
        Kernel("a", "gemm", (codes,), (weight,), (tensor("ya", "float"),), ("a",)),
        Kernel("b", "gemm", (codes,), (weight,), (tensor("yb", "float"),), ("b",)),
        Kernel(
            "add",
            "kgen",
            (tensor("ya", "float"), tensor("yb", "float")),
            (),
            (tensor("y", "float"),),
            ("add",),
        ),
    ]
    ops = {"q": "QuantizeLinear", "a": "MatMul", "b": "MatMul", "add": "Add"}
    figures = count(kernels, ops, ["a", "b", "c"])
    assert (figures.products, figures.int8_products, figures.quantize) == (2, 2, 1)
    assert figures.fell_back == ("c",)
    # 50 for Q, 50 for each gemm, 120 for the addition; the later gemm takes the addition with it
    assert (figures.act_bytes, figures.act_bytes_folded) == (270, 190)
    assert (figures.kernels, figures.kernels_folded) == (4, 3)


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
def test_unknown_dimensions_are_built_as_one(compiler: Compiler) -> None:
    model = plain()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    report = compiler.compile(model)
    assert report.ok, str(report)
    assert report.figures.act_bytes == compiler.compile(plain()).figures.act_bytes


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
    assert "ended with" in report.errors[0]
    assert compiler.compile(plain()).ok


@needs_compiler
def test_a_hang_is_a_result(tmp_path: Path) -> None:
    sleepy = tmp_path / "sleepy.py"
    sleepy.write_text(
        f"import sys, time; sys.path.insert(0, {str(CHILD.parent)!r})\n"
        "import child; child.build = lambda *_: time.sleep(60)\n"
        "child.main(sys.argv[1], int(sys.argv[2]))\n"
    )
    with Compiler(limit=1, script=sleepy) as impatient:
        report = impatient.compile(plain())
    assert not report.ok
    assert report.errors == ("the compiler took longer than 1 s",)


@needs_compiler
def test_a_missing_file_is_a_result(compiler: Compiler) -> None:
    report = compiler.compile("no such file.onnx")
    assert not report.ok
    assert report.errors
