"""What a report shows, as plain data: no view, no protobuf, no numpy behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from qdqgraph.proof.findings import Finding
from qdqgraph.proof.layers import Precision, PredictedLayer

Source: TypeAlias = Literal["plan", "file"]


@dataclass(frozen=True, slots=True)
class Counts:
    """The sizes of one model: nodes, products and those with int8 operands, Q and DQ nodes.

    `bytes` is the size of the file with its external data; None when it is not known.
    """

    nodes: int
    products: int
    int8_products: int
    quantizers: int
    bytes: int | None = None


@dataclass(frozen=True, slots=True)
class NodeFact:
    """An ONNX node. `notes` say why it is quantized as it is, or float.

    `reads`, `constants` and `writes` are names of tensors, the constants being what does not depend
    on the network's inputs; `taken` are the reads that come quantized, each either behind a DQ or
    planned. `is_static` says that an engine computes it while it is built.
    """

    name: str
    op: str
    kind: str
    reads: tuple[str, ...]
    constants: tuple[str, ...]
    writes: tuple[str, ...]
    taken: frozenset[str]
    is_static: bool
    is_product: bool
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts by magnitude on a logarithmic scale of 0 to 99, equal bins from 0 to `top`.

    `negative` is empty when no value is below zero.
    """

    top: float
    positive: tuple[int, ...]
    negative: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Channels:
    """Ranges of a per-channel quantizer: minimum, quartiles and maximum of the channels' amax.

    `profile` runs along the channels, at most 64 points, each the largest of its stretch, 0 to 99.
    """

    axis: int
    count: int
    quartiles: tuple[float, float, float, float, float]
    profile: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class QuantizerFact:
    """One scale of the file or of a plan, and the tensor it stands on.

    `codes` is the tensor of integers, `scale` the largest of the scales (None: not known), `amax`
    the largest magnitude that the codes reach, `observed` that of the data.
    """

    tensor: str
    codes: str
    dtype: str
    nodes: tuple[int, ...]
    is_weight: bool
    scale: float | None = None
    zero_point: int = 0
    amax: float | None = None
    observed: float | None = None
    channels: Channels | None = None
    histogram: Histogram | None = None
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GroupFact:
    """Tensors with one scale. `quantizers` are places in the list of quantizers."""

    tensors: tuple[str, ...]
    quantizers: tuple[int, ...]
    scale: float | None
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReportData:
    """All that a report shows.

    `layers` is None without a prediction. `types` gives dtype and shape of a tensor as text.
    `grouped_by` says whether the groups are those of a plan, or equal scales found in the file.
    """

    title: str
    target: str
    verdict: str
    before: Counts | None
    after: Counts
    nodes: tuple[NodeFact, ...]
    layers: tuple[PredictedLayer, ...] | None
    float_between: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    types: dict[str, tuple[str, str]]
    findings: tuple[Finding, ...]
    quantizers: tuple[QuantizerFact, ...]
    groups: tuple[GroupFact, ...]
    grouped_by: Source
    notices: tuple[str, ...] = ()


def precision_of(is_int8: bool) -> Precision:
    """The name of a precision.

    >>> precision_of(True)
    'int8'
    """
    return "int8" if is_int8 else "float"
