"""What a plan costs and what runs in int8, counted from its kernels.

A convolution or gemm whose weight has a scale per channel writes a float result here, and a
pointwise kernel behind it does scale, bias, activation, shortcut and the next Q. Classic TensorRT
does both in one layer, so placements are compared with that pair counted as one (`folded`).
"""

from __future__ import annotations

import enum
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qdqgraph.proof.compiler.kernels import Kernel, Tensor

LOW = frozenset({"int8", "uint8", "fp8", "int4", "fp4"})
PRODUCT_OPS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "Attention"})
PRODUCT_KERNELS = frozenset({"correlation", "convolution", "deconv", "gemm", "matmul", "fmha"})
JIT_KERNELS = frozenset({"runtime_fusion", "runtime_function"})
WAITING = frozenset({"signal", "wait", "shape_call"})
PAIR_OPS = frozenset({"QuantizeLinear", "DequantizeLinear", "Constant"})
POINTWISE = PAIR_OPS | frozenset(
    {"Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "Identity", "Cast"}
    | {"Relu", "Clip", "LeakyRelu", "PRelu", "Elu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish"}
    | {"Softplus", "Erf", "Gelu", "Mul", "Add", "Sub", "Div", "Max", "Min"}
)
"""What the epilogue of a product can compute without reading neighbours."""
SMALL_CONSTANT = 64
"""Constants of at most so many bytes are scales or shapes, unless there are no others."""


class Role(enum.Enum):
    """What a kernel is for."""

    SYNC = "orders streams, moves nothing"
    PRODUCT = "a convolution, gemm or attention"
    WEIGHT = "computes on constants at every inference"
    QUANTIZE = "float in, int8 out, nothing else"
    DEQUANTIZE = "int8 in, float out, nothing else"
    REQUANTIZE = "int8 in, int8 out under another scale, nothing else"
    FAKE_QUANTIZE = "float in, float out, rounded, nothing else"
    OTHER = "pointwise work, pools, data movement"


@dataclass(frozen=True)
class Figures:
    """Counts of kernels and bytes; names of ONNX nodes.

    `products` counts kernels that multiply, `product_nodes` names the ONNX products in them. int8
    stands for every narrow format: fp8 and int4 too. `fell_back` are products that read DQs on
    both sides and multiply floats all the same.
    """

    products: int = 0
    int8_products: int = 0
    product_nodes: frozenset[str] = frozenset()
    int8_nodes: frozenset[str] = frozenset()
    fell_back: tuple[str, ...] = ()
    weight_kernels: int = 0
    quantize: int = 0
    dequantize: int = 0
    requantize: int = 0
    fakequant: int = 0
    kernels: int = 0
    kernels_folded: int = 0
    act_bytes: int = 0
    act_bytes_folded: int = 0


def count(
    kernels: Sequence[Kernel], op_types: Mapping[str, str], intended: Sequence[str]
) -> Figures:
    """Figures of a plan. `op_types` by node name; `intended` are the products that read DQs."""
    roles = [(kernel, role_of(kernel, op_types)) for kernel in kernels]
    work = [(kernel, role) for kernel, role in roles if role is not Role.SYNC]
    tally = Counter(role for _, role in work)
    low = [kernel for kernel, role in work if role is Role.PRODUCT and runs_in_int8(kernel)]
    int8_nodes = _products_of(low, op_types)
    folded = _folded_results(work, op_types)
    traffic = sum(kernel.traffic for kernel, _ in work)
    return Figures(
        products=tally[Role.PRODUCT],
        int8_products=len(low),
        product_nodes=_products_of([k for k, role in work if role is Role.PRODUCT], op_types),
        int8_nodes=int8_nodes,
        fell_back=tuple(node for node in intended if node not in int8_nodes),
        weight_kernels=tally[Role.WEIGHT],
        quantize=tally[Role.QUANTIZE],
        dequantize=tally[Role.DEQUANTIZE],
        requantize=tally[Role.REQUANTIZE],
        fakequant=tally[Role.FAKE_QUANTIZE],
        kernels=len(work),
        kernels_folded=len(work) - len(folded),
        act_bytes=traffic,
        act_bytes_folded=traffic - 2 * sum(tensor.size for tensor in folded),
    )


def role_of(kernel: Kernel, op_types: Mapping[str, str]) -> Role:
    """What a kernel is for, from its type, its operands and the ONNX nodes it stems from."""
    ops = {op_types.get(node, "?") for node in kernel.nodes}
    if kernel.type in WAITING:
        return Role.SYNC
    if kernel.type in PRODUCT_KERNELS or _is_attention(kernel):
        return Role.PRODUCT
    if kernel.type in JIT_KERNELS:
        multiplies = re.search("Fc|Dot|Gemm|Conv|Corr|Mma|Atte|Fmha", _steps(kernel))
        return Role.PRODUCT if multiplies and ops & PRODUCT_OPS else Role.OTHER
    if kernel.type in ("maxpool", "avgpool"):
        return Role.OTHER
    if not kernel.inputs:
        return Role.WEIGHT
    if kernel.type == "kgen" and "Corr" in _steps(kernel) and ops & PRODUCT_OPS:
        return Role.PRODUCT
    if not ops or not ops <= PAIR_OPS:
        return Role.OTHER
    return {
        (True, True): Role.REQUANTIZE,
        (True, False): Role.DEQUANTIZE,
        (False, True): Role.QUANTIZE,
        (False, False): Role.FAKE_QUANTIZE,
    }[_any_low(kernel.inputs), _any_low(kernel.outputs)]


def runs_in_int8(product: Kernel) -> bool:
    """True when both operands are narrow and the product is not preceded by a cast to float.

    A small convolution may be computed in the kernel that rounds its operand.
    """
    if product.type == "kgen" and not _is_attention(product):
        stored = any(t.dtype in LOW for t in product.constants if len(t.shape) > 1)
        return stored and "RounCastCorr" in _steps(product)
    narrow = [tensor.dtype in LOW for tensor in product.inputs]
    if _is_attention(product):
        return sum(narrow) > 1  # masks may come before q and k
    if not narrow or not narrow[0]:
        return False
    if product.type == "runtime_fusion" and re.search("Cast.*Fc", product.name):
        return False
    stored = [t for t in product.constants if len(t.shape) > 1]
    weights = [t for t in stored if t.size > SMALL_CONSTANT] or stored
    varying = len(narrow) > 1 and product.type == "gemm"
    if varying or not weights:
        return len(narrow) > 1 and narrow[1]
    return weights[0].dtype in LOW


def _folded_results(
    work: Sequence[tuple[Kernel, Role]], op_types: Mapping[str, str]
) -> list[Tensor]:
    """Results of products that only their own pointwise kernel reads.

    Last products first: a kernel that joins two products is the epilogue of the later one.
    """
    readers: dict[str, list[int]] = {}
    for index, (kernel, _) in enumerate(work):
        for tensor in kernel.inputs:
            readers.setdefault(tensor.name, []).append(index)
    taken: set[int] = set()
    found: list[Tensor] = []
    for kernel, role in reversed(work):
        if role is not Role.PRODUCT or len(kernel.outputs) != 1:
            continue
        result = kernel.outputs[0]
        behind = readers.get(result.name, [])
        if len(behind) != 1 or behind[0] in taken:
            continue
        reader, reader_role = work[behind[0]]
        pointwise = {op_types.get(node, "?") for node in reader.nodes} <= POINTWISE
        same_shape = any(tensor.shape == result.shape for tensor in reader.outputs)
        if reader.type == "kgen" and reader_role is not Role.PRODUCT and pointwise and same_shape:
            taken.add(behind[0])
            found.append(result)
    return found


def _products_of(kernels: Sequence[Kernel], op_types: Mapping[str, str]) -> frozenset[str]:
    return frozenset(
        node for kernel in kernels for node in kernel.nodes if op_types.get(node) in PRODUCT_OPS
    )


def _any_low(tensors: Sequence[Tensor]) -> bool:
    return any(tensor.dtype in LOW for tensor in tensors)


def _is_attention(kernel: Kernel) -> bool:
    return re.search(r"_mha(_|$)", kernel.name) is not None


def _steps(kernel: Kernel) -> str:
    """The part of a generated name that abbreviates what is computed."""
    return re.sub(r"^__myl_|_myl\d.*$", "", kernel.name)
