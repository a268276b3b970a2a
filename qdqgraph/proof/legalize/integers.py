"""ConvInteger, MatMulInteger and DynamicQuantizeLinear as float products.

Dynamic quantization scales an activation anew for each inference; TensorRT has no int8 form of
it. The product then runs in float with the very weights; quantize the model with data for int8.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from qdqgraph.proof.legalize.draft import Draft
from qdqgraph.proof.reading.by_name import DEFAULT_DOMAINS, node_label

FLOAT_NAME = {"ConvInteger": "Conv", "MatMulInteger": "MatMul"}


def float_integer_products(draft: Draft) -> None:
    """Rewrite dynamic quantization, then every product of integer codes with constant weights."""
    dynamic: dict[str, str] = {}
    made: list[onnx.NodeProto] = []
    for node in draft.nodes:
        if node.op_type == "DynamicQuantizeLinear" and _only_products(draft, node):
            codes, scale = node.output[:2]
            dynamic[codes] = node.input[0]
            draft.constant(scale, np.ones((), np.float32), exactly=True)
            what = f"{node.input[0]} is no longer quantized while running"
            draft.note("float", node_label(node), what, exact=False)
            continue
        product = _product(draft, node, dynamic)
        made += [node] if product is None else product
    if len(dynamic) or len(made) != len(draft.model.graph.node):
        draft.set_nodes(made)


def _only_products(draft: Draft, node: onnx.NodeProto) -> bool:
    """Whether codes and zero point are read by products with constant weights alone."""
    names = (node.output[0], *node.output[2:])
    if any(name in draft.fixed for name in node.output):
        return False
    readers = [r for name in names for r in draft.read.readers.get(name, ())]
    return all(
        reader.op_type in FLOAT_NAME
        and reader.input[0] == node.output[0]
        and list(reader.input[2:3]) == list(node.output[2:3])
        and _weight(draft, reader) is not None
        and _only_casts(draft, reader.output[0])
        for reader in readers
    )


def _only_casts(draft: Draft, name: str) -> bool:
    """Whether an int32 product is only read to make floats of it, so that it may be float."""
    readers = draft.read.readers.get(name, [])
    return name not in draft.fixed and all(reader.op_type == "Cast" for reader in readers)


def _weight(
    draft: Draft, node: onnx.NodeProto
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]] | None:
    """The weight's codes less their zero point, in float."""
    codes = draft.read.const(node.input[1])
    if codes is None:
        return None
    zero = draft.read.const(node.input[3]) if len(node.input) > 3 and node.input[3] else None
    if len(node.input) > 3 and node.input[3] and zero is None:
        return None
    centred = codes.astype(np.float32)
    if zero is None:
        return centred
    if zero.size > 1 and node.op_type == "ConvInteger":
        zero = zero.reshape([-1] + [1] * (codes.ndim - 1))
    return centred - zero.astype(np.float32)


def _product(
    draft: Draft, node: onnx.NodeProto, dynamic: dict[str, str]
) -> list[onnx.NodeProto] | None:
    if node.op_type not in FLOAT_NAME or node.domain not in DEFAULT_DOMAINS:
        return None
    weight = _weight(draft, node)
    if weight is None:
        return None
    made: list[onnx.NodeProto] = []
    source = dynamic.get(node.input[0])
    if source is None:
        source = _centred(draft, node, made)
    stored = draft.constant(f"{node.input[1]}_float", weight)
    output, kind = node.output[0], FLOAT_NAME[node.op_type]
    plain = output if node.input[0] in dynamic else draft.names.fresh(f"{output}_float")
    draft.retyped.add(plain)
    product = helper.make_node(kind, [source, stored], [plain], node.name)
    product.attribute.extend(node.attribute)
    made.append(product)
    if plain != output:
        cast = draft.names.fresh(f"{output}_Cast")
        made.append(helper.make_node("Cast", [plain], [output], cast, to=TensorProto.INT32))
    draft.note("float", node_label(node), f"{node.op_type} as {kind}")
    return made


def _centred(draft: Draft, node: onnx.NodeProto, made: list[onnx.NodeProto]) -> str:
    """The activation's codes less their zero point, in float."""
    name = draft.names.fresh(f"{node.input[0]}_float")
    cast = draft.names.fresh(f"{name}_Cast")
    made.append(helper.make_node("Cast", [node.input[0]], [name], cast, to=TensorProto.FLOAT))
    zero = node.input[2] if len(node.input) > 2 else ""
    if not zero:
        return name
    point = draft.names.fresh(f"{zero}_float")
    centred = draft.names.fresh(f"{name}_centred")
    made += [
        helper.make_node(
            "Cast", [zero], [point], draft.names.fresh(f"{point}_Cast"), to=TensorProto.FLOAT
        ),
        helper.make_node("Sub", [name, point], [centred], draft.names.fresh(f"{centred}_Sub")),
    ]
    return centred
