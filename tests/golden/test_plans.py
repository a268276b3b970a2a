"""What is planned for each topology and target, reviewed by a human as a text of one line an edge.

`QDQGRAPH_UPDATE_GOLDEN=1 pytest tests/golden` rewrites the texts; read the diff before you commit.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path

import pytest

import qdqgraph as qg
from tests.golden.rendering import rendered
from tests.networks import composites, joins, products, residuals
from tests.networks.net import Network

HERE = Path(__file__).parent
TARGETS = ("tensorrt", "tensorrt-rtx", "onnxruntime")
TOPOLOGIES: dict[str, Network] = {
    "attention": composites.attention,
    "boxes_and_scores": joins.boxes_and_scores,
    "c2f": joins.c2f,
    "concat_chain": joins.concat_chain,
    "conv_chain": products.conv_chain,
    "conv_transpose": products.conv_transpose,
    "dense_block": joins.dense_block,
    "depthwise_silu": products.depthwise_silu,
    "fork_to_movers": joins.fork_to_movers,
    "inception": joins.inception,
    "layer_norm": composites.layer_norm,
    "movers": joins.movers,
    "packed_attention": composites.packed_attention,
    "packed_attention_float": lambda: composites.packed_attention(dimension=48),
    "residual_both_convs": residuals.both_convs,
    "residual_downsample": residuals.downsample,
    "residual_float_reader": residuals.float_reader,
    "residual_identity": residuals.identity,
    "small_channels": products.small_channels,
    "squeeze_excite": joins.squeeze_excite,
    "stem_pool": joins.stem_pool,
    "sum_of_three": residuals.sum_of_three,
    "windows": composites.windows,
}


def plans_of(network: Network) -> str:
    """The plans for all targets, under a heading each."""
    return "\n".join(
        f"{target}\n{rendered(qg.plan(network(), target=target))}" for target in TARGETS
    )


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_the_plan_is_the_reviewed_one(name: str) -> None:
    made, path = plans_of(TOPOLOGIES[name]), HERE / f"{name}.txt"
    if os.environ.get("QDQGRAPH_UPDATE_GOLDEN"):
        path.write_text(made, "utf-8")
    kept = path.read_text("utf-8") if path.exists() else ""
    changes = difflib.unified_diff(
        kept.splitlines(), made.splitlines(), path.name, "planned", lineterm=""
    )
    shown = "\n".join(changes)
    assert not shown, f"\n{shown}\nif this is meant: QDQGRAPH_UPDATE_GOLDEN=1 pytest tests/golden"


def test_every_golden_text_has_its_topology() -> None:
    assert {path.stem for path in HERE.glob("*.txt")} == set(TOPOLOGIES)
