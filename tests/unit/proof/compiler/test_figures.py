"""Kernels are counted by what they are for, and each product takes its own epilogue along."""

from __future__ import annotations

import pytest

from qdqgraph.proof.compiler.figures import Role, count, role_of, runs_in_int8
from qdqgraph.proof.compiler.kernels import Kernel
from tests.unit.proof.compiler.message import operand

OPS = {"q": "QuantizeLinear", "dq": "DequantizeLinear", "fc": "MatMul", "add": "Add"}


def test_each_product_takes_one_pointwise_kernel_with_it() -> None:
    codes, weight = operand("codes", "int8"), operand("w", "int8", 10, 10)
    kernels = [
        Kernel("q", "kgen", (operand("x", "float"),), (), (codes,), ("q",)),
        Kernel("a", "gemm", (codes,), (weight,), (operand("ya", "float"),), ("a",)),
        Kernel("b", "gemm", (codes,), (weight,), (operand("yb", "float"),), ("b",)),
        Kernel(
            "add",
            "kgen",
            (operand("ya", "float"), operand("yb", "float")),
            (),
            (operand("y", "float"),),
            ("add",),
        ),
    ]
    ops = {"q": "QuantizeLinear", "a": "MatMul", "b": "MatMul", "add": "Add"}
    figures = count(kernels, ops, ["a", "b", "c"])
    assert (figures.products, figures.int8_products, figures.quantize) == (2, 2, 1)
    assert figures.product_nodes == figures.int8_nodes == {"a", "b"}
    assert figures.fell_back == ("c",)
    # 50 for Q, 50 for each gemm, 120 for the addition; the later gemm takes the addition with it
    assert (figures.act_bytes, figures.act_bytes_folded) == (270, 190)
    assert (figures.kernels, figures.kernels_folded) == (4, 3)


@pytest.mark.parametrize(
    ("read", "written", "nodes", "role"),
    [
        ("float", "int8", ("q",), Role.QUANTIZE),
        ("int8", "float", ("dq",), Role.DEQUANTIZE),
        ("int8", "int8", ("dq", "q"), Role.REQUANTIZE),
        ("half", "half", ("q", "dq"), Role.FAKE_QUANTIZE),
        ("float", "int8", ("q", "add"), Role.OTHER),
        ("float", "float", (), Role.OTHER),
    ],
)
def test_the_role_of_a_pointwise_kernel(
    read: str, written: str, nodes: tuple[str, ...], role: Role
) -> None:
    kernel = Kernel("k", "kgen", (operand("a", read),), (), (operand("b", written),), nodes)
    assert role_of(kernel, OPS) is role


def test_kernels_that_wait_are_not_counted() -> None:
    figures = count([Kernel("s", "shape_call", (), (), (), ())], OPS, [])
    assert (figures.kernels, figures.act_bytes) == (0, 0)


def test_a_kernel_without_inputs_works_on_weights() -> None:
    codes, wide = operand("w", "int8", 10, 10), operand("wf", "float", 10, 10)
    kernel = Kernel("w", "kgen", (), (codes,), (wide,), ("dq",))
    assert role_of(kernel, OPS) is Role.WEIGHT
    assert count([kernel], OPS, []).weight_kernels == 1


def test_codes_that_are_cast_before_the_product_make_it_float() -> None:
    x, weight, y = operand("x", "int8"), operand("w", "int8", 10, 10), operand("y", "float")
    for name, low in (("__myl_CastFc_myl0_1", False), ("__myl_Fc_myl0_1", True)):
        kernel = Kernel(name, "runtime_fusion", (x,), (weight,), (y,), ("fc",))
        assert role_of(kernel, OPS) is Role.PRODUCT
        assert runs_in_int8(kernel) is low


def test_a_small_convolution_may_be_part_of_a_pointwise_kernel() -> None:
    x, y = operand("x", "float", 1, 4, 1, 1), operand("y", "float", 1, 96, 1, 1)
    for dtype, low in (("int8", True), ("float", False)):
        weight = operand("w", dtype, 96, 4, 1, 1)
        name = "__myl_MulMinMaxRounCastCorrMulAdd_myl0_18"
        kernel = Kernel(name, "kgen", (x,), (weight,), (y,), ("q", "fc"))
        assert role_of(kernel, OPS) is Role.PRODUCT
        assert runs_in_int8(kernel) is low


def test_a_fused_attention_is_int8_when_its_operands_are() -> None:
    for dtype in ("int8", "half"):
        reads = tuple(operand(name, dtype, 2, 8, 8) for name in "qkv")
        written = (operand("y", "int8", 2, 8, 8),)
        kernel = Kernel("_gemm_mha_v2_myl0_11", "kgen", reads, (), written, ("qk", "pv"))
        figures = count([kernel], {"qk": "MatMul", "pv": "MatMul"}, [])
        assert figures.product_nodes == {"qk", "pv"}
        assert figures.int8_products == (dtype == "int8")
