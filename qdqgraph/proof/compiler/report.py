"""What became of one graph for one compute capability: a plan, or how it ended without one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, TypeAlias, TypedDict

import onnx

from qdqgraph.proof.compiler.figures import WAITING, Figures, Role, count, role_of
from qdqgraph.proof.compiler.kernels import Kernel, Tensor, read_layers
from qdqgraph.proof.compiler.origins import intended_products, name_of, op_types
from qdqgraph.proof.compiler.profiles import ShapeRange

Outcome: TypeAlias = Literal["built", "refused", "failed", "crashed", "timed-out"]
"""`refused` by the parser, `failed` in the builder."""

NOISE = re.compile(r"\[checkMacros\.cpp[^\n]*cudaError 35[^\n]*")
"""Said on machines without a GPU beside every error."""
RETOLD = re.compile(r"^ModelImporter\.cpp:\d+: ")
"""The log tells each of the parser's errors a second time, in pieces."""
SOURCE_PLACE = re.compile(r" In \w+ at /[^\s)]+")


class Said(TypedDict):
    """One error of the parser."""

    node: str
    index: int
    op: str
    what: str
    inside: bool


class Answer(TypedDict, total=False):
    """What the child says about one file."""

    unusable: str
    version: str
    layers: str
    layers_at_opt: str
    errors: list[str]
    warnings: list[str]
    refusals: list[Said]
    memory: dict[str, int]
    shapes: dict[str, list[list[int]]]
    seconds: list[float]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A node that the parser does not take, by the compiler's name, and why."""

    node: str
    op: str
    what: str


@dataclass(frozen=True, slots=True)
class Report:
    """The plan of one graph for one compute capability.

    `kernels` with their `roles` are empty unless `ok`. `memory` has the bytes of `weights`,
    `activations` (the arena, at the largest shapes) and `scratch` that the log states. `shapes` is
    the optimization profile; bytes are counted at its optimum. `exact` says that every size was
    known. `seconds` is the time of parsing and building.
    """

    outcome: Outcome
    errors: tuple[str, ...] = ()
    kernels: tuple[Kernel, ...] = ()
    figures: Figures = field(default_factory=Figures)
    sm: str = "SM89"
    roles: tuple[Role, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    warnings: tuple[str, ...] = ()
    memory: Mapping[str, int] = field(default_factory=dict[str, int])
    shapes: Mapping[str, ShapeRange] = field(default_factory=dict[str, ShapeRange])
    exact: bool = True
    seconds: float = 0.0
    version: str = ""

    @property
    def ok(self) -> bool:
        """True when a plan was built."""
        return self.outcome == "built"

    def of(self, role: Role) -> tuple[Kernel, ...]:
        """The kernels with this role, in launch order."""
        return tuple(
            kernel for kernel, given in zip(self.kernels, self.roles, strict=True) if given is role
        )

    def to_json(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        figures = asdict(self.figures)
        for key in ("product_nodes", "int8_nodes"):
            figures[key] = sorted(figures[key])
        kernels = [
            {**asdict(kernel), "role": role.name.lower(), "bytes": kernel.traffic}
            for kernel, role in zip(self.kernels, self.roles, strict=True)
        ]
        return {
            "sm": self.sm,
            "outcome": self.outcome,
            "compiler": self.version,
            "figures": figures,
            "memory": dict(self.memory),
            "shapes": {name: shapes._asdict() for name, shapes in self.shapes.items()},
            "exact_bytes": self.exact,
            "errors": list(self.errors),
            "refusals": [asdict(refusal) for refusal in self.refusals],
            "warnings": list(self.warnings),
            "seconds": self.seconds,
            "kernels": kernels,
        }

    def __str__(self) -> str:
        return "\n".join((*self.errors, *map(str, self.kernels)))


def read_answer(model: onnx.ModelProto, answer: Answer, sm: str) -> Report:
    """The report on `model` from what the child said."""
    report = Report(
        "failed",
        errors=_cleaned(answer.get("errors", [])),
        sm=sm,
        warnings=_cleaned(answer.get("warnings", [])),
        memory=answer.get("memory", {}),
        shapes={
            name: ShapeRange(*(tuple(row) for row in rows))
            for name, rows in answer.get("shapes", {}).items()
        },
        seconds=round(sum(answer.get("seconds", [])), 3),
        version=answer.get("version", ""),
    )
    if "refusals" in answer:
        refusals = tuple(_refusal(model, said) for said in answer["refusals"])
        errors = tuple(f"{refusal.node}: {refusal.what}" for refusal in refusals)
        return replace(report, outcome="refused", refusals=refusals, errors=errors or report.errors)
    if not answer.get("layers"):
        return replace(report, errors=report.errors or ("no plan, and no error said why",))
    return _built(model, report, answer)


def _built(model: onnx.ModelProto, report: Report, answer: Answer) -> Report:
    ops, intended = op_types(model), intended_products(model)
    kernels = read_layers(answer.get("layers", ""))
    at_opt = read_layers(answer.get("layers_at_opt", ""))
    sized = with_sizes(kernels, at_opt)
    kernels = sized or kernels
    figures = count(kernels, ops, intended)
    known = all(size >= 0 for k in kernels for t in (*k.inputs, *k.outputs) for size in t.shape)
    if sized is None and at_opt:
        # Other kernels at fixed shapes: their bytes are nearer than unknown sizes taken as one.
        near = count(at_opt, ops, intended)
        figures = replace(figures, act_bytes=near.act_bytes, act_bytes_folded=near.act_bytes_folded)
    return replace(
        report,
        outcome="built",
        kernels=kernels,
        roles=tuple(role_of(kernel, ops) for kernel in kernels),
        figures=figures,
        exact=known,
    )


def with_sizes(kernels: Sequence[Kernel], at_opt: Sequence[Kernel]) -> tuple[Kernel, ...] | None:
    """The kernels of a dynamic plan with the shapes of the plan for its optimum.

    None when the two are not the same kernels one by one, those aside that only wait.
    """
    fixed = iter([kernel for kernel in at_opt if kernel.type not in WAITING])
    found: list[Kernel] = []
    for kernel in kernels:
        if kernel.type in WAITING:
            found.append(kernel)
            continue
        twin = next(fixed, None)
        if twin is None or _kind(twin) != _kind(kernel):
            return None
        found.append(
            replace(
                kernel,
                inputs=_shaped(kernel.inputs, twin.inputs),
                outputs=_shaped(kernel.outputs, twin.outputs),
            )
        )
    return tuple(found) if next(fixed, None) is None else None


def _kind(kernel: Kernel) -> tuple[object, ...]:
    types = (tuple(t.dtype for t in kernel.inputs), tuple(t.dtype for t in kernel.outputs))
    return kernel.type, frozenset(kernel.nodes), types


def _shaped(tensors: Sequence[Tensor], twins: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return tuple(replace(t, shape=twin.shape) for t, twin in zip(tensors, twins, strict=True))


def _refusal(model: onnx.ModelProto, said: Said) -> Refusal:
    node, index = said["node"], said["index"]
    nodes = model.graph.node
    if not node and not said["inside"] and 0 <= index < len(nodes):
        node = name_of(nodes[index]) if nodes[index].op_type == said["op"] else ""
    what = " ".join(_cleaned(said["what"].splitlines())) or said["what"]
    return Refusal(node, said["op"], what.removeprefix(f"Invalid Node - {node} "))


def _cleaned(messages: Sequence[str]) -> tuple[str, ...]:
    """Each message once, on one line, without what every machine without a GPU says."""
    kept = (SOURCE_PLACE.sub("", NOISE.sub("", m)) for m in messages if not RETOLD.match(m))
    return tuple(dict.fromkeys(text for m in kept if (text := " ".join(m.split()))))
