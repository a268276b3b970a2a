"""Fake quantization in a capture, however it is spelled, becomes `qdqgraph::fake_quantize` calls.

    aten.fake_quantize_per_tensor_affine, per_channel, learnable and fused forms
    quantized_decomposed.quantize → dequantize, and dequantize of stored codes
    x / s → round → clamp → · s, and x · (1 / s) → ..., written out

The call divides by the scale; ATen multiplies by a rounded 1/scale, and differs where x lies
halfway between two codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from qdqgraph.errors import CalibrationError, UsageError
from qdqgraph.frontends.torch_fx.calls import arguments, spelling
from qdqgraph.frontends.torch_fx.constants import constant
from qdqgraph.frontends.torch_fx.graph import FxGraph, fx_node
from qdqgraph.frontends.torch_fx.tensors import register
from qdqgraph.planning.chains import find_chains
from qdqgraph.planning.given import codes_of
from qdqgraph.quantizer import operator as operator  # defines the operator

aten = torch.ops.aten
FAKE_QUANTIZE: Any = cast("Any", torch.ops).qdqgraph.fake_quantize.default
CARRIER = aten.alias_copy.default
"""Reads a quantizer in the place of a graph output, or of another quantizer."""

_TENSOR, _CHANNEL = "x scale zero low high", "x scale zero axis low high"
FORMS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        name: tuple(words.split())
        for name, words in {
            "fake_quantize_per_tensor_affine.default": _TENSOR,
            "fake_quantize_per_tensor_affine.tensor_qparams": _TENSOR,
            "fake_quantize_per_tensor_affine_cachemask.default": _TENSOR,
            "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams.default": (
                "x scale zero enabled low high"
            ),
            "fake_quantize_per_channel_affine.default": _CHANNEL,
            "fake_quantize_per_channel_affine_cachemask.default": _CHANNEL,
            "_fake_quantize_learnable_per_tensor_affine.default": _TENSOR,
            "_fake_quantize_learnable_per_channel_affine.default": _CHANNEL,
            "fused_moving_avg_obs_fake_quant.default": (
                "x observing enabled min max scale zero decay low high axis per_channel"
            ),
        }.items()
    }
)
"""Arguments of each ATen form (native_functions.yaml), up to the last one needed."""

DECOMPOSED: Mapping[str, str] = MappingProxyType(
    {
        "per_tensor.default": _TENSOR,
        "per_tensor.tensor": _TENSOR,
        "per_tensor.tensor2": _TENSOR,
        "per_channel.default": _CHANNEL,
    }
)
"""Arguments of `quantized_decomposed.quantize_*` and `dequantize_*`."""
_Q, _DQ = "quantized_decomposed:quantize_", "quantized_decomposed:dequantize_"


def canonicalize(module: fx.GraphModule) -> bool:
    """Rewrite `module` in place; True if it holds any fake quantization.

    Raises `UsageError` for a quantizer whose codes something else than a dequantizer reads, or
    whose range is that of no format, and `CalibrationError` for a scale that is computed.
    """
    for node in list(module.graph.nodes):
        name = spelling(node) if node.op == "call_function" else ""
        if name in FORMS:
            _rewrite_call(module, node, FORMS[name])
        elif name.startswith(_DQ) and name.removeprefix(_DQ) in DECOMPOSED:
            _rewrite_pair(module, node, DECOMPOSED[name.removeprefix(_DQ)])
    if any(node.target is aten.round.default for node in module.graph.nodes):
        _rewrite_chains(module)
    calls = [node for node in module.graph.nodes if node.target is FAKE_QUANTIZE]
    if calls:
        for node in calls:
            _carry(module, node)
        module.graph.eliminate_dead_code()
        for node in module.graph.nodes:
            if node.op == "call_function" and spelling(node).startswith(_Q):
                raise UsageError(
                    f"codes that {_reader(node)} reads are not dequantized first",
                    where=node.name,
                    fix="give the model before it was lowered to integer operators",
                )
        module.recompile()
    return bool(calls)


def release_calls(module: fx.GraphModule) -> None:
    """Take the calls out again: their readers read what they read."""
    for node in list(module.graph.nodes):
        if node.target is FAKE_QUANTIZE:
            node.replace_all_uses_with(cast("fx.Node", node.args[0]))
            module.graph.erase_node(node)
    module.graph.eliminate_dead_code()
    module.recompile()


def _named(node: fx.Node, words: tuple[str, ...]) -> dict[str, Any]:
    return dict(zip(words, arguments(node), strict=False))


def _rewrite_call(module: fx.GraphModule, node: fx.Node, words: tuple[str, ...]) -> None:
    named = _named(node, words)
    if not _switched_on(module, named.get("enabled", 1)):
        made = cast("fx.Node", named["x"])
    else:
        if not named.get("per_channel", True):
            named.pop("axis")
        made = _call(module, node, named["x"], named)
    pieces = [user for user in node.users if "getitem" in str(user.target)]
    if isinstance(node.meta.get("val"), (list, tuple)):
        for piece in pieces:
            if piece.args[1] == 0:
                piece.replace_all_uses_with(made)
                module.graph.erase_node(piece)
    else:
        node.replace_all_uses_with(made)
    if not node.users:
        module.graph.erase_node(node)


def _rewrite_pair(module: fx.GraphModule, node: fx.Node, words: str) -> None:
    """dequantize(quantize(x)), or dequantize of codes that the module holds."""
    named = _named(node, tuple(words.split()))
    codes = cast("fx.Node", named["x"])
    name = spelling(codes) if codes.op == "call_function" else ""
    if name.startswith(_Q):
        form = DECOMPOSED[name.removeprefix(_Q)]
        before = _named(codes, tuple(form.split()))
        if not _same(module, before, named):
            raise UsageError(
                "quantized and dequantized with different numbers", where=codes.name,
                fix="keep one scale and zero point for both",
            )  # fmt: skip
        made = _call(module, node, before["x"], before)
    else:
        stored = constant(module, codes)
        if stored is None:
            raise UsageError(
                "these codes are not what a quantizer gives", where=node.name,
                fix="give the model before its quantizers were moved",
            )  # fmt: skip
        made = _call(module, node, _as_float(module, node, codes, named), named)
    node.replace_all_uses_with(made)
    module.graph.erase_node(node)
    if not codes.users:
        module.graph.erase_node(codes)


def _same(module: fx.GraphModule, a: dict[str, Any], b: dict[str, Any]) -> bool:
    for word in ("scale", "zero", "low", "high", "axis"):
        if word in a and a[word] is not b.get(word):
            first, second = _number(module, a[word]), _number(module, b.get(word))
            if first is None or second is None or not torch.equal(first, second):
                return False
    return True


def _as_float(
    module: fx.GraphModule, node: fx.Node, codes: fx.Node, named: dict[str, Any]
) -> fx.Node:
    """The weight that stored codes stand for, as a parameter: it can be trained on."""
    weight = constant(module, node)
    assert weight is not None
    hint = str(codes.target) if codes.op == "get_attr" else codes.name
    path = register(module, f"{hint}_float", weight)
    owner, _, leaf = path.rpartition(".")
    part = module.get_submodule(owner)
    delattr(part, leaf)
    part.register_parameter(leaf, nn.Parameter(weight.clone()))
    with module.graph.inserting_before(node):
        made = module.graph.get_attr(path)
    made.meta["val"] = weight
    return made


def _call(module: fx.GraphModule, node: fx.Node, x: fx.Node, named: dict[str, Any]) -> fx.Node:
    """A canonical call in front of `node`, of the numbers that `node` is called with."""
    scale, zero = _number(module, named["scale"]), _number(module, named["zero"])
    low, high = _number(module, named["low"]), _number(module, named["high"])
    if scale is None or zero is None or low is None or high is None:
        raise CalibrationError(
            "the scale of this quantizer is computed anew each time",
            where=f"{node.name}, which reads {x.name}",
            fix="quantize statically: freeze the scale before the model is captured",
        )
    axis = named.get("axis")
    shape = () if axis is None else (-1,)
    if axis is None and scale.numel() != 1:
        raise UsageError(f"{scale.numel()} scales, but no axis", where=node.name)
    scale = scale.float().reshape(shape)
    shift = zero.round().long().reshape(shape)
    bounds = int(low), int(high)
    try:
        codes = codes_of(*bounds, shift.cpu().numpy())
    except UsageError as cause:
        raise UsageError(cause.what, where=x.name, fix=cause.fix) from cause
    return _write(module, node, x, scale, shift, axis, codes.dtype, bounds)


def _write(
    module: fx.GraphModule,
    node: fx.Node,
    x: fx.Node,
    scale: Tensor,
    zero: Tensor,
    axis: int | None,
    dtype: str,
    bounds: tuple[int, int],
) -> fx.Node:
    rank = len(x.meta["val"].shape) if isinstance(x.meta.get("val"), Tensor) else None
    if axis is not None and rank:
        axis %= rank
    with module.graph.inserting_before(node):
        stored = [_stored(module, node, "scale", scale), None]
        if zero.any():
            stored[1] = _stored(module, node, "zero_point", zero.to(torch.int32))
        low, high = (float(bound) for bound in bounds)
        made = module.graph.call_function(FAKE_QUANTIZE, (x, *stored, axis, dtype, low, high))
    made.meta = dict(x.meta)
    for key in ("nn_module_stack", "stack_trace"):
        if key in node.meta:
            made.meta[key] = node.meta[key]
    return made


def _stored(module: fx.GraphModule, node: fx.Node, what: str, tensor: Tensor) -> fx.Node:
    made = module.graph.get_attr(register(module, f"{node.name}_{what}", tensor))
    made.meta["val"] = tensor
    return made


def _rewrite_chains(module: fx.GraphModule) -> None:
    _settle_factors(module)
    view = FxGraph(module)
    for chain in list(find_chains(view)):
        spec, node = chain.encoding.spec, fx_node(chain.last)
        x = view.origins(chain.source)[0]
        scale = torch.tensor(chain.encoding.scale)
        zero = torch.tensor(chain.encoding.zero_point.astype("int64"))
        if not spec.symmetric and spec.dtype.startswith("u"):
            bounds = (0, 2**spec.bits - 1)
        else:
            bounds = spec.code_range
        made = _write(module, node, x, scale, zero, spec.axis, spec.dtype, bounds)
        node.replace_all_uses_with(made)
    module.graph.eliminate_dead_code()


def _settle_factors(module: fx.GraphModule) -> None:
    """Factors that a module computes from its buffers, 127 / amax, become stored ones."""
    targets = (aten.mul.Tensor, aten.div.Tensor, aten.add.Tensor, aten.sub.Tensor)
    fixed: set[fx.Node] = set()
    for node in list(module.graph.nodes):
        if node.op == "get_attr" or (
            node.all_input_nodes and fixed.issuperset(node.all_input_nodes)
        ):
            fixed.add(node)
        if node.target not in targets:
            continue
        x, factor = node.args[:2]
        for one, other in ((x, factor), (factor, x)):
            if not isinstance(one, fx.Node) or one not in fixed or one.op == "get_attr":
                continue
            number = constant(module, one)
            size = other.meta["val"].numel() if isinstance(other, fx.Node) else 0
            if number is not None and size > number.numel():
                with module.graph.inserting_before(node):
                    node.replace_input_with(one, _stored(module, one, "value", number))
    module.graph.eliminate_dead_code()


def _carry(module: fx.GraphModule, node: fx.Node) -> None:
    """A quantizer at an output, or in front of another, is read there by a call that does nothing.

    Plans speak of the reads of calls: this is one.
    """
    readers = [
        user
        for user in node.users
        if user.op == "output" or (user.target is FAKE_QUANTIZE and user.args[0] is node)
    ]
    if not readers:
        return
    with module.graph.inserting_after(node):
        made = module.graph.call_function(CARRIER, (node,))
    made.meta = dict(node.meta)
    for reader in readers:
        reader.replace_input_with(node, made)


def _number(module: fx.GraphModule, raw: object) -> Tensor | None:
    if isinstance(raw, fx.Node):
        return constant(module, raw)
    return None if raw is None else torch.tensor(cast("float", raw))


def _switched_on(module: fx.GraphModule, raw: object) -> bool:
    found = _number(module, raw)
    return found is None or bool(found.reshape(-1)[0])


def _reader(node: fx.Node) -> str:
    return next((user.name for user in node.users), "nothing")
