"""All that is known of a file before any engine is built: findings and a prediction."""

from __future__ import annotations

from dataclasses import dataclass

from qdqgraph.pipeline.targets import Version
from qdqgraph.proof.classic.predictor import predict
from qdqgraph.proof.contract.checking import check_contract
from qdqgraph.proof.contract.rules import ContractTarget
from qdqgraph.proof.findings import Finding, gravest_first
from qdqgraph.proof.layers import Prediction
from qdqgraph.proof.placement import judge_placement
from qdqgraph.proof.reading.pausing import collector_paused
from qdqgraph.proof.rtx.predictor import RtxPrediction, predict_rtx
from qdqgraph.storage.load import LoadedModel


@dataclass(frozen=True, slots=True)
class Proof:
    """What TensorRT refuses or misreads, what stands in the wrong place, and its layers.

    `line` is the verdict. `rtx` is the whole prediction for TensorRT-RTX, None for the classic
    target; `prediction` are the layers of either.
    """

    findings: list[Finding]
    line: str
    prediction: Prediction
    rtx: RtxPrediction | None = None


def prove(
    loaded: LoadedModel, target: ContractTarget, version: Version, sm: int | None = None
) -> Proof:
    """Check the contract, predict the layers, and judge the placement of Q and DQ.

    Raises `InvalidGraphError` for a graph that is not legal.
    """
    with collector_paused():
        return _proved(loaded, target, version, sm)


def _proved(loaded: LoadedModel, target: ContractTarget, version: Version, sm: int | None) -> Proof:
    model, folder = loaded.model, loaded.base_dir
    contract = check_contract(model, target=target, version=version, data=loaded.data, sm=sm)
    if target == "tensorrt-rtx":
        rtx = predict_rtx(model, folder=folder)
        found = gravest_first([*contract, *rtx.findings])
        return Proof(found, rtx.verdict, rtx.prediction, rtx)
    prediction = predict(model, target=target, version=version, folder=folder)
    found = gravest_first([*contract, *judge_placement(prediction)])
    return Proof(found, prediction.verdict, prediction)
