"""Dynamic inputs get shapes: the defaults, the user's dimensions, or trtexec's spelling."""

from __future__ import annotations

from typing import Any

import onnx
import pytest
from onnx import helper

from qdqgraph.errors import NoMatchError, UsageError
from qdqgraph.proof.compiler.profiles import (
    ShapeRange,
    Shapes,
    parse_dims,
    parse_shapes,
    profile_of,
)


def model(**inputs: list[int | str | None]) -> onnx.ModelProto:
    """Inputs by name; those that start with `ids` hold int64."""
    kinds = {True: onnx.TensorProto.INT64, False: onnx.TensorProto.FLOAT}
    infos = [
        helper.make_tensor_value_info(name, kinds[name.startswith("ids")], dims)
        for name, dims in inputs.items()
    ]
    return helper.make_model(helper.make_graph([], "g", infos, []))


def test_fixed_inputs_need_no_profile() -> None:
    assert profile_of(model(x=[1, 3])) == {}


def test_every_symbol_and_unknown_dimension_gets_the_default() -> None:
    found = profile_of(model(x=["N", 3, None], y=[2]))
    assert found == {"x": ShapeRange((1, 3, 1), (1, 3, 1), (8, 3, 8))}


def test_a_symbol_means_the_same_in_every_input() -> None:
    asked = Shapes.of(dims=["N=1,4,16", "x:2=7"])
    found = profile_of(model(x=["N", 3, None], y=["N"]), asked)
    assert found == {
        "x": ShapeRange((1, 3, 7), (4, 3, 7), (16, 3, 7)),
        "y": ShapeRange((1,), (4,), (16,)),
    }


def test_shapes_in_the_spelling_of_trtexec() -> None:
    asked = Shapes.of(fixed="y:2", low="x:1x3", opt="x:4x3", high="x:9x3")
    found = profile_of(model(x=["N", 3], y=["M"]), asked)
    assert found == {"x": ShapeRange((1, 3), (4, 3), (9, 3)), "y": ShapeRange((2,), (2,), (2,))}
    assert parse_shapes("a,b:0:1x2,c:3") == {"a,b:0": (1, 2), "c": (3,)}


def test_an_input_that_holds_a_shape_takes_values() -> None:
    asked = Shapes.of(fixed="ids:2x4")
    assert profile_of(model(ids=[2]), asked)["ids"].opt == (2, 4)


def test_a_stored_tensor_listed_as_input_is_none() -> None:
    made = model(w=["N"])
    made.graph.initializer.append(helper.make_tensor("w", onnx.TensorProto.FLOAT, [1], [1.0]))
    assert profile_of(made) == {}


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"dims": ["M=1,2,3"]}, NoMatchError, "no dynamic dimension 'M'.*dimensions: N, x:2"),
        ({"fixed": "z:1"}, NoMatchError, "no input 'z'.*inputs: x, ids"),
        ({"fixed": "x:1x3"}, UsageError, "1x3 does not fit the model's Nx3x\\?"),
        ({"fixed": "x:1x4x5"}, UsageError, "1x4x5 does not fit"),
        ({"opt": "x:2x3x2", "high": "x:1x3x2"}, UsageError, "not in order"),
        ({"low": "x:1x3x1"}, UsageError, "--opt-shapes x:"),
        ({"dims": ["N=8,4,1"]}, UsageError, "not in order"),
        ({"dims": ["N=1,2"]}, UsageError, "NAME=MIN,OPT,MAX"),
        ({"dims": ["N"]}, UsageError, "NAME=MIN,OPT,MAX"),
        ({"fixed": "x:axb"}, UsageError, "not a shape: 'x:axb'"),
    ],
)
def test_what_does_not_fit_says_why(
    given: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        profile_of(model(x=["N", 3, None], ids=[2]), Shapes.of(**given))


def test_a_model_without_dynamic_dimensions_says_so() -> None:
    with pytest.raises(NoMatchError, match="fixed shapes"):
        profile_of(model(x=[1]), Shapes(parse_dims(["N=1,2,3"])))
