"""Writes `Layers:` messages in the compiler's spelling, and graphs that they could come from."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from qdqgraph.proof.compiler.kernels import Tensor


def tensor(name: str, dtype: str, *shape: int) -> str:
    """An operand: `Half`, `Int8`, ... and its shape."""
    shown = ",".join(map(str, shape))
    return (
        f"{{ Name: {name}, Dimensions: [{shown}], Strides: [1], StrideOrder: [0], "
        f"Datatype: {dtype}, Format: (Linear) Row major linear format }}"
    )


def line(
    name: str,
    kind: str,
    inputs: list[str],
    outputs: list[str],
    nodes: list[str],
    constants: list[str] | None = None,
) -> str:
    """One kernel."""
    metadata = "\x1f".join(f"[ONNX Layer: {node}]" for node in nodes)
    return (
        f"Name: {name}, LayerType: {kind}, Inputs: [ {', '.join(inputs)}], "
        f"Constants: [ {', '.join(constants or [])}], Outputs: [ {', '.join(outputs)}], "
        f"TacticName: stub, StreamId: 0, Metadata: {metadata}"
    )


def message(*lines: str) -> str:
    """The whole message."""
    tail = " Name: x, IOMode: Input, DataType: Float, Dimensions: [1]"
    return "\n".join(["Layers:", *lines, "", "I/O Tensors:", tail, "", "Engine Metadata:"])


def operand(name: str, dtype: str, *shape: int) -> Tensor:
    """The same, taken apart."""
    return Tensor(name, dtype, shape or (1, 10))


def gemm_model(*, batch: int | str = 1, scale_shape: tuple[int, ...] = ()) -> onnx.ModelProto:
    """x -> Q -> DQ -> MatMul `fc` with an int8 weight behind `w_dq`; sizes 10 and 10."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"], "x_q"),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"], "x_dq"),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], "w_dq", axis=1),
        helper.make_node("MatMul", ["xd", "wd"], ["y"], "fc"),
    ]
    stored = {
        "s": np.full(scale_shape, 0.1, np.float32),
        "z": np.zeros(scale_shape, np.int8),
        "w": np.ones((10, 10), np.int8),
        "ws": np.full(10, 0.1, np.float32),
        "wz": np.zeros(10, np.int8),
    }
    graph = helper.make_graph(
        nodes,
        "gemm",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [batch, 10])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [batch, 10])],
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def gemm_lines(*, low: bool = True, batch: int = 1) -> list[str]:
    """The plan of `gemm_model`: Q, then the product; in float with a kernel for the weight."""
    x, codes = tensor("x", "Float", batch, 10), tensor("codes", "Int8", batch, 10)
    y, weight = tensor("y", "Float", batch, 10), tensor("w", "Int8", 10, 10)
    if low:
        return [
            line("__myl_Q_myl0_0", "kgen", [x], [codes], ["x_q"]),
            line("fc_U1_myl0_1", "gemm", [codes], [y], ["fc", "x_dq", "w_dq"], [weight]),
        ]
    rounded, wide = tensor("xr", "Float", batch, 10), tensor("wf", "Float", 10, 10)
    return [
        line("__myl_QDQ_myl0_0", "kgen", [x], [rounded], ["x_q", "x_dq"]),
        line("__myl_W_myl0_1", "kgen", [], [wide], ["w_dq"], [weight]),
        line("fc_U1_myl0_2", "gemm", [rounded, wide], [y], ["fc"]),
    ]
