"""Batches as users feed their models, bound to the inputs of the exported file."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from qdqgraph.calibration.data.feeds import InputSpec
from qdqgraph.errors import CalibrationError
from qdqgraph.exporting.batches import Binder, batches_of
from qdqgraph.exporting.example import Example, assign_inputs, example_of

FLOAT = np.dtype(np.float32)
IMAGE, OTHER, SMALL = torch.zeros(2, 3, 8, 8), torch.ones(2, 3, 8, 8), torch.zeros(2, 5)
LABELS = torch.zeros(2, dtype=torch.int64)


class One(torch.nn.Module):
    def forward(self, x: object) -> object: ...


class Two(torch.nn.Module):
    def forward(self, x: object, y: object, flag: bool = False, scale: object = None) -> object: ...


def spec(name: str, tensor: torch.Tensor) -> InputSpec:
    return InputSpec(name, FLOAT, tuple(tensor.shape))


def binder(example: Example, *specs: InputSpec) -> Binder:
    return Binder(tuple(s.name for s in specs), example, assign_inputs(example, specs), [])


def one() -> Binder:
    return binder(example_of(One(), (IMAGE,), None, dynamo=True), spec("in0", IMAGE))


def two() -> Binder:
    example = example_of(Two(), (IMAGE, SMALL, True), None, dynamo=True)
    return binder(example, spec("in0", IMAGE), spec("in1", SMALL))


@pytest.mark.parametrize(
    "batch", [IMAGE, (IMAGE,), [IMAGE], {"x": IMAGE}, {"in0": IMAGE}, {"x": IMAGE, "label": 3}]
)
def test_the_only_input_comes_alone_or_by_either_name(batch: object) -> None:
    assert one().bind(batch, "")["in0"] is IMAGE


@pytest.mark.parametrize(
    "batch",
    [
        (IMAGE, SMALL),
        [IMAGE, SMALL, False],
        {"y": SMALL, "x": IMAGE},
        {"in1": SMALL, "in0": IMAGE, "unread": 1},
        (IMAGE, {"y": SMALL}),
    ],
)
def test_several_arguments_by_position_or_key(batch: object) -> None:
    bound = two().bind(batch, "")
    assert bound["in0"] is IMAGE
    assert bound["in1"] is SMALL


@pytest.mark.parametrize(
    "labels", [LABELS, torch.zeros(2, 8, 8, dtype=torch.int64), 3, "cat", [{"boxes": SMALL}], SMALL]
)
def test_labels_behind_the_input_are_ignored_and_that_is_said(labels: object) -> None:
    binding = one()
    assert binding.bind((IMAGE, labels), "")["in0"] is IMAGE
    assert binding.notices == ["the last of 2 values of each batch: taken for labels and ignored"]


def test_what_may_be_an_input_is_no_label() -> None:
    with pytest.raises(CalibrationError, match=r"value 1 has the shape and type of an input") as e:
        one().bind((IMAGE, OTHER), "batch 3")
    assert e.value.where == "batch 3"
    assert e.value.fix == "yield the inputs alone: calibration=((batch[0],) for batch in loader)"


@pytest.mark.parametrize(
    ("batch", "text"),
    [
        ({"X": IMAGE}, "argument 'x' of the model is missing .*rename 'X' to 'x'"),
        ({"pixel": IMAGE}, "argument 'x' of the model is missing .*given is 'pixel'"),
        (None, "the source yields None"),
        ((), "0 values for a model with 1 arguments"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(batch: object, text: str) -> None:
    with pytest.raises(CalibrationError, match=text):
        one().bind(batch, "batch 0")


def test_one_tensor_for_two_arguments_is_refused() -> None:
    with pytest.raises(CalibrationError, match=r"one Tensor for a model with 2 arguments .*'x'"):
        two().bind(IMAGE, "batch 0")


@pytest.mark.parametrize(
    "batch",
    [{"b": OTHER, "a": IMAGE}, ({"a": IMAGE, "b": OTHER},), {"x": {"b": OTHER, "a": IMAGE}}],
)
def test_a_dict_argument_is_flattened_in_the_order_of_the_example(batch: object) -> None:
    example = example_of(One(), ({"a": IMAGE, "b": OTHER}, {}), None, dynamo=True)
    bound = binder(example, spec("x_a", IMAGE), spec("x_b", OTHER)).bind(batch, "")
    assert bound["x_a"] is IMAGE
    assert bound["x_b"] is OTHER


def test_a_list_argument_is_not_mistaken_for_inputs_and_labels() -> None:
    example = example_of(One(), ([IMAGE, OTHER],), None, dynamo=True)
    binding = binder(example, spec("x_0", IMAGE), spec("x_1", OTHER))
    for batch in ([IMAGE, OTHER], (IMAGE, OTHER), ([IMAGE, OTHER],), ((IMAGE, OTHER), LABELS)):
        assert binding.bind(batch, "")["x_1"] is OTHER
    with pytest.raises(CalibrationError, match=r"x has 1 items, the example has 2"):
        binding.bind({"x": [IMAGE]}, "batch 0")


@dataclass
class Pair:
    left: torch.Tensor
    right: torch.Tensor


def test_a_registered_dataclass_is_flattened_as_torch_does() -> None:
    torch.export.register_dataclass(Pair, serialized_type_name="tests.Pair")
    example = example_of(One(), (Pair(IMAGE, OTHER),), None, dynamo=True)
    bound = binder(example, spec("l", IMAGE), spec("r", OTHER)).bind(Pair(OTHER, IMAGE), "")
    assert bound["l"] is OTHER
    assert bound["r"] is IMAGE


def test_inputs_an_exporter_dropped_are_found_out_by_shape_or_by_name() -> None:
    example = example_of(Two(), (SMALL, IMAGE), None, dynamo=False)
    assert assign_inputs(example, [spec("in", IMAGE)]) == {"in": 1}
    alike = example_of(Two(), (IMAGE, IMAGE), None, dynamo=False)
    assert assign_inputs(alike, [spec("in", IMAGE)]) is None
    assert assign_inputs(alike, [spec("v", IMAGE)], ("u", "v")) == {"v": 1}


def test_where_the_inputs_are_uncertain_dicts_by_input_name_are_asked_for() -> None:
    alike = example_of(Two(), (IMAGE, IMAGE), None, dynamo=False)
    binding = binder(alike, spec("in", IMAGE))
    assert binding.bind({"in": IMAGE}, "")["in"] is IMAGE
    with pytest.raises(CalibrationError, match=r"cannot tell .*yield dicts with the keys 'in'"):
        binding.bind((IMAGE, IMAGE), "batch 0")


def test_keyword_arguments_stand_in_the_order_of_each_exporter() -> None:
    kwargs = {"scale": IMAGE, "y": SMALL}
    for dynamo, order in ((True, ["x", "scale", "y"]), (False, ["x", "y", "scale"])):
        example = example_of(Two(), (LABELS,), kwargs, dynamo=dynamo)
        assert [p.name for p in example.parameters] == order


def test_numbers_that_became_inputs_take_the_example_s_value() -> None:
    example = example_of(Two(), (IMAGE, SMALL, True, 2.5), None, dynamo=False)
    double = np.dtype(np.float64)
    specs = [
        spec("in0", IMAGE),
        spec("in1", SMALL),
        InputSpec("in2", np.dtype(np.bool_), ()),
        InputSpec("in3", double, ()),
    ]
    bound = binder(example, *specs).bind((IMAGE, SMALL), "")
    assert (bound["in2"], bound["in3"]) == (True, 2.5)


def test_files_arrays_and_callables_are_passed_on(tmp_path: object) -> None:
    example = example_of(One(), (IMAGE,), None, dynamo=True)
    names = {"in0": 0}
    array = IMAGE.numpy()
    assert batches_of(array, ["in0"], example, names, []) is array
    assert batches_of(IMAGE, ["in0"], example, names, []) is IMAGE
    assert batches_of({"x": array}, ["in0"], example, names, []) == {"in0": array}
    assert str(batches_of("no/such.npz", ["in0"], example, names, [])) == "no/such.npz"
    called = batches_of(lambda: [(IMAGE, LABELS)], ["in0"], example, names, [])
    assert [list(item) for item in called] == [["in0"]]  # type: ignore[attr-defined]
