"""x → relu_  becomes  x → relu, and whoever read the overwritten x later reads the result.

A capture keeps in-place operators. One Q/DQ pair shared by readers before and after an overwrite
would be wrong, so each becomes its out-of-place overload. A write through a view (`y[:, :2] += 1`)
is carried back to the tensor viewed (`slice_scatter`), and other views of it are taken anew when
somebody reads them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import fx

from qdqgraph.errors import CaptureError
from qdqgraph.frontends.torch_fx.overloads import (
    dims,
    example,
    may_alias,
    out_of_place,
    overload_of,
    overwrites,
    share_memory,
    spelled,
)

aten = torch.ops.aten
_TORCH = str(Path(torch.__file__).parent)
_RESHAPES = (
    aten.view.default,
    aten.reshape.default,
    aten.flatten.using_ints,
    aten.unflatten.int,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.unsqueeze.default,
)
_SAME = (
    aten.alias.default,
    aten.detach.default,
    aten.contiguous.default,
    aten.dropout.default,
    aten.to.dtype,
)


def functionalize(module: fx.GraphModule) -> None:
    """Rewrite every in-place operator of `module`, drop dead code and metadata assertions.

    `view` becomes `reshape`, which also takes what a dropped `contiguous` no longer lays out.

    Raises `CaptureError` for a write to a buffer, or through a view that cannot be traced back.
    """
    graph = module.graph
    changed = False
    for node in list(graph.nodes):
        if node.target is aten._assert_tensor_metadata.default:
            graph.erase_node(node)
            changed = True
    if any(overwrites(node) for node in graph.nodes):
        _Rewriter(graph).run()
        changed = True
    for node in graph.nodes:
        if node.target in (aten.view.default, aten._unsafe_view.default):
            node.target = aten.reshape.default
            changed = True
    if graph.eliminate_dead_code() or changed:
        graph.lint()
        module.recompile()


def source_line(node: fx.Node) -> str:
    """`file, line` of the model's own code that made a node, as far as the capture recorded it."""
    lines = [line for line in str(node.meta.get("stack_trace") or "").splitlines() if line.strip()]
    places = [i for i, line in enumerate(lines) if line.lstrip().startswith("File ")]
    places = [i for i in places if _TORCH not in lines[i]] or places
    found = " ".join(line.strip() for line in lines[places[-1] :][:2]) if places else ""
    return f"{node.name}, {found}" if found else node.name


class _Rewriter:
    """Walks a graph in order and knows, for each tensor, the node with its present contents.

    `root` maps a view to the tensor that owns the memory, `parent` to the tensor it was taken
    from; `version` counts the writes to a root, `stamp` says at which of them `present` holds.
    """

    def __init__(self, graph: fx.Graph) -> None:
        self.graph = graph
        self.root: dict[fx.Node, fx.Node] = {}
        self.parent: dict[fx.Node, fx.Node] = {}
        self.same: dict[fx.Node, fx.Node] = {}
        self.present: dict[fx.Node, fx.Node] = {}
        self.stamp: dict[fx.Node, int] = {}
        self.version: dict[fx.Node, int] = {}

    def run(self) -> None:
        overwriting: list[fx.Node] = []
        for node in list(self.graph.nodes):
            with self.graph.inserting_before(node):
                first = node.args[0] if node.args else None
                source = first if isinstance(first, fx.Node) else None
                viewed = self._viewed(node, source)
                node.args = fx.map_arg(node.args, self.read)
                node.kwargs = fx.map_arg(node.kwargs, self.read)
                if source is not None and overwrites(node):
                    overwriting.append(node)
                    self.write(node, self.same.get(source, source))
                else:
                    self.enter(node, viewed)
        for node in reversed(overwriting):
            self.graph.erase_node(node)

    def _viewed(self, node: fx.Node, source: fx.Node | None) -> fx.Node | None:
        if source is None or not views(node, source):
            return None
        if node.target is operator.getitem:
            return self.parent.get(source)
        return self.same.get(source, source)

    def enter(self, node: fx.Node, viewed: fx.Node | None) -> None:
        """Note what `node` is a view of, if anything."""
        if viewed is not None:
            self.parent[node] = viewed
        self.root[node] = node if viewed is None else self.root[viewed]
        self._settle(node, node)

    def read(self, node: fx.Node) -> fx.Node:
        """The node that holds the present contents of `node`; a stale view is taken anew."""
        node = self.same.get(node, node)
        if node not in self.root or self.stamp[node] == self.version.get(self.root[node], 0):
            return self.present.get(node, node)
        renewed = self._again(node, self.read(self.parent[node]))
        self._settle(node, renewed)
        return renewed

    def _again(self, view: fx.Node, source: fx.Node) -> fx.Node:
        if view.target is operator.getitem:
            pieces = cast("fx.Node", view.args[0])
            copied = self._call(pieces, pieces.target, (source, *pieces.args[1:]), pieces.kwargs)
            return self._call(view, view.target, (copied, *view.args[1:]))
        return self._call(view, view.target, (source, *view.args[1:]), view.kwargs)

    def write(self, node: fx.Node, target: fx.Node) -> None:
        """Replace a call that overwrites `target`; readers of the call follow `target`."""
        self.same[node] = target
        if node.target is aten.detach_.default:
            return
        root = self.root[target]
        if root.op == "get_attr":
            raise CaptureError(
                f"{root.target} is overwritten at inference",
                where=source_line(node),
                fix="write the line out of place, or keep the state outside of the module",
            )
        result = self._out_of_place(node)
        chain: list[tuple[fx.Node, fx.Node]] = []
        child = target
        while child in self.parent:
            above = self.parent[child]
            chain.append((child, above))
            child = above
        before = {above: self.read(above) for _, above in chain}
        self.version[root] = self.version.get(root, 0) + 1
        self._settle(target, result)
        for child, above in chain:
            result = self._carried_back(child, above, before[above], result, node)
            self._settle(above, result)

    def _settle(self, tensor: fx.Node, contents: fx.Node) -> None:
        self.present[tensor] = contents
        self.stamp[tensor] = self.version.get(self.root[tensor], 0)

    def _out_of_place(self, node: fx.Node) -> fx.Node:
        overload = overload_of(node)
        functional = out_of_place(overload) if overload is not None else None
        if functional is None:
            raise CaptureError(
                f"{node.target} has no out-of-place form",
                where=source_line(node),
                fix="write the line out of place",
            )
        made = self._call(node, functional, node.args, node.kwargs)
        values = [v for v in map(example, node.all_input_nodes) if v is not None]
        kept = example(node)
        floats = {v.dtype for v in values if v.is_floating_point()}
        if kept is not None and floats - {kept.dtype}:
            made = self._call(node, aten.to.dtype, (made, kept.dtype))
        return made

    def _carried_back(
        self, view: fx.Node, viewed: fx.Node, before: fx.Node, result: fx.Node, at: fx.Node
    ) -> fx.Node:
        """`before` with the part that `view` shows replaced by `result`."""
        target, rest = view.target, view.args[1:]
        if target in _SAME:
            return result
        if target is aten.slice.Tensor:
            return self._call(viewed, aten.slice_scatter.default, (before, result, *rest))
        if target is aten.select.int:
            return self._call(viewed, aten.select_scatter.default, (before, result, *rest))
        if target is operator.getitem:
            return self._call(viewed, *_put_piece(view, before, result))
        if target is aten.transpose.int or target is aten.t.default:
            return self._call(viewed, target, (result, *rest))
        if target is aten.permute.default:
            order = cast("list[int]", rest[0])
            back = sorted(range(len(order)), key=lambda i: order[i] % len(order))
            return self._call(viewed, target, (result, back))
        if target in _RESHAPES and example(viewed) is not None:
            return self._call(viewed, aten.reshape.default, (result, self._shape(viewed, before)))
        raise CaptureError(
            f"a write through {target} cannot be traced back to the tensor it views",
            where=source_line(at),
            fix="write the line out of place",
        )

    def _shape(self, node: fx.Node, present: fx.Node) -> list[object]:
        """The shape of `node`; dimensions that are free are asked of `present`."""
        value = example(node)
        shape = [] if value is None else dims(value)
        for axis, size in enumerate(shape):
            if not isinstance(size, int):
                asked = self._call(node, aten.sym_size.int, (present, axis))
                asked.meta["val"] = size
                shape[axis] = asked
        return shape

    def _call(
        self,
        like: fx.Node,
        target: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None = None,
    ) -> fx.Node:
        name = None if target is operator.getitem else spelled(target)[1]
        made = self.graph.create_node("call_function", target, args, dict(kwargs or {}), name)
        made.meta = dict(like.meta)
        return made


def _put_piece(
    view: fx.Node, before: fx.Node, result: fx.Node
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The call that puts one piece of a split, chunk or unbind back in its place."""
    pieces, index = cast("fx.Node", view.args[0]), cast("int", view.args[1])
    values = cast("list[torch.Tensor]", pieces.meta["val"])
    if pieces.target is aten.unbind.int:
        axis = pieces.args[1] if len(pieces.args) > 1 else 0
        return aten.select_scatter.default, (before, result, axis, index)
    axis = cast("int", pieces.args[2] if len(pieces.args) > 2 else pieces.kwargs.get("dim", 0))
    start = sum(int(value.shape[axis]) for value in values[:index])
    end = start + int(values[index].shape[axis])
    return aten.slice_scatter.default, (before, result, axis, start, end)


def views(node: fx.Node, source: fx.Node) -> bool:
    """True when `node` shows the memory of its first argument `source`.

    What the schema only calls a possible alias (reshape, to) is one if the capture's example
    values share their storage.
    """
    if node.target is operator.getitem:
        return isinstance(source.meta.get("val"), (list, tuple))
    if node.target is aten.dropout.default:
        return len(node.args) > 2 and not node.args[2]
    overload = overload_of(node)
    if overload is None or not may_alias(overload):
        return False
    mine, theirs = example(node), example(source)
    return mine is None or theirs is None or share_memory(mine, theirs)
