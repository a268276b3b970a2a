"""What users write, checked by pyright strict and never run."""

from collections.abc import Iterator

import numpy as np
import onnx

import qdqgraph as qg


@qg.sweep(stage="place")
def keep_first_float(ctx: qg.Context, *, count: int = 1) -> None:
    for node in list(ctx.nodes())[:count]:
        for edge in node.edges:
            ctx.plan.forbid(edge, "the first nodes stay float")


def batches() -> Iterator[dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]]:
    yield {"images": np.zeros((1, 1, 16, 16), np.float32)}


def one_line(model: onnx.ModelProto) -> qg.Model:
    return qg.quantize(model, batches(), target="tensorrt", method="percentile{p=99.9}")


def step_by_step(path: str) -> None:
    pipeline = qg.tensorrt_rtx().before("place-weighted", keep_first_float).without("place-pools")
    plan = qg.plan(qg.open(path), pipeline=pipeline.with_options("share-moved", guard=8))
    reason: str = plan.why("conv1")
    qg.calibrate(plan, batches(), method="mse", samples=8)
    qg.apply(plan, weights="float").save(f"{reason}.onnx", in_place=False)
