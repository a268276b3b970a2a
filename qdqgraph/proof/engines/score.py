"""How well a prediction meets a real engine: precisions, stand-alone layers, fused nodes.

Engines of TensorRT 8 do not name batch norms, DQs, or the Q behind a product, so nodes are compared
that the engine names somewhere. A layer without any such name is recognized by the ONNX tensor that
it writes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from qdqgraph.proof.engines.engine import Engine, EngineLayer
from qdqgraph.proof.layers import PredictedLayer, Prediction


@dataclass(frozen=True, slots=True)
class Miss:
    """A layer on which prediction and engine differ: what each says."""

    layer: str
    subject: str
    predicted: str
    built: str


@dataclass(frozen=True, slots=True)
class Score:
    """Hits and totals of one comparison, and every miss.

    `precisions`: products whose output precision is as predicted. `fused`: layers of the engine
    with exactly the predicted nodes. `standalone_*`: counts of Q, DQ and requantization layers by
    sort. `misses` also holds residual operands of another precision, and stand-alone layers that
    were not predicted.
    """

    precisions: int
    products: int
    fused: int
    layers: int
    standalone_predicted: dict[str, int]
    standalone_built: dict[str, int]
    misses: tuple[Miss, ...]

    @property
    def standalone_right(self) -> bool:
        """True when there are as many stand-alone layers of each sort as predicted."""
        return self.standalone_predicted == self.standalone_built


def score(prediction: Prediction, engine: Engine) -> Score:
    """Compare the predicted layers with an engine built from the same model."""
    known = {name for layer in prediction.layers for name in layer.nodes} | prediction.quantizers
    shown = {name for layer in engine.layers for name in layer.nodes if name in known}
    compute: dict[str, PredictedLayer] = {}
    for guess in prediction.layers:
        for name in guess.nodes if not guess.standalone else ():
            if name not in prediction.quantizers and (name not in compute or not guess.elided):
                compute[name] = guess
    misses = _unforeseen(prediction, engine, known)
    rows = [
        (layer, named)
        for layer in engine.layers
        if not layer.standalone and layer.type not in ("NoOp", "Constant")
        for branch in layer.branches
        if (named := _named(prediction, layer, branch, known, shown))
    ]
    for _, named in rows:
        shown |= named
    precisions = products = fused = 0
    for layer, named in rows:
        guesses = list({id(compute[n]): compute[n] for n in named if n in compute}.values())
        expected = {n for g in guesses for n in g.nodes if n in shown} - prediction.quantizers
        right = len(guesses) == 1 and expected == named
        fused += right
        if not right:
            misses.append(Miss(layer.name, "nodes", _sets(guesses), _joined(named)))
        for guess in guesses:
            if guess.product not in named or layer.output_precision == "other":
                continue
            products += 1
            agrees = guess.output_precision == layer.output_precision
            precisions += agrees
            if not agrees:
                said = f"{guess.output_precision} ({guess.reason})"
                misses.append(Miss(layer.name, "output", said, layer.output_precision))
            others = [tensor.precision for tensor in layer.inputs[1:]]
            if guess.residual is not None and guess.residual.precision not in others:
                said = guess.residual.precision
                misses.append(Miss(layer.name, "residual", said, " ".join(others) or "none"))
    predicted = Counter(layer.standalone for layer in prediction.layers if layer.standalone)
    built = Counter(kind for layer in engine.layers for kind in layer.standalones)
    return Score(
        precisions,
        products,
        fused,
        len(rows),
        {str(kind): count for kind, count in sorted(predicted.items())},
        {str(kind): count for kind, count in sorted(built.items())},
        tuple(misses),
    )


def _unforeseen(prediction: Prediction, engine: Engine, known: set[str]) -> list[Miss]:
    """Stand-alone layers of the engine that no predicted one of the sort accounts for."""
    alone = [guess for guess in prediction.layers if guess.standalone]
    found: list[Miss] = []
    for layer in engine.layers:
        named = {name for name in layer.nodes if name in known}
        for kind in layer.standalones:
            mine = [set(guess.nodes) for guess in alone if guess.standalone == kind]
            if not any(named <= nodes or len(layer.standalones) > 1 for nodes in mine):
                found.append(Miss(layer.name, "standalone", "absorbed", kind))
    return found


def _named(
    prediction: Prediction,
    layer: EngineLayer,
    branch: tuple[str, ...],
    known: set[str],
    shown: set[str],
) -> set[str]:
    """The ONNX nodes of a branch, Q and DQ aside; when none is named, by the tensor it writes."""
    named = {name for name in branch if name in known}
    if layer.name.endswith(" copy"):
        # The copy of one input of a Concat: `<Concat>_<tensor>_clone_<i> copy`.
        ends = [i for i, letter in enumerate(layer.name) if letter == "_"]
        named.update([layer.name[:i] for i in reversed(ends) if layer.name[:i] in known][:1])
    if not named and layer.outputs and layer.type.lower() != "reformat":
        # Helper layers around a named one also write its tensors: they stand for no node.
        writer = prediction.writers.get(layer.outputs[0].name)
        named.update([writer] if writer is not None and writer not in shown else [])
    return named - prediction.quantizers


def _joined(names: set[str]) -> str:
    return " + ".join(sorted(names))


def _sets(guesses: list[PredictedLayer]) -> str:
    return " | ".join(" + ".join(guess.nodes) for guess in guesses)
