"""Raise the default-domain opset of a model in place: plan every node first, write at the end."""

from __future__ import annotations

from collections.abc import Collection

import onnx
from onnx import helper

from qdqgraph.errors import InvalidGraphError, ModelLoadError, UsageError
from qdqgraph.lowering.opset.adapters import ADAPTERS
from qdqgraph.lowering.opset.changes import (
    SAME_BEFORE_BIRTH,
    SAME_MEANING,
    next_change,
    versions,
)
from qdqgraph.lowering.opset.rewrite import NodeRewrite, place
from qdqgraph.lowering.opset.values import Body, Values, bodies

_DEFAULT_DOMAIN = ("", "ai.onnx")

OLDEST_OPSET = 7  # before it, broadcasting and the meaning of many operators were others
NEWEST_OPSET = 21  # up to here every schema change has been read; see changes.py


def raise_opset(model: onnx.ModelProto, target: int) -> list[str]:
    """Raise the default-domain opset of `model` to `target` in place; return what was changed.

    Only nodes whose form changed are written; all others, their order, names, doc strings,
    metadata and other domains stay as they are, byte by byte. `ir_version` rises only as far as
    `target` needs. Operators that the default domain never knew (plugins) are left alone. A model
    at `target` or above is left as it is. Nothing is written when an error is raised. The model
    is taken to pass the checker of onnx at its own opset.

    Raises `UsageError` for a target that is not reviewed, `InvalidGraphError` where the default
    opset is missing or given twice, and `ModelLoadError` for a model older than opset 7 or a node
    that has no exact form at `target`.

    >>> x = onnx.helper.make_tensor_value_info("x", 1, [1, 4])
    >>> y = onnx.helper.make_tensor_value_info("y", 1, [4])
    >>> node = onnx.helper.make_node("Squeeze", ["x"], ["y"], name="sq", axes=[0])
    >>> graph = onnx.helper.make_graph([node], "g", [x], [y])
    >>> model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 11)])
    >>> raise_opset(model, 13)
    ['opset 11 raised to 13', "Squeeze node 'sq': axes became an input"]
    """
    if not OLDEST_OPSET <= target <= NEWEST_OPSET:
        raise UsageError(
            f"opset {target} cannot be raised to",
            fix=f"choose one from {OLDEST_OPSET} to {NEWEST_OPSET}",
        )
    main = _default_opset(model)
    if main is None:
        raise InvalidGraphError(
            "the model does not import the default operator domain",
            fix="add it to opset_import, with the version the model was written for",
        )
    if main > target:
        return []
    opsets = {-1: main}
    for index, function in enumerate(model.functions):
        opset = _default_opset(function)
        if opset is not None:
            opsets[index] = opset
    low = {index: opset for index, opset in opsets.items() if opset < target}
    if not low:
        return []
    _refuse_whole(model, min(low.values()))

    values = Values(model)
    local = {function.name for function in model.functions if function.domain in _DEFAULT_DOMAIN}
    plan = [
        (body, _plan_body(body, values, low[body.function], target, local))
        for body in bodies(model)
        if body.function in low
    ]
    notes = _write_versions(model, low, target)
    for body, edits in plan:
        _write_body(body, edits)
        notes += [note for edit in edits.values() for note in edit.notes]
    return notes


def _default_opset(holder: onnx.ModelProto | onnx.FunctionProto) -> int | None:
    found = {entry.version for entry in holder.opset_import if entry.domain in _DEFAULT_DOMAIN}
    if len(found) > 1:
        raise InvalidGraphError(
            f"the default operator domain is imported at opsets {sorted(found)}",
            where=f"function {holder.name!r}" if isinstance(holder, onnx.FunctionProto) else "",
            fix="keep the one that the nodes were written for",
        )
    return min(found, default=None)


def _refuse_whole(model: onnx.ModelProto, oldest: int) -> None:
    if oldest < OLDEST_OPSET:
        raise ModelLoadError(
            f"opset {oldest} is older than {OLDEST_OPSET}, the oldest that can be raised",
            fix="export the model again, or convert it with onnx.version_converter first",
        )
    if model.training_info:
        raise ModelLoadError(
            "the model holds training graphs, which cannot be raised to a newer opset",
            fix="export it for inference, without training_info",
        )


def _plan_body(
    body: Body, values: Values, source: int, target: int, local: Collection[str]
) -> dict[int, NodeRewrite]:
    edits: dict[int, NodeRewrite] = {}
    for at, node in enumerate(body.holder.node):
        if node.domain not in _DEFAULT_DOMAIN or node.op_type in local:
            continue
        history = versions().get(node.op_type)
        if history is None or history[0] > target:
            continue  # a plugin in the default domain: no schema says what its opset means
        if history[0] > source and node.op_type not in SAME_BEFORE_BIRTH:
            raise ModelLoadError(
                f"{node.op_type} is unknown at opset {source}, but opset {history[0]} defines an "
                "operator of that name",
                where=place(node),
                fix="give the node's domain a name of its own, or import the opset it was made for",
            )
        edit = _raise_node(node, body, values, max(source, history[0]), target)
        if edit is not None and edit.notes:
            edits[at] = edit
    return edits


def _raise_node(
    node: onnx.NodeProto, body: Body, values: Values, source: int, target: int
) -> NodeRewrite | None:
    edit: NodeRewrite | None = None
    op, at = node.op_type, source
    while (change := next_change(op, at, target)) is not None:
        adapter = ADAPTERS.get((op, change))
        if adapter is not None:
            edit = edit or NodeRewrite(node, body, values, target)
            adapter(edit)
            op = edit.node.op_type
        elif op not in SAME_MEANING.get(change, ()):
            NodeRewrite(node, body, values, target).refuse(f"its change at {change} is not known")
        at = change
    return edit


def _write_versions(model: onnx.ModelProto, low: Collection[int], target: int) -> list[str]:
    notes: list[str] = []
    for index in sorted(low):
        holder = model if index < 0 else model.functions[index]
        where = "" if isinstance(holder, onnx.ModelProto) else f"function {holder.name!r}: "
        notes.append(f"{where}opset {_default_opset(holder)} raised to {target}")
        for entry in holder.opset_import:
            if entry.domain in _DEFAULT_DOMAIN:
                entry.version = target
    # From IR 4 on, which opset 9 needs, a new initializer need not be listed as a graph input;
    # no adapter for an older target adds one.
    needed = helper.OP_SET_ID_VERSION_MAP["ai.onnx", target]
    if model.ir_version < needed:
        notes.append(f"ir_version {model.ir_version} raised to {needed}")
        inputs = {info.name for info in model.graph.input}
        listed = sum(tensor.name in inputs for tensor in model.graph.initializer)
        if listed and model.ir_version < 4 <= needed:
            notes.append(
                f"{listed} weight(s) listed as graph inputs may be replaced by a caller now"
            )
        model.ir_version = needed
    return notes


def _write_body(body: Body, edits: dict[int, NodeRewrite]) -> None:
    holder = body.holder
    if any(edit.before or edit.after for edit in edits.values()):
        nodes: list[onnx.NodeProto] = []
        for at, node in enumerate(holder.node):
            edit = edits.get(at)
            nodes += [*edit.before, edit.node, *edit.after] if edit else [node]
        del holder.node[:]
        holder.node.extend(nodes)
    else:
        for at, edit in edits.items():
            holder.node[at].CopyFrom(edit.node)
    dropped = {name for edit in edits.values() for name in edit.dropped}
    for at in reversed(range(len(holder.value_info) if dropped else 0)):
        if holder.value_info[at].name in dropped:
            del holder.value_info[at]
    if isinstance(holder, onnx.GraphProto):
        holder.initializer.extend(tensor for edit in edits.values() for tensor in edit.constants)
