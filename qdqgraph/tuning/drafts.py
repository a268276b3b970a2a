"""A quantized model for each placement without any data: every scale group gets a scale of its own.

A compiler looks at where pairs stand and which scales are equal, not at how large they are. So the
k-th group gets the k-th number of a fixed grid, and weights the scales of their largest magnitude.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import onnx

from qdqgraph.calibration.methods import parse_method
from qdqgraph.calibration.ranges import Ranges, choose_activations, choose_weights
from qdqgraph.job import ModelPlan, apply, plan
from qdqgraph.model import Model, open_model
from qdqgraph.pipeline.pipeline import Pipeline
from qdqgraph.planning.spec import Encoding, QuantSpec

CODES = 127.0
FIRST_OCTAVE = -7
STEPS, STEPS_OF_BFLOAT16 = 1024, 128
"""Numbers an octave that float16 and bfloat16 tell apart."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A plan, and a key that is equal for equal placements, whatever passes made them."""

    plan: ModelPlan
    key: str


class Drafts:
    """Plans and quantized copies of one model, which stays as it is.

    Raises, when made and by `of`, what opening and planning raise.
    """

    def __init__(self, source: object, trt_version: str = "10") -> None:
        opened = open_model(source)
        self.loaded = opened.loaded
        self.trt_version = trt_version
        self._float = opened.proto
        self._weights: dict[tuple[str, QuantSpec], Encoding] = {}

    def of(self, pipeline: Pipeline) -> Draft:
        """The placement of a pipeline."""
        copied = onnx.ModelProto()
        copied.CopyFrom(self._float)
        made = plan(Model(copied, self.loaded), pipeline=pipeline, trt_version=self.trt_version)
        return Draft(made, placement_key(made))

    def model(self, draft: Draft) -> Model:
        """The draft with Q/DQ in place. The draft's plan is used up by this."""
        made = draft.plan
        self._scale_weights(made)
        _bound_activations(made)
        unused = Ranges({}, {})
        choose_activations(made, unused, made.dialect, parse_method("max"))
        return apply(made, allow_empty=True)

    def _scale_weights(self, made: ModelPlan) -> None:
        """Ranges of weights are looked for once, not for each draft."""
        weights = [q for q in made.used() if q.source.is_const and q.encoding is None]
        for quantizer in weights:
            quantizer.encoding = self._weights.get((quantizer.source.name, quantizer.spec))
        choose_weights(made, "max")
        for quantizer in weights:
            if quantizer.encoding is not None:
                self._weights[quantizer.source.name, quantizer.spec] = quantizer.encoding


def _bound_activations(made: ModelPlan) -> None:
    members = made.members()
    coarse = any(q.source.dtype == "bfloat16" for group in members.values() for q in group)
    for place, name in enumerate(sorted(members)):
        for quantizer in members[name]:
            if quantizer.encoding is None and quantizer.bound is None:
                quantizer.bound = CODES * grid(place, STEPS_OF_BFLOAT16 if coarse else STEPS)


def grid(place: int, steps: int = STEPS) -> float:
    """The number at this place of a grid with so many an octave, from 1/128 on.

    >>> grid(0), grid(1) - grid(0), grid(1024)
    (0.0078125, 7.62939453125e-06, 0.015625)
    """
    octave, step = divmod(place, steps)
    return float(2.0 ** (FIRST_OCTAVE + octave) * (1 + step / steps))


def placement_key(made: ModelPlan) -> str:
    """A hash of quantized reads with their quantizers, groups and formats."""
    rows = sorted(
        (
            entry.edge.node.key,
            entry.edge.index,
            entry.quantizer.id,
            made.group_of(entry.quantizer),
            str(entry.quantizer.spec),
            entry.carried,
        )
        for entry in made.entries.values()
    )
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
