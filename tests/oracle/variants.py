"""The placements that each row's plan competes with: what others do, good and bad.

A row's plan must move no more bytes than the best of them. Names of pairs are those of `placement`.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from tests.oracle.micro import ROWS
from tests.oracle.micro_conv import ACTIVATIONS
from tests.oracle.micro_dense import matmul_transposed_weight
from tests.oracle.micro_moves import FLOATS, MOVES, POOLS
from tests.oracle.placement import Placement, place

Variants = Mapping[str, Placement]
PLAIN: Variants = {"plain": place()}

RESIDUAL: Variants = {
    "none": place(),
    "identity shared": place("relu1>add1", "relu3>add2"),
    "identity duplicate": place("relu1>add1+", "relu3>add2+"),
    "identity own": place("relu1>add1~", "relu3>add2~"),
    "conv only": place("conv3>add1", "conv5>add2"),
    "both": place("relu1>add1", "relu3>add2", "conv3>add1", "conv5>add2"),
    "both own": place("relu1>add1~", "relu3>add2~", "conv3>add1", "conv5>add2"),
    "before relu": place("relu1>add1", "relu3>add2", "add1", "add2"),
}
DOWNSAMPLE: Variants = {
    "none": place("relu1>add1", "relu5>add3"),
    "branch": place("relu1>add1", "relu5>add3", "conv6>add2"),
    "main": place("relu1>add1", "relu5>add3", "conv5>add2"),
    "both": place("relu1>add1", "relu5>add3", "conv6>add2", "conv5>add2"),
    "identities float": place(),
}
MLP: Variants = {
    "identity float": place(),
    "identity shared": place("add1>add5", "add5>add9"),
    "both": place("add1>add5", "add5>add9", "add4>add5", "add8>add9"),
}
SPECIAL: Mapping[str, Variants] = {
    "conv-bn": {
        "after": place(),
        "behind conv": place("conv1"),
        "behind norm": place("batchnormalization1", bare="conv2"),
    },
    "conv-bias-as-add": {"after": place(), "behind conv": place("conv1")},
    "bn-relu-conv": {
        "relu only": place(),
        "before norm": place("x", bare="conv1"),
        "both": place("x"),
        "behind norm": place("batchnormalization1"),
    },
    **{
        f"depthwise-{kind}": {"int8": place(), "float": place(floats="conv2")}
        for kind in ("fp32", "fp16")
    },
    **{
        f"grouped-{groups}": {"int8": place(), "float": place(floats="conv2")}
        for groups in (2, 4, 8, 16, 32)
    },
    **{
        f"conv-transpose-{kind}": {
            "int8": place(),
            "float": place(floats="convtranspose1"),
            "dequantized input": place("relu1>convtranspose1", floats="convtranspose1"),
        }
        for kind in ("relu", "bn-relu")
    },
    "residual-identity-fp32": RESIDUAL,
    "residual-identity-fp16": RESIDUAL,
    "residual-downsample": DOWNSAMPLE,
    "linear-bottleneck": {
        "identity float": place(),
        "identity shared": place("conv1>add1", "add1>add2"),
        "both": place("conv1>add1", "add1>add2", "conv3>add1", "conv5>add2"),
    },
    "inverted-residual": {
        "all int8": place("conv1>add1", "add1>add2"),
        "identity float": place(floats=("conv3", "conv6")),
        "identity shared": place("conv1>add1", "add1>add2", floats=("conv3", "conv6")),
        "both": place(
            "conv1>add1", "add1>add2", "conv4>add1", "conv7>add2", floats=("conv3", "conv6")
        ),
    },
    "preactivation": {
        "trunk float": place(),
        "trunk": place("conv1", "add1", "add2"),
        "identity only": place("conv1>add1", "add1>add2"),
        "two pairs": place(
            "conv1>add1",
            "conv1>batchnormalization1+",
            "add1>add2",
            "add1>batchnormalization3+",
            "add2",
        ),
    },
    "residual-after-maxpool": {
        "identity float": place("relu3>add2"),
        "after": place("maxpool1>add1", "relu3>add2"),
        "before": place("relu1", "relu3>add2", bare="conv2"),
        "both same": place("relu1", "maxpool1=relu1", "relu3>add2"),
        "both": place("relu1", "maxpool1", "relu3>add2"),
    },
    "concat-conv": {
        "none in, out": place(),
        "equal in": place("relu1", "relu2=relu1", bare="conv3"),
        "equal in, same out": place("relu1", "relu2=relu1", "concat1=relu1"),
        "equal in, other out": place("relu1", "relu2=relu1"),
        "one in, out": place("relu1"),
        "unequal in, out": place("relu1", "relu2"),
        "unequal in": place("relu1", "relu2", bare="conv3"),
    },
    "concat-other-consumers": {
        "none": place(),
        "equal": place("relu1", "relu2=relu1", "concat1=relu1"),
        "unequal": place("relu1", "relu2"),
    },
    "dense-concat": {
        "trunk float": place(),
        "concat outputs": place("concat1", "concat2", "concat3"),
        "every feature": place("conv1", "conv3", "conv5", "conv7"),
        "every feature, equal": place("conv1", "conv3=conv1", "conv5=conv1", "conv7=conv1"),
        "features and outputs": place(
            "conv1", "conv3=conv1", "concat1=conv1", "conv5=conv1", "concat2=conv1", "conv7=conv1"
        ),
    },
    **{
        f"unet-{mode}": {
            "out only": place(),
            "equal in and out": place("relu1>concat1=concat1", "resize1=concat1"),
            "before resize": place("relu1", "relu2"),
            "all": place("relu1", "relu2", "resize1"),
        }
        for mode in ("nearest", "linear")
    },
    "squeeze-excite": {
        "least": place(),
        "gate": place("conv3"),
        "trunk": place("relu1"),
        "all": place("relu1", "conv3", "sigmoid1"),
    },
    **{
        f"joined-{op}": {
            "result": place(),
            "first": place("relu1"),
            "both": place("relu1", "relu2"),
        }
        for op in ("mul", "sub", "max")
    },
    "where": {"result": place(), "both": place("relu1", "relu2")},
    "several-consumers": {
        "shared": place(),
        "a pair each": place("relu1>conv2", "relu1>conv3+", "relu1>conv4+", "relu1>conv5+"),
        "other scales": place("relu1>conv2", "relu1>conv3~", "relu1>conv4", "relu1>conv5"),
    },
    **{
        f"float-consumer-{op}": {"float": place(), "dequantized": place("relu1")}
        for op in ("tanh", "softmax")
    },
    "output-beside": {"float": place(), "dequantized": place("relu1")},
    "network-output": {"no pair": place(), "pair": place("relu2")},
    "image-input": {"behind": place(), "all": place("cast1", "sub1")},
    "channel-shuffle": {
        "after": place(),
        "before": place("relu1", bare="conv2"),
        "both": place("relu1"),
    },
    **{
        f"alone-{op}": {
            "after": place(),
            "before": place("x", bare="conv1"),
            "both": place("x"),
        }
        for op in ("relu", "clip")
    },
    "gap-flatten-gemm": {
        "gemm input": place(),
        "pool output": place("globalaveragepool1", bare="gemm1"),
        "before pool": place("relu1", bare="gemm1"),
        "both": place("relu1"),
    },
    "reduce-mean-gemm": {
        "gemm input": place(),
        "before pool": place("relu1", bare="gemm1"),
        "both": place("relu1"),
    },
    "mlp-residual": MLP,
    "mlp-residual-norm": MLP,
}


def variants(row: str, model: onnx.ModelProto) -> Variants:
    """The placements to compare a row with, best and worst alike."""
    if row in SPECIAL:
        return SPECIAL[row]
    if row.startswith("attention"):
        return _attention(row, model)
    last = next(n for n in reversed(model.graph.node) if n.op_type in ("Conv", "Gemm", "MatMul"))
    if row.removeprefix("conv-") in ACTIVATIONS:
        return {"after": place(), **_between(model, "conv1", last)}
    if row in ("gemm", "matmul-2d", "matmul-3d", "layer-norm", "layer-norm-parts"):
        first = "gemm1" if row == "gemm" else "add1"
        return {"after": place(), **_between(model, first, last)}
    if row in {*POOLS, *MOVES, *FLOATS, "flatten"} or row.startswith("resize-"):
        same = place("relu1", f"{last.input[0]}>{last.name}=relu1")
        return {"after": place(), "both same": same, **_between(model, "relu1", last)}
    return PLAIN


def comparable(row: str) -> onnx.ModelProto:
    """The float graph that the placements of a row are applied to: nearly always its own."""
    if row == "matmul-transposed-weight":
        return matmul_transposed_weight(stored=True)
    return ROWS[row]()


def _between(model: onnx.ModelProto, tensor: str, last: onnx.NodeProto) -> Variants:
    """Pairs in front of what stands between `tensor` and the last product."""
    return {"before": place(tensor, bare=last.name), "both": place(tensor)}


def _attention(row: str, model: onnx.ModelProto) -> Variants:
    """Where no int8 attention kernel exists (head dimension 80, over 512 keys) the core stays
    float by design: pairs on the scores would move fewer bytes, at the price of rounding them.
    """
    nodes = {node.name: node for node in model.graph.node}
    q, k = (f"{name}>qk" for name in nodes["qk"].input)
    v = f"{nodes['pv'].input[1]}>pv"
    found = {
        "float core": place(),
        "q, k, v": place(q, k, v),
        "all": place(q, k, v, "softmax"),
        "all, equal": place(q, f"{k}={q.partition('>')[0]}", v, "softmax"),
    }
    if not {"80", "577"}.isdisjoint(row.split("-")):
        return {"float core": found["float core"]}
    if model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
        found["q, k"] = place(q, k)
        found["all and scores"] = place(q, k, v, "softmax", "qk")
    if "qkv" in nodes:
        joint = next(node.name for node in model.graph.node if "qkv" in node.input)
        same = tuple(f"{pair}={joint}" for pair in (q, k, v))
        found["joint, float core"] = place(joint)
        found["joint and all"] = place(joint, *same, "softmax")
        found["joint and all, own"] = place(joint, q, k, v, "softmax")
        found["all, one scale"] = place(*same, "softmax")
    else:
        early = [nodes[nodes[part].input[0]].input[0] for part in "qkv"]
        if not any(pair.partition(">")[0].endswith("scaled") for pair in (q, k)):
            found["early"] = place(*early, "softmax")
        found["unequal inputs"] = place("x>k_fc~", q, k, v, "softmax")
        found["a pair each"] = place("x>q_fc", "x>k_fc+", "x>v_fc+", q, k, v, "softmax")
    return found
