"""Single operations that quantize, Mul - Round - Clip - Mul, become the Q/DQ that they stand for.

The pair divides by the scale where a file may multiply by 1/scale: values halfway between two
codes can differ by a step, nothing else does.
"""

from __future__ import annotations

from qdqgraph.frontends.onnx_file.graph import OnnxGraph
from qdqgraph.planning.chains import find_chains
from qdqgraph.proof.legalize.draft import Draft


def pair_chains(draft: Draft) -> bool:
    """Write every chain as a pair, in the model itself; True if any was: read it anew."""
    if not any(node.op_type == "Round" for node in draft.model.graph.node):
        return False
    graph = OnnxGraph(draft.model, draft.data)
    found = False
    for chain in list(find_chains(graph)):
        source, result = chain.source.name, chain.last.output.name
        if graph.write_pair(chain):
            what = f"Mul, Round and Clip behind {source} turned into Q/DQ"
            draft.note("operator", result, what)
            found = True
    graph.commit()
    return found
