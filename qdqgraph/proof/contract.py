"""The input contract: everything the parsers refuse or misread, found before anything is built.

>>> import onnx
>>> graph = onnx.helper.make_graph([], "empty", [], [])
>>> model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
>>> [finding.rule for finding in check_contract(model, target="tensorrt", version=(8, 6))]
['opset-too-new']
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from qdqgraph.errors import UsageError
from qdqgraph.frontends.onnx_file.reading import bodies
from qdqgraph.proof.contract_quantizers import check_quantizer
from qdqgraph.proof.contract_rules import (
    BY_ID,
    MAX_OPSET,
    RTX_MAX_OPSET,
    UNSUPPORTED,
    ContractTarget,
)
from qdqgraph.proof.findings import Finding, gravest_first
from qdqgraph.proof.reading import (
    DEFAULT_DOMAINS,
    MICROSOFT,
    Reader,
    is_quantizer,
    node_label,
    opset_of,
    read_quantizer,
)
from qdqgraph.storage.references import DataFolder


class Lint:
    """Gathers findings: those of rules that hold for this target and version."""

    def __init__(self, target: ContractTarget, version: tuple[int, ...]) -> None:
        self.target: ContractTarget = target
        self.version = version
        self.found: list[Finding] = []

    def report(
        self, rule: str, what: str, *, node: onnx.NodeProto | None = None, tensor: str = ""
    ) -> bool:
        """Add a finding if the rule is in force; says whether it is."""
        row = BY_ID[rule]
        if not row.holds(self.target, self.version):
            return False
        nodes = () if node is None else (node_label(node),)
        tensors = (tensor,) if tensor else ()
        self.found.append(Finding(rule, row.severity, nodes, tensors, what, row.why, row.fix))
        return True


def check_contract(
    model: onnx.ModelProto,
    *,
    target: ContractTarget,
    version: tuple[int, ...],
    data: DataFolder | None = None,
) -> list[Finding]:
    """What the parser of `target` at `version` refuses or misreads in `model`, errors first.

    `version` counts for classic TensorRT; RTX rules are those of 1.7. `data` is the folder of
    external tensors; scales and zero points in a file that is not found are not judged. Bodies of
    If, Loop and Scan are read too. Raises `UsageError` for an unknown target or no version.
    """
    if target not in ("tensorrt", "tensorrt-rtx"):
        raise UsageError(f"no input contract of {target!r}", fix="tensorrt or tensorrt-rtx")
    if target == "tensorrt" and not version:
        raise UsageError("no TensorRT version to check against", fix="give for example (8, 6)")
    lint = Lint(target, version)
    newest, opset = max_opset(target, version), opset_of(model)
    if opset > newest:
        lint.report("opset-too-new", f"the model is opset {opset}, read are those up to {newest}")
    for reader in _readers(model.graph, data, None):
        for node in reader.graph.node:
            _check_operator(lint, node)
            if is_quantizer(node):
                check_quantizer(lint, read_quantizer(node, reader), reader)
    return gravest_first(lint.found)


def max_opset(target: ContractTarget, version: tuple[int, ...]) -> int:
    """The newest opset that a parser release reads; the oldest release's before TensorRT 8.

    >>> max_opset("tensorrt", (8, 5))
    17
    """
    if target == "tensorrt-rtx":
        return RTX_MAX_OPSET
    return max((top for first, top in MAX_OPSET if first <= version), default=MAX_OPSET[0][1])


def _readers(
    graph: onnx.GraphProto, data: DataFolder | None, parent: Reader | None
) -> Iterator[Reader]:
    reader = Reader(graph, data, parent)
    yield reader
    for node in graph.node:
        for body in bodies(node):
            yield from _readers(body, data, reader)


def _check_operator(lint: Lint, node: onnx.NodeProto) -> None:
    kind = node.op_type
    if node.domain in DEFAULT_DOMAINS:
        if kind in UNSUPPORTED:
            lint.report("unsupported-operator", f"{kind} cannot be imported", node=node)
    elif node.domain == MICROSOFT:
        if kind.startswith(("QLinear", "QGemm", "DynamicQuantize", "MatMulIntegerTo")):
            lint.report("unsupported-operator", f"{kind} cannot be imported", node=node)
        elif is_quantizer(node):
            lint.report("microsoft-domain", f"{kind} is of com.microsoft", node=node)
