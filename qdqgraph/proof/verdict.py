"""All that is known of a file before any engine is built: findings and a prediction."""

from __future__ import annotations

from dataclasses import dataclass

from qdqgraph.pipeline.targets import Version
from qdqgraph.proof.contract import check_contract
from qdqgraph.proof.contract_rules import ContractTarget
from qdqgraph.proof.findings import Finding, gravest_first
from qdqgraph.proof.layers import Prediction
from qdqgraph.proof.placement import judge_placement
from qdqgraph.proof.predictor import predict
from qdqgraph.storage.load import LoadedModel


@dataclass(frozen=True, slots=True)
class Proof:
    """What TensorRT refuses or misreads, what stands in the wrong place, and its layers."""

    findings: list[Finding]
    prediction: Prediction | None

    @property
    def line(self) -> str:
        """The verdict in one line."""
        return self.prediction.verdict if self.prediction else "layers are not predicted"


def prove(
    loaded: LoadedModel, target: ContractTarget, version: Version, sm: int | None = None
) -> Proof:
    """Check the contract, predict the layers, and judge the placement of Q and DQ.

    Raises `InvalidGraphError` for a graph that is not legal.
    """
    prediction = None
    if target == "tensorrt":
        prediction = predict(loaded.model, version=version, folder=loaded.base_dir)
    contract = check_contract(loaded.model, target=target, version=version, data=loaded.data, sm=sm)
    return Proof(
        gravest_first([*contract, *(judge_placement(prediction) if prediction else ())]), prediction
    )
