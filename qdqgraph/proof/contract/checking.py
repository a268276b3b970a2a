"""The input contract: everything the parsers refuse or misread, found before anything is built.

>>> import onnx
>>> graph = onnx.helper.make_graph([], "empty", [], [])
>>> model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
>>> [finding.rule for finding in check_contract(model, target="tensorrt", version=(8, 6))]
['opset-too-new']
"""

from __future__ import annotations

import onnx

from qdqgraph.errors import UsageError
from qdqgraph.frontends.onnx_file.reading import bodies
from qdqgraph.graph.op_table import BY_ONNX
from qdqgraph.proof.contract.products import PRODUCTS, check_product
from qdqgraph.proof.contract.quantizers import FP8, INT8, check_quantizer
from qdqgraph.proof.contract.rules import (
    DYNAMIC,
    INTEGER,
    MAX_OPSET,
    RTX_MAX_OPSET,
    RULES,
    UNSUPPORTED,
    ContractTarget,
)
from qdqgraph.proof.findings import Finding, gravest_first
from qdqgraph.proof.reading.by_name import (
    DEFAULT_DOMAINS,
    DEQUANTIZE,
    MICROSOFT,
    QUANTIZE,
    Reader,
    node_label,
    opset_of,
)
from qdqgraph.proof.reading.calls import without_functions
from qdqgraph.proof.reading.pausing import collector_paused
from qdqgraph.storage.references import DataFolder

QUANTIZERS = (QUANTIZE, DEQUANTIZE)
INTEGER_OPERATORS = ("QLinear", "QGemm", "DynamicQuantize", "MatMulIntegerTo")


class Lint:
    """Gathers findings: those of rules that hold for this target, version and GPU."""

    def __init__(
        self, target: ContractTarget, version: tuple[int, ...], sm: int | None, opset: int
    ) -> None:
        self.opset = opset
        self.found: list[Finding] = []
        self._rules = {rule.id: rule for rule in RULES if rule.holds(target, version, sm)}

    def report(
        self, rule: str, what: str, *, node: onnx.NodeProto | None = None, tensor: str = ""
    ) -> bool:
        """Add a finding if the rule is in force; says whether it is."""
        row = self._rules.get(rule)
        if row is None:
            return False
        nodes = () if node is None else (node_label(node),)
        tensors = (tensor,) if tensor else ()
        self.found.append(Finding(rule, row.severity, nodes, tensors, what, row.why, row.fix))
        return True

    def in_force(self, rule: str) -> bool:
        """Whether the rule holds here."""
        return rule in self._rules


def check_contract(
    model: onnx.ModelProto,
    *,
    target: ContractTarget,
    version: tuple[int, ...],
    data: DataFolder | None = None,
    sm: int | None = None,
) -> list[Finding]:
    """What the parser of `target` at `version` refuses or misreads in `model`, errors first.

    `version` counts for classic TensorRT; RTX rules are those of 1.7. `sm` is the compute
    capability of the GPU, 89 for 8.9; without it nothing is said about hardware. `data` is the
    folder of external tensors; scales and zero points in a file that is not found are not judged.
    Bodies of If, Loop and Scan, and local functions, are read too.

    Raises `UsageError` for an unknown target or no version, and `InvalidGraphError` for a tensor
    whose contents do not fit its shape.
    """
    if target not in ("tensorrt", "tensorrt-rtx"):
        raise UsageError(f"no input contract of {target!r}", fix="tensorrt or tensorrt-rtx")
    if target == "tensorrt" and not version:
        raise UsageError("no TensorRT version to check against", fix="give for example (8, 6)")
    newest, opset = max_opset(target, version), opset_of(model)
    lint = Lint(target, version, sm, opset)
    if opset > newest:
        lint.report("opset-too-new", f"the model is opset {opset}, read are those up to {newest}")
    with collector_paused():
        _check_graphs(lint, model, data)
    return gravest_first(lint.found)


def max_opset(target: ContractTarget, version: tuple[int, ...]) -> int:
    """The newest opset that a parser release reads; the oldest release's before TensorRT 8.

    >>> max_opset("tensorrt", (8, 5))
    17
    """
    if target == "tensorrt-rtx":
        return RTX_MAX_OPSET
    return max((top for first, top in MAX_OPSET if first <= version), default=MAX_OPSET[0][1])


def _check_graphs(lint: Lint, model: onnx.ModelProto, data: DataFolder | None) -> None:
    elements: dict[int, onnx.NodeProto] = {}
    pending = [Reader(without_functions(model).graph, data)]
    while pending:
        reader = pending.pop()
        _check_types(lint, reader)
        for node in reader.nodes:
            kind = node.op_type
            q = reader.quantizer(node) if kind in QUANTIZERS else None
            if q is not None:
                elements.setdefault(check_quantizer(lint, q, reader), node)
                if node.domain == MICROSOFT:
                    lint.report("microsoft-domain", f"{kind} is of com.microsoft", node=node)
                continue
            if kind in PRODUCTS:
                check_product(lint, node, kind, reader)
            elif kind in UNSUPPORTED or node.domain == MICROSOFT:
                _check_operator(lint, node)
            if kind not in BY_ONNX:
                pending += [Reader(body, data, reader) for body in bodies(node)]
    _check_formats(lint, elements)


def _check_operator(lint: Lint, node: onnx.NodeProto) -> None:
    kind = node.op_type
    if node.domain in DEFAULT_DOMAINS:
        lint.report("unsupported-operator", f"{kind} {UNSUPPORTED[kind]}", node=node)
    elif kind.startswith(INTEGER_OPERATORS):
        why = DYNAMIC if "Dynamic" in kind else INTEGER
        lint.report("unsupported-operator", f"{kind} {why}", node=node)


def _check_types(lint: Lint, reader: Reader) -> None:
    """bfloat16 constants: one finding for the first of them."""
    if lint.in_force("bf16-hardware"):
        for tensor in reader.tensors.values():
            if tensor.data_type == onnx.TensorProto.BFLOAT16:
                lint.report("bf16-hardware", "a constant in bfloat16", tensor=tensor.name)
                return


def _check_formats(lint: Lint, elements: dict[int, onnx.NodeProto]) -> None:
    """One finding about number formats that the whole network has to agree on."""
    if INT8 in elements and FP8[0] in elements:
        lint.report("int8-with-fp8", "a quantizer of fp8 beside int8", node=elements[FP8[0]])
    if INT8 in elements:
        lint.report("int8-hardware", "the network is quantized to int8")
