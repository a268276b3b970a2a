"""Every error the library raises on purpose.

    QdqGraphError                 exit code
    ├── UsageError                    2   an option, pattern or rule cannot be honoured
    │   ├── NoMatchError              2   a name or pattern matches nothing
    │   ├── ConflictError             2   two rules contradict each other
    │   └── MismatchError             2   a trained network and a file do not fit together
    ├── ModelLoadError                3   the model file cannot be read
    │   └── InvalidGraphError         3   it can be read, but is not a legal graph
    ├── CaptureError                  3   a torch module cannot be captured
    ├── CalibrationError              4   the calibration data is missing or unusable
    ├── NothingToQuantizeError        5   no operator of the model takes a quantizer
    ├── OutputError                   6   the result was not written
    ├── TargetError                   7   the target cannot take what was asked for
    ├── PlanError                    70   a law of the plan is broken
    └── PassError                    70   a pass failed; names the pass, its predecessor, the node

Each says what is wrong, where (node, tensor, sample, file), and what to do.
"""

from __future__ import annotations

SHOWN = 8
"""Entries of a list that a message shows; the error holds all of them."""


class QdqGraphError(Exception):
    """Base of all errors of this library.

    `what` is the message, `where` the node, tensor, sample or file concerned, and `fix` the
    way out. `str(error)` joins them; `exit_code` is what the command line ends with.

    >>> str(CalibrationError("input is missing", where="sample 3", fix="feed 'images'"))
    "input is missing [sample 3]: feed 'images'"
    """

    exit_code: int = 70

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        self.what, self.where, self.fix = what, where, fix
        place = f" [{where}]" if where else ""
        super().__init__(f"{what}{place}{f': {fix}' if fix else ''}")


class UsageError(QdqGraphError):
    """An option, a pattern or a rule cannot be honoured."""

    exit_code = 2


class NoMatchError(UsageError):
    """A name or pattern matches nothing in the model; the nearest names are offered."""


class ConflictError(UsageError):
    """Two rules of the user contradict each other."""


class MismatchError(UsageError):
    """A trained network and a file do not fit together; `entries` lists where, a line each."""

    def __init__(self, what: str, *, entries: tuple[object, ...], fix: str = "") -> None:
        self.entries = entries
        shown = "; ".join(map(str, entries[:SHOWN]))
        more = f"; and {len(entries) - SHOWN} more" if len(entries) > SHOWN else ""
        super().__init__(what, where=shown + more, fix=fix)


class ModelLoadError(QdqGraphError):
    """The model file cannot be read."""

    exit_code = 3


class InvalidGraphError(ModelLoadError):
    """The model can be read, but its graph is not legal."""


class CaptureError(QdqGraphError):
    """A torch module cannot be captured as a graph."""

    exit_code = 3


class CalibrationError(QdqGraphError):
    """Calibration data is missing, malformed or not finite."""

    exit_code = 4


class NothingToQuantizeError(QdqGraphError):
    """No operator of the model takes a quantizer."""

    exit_code = 5


class OutputError(QdqGraphError):
    """The result could not be written; nothing was left behind."""

    exit_code = 6


class TargetError(QdqGraphError):
    """The target cannot take what was asked for."""

    exit_code = 7


class PlanError(QdqGraphError):
    """A law of the plan is broken."""


class PassError(QdqGraphError):
    """A pass failed; the message names the pass, its predecessor and the node."""
