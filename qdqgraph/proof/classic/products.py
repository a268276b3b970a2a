"""The layer of one product: what it reads, in which precision it writes, and why."""

from __future__ import annotations

from dataclasses import dataclass, field

from qdqgraph.graph.view import Node, Value
from qdqgraph.graph.walk import single_reader
from qdqgraph.proof.classic.flow import Flow, Scale, pads_zeros_in_place
from qdqgraph.proof.classic.fusion import Chain
from qdqgraph.proof.classic.operands import operands, weight_nodes, why_float_product
from qdqgraph.proof.layers import Kind, Precision, PredictedLayer, TensorUse


def elements(value: Value) -> int | None:
    """Number of elements, symbolic dimensions counted as 1; None when the rank is unknown."""
    shape = value.shape
    if shape is None:
        return None
    count = 1
    for size in shape:
        count *= size if isinstance(size, int) and size > 0 else 1
    return count


@dataclass(slots=True)
class Books:
    """What is settled while layers are assembled.

    `taken`: nodes that a layer computes. `written`: values that a layer writes as int8 with this
    scale, so that no Q stays behind. `materialized`: values that exist as codes and are read as
    float. `inside`: values that never leave a layer. `compiled`: kernels are generated for all that
    is no product, and take a DQ in front along.
    """

    flow: Flow
    taken: set[Node] = field(default_factory=set[Node])
    written: set[tuple[Value, Scale]] = field(default_factory=set[tuple[Value, Scale]])
    materialized: dict[Value, None] = field(default_factory=dict[Value, None])
    inside: set[Value] = field(default_factory=set[Value])
    compiled: bool = False

    def read(self, value: Value, *, int8: bool) -> TensorUse:
        """A read of `value`, as its codes or as float."""
        if int8 and value in self.flow.codes:
            return TensorUse(self.flow.codes_name(value), "int8", elements(value))
        if value in self.flow.codes:
            self.materialized[value] = None
        return TensorUse(value.name, "float", elements(value))

    def read_by_kernel(self, value: Value, *, int8: bool) -> TensorUse:
        """The same for a layer that is no product."""
        return self.read(value, int8=int8 or self.compiled)

    def write(self, value: Value, scale: Scale | None) -> TensorUse:
        """A write of `value`, quantized with `scale` or, without one, float."""
        if scale is None:
            return TensorUse(value.name, "float", elements(value))
        self.written.add((value, scale))
        return TensorUse(self.flow.asked_name(value, scale), "int8", elements(value))

    def past_requantization(self, value: Value, scale: Scale) -> tuple[Value, Scale, list[Node]]:
        """Q(a) → DQ(a) → Q(b) with single readers: the last value, its scale, the nodes passed."""
        passed: list[Node] = []
        quantizers = self.flow.demand_of(value).scales.get(scale, [])
        while len(quantizers) == 1 and quantizers[0].inputs[0] is value:
            quantize = quantizers[0]
            passed.append(quantize)
            after = single_reader(quantize.output)
            if after is None or after.op.name != "dequantize":
                break
            behind = self.flow.demand_of(after.output).single
            if behind is None or behind == scale:
                break
            self.written.add((value, scale))
            value, scale = after.output, behind
            passed.append(after)
            quantizers = self.flow.demand_of(value).scales[scale]
        return value, scale, [*passed, *quantizers]


def why_float_output(flow: Flow, chain: Chain) -> str:
    """Why an int8 product writes float; empty when it writes int8."""
    if chain.float_because:
        return chain.float_because
    demand = flow.demand_of(chain.end)
    if chain.product.op.name == "conv_transpose" and demand.single and not demand.direct:
        return f"the Q that rises to {chain.end.name} does not fuse with a ConvTranspose"
    if demand.single is not None:
        return ""
    if len(demand.scales) > 1 and not demand.floats:
        return f"{chain.end.name} is quantized with {len(demand.scales)} different scales"
    if not demand.scales:
        return f"no Q reads {chain.end.name}"
    return f"{chain.end.name} is also read as float"


def product_layer(books: Books, chain: Chain) -> PredictedLayer:
    """The layer that computes a product and everything fused with it."""
    flow, node = books.flow, chain.product
    because = why_float_product(flow, node)
    inputs = [value for value in operands(node) if not flow.is_static(value)]
    nodes: list[Node] = []
    for place, value in enumerate(inputs):
        pad = value.producer
        if pad is not None and pads_zeros_in_place(pad) and single_reader(value) is node:
            nodes.append(pad)
            books.inside.add(value)
            inputs[place] = value = flow.moved(pad)[0]
        if not because and value.producer is not None and value.producer.op.name == "dequantize":
            nodes.append(value.producer)
    statics = [value for value in node.inputs if value is not None and flow.is_static(value)]
    nodes += [found for value in statics for found in weight_nodes(flow, value)]
    nodes += [node, *chain.nodes]
    inner = [found.output for found in (node, *chain.nodes)]
    books.inside.update(value for value in inner if value is not chain.end)
    books.taken.update(nodes)

    reason = because or why_float_output(flow, chain)
    end, scale = chain.end, None if reason else flow.demand_of(chain.end).single
    if scale is not None:
        books.written.add((end, scale))
        nodes += flow.demand_of(end).scales[scale]
        end, scale, passed = books.past_requantization(end, scale)
        nodes += passed
    residual = None
    if chain.other is not None:
        residual = books.read(chain.other, int8=scale is not None)
        if scale is None and chain.other in flow.codes:
            reason += f"; residual operand {chain.other.name} is dequantized on its own"
    precision: Precision = "float" if because else "int8"
    weights = sum(elements(value) or 0 for value in operands(node) if flow.is_static(value))
    reads = [books.read(value, int8=precision == "int8") for value in inputs]
    kind: Kind = "gemm" if node.op.name in ("gemm", "matmul") else "conv"
    return PredictedLayer(
        nodes=tuple(dict.fromkeys(found.name for found in nodes)),
        kind=kind,
        inputs=(*reads, *([residual] if residual else [])),
        outputs=(books.write(end, scale),),
        residual=residual,
        reason=reason,
        product=node.name,
        weight_bytes=weights * (1 if precision == "int8" else 2),
    )
