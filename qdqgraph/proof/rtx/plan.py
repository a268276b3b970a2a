"""The kernels of one graph while they are found: what runs in each, in which order they launch.

A kernel has a level: the longest way to it from the inputs, counted in kernels that nothing fuses
with. Generated kernels of one level that read one another are one kernel.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from qdqgraph.frontends.onnx_file.graph import OnnxGraph
from qdqgraph.graph.view import Node, Value
from qdqgraph.proof.classic.flow import Flow, Scale
from qdqgraph.proof.rtx.attention import Core, attention_cores
from qdqgraph.proof.rtx.codes import Codes
from qdqgraph.proof.rtx.facts import NORMS, REDUCES, onnx_name

KernelKind: TypeAlias = Literal["product", "generated", "pool", "elided"]
SHAPE_TYPES = ("int64", "int32")


@dataclass(eq=False, slots=True)
class Kernel:
    """One launch.

    `end` is what a product writes. `closed`: nothing more fuses behind. `apart`: nor in front.
    `fuses`: a product that computes an activation or an addition itself. `foldable`: a product
    that counts as one with the pointwise kernel behind it. `readers` are the kernels that read
    `end`, once for each read. `parts` are tensors that the kernel quantizes for a Q behind a
    Concat. `note` says why there is a kernel without a node.
    """

    kind: KernelKind
    nodes: list[Node]
    level: int
    end: Value | None = None
    closed: bool = False
    apart: bool = False
    fuses: bool = False
    foldable: bool = True
    readers: list[Kernel] = field(default_factory=list["Kernel"])
    parts: list[Value] = field(default_factory=list[Value])
    note: str = ""
    folded: Kernel | None = None


class Plan:
    """Kernels, and which of them writes what each node computes.

    `floats` maps each float product to the rule that keeps it float. `hoisted` are Qs that moved
    above a pool or a Concat, with the tensor they quantize there; `placed` finds their kernel.
    `absorbed` are nodes computed where another kernel writes. `int8_moves` are pools and Concats
    that such a Q has passed. `aliases` are padded tensors that only convolutions pad.
    """

    def __init__(self, graph: OnnxGraph, codes: Codes, floats: dict[Node, str]) -> None:
        self.codes = codes
        self.floats = floats
        self.flow = Flow(graph)
        self.kernels: list[Kernel] = []
        self.owner: dict[Node, Kernel] = {}
        self.launch: dict[Node, Kernel] = {}
        self.merged: dict[Kernel, Kernel] = {}
        self.weight_kernels = 0
        self.cores: dict[Node, Core] = {}
        for core in attention_cores(codes, frozenset(floats)):
            if core.fused:
                self.cores.update((node, core) for node in (core.scores, core.mix, *core.inside))
        self.hoisted: dict[Node, Value] = {}
        self.placed: dict[tuple[Value, Scale], Kernel] = {}
        self.absorbed: dict[Node, Kernel] = {}
        self.dissolved: set[Node] = set()
        self.int8_moves: set[Node] = set()
        self.aliases: dict[Value, Value] = {}
        self.quantized: dict[tuple[Value, Scale], Kernel] = {}
        self.at_input: dict[Value, Kernel] = {}
        self.shared: dict[tuple[object, str], Kernel] = {}

    def runs(self, node: Node) -> bool:
        """False for what is known before the network runs, and for arithmetic on shapes."""
        static = all(self.codes.is_static(v) or v.dtype in SHAPE_TYPES for v in node.outputs)
        return bool(node.outputs) and not static

    def operands(self, node: Node) -> list[Value]:
        """The tensors that a node reads at run time."""
        return [v for v in self.codes.live_inputs(node) if v.dtype not in SHAPE_TYPES]

    def add(
        self, kind: KernelKind, nodes: list[Node], level: int, end: Value | None = None
    ) -> Kernel:
        """A new kernel."""
        kernel = Kernel(kind, nodes, level, end)
        self.kernels.append(kernel)
        return kernel

    def extra(self, level: int, note: str) -> Kernel:
        """A kernel that no node of the graph asks for."""
        kernel = self.add("generated", [], level)
        kernel.note = note
        return kernel

    def find(self, kernel: Kernel) -> Kernel:
        """The kernel that this one has become part of."""
        while kernel in self.merged:
            kernel = self.merged[kernel]
        return kernel

    def writer(self, value: Value) -> Kernel | None:
        """The kernel that writes a tensor; None for an input of the network."""
        kernel = self.owner.get(value.producer) if value.producer is not None else None
        return self.find(kernel) if kernel is not None else None

    def level_behind(self, values: Iterable[Value], *, fused: bool) -> int:
        """The level of a kernel that reads these tensors; `fused` if it may join their writers."""
        level = 0
        for value in values:
            kernel = self.writer(value)
            if kernel is not None:
                joins = fused and kernel.kind == "generated" and not kernel.closed
                level = max(level, kernel.level + (not joins))
        return level

    def generate(self, node: Node | None, values: list[Value]) -> Kernel:
        """Compute a node in a generated kernel: that of its operands where one is open."""
        level = self.level_behind(values, fused=True)
        found: list[Kernel] = []
        for value in values:
            kernel = self.writer(value) or self._beside(node, value)
            if kernel is None or kernel in found or kernel.level != level:
                continue
            if kernel.kind == "generated" and not kernel.closed:
                found.append(kernel)
        kernel = found[0] if found else self.add("generated", [], level)
        for other in found[1:]:
            self.merge(other, kernel)
        for value in values:
            if value.producer is None and kernel.level == 0 and not _stays_alone(node):
                self.at_input.setdefault(value, kernel)
        if node is not None:
            kernel.nodes.append(node)
            self.owner[node] = kernel
        return kernel

    def _beside(self, node: Node | None, value: Value) -> Kernel | None:
        """The kernel that reads the same network input; comparisons and reductions join none."""
        kernel = self.at_input.get(value)
        return None if kernel is None or _stays_alone(node) else self.find(kernel)

    def merge(self, kernel: Kernel, into: Kernel) -> None:
        """Make two kernels one."""
        into.nodes += kernel.nodes
        into.parts += kernel.parts
        self.merged[kernel] = into
        self.kernels.remove(kernel)

    def epilogue(self, node: Node, product: Kernel) -> None:
        """The generated kernel that scales what an int8 product writes, or adds a bias."""
        kernel = self.add("generated", [node], product.level + 1)
        self.owner[node] = kernel
        product.readers.append(kernel)

    def has_coded_weight(self, node: Node) -> bool:
        """True when the second operand is stored and has a DQ."""
        weight = node.inputs[1] if len(node.inputs) > 1 else None
        return weight is not None and weight in self.codes.found and self.codes.is_static(weight)


def _stays_alone(node: Node | None) -> bool:
    if node is None:
        return False
    reduces = onnx_name(node) in REDUCES or node.op.name in NORMS
    return reduces or node.output.dtype == "bool"
