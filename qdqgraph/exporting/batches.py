"""Batches as the user feeds his model become dicts by the names of the exported inputs.

What a batch may be, tried in this order:

    a dict          by input name of the ONNX file; by argument name of `forward`; or, where the
                    model takes one dict, that dict. Further keys are ignored.
    a tuple, list   where the model takes one sequence, that sequence; one item for each argument
                    that holds tensors, or for each argument of the export; a dict at the end may
                    hold keyword arguments. Items beyond that are labels, and ignored, if none of
                    them looks like an input; if one does, that is an error.
    anything else   the only argument
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from qdqgraph.calibration.data.feeds import is_tensor, nearest, note, quoted
from qdqgraph.calibration.data.references import call, is_reference, resolve
from qdqgraph.errors import CalibrationError
from qdqgraph.exporting.destination import as_path
from qdqgraph.exporting.example import Example, Parameter, StructureError


def batches_of(
    data: object,
    inputs: Sequence[str],
    example: Example | None,
    names: Mapping[str, int] | None,
    notices: list[str],
) -> object:
    """`data` as `qdqgraph.calibrate` takes it: an iterable is bound batch by batch, lazily.

    Paths, folders and arrays are passed on. `names` maps inputs of the model to leaves of
    `example`; without them, batches must be dicts by input name, or fit by position.
    """
    label = type(data).__name__
    path = as_path(data)
    if path is not None:
        text = str(path)
        if os.path.exists(text) or not is_reference(text):
            return path
        data, label = call(resolve(text), text), text
    if callable(data) and not hasattr(data, "__iter__"):
        label = getattr(data, "__name__", label)
        data = call(cast("Callable[[], object]", data), label)
    if example is None or not hasattr(data, "__iter__") or is_tensor(data):
        return data
    if hasattr(data, "__array__") or isinstance(data, (str, bytes, bytearray)):
        return data
    if isinstance(data, Mapping):
        keyed = {str(k): v for k, v in cast("Mapping[object, object]", data).items()}
        return {_input_of(key, example, names): value for key, value in keyed.items()}
    binder = Binder(tuple(inputs), example, names, notices)
    return Batches(cast("Iterable[object]", data), binder)


def _input_of(key: str, example: Example, names: Mapping[str, int] | None) -> str:
    """The input that was made of the argument `key`, or `key` where that is not one input."""
    index = 0
    for parameter in example.parameters:
        if parameter.name == key and not parameter.is_nested:
            return next((n for n, leaf in (names or {}).items() if leaf == index), key)
        index += len(parameter.leaves)
    return key


class Batches:
    """The user's batches, each bound as it is asked for."""

    def __init__(self, data: Iterable[object], binder: Binder) -> None:
        self.data, self.binder = data, binder

    def __iter__(self) -> Iterator[dict[str, object]]:
        for index, batch in enumerate(self.data):
            yield self.binder.bind(batch, f"batch {index}")


@dataclass(frozen=True, slots=True)
class Binder:
    """Binds batches to the inputs of one exported model."""

    inputs: tuple[str, ...]
    example: Example
    names: Mapping[str, int] | None
    notices: list[str]

    def bind(self, batch: object, where: str) -> dict[str, object]:
        """The values of one batch by input name. Raises `CalibrationError` naming `where`."""
        if batch is None:
            raise CalibrationError("the source yields None", where=where, fix="return instead")
        if isinstance(batch, Mapping):
            keyed = {str(k): v for k, v in cast("Mapping[object, object]", batch).items()}
            if all(name in keyed for name in self._needed()):
                return {name: self._value(name, keyed) for name in self.inputs}
        if self.names is None:
            what = "cannot tell which arguments became the inputs of the exported model"
            fix = f"yield dicts with the keys {quoted(self.inputs)}"
            raise CalibrationError(what, where=where, fix=fix)
        given = self._by_argument(cast("object", batch), where)
        leaves: list[object] = []
        for parameter in self.example.parameters:
            if parameter.name not in given:
                leaves += [leaf.number for leaf in parameter.leaves]
                continue
            try:
                leaves += parameter.align(given[parameter.name])
            except StructureError as error:
                fix = "nest each batch as the example arguments of the export"
                raise CalibrationError(str(error), where=where, fix=fix) from None
        return {name: leaves[self.names[name]] for name in self.inputs}

    def _needed(self) -> list[str]:
        """Inputs that are no numbers of the example."""
        if self.names is None:
            return list(self.inputs)
        leaves = self.example.leaves
        return [name for name in self.inputs if leaves[self.names[name]].is_tensor]

    def _value(self, name: str, keyed: Mapping[str, object]) -> object:
        if name in keyed or self.names is None:
            return keyed[name]
        return self.example.leaves[self.names[name]].number

    def _by_argument(self, batch: object, where: str) -> dict[str, object]:
        fed = self.example.fed
        if len(fed) == 1 and fed[0].is_nested and _fits(batch, fed[0]):
            return {fed[0].name: batch}
        if isinstance(batch, Mapping):
            return self._by_key(cast("Mapping[object, object]", batch), where)
        if isinstance(batch, (tuple, list)):
            return self._by_position(list(cast("Sequence[object]", batch)), where)
        if len(fed) == 1:
            return {fed[0].name: batch}
        what = f"one {type(batch).__name__} for a model with {len(fed)} arguments"
        fix = f"yield a tuple, or a dict with the keys {quoted(p.name for p in fed)}"
        raise CalibrationError(what, where=where, fix=fix)

    def _by_key(self, batch: Mapping[object, object], where: str) -> dict[str, object]:
        keyed = {str(key): value for key, value in batch.items()}
        known = {p.name for p in self.example.parameters}
        for parameter in self._read():
            if parameter.name not in keyed:
                close = nearest(parameter.name, [key for key in keyed if key not in known])
                fix = f"rename '{close}' to '{parameter.name}'"
                if close is None:
                    ours = quoted(p.name for p in self._read())
                    fix = f"yield dicts with the keys {ours} (or {quoted(self.inputs)}); given is "
                    fix += quoted(keyed) or "nothing"
                what = f"argument '{parameter.name}' of the model is missing"
                raise CalibrationError(what, where=where, fix=fix)
        return {key: value for key, value in keyed.items() if key in known}

    def _by_position(self, batch: list[object], where: str) -> dict[str, object]:
        everything = self.example.parameters
        named: dict[str, object] = {}
        if batch and isinstance(batch[-1], Mapping):
            last = {str(k): v for k, v in cast("Mapping[object, object]", batch[-1]).items()}
            if last and set(last) <= {p.name for p in everything}:
                named, batch = last, batch[:-1]
                everything = tuple(p for p in everything if p.name not in named)
        fed = tuple(p for p in everything if p.is_fed)
        read = tuple(p for p in self._read() if p.name not in named)
        for wanted in (fed, everything, read):
            if len(batch) == len(wanted):
                return {p.name: v for p, v in zip(wanted, batch, strict=True)} | named
        if len(batch) < len(fed):
            what = f"{len(batch)} values for a model with {len(fed)} arguments"
            fix = f"yield one for each of {quoted(p.name for p in fed)}, or a dict with these keys"
            raise CalibrationError(what, where=where, fix=fix)
        self._check_labels(batch, len(fed), fed, where)
        return {p.name: v for p, v in zip(fed, batch, strict=False)} | named

    def _check_labels(
        self, batch: list[object], count: int, fed: Sequence[Parameter], where: str
    ) -> None:
        """Labels may be ignored, a second image may not."""
        taken = {_look(value) for value in batch[:count]} - {None}
        for position, value in enumerate(batch[count:], count):
            if _look(value) in taken:
                names = quoted(p.name for p in fed)
                what = f"{len(batch)} values for a model that takes {names}, and value {position} "
                what += "has the shape and type of an input"
                kept = ", ".join(f"batch[{i}]" for i in range(count))
                fix = f"yield the inputs alone: calibration=(({kept},) for batch in loader)"
                raise CalibrationError(what, where=where, fix=fix)
        several = f"the last {len(batch) - count}" if len(batch) > count + 1 else "the last"
        note(
            self.notices,
            f"{several} of {len(batch)} values of each batch: taken for labels and ignored",
        )

    def _read(self) -> tuple[Parameter, ...]:
        """Arguments of which at least one tensor is an input of the exported model."""
        indices, found, start = set((self.names or {}).values()), list[Parameter](), 0
        for parameter in self.example.parameters:
            leaves = parameter.leaves
            used = (i for i, leaf in enumerate(leaves, start) if leaf.is_tensor and i in indices)
            found += [parameter] if any(True for _ in used) else []
            start += len(leaves)
        return tuple(found)


def _fits(batch: object, parameter: Parameter) -> bool:
    try:
        parameter.align(batch)
    except StructureError:
        return False
    return True


def _look(value: object) -> tuple[object, ...] | None:
    """Type and shape behind the batch axis of a tensor or array, None for anything else."""
    if not (is_tensor(value) or hasattr(value, "__array__")):
        return None
    tensor = cast("Any", value)
    return (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)[1:])
