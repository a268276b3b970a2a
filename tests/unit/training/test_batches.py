"""A batch becomes a call: by position, by name, labels left out, mistakes named."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from qdqgraph.errors import CalibrationError
from qdqgraph.frontends.torch_fx import capture
from qdqgraph.training.batches import Signature, as_call

A, B, C = torch.zeros(1), torch.ones(1), torch.full((1,), 2.0)


class Module(nn.Module):
    def forward(
        self, x: torch.Tensor, flag: bool = True, mask: torch.Tensor | None = None, **more: Any
    ) -> torch.Tensor:
        return x


class Many(nn.Module):
    def forward(self, *xs: torch.Tensor) -> torch.Tensor:
        return xs[0]


ONE = Signature.of_call(Module(), (A,))
TWO = Signature.of_call(Module(), (A,), {"mask": B})
FLAG = Signature.of_call(Module(), (A, True, B))


@pytest.mark.parametrize(
    ("signature", "batch", "args", "kwargs"),
    [
        (ONE, A, (A,), {}),
        (ONE, (A,), (A,), {}),
        (ONE, [A, B], (A,), {}),
        (ONE, {"x": A, "label": B}, (A,), {}),
        (TWO, (A, B), (A,), {"mask": B}),
        (TWO, (A, B, C), (A,), {"mask": B}),
        (TWO, {"mask": B, "x": A}, (A,), {"mask": B}),
        (FLAG, (A, B), (A, True, B), {}),
        (FLAG, (A, False, B), (A, False, B), {}),
        (FLAG, (A, B, C), (A, True, B), {}),
        (FLAG, {"x": A, "mask": B, "flag": False}, (A, False, B), {}),
    ],
)
def test_calls(
    signature: Signature, batch: object, args: tuple[object, ...], kwargs: dict[str, object]
) -> None:
    found, named = as_call(batch, signature)
    assert len(found) == len(args)
    assert all(a is b for a, b in zip(found, args, strict=True))
    assert named.keys() == kwargs.keys()
    assert all(named[key] is kwargs[key] for key in kwargs)


def test_a_list_can_be_the_only_input() -> None:
    signature = Signature.of_call(Module(), ([A, B],))
    for batch in ([A, B], ([A, B],), ([A, B], C), {"x": [A, B]}):
        (found,), _ = as_call(batch, signature)
        assert isinstance(found, list)
        assert found[0] is A
        assert found[1] is B


def test_variadic_inputs_are_numbered() -> None:
    signature = Signature.of_call(Many(), (A, B))
    assert signature.names == ("xs_0", "xs_1")
    assert as_call((A, B, C), signature) == ((A, B), {})


@pytest.mark.parametrize(
    ("signature", "batch", "message"),
    [
        (ONE, None, r"the batch is None \[sample 3\]: yield the inputs 'x'"),
        (TWO, A, r"input 'mask' is missing \[sample 3\]: yield a tuple of 'x', 'mask'"),
        (TWO, (A,), "input 'mask' is missing"),
        (TWO, {"x": A, "Mask": B}, "rename 'Mask' to 'mask'"),
        (TWO, {"image": A, "mask": B}, "given is 'image', 'mask'"),
        (FLAG, {"x": A, "mask": B, "flags": False}, "has no input 'flags'.*rename 'flags'"),
    ],
)
def test_mistakes_are_named(signature: Signature, batch: object, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        as_call(batch, signature, "sample 3")


class Mixed(nn.Module):
    def forward(
        self, x: torch.Tensor, scale: float, *, masks: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        return x * scale + masks["a"] - masks["b"]


def test_a_capture_and_a_call_have_the_same_signature() -> None:
    args, kwargs = (A, 2.0), {"masks": {"a": B, "b": C}}
    captured = Signature.of_captured(capture(Mixed(), args, kwargs))
    called = Signature.of_call(Mixed(), args, kwargs)
    assert captured.names == called.names == ("x", "scale", "masks")
    assert captured.positional == called.positional == ("x", "scale")
    assert captured.tensors == called.tensors == ("x", "masks")
    assert captured.constants == called.constants == {"scale": 2.0}
