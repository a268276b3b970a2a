"""Kernels of pools, and of Concats that are written part by part.

A Q behind a max pool moves in front of it, and the pool runs on int8. A Concat is computed where it
is read, unless a product or a pool writes straight into its part.
"""

from __future__ import annotations

from qdqgraph.graph.view import Node, Value
from qdqgraph.proof.classic.flow import Scale
from qdqgraph.proof.rtx.facts import averages_in_int8, only_products_read
from qdqgraph.proof.rtx.plan import Kernel, Plan

MANY_CHANNELS = 128
"""From here on, an int8 pool is rather computed again than read twice."""


def max_pool(plan: Plan, node: Node, values: list[Value]) -> None:
    """A max pool, in int8 behind a DQ or in front of Qs of one scale."""
    value = values[0]
    scale = plan.flow.risen.get(node)
    if scale is None or value in plan.codes.found:
        kernel = plan.add("pool", [node], plan.level_behind(values, fused=False))
        plan.owner[node] = kernel
        if value in plan.codes.found:
            _absorb_quantize(plan, node.output, kernel)
        return
    level = plan.find(_quantized(plan, value, scale, node)).level + 1
    kernels = [plan.add("pool", [node], level) for _ in range(_copies(plan, node))]
    for clone in kernels[1:]:
        clone.note = "the same pool again, for another reader"
    plan.owner[node] = kernels[0]
    plan.int8_moves.add(node)


def average_pool(plan: Plan, node: Node, values: list[Value]) -> None:
    """An average pool, which takes the Q behind it when it runs in int8."""
    kernel = plan.add("pool", [node], plan.level_behind(values, fused=False))
    plan.owner[node] = kernel
    alike = plan.flow.demand_of(node.output).single is not None
    if values[0] in plan.codes.found and alike and averages_in_int8(node):
        _absorb_quantize(plan, node.output, kernel)


def _absorb_quantize(plan: Plan, value: Value, kernel: Kernel) -> None:
    demand = plan.flow.demand_of(value)
    if demand.single is not None:
        plan.absorbed.update((q, kernel) for q in demand.scales[demand.single])


def _quantized(plan: Plan, value: Value, scale: Scale, node: Node) -> Kernel:
    """The kernel that writes `value` quantized with a scale that moved up to it."""
    key = (value, scale)
    above, writer = value.producer, plan.writer(value)
    if above in plan.int8_moves and plan.flow.risen.get(above) == scale and writer is not None:
        plan.placed.setdefault(key, writer)
    if key not in plan.placed:
        behind = plan.flow.demand_of(value).scales.get(scale, [])
        direct = [q for q in behind if q.inputs[0] is value]
        quantize = (direct or behind or [node])[0]
        kernel = plan.placed[key] = plan.generate(quantize, [value])
        plan.hoisted[quantize] = value
        plan.absorbed.update((q, kernel) for q in direct)
        if writer is not None and writer.kind == "product":
            writer.readers.append(kernel)
    return plan.placed[key]


def _copies(plan: Plan, node: Node) -> int:
    """An int8 pool of many channels is computed once for each pool and Concat behind it."""
    count, others = 0, 0
    channels = (node.output.shape or (0, 0))[1]
    if isinstance(channels, int) and channels < MANY_CHANNELS:
        return 1
    for reader in (edge.node for edge in node.output.data_uses):
        if reader.op.name == "max_pool" and reader in plan.flow.risen:
            count += _copies(plan, reader)
        elif reader.op.name == "concat" and reader in plan.flow.risen:
            count += 1
        else:
            others = 1
    return max(1, count + others)


def concat(plan: Plan, node: Node, values: list[Value]) -> bool:
    """Take a Concat that no generated kernel computes; False for any other."""
    writers = [plan.writer(value) for value in values]
    if len(values) == len(node.inputs) == 1 and writers[0] is not None:
        plan.owner[node] = writers[0]
        return True
    if _written_by_products(plan, node, values, writers):
        _part_by_part(plan, node, values, writers)
        return True
    scale = plan.flow.risen.get(node)
    from_pools = scale is not None and all(
        writer is not None and (writer.kind == "pool" or (value, scale) in plan.placed)
        for value, writer in zip(values, writers, strict=True)
    )
    coded = all(value in plan.codes.found for value in values)
    pooled = any(writer is not None and writer.kind == "pool" for writer in writers)
    if not from_pools and not (coded and pooled and only_products_read(node.output)):
        return False
    level = plan.level_behind(values, fused=False)
    for _ in values:
        plan.extra(level, f"copies a part of {node.output.name}")
    _elide(plan, node, level + 1)
    return True


def _elide(plan: Plan, node: Node, level: int) -> None:
    plan.owner[node] = Kernel("elided", [node], level)
    plan.int8_moves.add(node)


def _written_by_products(
    plan: Plan, node: Node, values: list[Value], writers: list[Kernel | None]
) -> bool:
    """A product other than ConvTranspose writes a part, and a Q (or nothing) stands behind."""
    direct = [
        writer is not None and writer.kind == "product" and value is writer.end
        for value, writer in zip(values, writers, strict=True)
    ]
    convolved = any(
        own and writer is not None and writer.nodes[0].op.name != "conv_transpose"
        for own, writer in zip(direct, writers, strict=True)
    )
    alone = all(direct) and all(len(value.data_uses) == 1 for value in values)
    return convolved and (node in plan.flow.risen or alone)


def _part_by_part(
    plan: Plan, node: Node, values: list[Value], writers: list[Kernel | None]
) -> None:
    level = plan.level_behind(values, fused=False)
    scale = plan.flow.risen.get(node)
    for value, writer in zip(values, writers, strict=True):
        if scale is None:
            break
        key = (value, scale)
        if value in plan.codes.found or key in plan.placed or writer is None:
            only_quantizes = writer is not None and all(
                found.op.name == "quantize" for found in writer.nodes
            )
            if writer is None or writer.kind == "pool" or only_quantizes:
                plan.extra(level, f"copies a part of {node.output.name}")
            continue
        if writer.kind == "pool":
            plan.extra(level, f"copies a part of {node.output.name}")
            continue
        behind = plan.flow.demand_of(value).scales.get(scale, [])
        direct = [q for q in behind if q.inputs[0] is value]
        kernel = plan.placed[key] = plan.generate(direct[0] if direct else None, [value])
        kernel.parts.append(value)
        plan.hoisted.update((q, value) for q in direct[:1])
        plan.absorbed.update((q, kernel) for q in direct)
        if writer.kind == "product":
            writer.readers.append(kernel)
    _elide(plan, node, level)
