"""A pause of Python's cyclic garbage collector while many objects are made that all stay.

The collector would walk the growing graph again and again, a quarter of the whole time, and find
nothing. Objects that are no longer referenced are freed as always.
"""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Generator[None]:
    """No collection inside; afterwards the collector runs again if it did before.

    >>> with collector_paused():
    ...     gc.isenabled()
    False
    """
    ran = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if ran:
            gc.enable()
