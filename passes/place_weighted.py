"""x → conv  becomes  x → Q → DQ → conv, and the weight gets one scale per output channel.

With a DQ on activation *and* weight a conv, Gemm or MatMul runs in int8 (TensorRT#2383); with one
of the two it runs in float and pays for the other. The activation is quantized per tensor: TensorRT
refuses per-channel activations. The weight's axis is the one along output channels in the form at
hand; a scale along the contraction makes the product float (seen in TensorRT-RTX plans).

`depthwise`: TensorRT-RTX expands depthwise weights four times, so float is faster there, except on
a joined or pooled tensor that another product reads in int8: a float reader would keep all that is
moved there in float (ShuffleNet-v2 moves 26.4 MB so, 17.2 with int8 where a stage begins); classic
TensorRT has int8 depthwise kernels, but none that takes SiLU, hard-swish or GELU as an epilogue:
without FP16 the build *fails* (TensorRT#3385). `small`: with fewer than 16 channels an int8 tensor
core pads; `rule` keeps the cases that NVIDIA's ModelOpt keeps. `transposed`: never int8 under
TensorRT-RTX.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from qdqgraph.graph.op_table import LONG_EPILOGUES
from qdqgraph.graph.view import Edge, Node
from qdqgraph.graph.walk import activations_behind, is_dequantized
from qdqgraph.graph.weights import (
    activation_edges,
    channels_per_group,
    is_depthwise,
    output_axis,
    weight_edge,
)
from qdqgraph.pipeline.context import Context
from qdqgraph.pipeline.passes import sweep
from qdqgraph.planning.spec import QuantSpec

SMALL = 16


@dataclass(frozen=True, slots=True)
class Choice:
    """The options in force for one product."""

    depthwise: str
    small: str
    transposed: str
    bits: int


@sweep(stage="place", per_node=True)
def place_weighted(
    ctx: Context,
    *,
    depthwise: Literal["int8", "fusible", "float"] = "fusible",
    small: Literal["int8", "rule", "float"] = "rule",
    transposed: Literal["int8", "float"] = "int8",
    clone_shared: bool = True,
    bits: int = 8,
) -> None:
    """Quantize activation and weight of each product that the options let be int8."""
    usual = Choice(depthwise, small, transposed, bits)
    seen: set[str] = set()
    for node in ctx.nodes():
        if not node.op.weighted:
            continue
        given = ctx.options_at(node)
        own_weight = given.pop("clone_shared", clone_shared)
        choice = replace(usual, **given)
        weight = weight_edge(node) or _stored_codes(node)
        if weight is None and node.composite is not None:
            continue
        reason = _why_float(node, weight)
        if reason is None and weight is not None and node not in ctx.plan.forced:
            reason = _why_not_here(node, weight, choice)
        if reason is not None or weight is None:
            ctx.plan.leave_float(node, reason or "")
            continue
        if any(edge in ctx.plan.vetoes for edge in (*activation_edges(node), weight)):
            continue
        for edge in activation_edges(node):
            ctx.plan.quantize(edge, reason=f"input of an int8 {node.op}")
        spec = weight_spec(node, weight, ctx.version, choice.bits)
        name = weight.value.name
        own = own_weight and name in seen
        seen.add(name)
        ctx.plan.quantize(weight, spec, reason=f"weight of {node.op}, {spec}", own=own)


def _stored_codes(node: Node) -> Edge | None:
    """The read of a weight that the file holds as int8 codes: its product lacks the activation."""
    if len(node.inputs) < 2 or not is_dequantized(node.inputs[1]):
        return None
    pair = node.edges[1].value.producer
    codes = pair.inputs[0] if pair is not None else None
    whole = codes is not None and codes.is_const and codes.dtype in ("int8", "uint8")
    return node.edges[1] if whole and pair is not None and not pair.int("block_size") else None


def _why_float(node: Node, weight: Edge | None) -> str | None:
    if all(is_dequantized(value) for value in node.inputs[:2]):
        return "already quantized in the file"
    if weight is None:
        return "both operands vary: a product of two activations stays float"
    if node.composite is not None:
        return f"inside {node.composite.kind}, which stays one float kernel"
    if not weight.value.is_float:
        return f"its weight is {weight.value.dtype}"
    if weight.value.shape is None or 0 in weight.value.shape or len(weight.value.shape) < 2:
        return "its weight has no output channels"
    return None


def _why_not_here(node: Node, weight: Edge, choice: Choice) -> str | None:
    if node.op.name not in ("conv", "conv_transpose"):
        return None
    shape = tuple(int(d or 0) for d in weight.value.shape or ())
    groups, per_group, outputs = channels_per_group(node, shape)
    if node.op.name == "conv_transpose":
        return (
            "transposed convolutions do not run in int8 on this target"
            if choice.transposed == "float"
            else None
        )
    if is_depthwise(node, shape):
        if choice.depthwise == "float" and not _on_a_moved_trunk(node):
            return "depthwise convolutions are faster in float on this target"
        behind = [name for name in activations_behind(node) if name in LONG_EPILOGUES]
        if choice.depthwise == "fusible" and behind:
            return f"no int8 depthwise kernel takes {behind[0]} as its epilogue"
    elif groups > 1 and per_group < 4 and choice.depthwise == "float":
        return f"{per_group} channels a group would be padded to 4"
    inputs = per_group * groups
    if min(inputs, outputs) >= SMALL or choice.small == "int8":
        return None
    if choice.small == "rule" and _small_is_worth_it(node, shape, groups, inputs, outputs):
        return None
    return f"{inputs} input and {outputs} output channels are too few for int8 to pay"


def _on_a_moved_trunk(node: Node) -> bool:
    """True for a reader of a concat or max-pool, also shuffled, that a dense product reads too."""
    value = node.inputs[0]
    readers = [edge.node for edge in value.uses if edge.node is not node] if value else []
    if not any(reader.op.weighted and reader.int("group", 1) == 1 for reader in readers):
        return False
    while value is not None and value.producer is not None and value.producer.moves_data:
        if value.producer.op.name in ("concat", "max_pool"):
            return True
        value = value.producer.moved_edges[0].value
    return False


def _small_is_worth_it(
    node: Node, shape: tuple[int, ...], groups: int, inputs: int, outputs: int
) -> bool:
    kernel = shape[2:]
    if groups > 1:
        return outputs % 8 == 0 and min(kernel, default=1) >= 3
    first = node.inputs[0] is not None and node.inputs[0].producer is None
    wide = max(inputs, outputs) >= SMALL
    square = len(set(kernel)) <= 1
    return (inputs % 8 == 0 or outputs % 8 == 0) and (first or wide) and square


def weight_spec(node: Node, weight: Edge, version: tuple[int, ...], bits: int = 8) -> QuantSpec:
    """Format of a weight: int8 (or int4) along its output channels where one axis is right.

    The axis of a ConvTranspose changed between TensorRT versions (0 up to 9.1, 1 in 9.2, 9.3 and
    from 10.2 on); where the version does not settle it, and for several groups, one scale serves
    the whole weight, which is right for all.
    """
    spec = QuantSpec(dtype="int4" if bits == 4 else "int8")
    if node.op.name == "conv_transpose":
        if node.int("group", 1) > 1:
            return spec
        if (version <= (9, 1) and len(version) > 1) or version[0] < 9:
            return spec.per_channel(0)
        settled = version[:2] in ((9, 2), (9, 3)) or (len(version) > 1 and version >= (10, 2))
        return spec.per_channel(1) if settled else spec
    axis = output_axis(node, weight, len(weight.value.shape or ()))
    return spec if axis is None else spec.per_channel(axis)
