"""Arrays whose first axis counts samples become feeds of the model's batch.

    (samples, 3, 8, 8)  →  rows of (1, 3, 8, 8)  →  feeds of (N, 3, 8, 8)

N is the model's first dimension where that is fixed, else 1. An array with one axis more than
its input holds a whole input in each row and is not stacked; a rank-0 array is one value for
all rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qdqgraph.calibration.data.conform import fits
from qdqgraph.calibration.data.feeds import Array, InputSpec, nearest, note, quoted, show_shape
from qdqgraph.errors import CalibrationError


@dataclass(frozen=True, slots=True)
class Row:
    """One sample of a file: arrays of batch 1 by input name, `batch` of which make a feed."""

    origin: str
    arrays: Mapping[str, Array]
    batch: int


def match_names(
    names: Sequence[str],
    inputs: Sequence[InputSpec],
    label: str,
    selected: str | None,
    notices: list[str],
) -> dict[str, str]:
    """Map each input to the array that feeds it: the one selected, the only one, or by name.

    Arrays that feed no input, such as labels, are noted. Raises CalibrationError with the
    arrays there are and the nearest name where an input finds none.
    """
    holds = f"{label} holds {quoted(names) or 'no array'}"
    wanted = [spec.name for spec in inputs]
    if selected is not None:
        if len(wanted) != 1:
            what = f"'{label}:{selected}' is one array, the model takes {quoted(wanted)}"
            fix = "give the file alone, its arrays named like the inputs"
            raise CalibrationError(what, where="sample 0", fix=fix)
        if selected not in names:
            close = nearest(selected, names) or (names[0] if names else "name")
            what = f"no array '{selected}'; {holds}"
            raise CalibrationError(what, where="sample 0", fix=f"such as {label}:{close}")
        return {wanted[0]: selected}
    if len(wanted) == 1 and len(names) == 1:
        return {wanted[0]: names[0]}
    for name in wanted:
        if name not in names:
            close = nearest(name, names)
            fix = f"rename its arrays to {quoted(wanted)}"
            if close is not None:
                fix = f"rename its array '{close}' to '{name}'"
            if len(wanted) == 1 and names:
                fix += f", or pick one with {label}:{close or names[0]}"
            what = f"no array for input '{name}'; {holds}"
            raise CalibrationError(what, where="sample 0", fix=fix)
    unused = [name for name in names if name not in wanted]
    if unused:
        note(notices, f"{label}: {quoted(unused)} feed no input and are left out")
    return {name: name for name in wanted}


def rows(table: Mapping[str, Array], inputs: Sequence[InputSpec], label: str) -> Iterator[Row]:
    """Yield the samples of a table that maps every input to its array.

    Raises CalibrationError where a rank does not fit or the arrays differ in length.
    """
    lengths: dict[str, int] = {}
    batches: set[int] = set()
    whole: set[str] = set()
    for spec in inputs:
        array = table[spec.name]
        rank = array.ndim if spec.shape is None else len(spec.shape)
        if array.ndim == rank == 0:
            continue
        lengths[spec.name] = len(array) if array.ndim else 0
        if array.ndim == rank + 1:
            whole.add(spec.name)
            batches.add(1)
        elif array.ndim != rank:
            raise _rank_error(array, spec, label)
        elif spec.shape and isinstance(spec.shape[0], int):
            batches.add(spec.shape[0])
    if len(set(lengths.values())) > 1:
        each = ", ".join(f"'{name}' has {length}" for name, length in lengths.items())
        what = f"the arrays of {label} differ in their number of samples: {each}"
        raise CalibrationError(what, where="sample 0", fix="make their first axes equally long")
    if len(batches) > 1:
        what = f"the inputs of {label} have no common batch, but {sorted(batches)}"
        fix = "save whole feeds: every array with one axis more than its input"
        raise CalibrationError(what, where=f"sample 0, tensor {quoted(lengths)}", fix=fix)
    batch = max(batches.pop() if batches else 1, 1)
    for i in range(next(iter(lengths.values()), 1)):
        arrays: dict[str, Array] = {}
        for name, array in table.items():
            if name not in lengths:
                arrays[name] = array
            else:
                arrays[name] = np.asarray(array[i]) if name in whole else array[i : i + 1]
        yield Row(f"{label}[{i}]", arrays, batch)


def stack(samples: Iterable[Row], notices: list[str]) -> Iterator[tuple[str, dict[str, Array]]]:
    """Join rows to feeds of their batch, and yield each with its origin.

    Rows left over at the end are dropped with a notice; where they are all there is, raises
    CalibrationError.
    """
    pending: list[Row] = []
    fed = False
    for row in samples:
        if pending and pending[0].batch != row.batch:
            what = f"feeds of {pending[0].batch} and of {row.batch} samples are mixed"
            fix = f"save {quoted(row.arrays)} with the same number of axes in all files"
            raise CalibrationError(what, where=f"{pending[0].origin} and {row.origin}", fix=fix)
        pending.append(row)
        if len(pending) == row.batch:
            yield _join(pending)
            pending, fed = [], True
    if not pending:
        return
    batch, origin = pending[0].batch, pending[0].origin
    if not fed:
        what = f"{len(pending)} sample(s) do not fill the model's batch of {batch}"
        tensors = quoted(pending[0].arrays)
        fix = f"give at least {batch}, or export the model with a batch of 1 or a dynamic one"
        raise CalibrationError(what, where=f"sample 0 ({origin}), tensor {tensors}", fix=fix)
    note(
        notices,
        f"the last {len(pending)} sample(s), from {origin}, do not fill a batch of {batch} "
        "and are dropped",
    )


def split(
    given: Mapping[str, Array], inputs: Sequence[InputSpec], where: str, notices: list[str]
) -> Iterator[tuple[str, dict[str, Array]]]:
    """Cut a batch into feeds of the model's fixed batch, each with its range as "[4:8]".

    Inputs that fit as they are go whole into each feed, except those with a dynamic batch that
    equals the one being cut. What does not fill the last feed is dropped with a notice.
    """
    cut = {
        (len(given[spec.name]), spec.shape[0])
        for spec in inputs
        if spec.shape
        and isinstance(spec.shape[0], int)
        and given[spec.name].ndim == len(spec.shape)
        and len(given[spec.name]) != spec.shape[0] > 0
        and fits(given[spec.name].shape[1:], spec.shape[1:])
    }
    if not cut:
        yield "", dict(given)
        return
    if len(cut) > 1:
        what = "the inputs have no common batch to split: "
        what += ", ".join(f"{total} into {batch}" for total, batch in sorted(cut))
        fix = f"yield {quoted(given)} in the shapes the model takes"
        raise CalibrationError(what, where=f"{where}, tensor {quoted(given)}", fix=fix)
    total, batch = cut.pop()
    shared = {
        spec.name
        for spec in inputs
        if given[spec.name].shape[:1] != (total,) or (spec.shape or ())[:1] == (total,)
    }
    for start in range(0, total - batch + 1, batch):
        end = start + batch
        part = {n: array if n in shared else array[start:end] for n, array in given.items()}
        yield f"[{start}]" if batch == 1 else f"[{start}:{end}]", part
    if total % batch:
        note(
            notices,
            f"{where}: the last {total % batch} of {total} do not fill a batch of {batch} "
            "and are dropped",
        )


def _join(parts: Sequence[Row]) -> tuple[str, dict[str, Array]]:
    first = parts[0]
    if len(parts) == 1:
        return first.origin, dict(first.arrays)
    joined: dict[str, Array] = {}
    for name, array in first.arrays.items():
        stacked = [part.arrays[name] for part in parts]
        joined[name] = np.concatenate(stacked) if array.ndim else array
    return f"{first.origin}..{parts[-1].origin}", joined


def _rank_error(array: Array, spec: InputSpec, label: str) -> CalibrationError:
    shape = spec.shape or ()
    what = (
        f"the array for input '{spec.name}' has shape {show_shape(array.shape)}; its first axis "
        f"counts samples, so {show_shape(('samples', *shape[1:]))} is expected"
    )
    fix = f"reshape the array for '{spec.name}'"
    if fits(array.shape, shape[1:]):
        fix = "for a single sample, save array[None]"
    return CalibrationError(what, where=f"sample 0 ({label}[0])", fix=fix)
