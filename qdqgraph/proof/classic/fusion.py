"""What fuses behind a product: batch norm, activation, residual Add, pooling.

The chain follows single readers in the order of TensorRT's optimizer: product, batch norm or
constant arithmetic, then either an activation, or Add and Relu. Sources are engine dumps of
TensorRT 8.2 to 8.5 and, for SiLU, statements of the maintainers.
"""

from __future__ import annotations

from qdqgraph.graph.view import Node, Value
from qdqgraph.graph.walk import is_affine, single_reader
from qdqgraph.proof.classic.flow import Flow
from qdqgraph.proof.classic.operands import why_float_product

EPILOGUES = frozenset({"relu", "clip", "leaky_relu"})
"""Activations seen as epilogues of int8 convolutions."""
LONG_EPILOGUES = frozenset({"silu", "hard_swish", "gelu", "mish", "elu", "prelu", "softplus"})
ALONE = frozenset({"sigmoid", "tanh", "hard_sigmoid"})
"""Fuse behind a product unless another pointwise operator takes them first."""
POINTWISE = frozenset({"add", "sub", "mul", "div", "pow", "maximum", "minimum", "erf", "exp"}) | (
    EPILOGUES | LONG_EPILOGUES | ALONE | {"sqrt"}
)
REGION = 16
"""Operators of the longest activation looked for; GELU with tanh has nine."""
SILU_ENDS = ("mul", "silu")
SILU_ADD_SINCE = (8, 5)
GROUPED_DECONV_SINCE = (8, 5)


class Chain:
    """What one product computes besides itself.

    `end` is the tensor at the end of the chain. `other` is the operand that a fused Add takes
    from elsewhere. `float_because` says why the output is float whatever reads it; else empty.
    """

    __slots__ = ("add", "end", "float_because", "nodes", "other", "product")

    def __init__(self, product: Node, end: Value) -> None:
        self.product = product
        self.end = end
        self.nodes: list[Node] = []
        self.add: Node | None = None
        self.other: Value | None = None
        self.float_because = ""


def activation_region(flow: Flow, value: Value) -> list[Node]:
    """Pointwise operators that read `value` more than once and meet again in one tensor.

    Such are SiLU, hard-swish, Mish and GELU written out; TensorRT makes one pointwise operator of
    them. They come in order, the last one writes the tensor; empty when there is no such region.
    """
    if len(value.uses) < 2:
        return []
    inside, nodes = {value}, list[Node]()
    while len(nodes) < REGION:
        loose = {v for v in inside if v.is_output or _readers(v) - set(nodes)}
        if nodes and loose == {nodes[-1].output}:
            return nodes
        if any(v.is_output or any(edge.index < 0 for edge in v.uses) for v in loose):
            return []
        near = {node for v in loose for node in _readers(v) - set(nodes)}
        ready = [
            node
            for node in near
            if node.op.name in POINTWISE
            and all(flow.is_static(v) or v in inside for v in node.inputs)
        ]
        if not ready:
            return []
        nodes.append(min(ready, key=lambda node: node.order))
        inside.add(nodes[-1].output)
    return []


def _readers(value: Value) -> set[Node]:
    return {edge.node for edge in value.uses}


def scales(reader: Node, value: Value) -> bool:
    """True for batch norm or arithmetic with a constant that keeps `value` to the left."""
    return is_affine(reader) and (reader.op.commutes or reader.inputs[0] is value)


def is_depthwise(node: Node) -> bool:
    """True for a convolution with several groups of one channel each, or of unknown weight."""
    groups = node.int("group", 1)
    weight = node["weight"]
    shape = weight.shape if weight is not None else None
    return groups > 1 and (shape is None or len(shape) < 2 or shape[1] == 1)


class Fusion:
    """Follows the chains of one graph. `claims` maps each Add to the product it is fused with."""

    def __init__(self, flow: Flow, version: tuple[int, ...]) -> None:
        self.flow = flow
        self.version = version
        self.claims: dict[Node, Node] = {}
        products = [node for node in flow.nodes if node.op.weighted]
        heads = {node: self._head(node) for node in products}
        for node in products:
            add = heads[node].add
            if add is not None:
                self.claims[add] = node
        self.chains = {node: self._finish(chain) for node, chain in heads.items()}

    def _head(self, node: Node) -> Chain:
        """Up to the residual Add, if the product reaches one, or through the activation."""
        chain = Chain(node, node.output)
        if node.op.name == "conv_transpose":
            reader = single_reader(chain.end)
            if reader is not None and reader.op.name == "batch_norm":
                chain.float_because = "batch norm behind a quantized ConvTranspose does not fuse"
            if node.int("group", 1) > 1 and self.version < GROUPED_DECONV_SINCE:
                chain.float_because = (
                    "before TensorRT 8.5 there is no int8 kernel for a grouped ConvTranspose: "
                    "without --fp16 the build fails"
                )
            return chain
        self._affine(chain)
        if chain.float_because:
            return chain
        plain = self._add_behind(chain)
        if plain is None and self._activate(chain) and chain.nodes[-1].op.name in SILU_ENDS:
            plain = self._add_behind(chain) if self.version >= SILU_ADD_SINCE else None
        chain.add = plain
        return chain

    def _affine(self, chain: Chain) -> None:
        while (reader := single_reader(chain.end)) is not None:
            if reader.op.forwards:
                pass
            elif not scales(reader, chain.end):
                return
            elif any(v and v.producer and v.producer.op.forwards for v in reader.inputs[1:]) and (
                reader.op.name == "batch_norm"
            ):
                chain.float_because = (
                    f"{reader.name} takes a parameter through Identity and is not fused"
                )
                return
            chain.nodes.append(reader)
            chain.end = reader.output

    def _add_behind(self, chain: Chain) -> Node | None:
        reader = single_reader(chain.end)
        if reader is None or reader.op.name != "add" or chain.product.op.name != "conv":
            return None
        other = next((v for v in reader.inputs if v is not chain.end), None)
        if other is None or self.flow.is_static(other):
            return None
        mine, its = chain.end.shape, other.shape
        if mine is not None and its is not None and mine != its:
            return None
        return reader

    def _activate(self, chain: Chain, names: frozenset[str] | None = None) -> bool:
        """Take the activation behind into the chain; `names` limits which."""
        region = activation_region(self.flow, chain.end) if names is None else []
        if region and chain.product.op.name == "conv":
            if is_depthwise(chain.product):
                chain.float_because = (
                    "no int8 depthwise kernel takes SiLU as an epilogue: "
                    "without --fp16 the build fails"
                )
                return False
            chain.nodes += region
            chain.end = region[-1].output
            while (behind := single_reader(chain.end)) is not None and self._scales(behind, chain):
                chain.nodes.append(behind)
                chain.end = behind.output
            return True
        reader = single_reader(chain.end)
        if reader is None or not self._fuses(chain.product, reader, names):
            return False
        chain.nodes.append(reader)
        chain.end = reader.output
        return True

    def _scales(self, node: Node, chain: Chain) -> bool:
        """Arithmetic with a constant, as at the end of GELU; a batch norm is no pointwise one."""
        return node.op.name in POINTWISE and scales(node, chain.end)

    def _fuses(self, product: Node, reader: Node, names: frozenset[str] | None) -> bool:
        name = reader.op.name
        if names is not None:
            return name in names
        if name in EPILOGUES:
            return True
        if is_depthwise(product):
            return False
        behind = single_reader(reader.output)
        joins = behind is not None and behind.op.name in POINTWISE
        return name in LONG_EPILOGUES or (name in ALONE and not joins)

    def _finish(self, chain: Chain) -> Chain:
        """Through the Add and the activation behind it, and into a max pool."""
        add = chain.add
        if add is not None and self.claims[add] is not chain.product:
            chain.add = None
            chain.float_because = f"{add.name} is fused with {self.claims[add].name} instead"
        elif add is not None:
            other = next(v for v in add.inputs if v is not None and v is not chain.end)
            chain.nodes.append(add)
            chain.other, chain.end = other, add.output
            self._activate(chain, EPILOGUES)
            if other not in self.flow.codes:
                chain.float_because = f"residual operand {other.name} is float"
        elif not chain.float_because:
            self._pool(chain)
        return chain

    def _pool(self, chain: Chain) -> None:
        """conv + Relu + MaxPool is one layer when the Q behind the pool rises above it."""
        reader = single_reader(chain.end)
        relu = bool(chain.nodes) and chain.nodes[-1].op.name == "relu"
        if reader is None or reader.op.name != "max_pool" or not relu:
            return
        int8 = not why_float_product(self.flow, chain.product)
        if int8 and chain.product.op.name == "conv" and reader in self.flow.risen:
            chain.nodes.append(reader)
            chain.end = reader.output
