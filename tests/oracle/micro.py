"""A float graph for each row of patterns that the target's rules speak of.

Images are 1 x 64 x 28 x 28 and token sequences 1 x 128 x 128 unless the row says otherwise; weights
are seeded. Every row ends in a product, so that what lies before it has an int8 reader.
"""

from __future__ import annotations

from tests.oracle import micro_conv, micro_dense, micro_joins, micro_moves
from tests.oracle.micro_conv import Build

ROWS: dict[str, Build] = {
    **micro_conv.ROWS,
    **micro_joins.ROWS,
    **micro_moves.ROWS,
    **micro_dense.ROWS,
}
