"""New names that collide with nothing, and module paths read from old ones."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import onnx


class NameAllocator:
    """Hands out names unused anywhere in a model: main graph, bodies, value_info, functions."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._taken: set[str] = set(_all_names(model))
        self._numbers: dict[str, int] = {}

    def fresh(self, hint: str) -> str:
        """`hint` itself when free, else `hint_2`, `hint_3`, ..."""
        name = hint
        while name in self._taken:
            number = self._numbers[hint] = self._numbers.get(hint, 1) + 1
            name = f"{hint}_{number}"
        self._taken.add(name)
        return name


def _all_names(model: onnx.ModelProto) -> Iterator[str]:
    pending: list[onnx.GraphProto] = [model.graph]
    nodes: list[onnx.NodeProto] = [node for function in model.functions for node in function.node]
    while pending or nodes:
        if pending:
            graph = pending.pop()
            for infos in (graph.input, graph.output, graph.value_info, graph.initializer):
                for item in infos:
                    yield item.name
            for sparse in graph.sparse_initializer:
                yield sparse.values.name
            nodes.extend(graph.node)
        while nodes:
            node = nodes.pop()
            yield node.name
            yield from node.input
            yield from node.output
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    pending.append(attribute.g)
                elif attribute.type == onnx.AttributeProto.GRAPHS:
                    pending.extend(attribute.graphs)


def make_node_names_unique(model: onnx.ModelProto, names: NameAllocator) -> None:
    """Give each node whose name another node of its graph has too a fresh one, in file order.

    ONNX allows repeated names, onnxruntime does not load them.
    """
    pending: list[onnx.GraphProto] = [model.graph]
    while pending:
        graph = pending.pop()
        seen: set[str] = set()
        for node in graph.node:
            if node.name in seen:
                node.name = names.fresh(node.name)
            elif node.name:
                seen.add(node.name)
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    pending.append(attribute.g)
                elif attribute.type == onnx.AttributeProto.GRAPHS:
                    pending.extend(attribute.graphs)


def module_path(node: onnx.NodeProto, weight: str) -> str:
    """The module path of a node: from its weight's name, the exporter's metadata, or its name.

    torch's exporter with torch.export writes the scopes as metadata; the TorchScript one names
    nodes `/layer1/layer1.0/conv1/Conv`, each segment the path so far or a name below it.
    """
    if weight.endswith(".weight"):
        return weight[: -len(".weight")]
    for item in node.metadata_props:
        if item.key == "pkg.torch.onnx.name_scopes":
            try:
                scopes = ast.literal_eval(item.value)
            except (ValueError, SyntaxError):
                break
            if isinstance(scopes, list) and len(scopes) > 1:  # pyright: ignore[reportUnknownArgumentType]
                return str(scopes[-2])  # pyright: ignore[reportUnknownArgumentType]
    if node.name.startswith("/"):
        path = ""
        for segment in node.name.split("/")[1:-1]:
            last = path.rpartition(".")[2]
            if path and segment.startswith(last + "."):
                path = path[: len(path) - len(last)] + segment
            else:
                path = f"{path}.{segment}" if path else segment
        return path
    return node.name
