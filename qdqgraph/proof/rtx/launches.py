"""Kernels of products, attention, quantizers and all that is generated between them."""

from __future__ import annotations

from qdqgraph.graph.view import Node, Value
from qdqgraph.proof.classic.flow import scale_of
from qdqgraph.proof.rtx.facts import (
    ACTIVATIONS,
    CONVOLUTIONS,
    LONG_ROW,
    MATRIX_PRODUCTS,
    PAIR,
    REDUCES,
    SHORT_SUM,
    VIEWS,
    elements,
    ends_its_kernel,
    has_bias,
    is_one_row,
    odd,
    onnx_name,
    pads_channels,
    pads_inside_convolution,
    readers,
    stops_at_zero,
)
from qdqgraph.proof.rtx.packed import is_packed_projection, packed_nodes
from qdqgraph.proof.rtx.plan import SHAPE_TYPES, Kernel, Plan
from qdqgraph.proof.rtx.pools import average_pool, concat, max_pool
from qdqgraph.proof.rtx.reductions import end_resized, moves_rows, reduces_rows, rows_are_moved


def launch_all(plan: Plan) -> None:
    """Give every node of the graph, in topological order, to a kernel."""
    for node in plan.codes.nodes:
        if plan.runs(node):
            _launch(plan, node)
        elif onnx_name(node) == "ScatterND" and node.output.dtype not in SHAPE_TYPES:
            _scatter(plan, node)


def _scatter(plan: Plan, node: Node) -> None:
    """Constants that are written into are copied and changed at every inference."""
    above = node.inputs[0].producer if node.inputs[0] is not None else None
    plan.extra(0, f"{node.name} changes a constant")
    plan.weight_kernels += above is None or onnx_name(above) != "ScatterND"


def _launch(plan: Plan, node: Node) -> None:
    name, values = node.op.name, plan.operands(node)
    if node in plan.dissolved:
        _follow(plan, node, values[0])
    elif node in plan.cores:
        _attention(plan, node, values)
    elif node in plan.absorbed:
        plan.owner[node] = plan.find(plan.absorbed[node])
    elif name == "dequantize" and not node.output.is_output:
        _follow(plan, node, node.inputs[0])
    elif name == "quantize":
        _quantize(plan, node, values)
    elif node.op.weighted:
        plan.launch[node] = _product(plan, node, values)
    elif name == "max_pool":
        max_pool(plan, node, values)
    elif name == "average_pool":
        average_pool(plan, node, values)
    elif pads_inside_convolution(node):
        _follow(plan, node, values[0])
        plan.aliases[node.output] = values[0]
    elif onnx_name(node) == "InstanceNormalization":
        _instance_norm(plan, node, values)
    elif not _fuses_with_product(plan, node, values) and not (
        name == "concat" and concat(plan, node, values)
    ):
        if name == "resize":
            end_resized(plan, values[0])
        kernel = plan.generate(node, values)
        kernel.closed = kernel.closed or ends_its_kernel(node)
        if reduces_rows(node) and rows_are_moved(plan, node):
            kernel.closed = True
            plan.owner[node] = plan.add("generated", [node], kernel.level + 1)
        if name == "softmax" and _returns_channels(node, values[0]):
            plan.extra(kernel.level + 1, f"writes {node.output.name} as it is returned")


def _returns_channels(node: Node, value: Value) -> bool:
    """True for a softmax over the channels of an image that a product reads too."""
    image = len(node.output.shape or ()) == 4 and node.int("axis", -1) == 1
    result = node.output
    while not result.is_output and len(result.uses) == 1 and result.uses[0].node.op.name in PAIR:
        result = result.uses[0].node.output
    return image and result.is_output and len(value.data_uses) > 1


def _instance_norm(plan: Plan, node: Node, values: list[Value]) -> None:
    """A kernel that nothing in front joins, and of what is behind only a ReLU."""
    level = plan.level_behind(values, fused=False)
    kernel = plan.owner[node] = plan.add("generated", [node], level)
    kernel.closed = kernel.apart = True
    behind = readers(node.output)
    if len(behind) == 1 and behind[0].op.name == "relu" and not node.output.is_output:
        plan.absorbed[behind[0]] = kernel


def _follow(plan: Plan, node: Node, value: Value | None) -> None:
    """Nothing is computed: readers of the node read what is written already."""
    writer = plan.writer(value) if value is not None else None
    if writer is not None:
        plan.owner[node] = writer


def _quantize(plan: Plan, node: Node, values: list[Value]) -> None:
    source = node.inputs[0]
    if source is None:
        return
    if source.producer in plan.int8_moves and source.producer in plan.flow.risen:
        _follow(plan, node, source)
        return
    key = (source, scale_of(node))
    if key not in plan.quantized:
        plan.quantized[key] = plan.generate(node, values)
    plan.owner[node] = plan.quantized[key]


def _attention(plan: Plan, node: Node, values: list[Value]) -> None:
    core = plan.cores[node]
    if core.scores not in plan.owner:
        kernel = plan.add(
            "product", [node], plan.level_behind(values, fused=False), core.mix.output
        )
        kernel.foldable = False
        plan.owner[core.scores] = plan.owner[node] = plan.launch[core.scores] = kernel
        return
    kernel = plan.owner[node] = plan.owner[core.scores]
    kernel.nodes.append(node)
    others = [value for value in values if plan.writer(value) is not kernel]
    kernel.level = max(kernel.level, plan.level_behind(others, fused=False))
    if node is core.mix:
        plan.launch[node] = kernel
        if node not in plan.floats:
            _absorb_behind(plan, node.output, kernel)


def _absorb_behind(plan: Plan, value: Value, kernel: Kernel) -> None:
    """Let a product with one scale write the codes of the Q behind it, in the order asked for."""
    passed: list[Node] = []
    while True:
        found = readers(value)
        if len(found) != 1 or value.is_output:
            return
        passed.append(found[0])
        if found[0].op.name == "quantize":
            break
        if found[0].op.name not in ("transpose", "reshape"):
            return
        value = found[0].output
    plan.absorbed.update((node, kernel) for node in passed)


def _product(plan: Plan, node: Node, values: list[Value]) -> Kernel:
    name, why = node.op.name, plan.floats.get(node, "")
    if name in MATRIX_PRODUCTS and not why and plan.has_coded_weight(node):
        return _shared_gemm(plan, node, values)
    if name in MATRIX_PRODUCTS and why and is_one_row(node):
        return _one_row(plan, node, values)
    level = plan.level_behind(values, fused=False)
    kernel = plan.owner[node] = plan.add("product", [node], level, node.output)
    kernel.fuses = name in CONVOLUTIONS
    _paddings(plan, node, values, kernel)
    if why:
        _float_extras(plan, node, values, kernel, why)
    elif not _single_scales(plan, node):
        kernel.fuses = False
        plan.epilogue(node, kernel)
    elif not kernel.fuses:
        _absorb_behind(plan, node.output, kernel)
    return kernel


def _shared_gemm(plan: Plan, node: Node, values: list[Value]) -> Kernel:
    """Products with stored weights that read the same codes are one gemm."""
    key = (_codes_read(node), node.op.name)
    kernel = plan.shared.get(key)
    if kernel is not None and not _keeps_apart(plan, node):
        kernel.nodes.append(node)
        kernel.foldable = False
    else:
        level = plan.level_behind(values, fused=False)
        kernel = plan.shared[key] = plan.add("product", [node], level, node.output)
    if _single_scales(plan, node):
        plan.owner[node] = kernel
        if is_packed_projection(node):
            plan.dissolved.update(packed_nodes(node))
    else:
        plan.epilogue(node, kernel)
    return kernel


def _keeps_apart(plan: Plan, node: Node) -> bool:
    """In half, a sibling whose weight has one scale keeps all of them apart."""
    key = _codes_read(node)
    return node.output.dtype == "float16" and any(
        other not in plan.floats
        and plan.has_coded_weight(other)
        and _single_scales(plan, other)
        and _codes_read(other) == key
        for other in plan.codes.nodes
        if other.op.name == "matmul"
    )


def _codes_read(node: Node) -> object:
    """What identifies the codes that a product reads: the tensor and its scale."""
    value = node.inputs[0]
    pair = value.producer if value is not None else None
    if pair is None or pair.op.name != "dequantize" or pair.inputs[0] is None:
        return value
    quantize = pair.inputs[0].producer
    if quantize is None or quantize.op.name != "quantize":
        return value
    return (quantize.inputs[0], scale_of(pair))


def _single_scales(plan: Plan, node: Node) -> bool:
    found = (plan.codes.found[value] for value in node.inputs[:2] if value is not None)
    return all(coding.single for coding in found)


def _one_row(plan: Plan, node: Node, values: list[Value]) -> Kernel:
    """A float vector times a matrix: generated like a reduction, or a gemm when it is large."""
    source, columns = node.inputs[0], (node.output.shape or (0,))[-1]
    depth = elements(source) if source is not None else 0
    if depth >= LONG_ROW[0] and isinstance(columns, int) and columns >= LONG_ROW[1]:
        level = plan.level_behind(values, fused=False)
        kernel = plan.owner[node] = plan.add("product", [node], level, node.output)
        kernel.foldable = False
        return kernel
    for value in values:
        writer = plan.writer(value)
        if writer is not None and any(onnx_name(found) in REDUCES for found in writer.nodes):
            writer.closed = True
    kernel = plan.generate(node, values)
    if node.op.name == "gemm" and has_bias(node) and depth <= SHORT_SUM:
        kernel.closed = True
        plan.owner[node] = plan.add("generated", [node], kernel.level + 1)
    return kernel


def _paddings(plan: Plan, node: Node, values: list[Value], kernel: Kernel) -> None:
    """Odd widths of computed operands, and channels that are no multiple of four."""
    int8 = node not in plan.floats
    if node.op.name == "matmul" and len(values) == 2:
        if odd((node.output.shape or (0,))[-1]):
            kernel.foldable = False
            plan.extra(kernel.level, f"pads an operand of {node.name} to an even width")
            plan.extra(kernel.level, f"takes the padding of {node.output.name} off")
        if odd((values[0].shape or (0,))[-1]):
            plan.extra(kernel.level, f"pads an operand of {node.name} to an even width")
            if int8 or values[1] not in plan.codes.found:
                plan.extra(kernel.level, f"pads an operand of {node.name} to an even width")
    if node.op.name == "conv" and int8 and pads_channels(node.inputs[1]):
        writer = plan.writer(values[0])
        if writer is not None and (writer.kind == "pool" or _is_transposed(values[0])):
            plan.extra(kernel.level, f"pads the channels that {node.name} reads")


def _is_transposed(value: Value) -> bool:
    """True for what a Transpose wrote, pairs and reshapes between or not."""
    node = value.producer
    while node is not None and node.op.name in PAIR | VIEWS and node.inputs[0] is not None:
        node = node.inputs[0].producer
    return node is not None and node.op.name == "transpose" and moves_rows(node)


def _float_extras(plan: Plan, node: Node, values: list[Value], kernel: Kernel, why: str) -> None:
    name, level = node.op.name, kernel.level
    for value in values:
        writer = plan.writer(value)
        if value in plan.codes.found and writer is not None and writer.kind == "pool":
            plan.extra(level, f"dequantizes {value.name}")
    if why == "packed-projection":
        plan.weight_kernels += 1
        kernel.foldable = False
        plan.dissolved.update(packed_nodes(node))
    elif plan.has_coded_weight(node):
        padded = name in MATRIX_PRODUCTS and odd((node.output.shape or (0,))[-1])
        plan.weight_kernels += name in CONVOLUTIONS or padded
    if name == "conv" and values and values[0].producer is None:
        plan.extra(level, f"brings {values[0].name} into the layout of {node.name}")
    if name == "gemm" and has_bias(node):
        plan.epilogue(node, kernel)


def _fuses_with_product(plan: Plan, node: Node, values: list[Value]) -> bool:
    """An addition, or an activation, that a convolution without kernel behind it computes."""
    name = node.op.name
    slope = name in ("leaky_relu", "hard_swish") and not node.output.is_output
    slope = slope and all(edge.node.op.name != "quantize" for edge in node.output.uses)
    if name not in ACTIVATIONS and name != "add" and not slope:
        return False
    found: list[Kernel] = []
    for value in values:
        kernel = plan.writer(value)
        alone = len(value.data_uses) == 1 and not value.is_output
        if kernel is not None and kernel.fuses and kernel.end is value and alone:
            found.append(kernel)
    if not found:
        return False
    kernel = max(found, key=lambda kernel: kernel.level)
    last = kernel.nodes[-1].op.name
    if name == "add":
        if len(values) == 1:
            if len(kernel.nodes) > 1 or has_bias(kernel.nodes[0]):
                return False
        elif last not in CONVOLUTIONS:
            return False
    elif last in ACTIVATIONS or not stops_at_zero(node):
        return False
    others = [value for value in values if value is not kernel.end]
    kernel.nodes.append(node)
    kernel.level = max(kernel.level, plan.level_behind(others, fused=False))
    kernel.end = node.output
    plan.owner[node] = kernel
    return True
