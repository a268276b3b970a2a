"""One compiler for the whole session: starting it costs as much as a few graphs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.oracle.compiler import Compiler


@pytest.fixture(scope="session")
def compiler() -> Iterator[Compiler]:
    with Compiler() as made:
        yield made
