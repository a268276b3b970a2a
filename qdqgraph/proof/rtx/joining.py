"""Who reads what, and generated kernels that join a later one which reads them.

The epilogue of a product joins the kernel that reads it when no other kernel stands between: it
then runs as late as its reader.
"""

from __future__ import annotations

from qdqgraph.graph.view import Value
from qdqgraph.proof.rtx.facts import PAIR, READ_TWICE, readers
from qdqgraph.proof.rtx.plan import Kernel, Plan


def note_readers(plan: Plan) -> None:
    """Tell each product which kernels read its result."""
    for node in plan.codes.nodes:
        if node not in plan.owner:
            continue
        kernel = plan.find(plan.owner[node])
        if kernel.kind == "elided":
            continue
        for value in node.inputs:
            writer = plan.writer(value) if value is not None else None
            if value is None or writer is None or writer is kernel or writer.kind != "product":
                continue
            if node.op.name == "max_pool" and (value, plan.flow.risen.get(node)) in plan.placed:
                continue
            if plan.aliases.get(value, value) is writer.end:
                writer.readers += [kernel] * (2 if node.op.name in READ_TWICE else 1)


def join(plan: Plan) -> None:
    """Join generated kernels with later ones, the earliest first."""
    behind = _readers_of(plan)
    early = [
        kernel
        for kernel in plan.kernels
        if kernel.kind == "generated" and not kernel.closed and (kernel.level or _rounds(kernel))
    ]
    for kernel in sorted(early, key=lambda kernel: kernel.level):
        following = {plan.find(other) for other in behind.get(kernel, ())}
        for reader in sorted(following, key=lambda reader: reader.level):
            if reader is kernel or reader.kind != "generated" or reader.apart:
                continue
            if _reaches(plan, behind, following - {reader}, reader):
                continue
            plan.merge(kernel, reader)
            behind.setdefault(reader, {}).update(behind.pop(kernel, {}))
            behind[reader].pop(kernel, None)
            behind[reader].pop(reader, None)
            break


def _rounds(kernel: Kernel) -> bool:
    """True for a kernel that only quantizes what the network is given."""
    return bool(kernel.nodes) and all(node.op.name == "quantize" for node in kernel.nodes)


def put_together_where_read(plan: Plan) -> None:
    """Move a Pad, or a Concat of one kernel's tensors, to the kernel that reads it."""
    for node in plan.codes.nodes:
        owner = plan.owner.get(node)
        if node.op.name not in ("pad", "concat") or owner is None:
            continue
        kernel = plan.find(owner)
        writers = [plan.writer(value) for value in plan.operands(node)]
        reading = _kernels_that_read(plan, node.output, kernel)
        others = {id(reader) for reader in reading} - {id(kernel)}
        if kernel.kind != "generated" or node not in kernel.nodes or len(others) != 1:
            continue
        if any(writer is not kernel for writer in writers) or kernel in reading:
            continue
        if reading[0].kind == "generated":
            kernel.nodes.remove(node)
            reading[0].nodes.append(node)
            plan.owner[node] = reading[0]


def _kernels_that_read(plan: Plan, value: Value, writer: Kernel) -> list[Kernel]:
    """The kernels that read a tensor's contents; a Q in the kernel that writes it is passed."""
    found: list[Kernel] = []
    for node in readers(value):
        launched = plan.launch.get(node) or plan.owner.get(node)
        kernel = plan.find(launched) if launched is not None else None
        if node.op.name in PAIR and kernel is writer:
            found += _kernels_that_read(plan, node.output, writer)
        elif kernel is not None:
            found.append(kernel)
    return found


def _readers_of(plan: Plan) -> dict[Kernel, dict[Kernel, None]]:
    found: dict[Kernel, dict[Kernel, None]] = {}
    for node in plan.codes.nodes:
        if node not in plan.owner:
            continue
        kernel = plan.find(plan.launch.get(node) or plan.owner[node])
        for value in node.inputs:
            writer = plan.writer(value) if value is not None else None
            if writer is not None and writer is not kernel:
                found.setdefault(writer, {})[kernel] = None
    for kernel in plan.kernels:
        for reader in kernel.readers:
            found.setdefault(kernel, {})[plan.find(reader)] = None
    return found


def _reaches(
    plan: Plan, behind: dict[Kernel, dict[Kernel, None]], start: set[Kernel], goal: Kernel
) -> bool:
    seen: set[Kernel] = set()
    pending = list(start)
    while pending:
        kernel = plan.find(pending.pop())
        if kernel is goal:
            return True
        if kernel not in seen and kernel.level <= goal.level:
            seen.add(kernel)
            pending += behind.get(kernel, ())
    return False
