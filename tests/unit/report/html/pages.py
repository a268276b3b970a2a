"""Reports on small networks, and their parts read back out of the page."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from html.parser import HTMLParser
from typing import Any

import onnx

import qdqgraph as qg
from qdqgraph.job import ModelPlan
from qdqgraph.proof.classic.predictor import predict
from qdqgraph.proof.contract.checking import check_contract
from qdqgraph.proof.layers import Prediction
from qdqgraph.report.html import count_model, render_report
from tests.networks import joins, residuals

NETWORKS = {
    "downsample": residuals.downsample,
    "inception": joins.inception,
    "dense_block": joins.dense_block,
}


@dataclass
class Case:
    """A network quantized on random data, its plan and its prediction."""

    source: onnx.ModelProto
    made: ModelPlan
    model: onnx.ModelProto
    prediction: Prediction

    def page(self, **more: Any) -> str:
        """The report with all that is known."""
        given: dict[str, Any] = {
            "model": self.model,
            "prediction": self.prediction,
            "findings": check_contract(self.model, target="tensorrt", version=(10,)),
            "plan": self.made,
            "statistics": self.made.statistics,
            "before": count_model(self.source, 1000),
            "size": 400,
            "title": "net.onnx",
        }
        return render_report(**{**given, **more})


def quantized(source: onnx.ModelProto, method: str = "mse") -> Case:
    """The whole job on random data."""
    made = qg.plan(source)
    qg.calibrate(made, random=True, samples=2, method=method)
    model = qg.apply(made).proto
    return Case(source, made, model, predict(model))


@cache
def case(name: str) -> Case:
    """One of the networks, quantized once; not to be changed."""
    return quantized(NETWORKS[name]())


@dataclass
class Page(HTMLParser):
    """The elements of a page as a browser would see them, and the JSON in it."""

    text: str
    tags: list[str] = field(default_factory=list)
    attributes: list[tuple[str, str | None]] = field(default_factory=list)
    scripts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.feed(self.text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] == "script":
            self.scripts[-1] += data

    @property
    def data(self) -> dict[str, Any]:
        """What the scripts of the page read."""
        return json.loads(self.scripts[0])


def rows(data: dict[str, Any], view: str = "layers") -> list[dict[str, Any]]:
    """The boxes of a view, the pills of inputs and outputs left out."""
    return [row for row in data["views"][view]["rows"] if row["k"] not in ("input", "output")]
