"""The neutral view of a graph: canonical operators, values, nodes, edges, patterns.

Nothing here imports torch or onnx. The frontends keep the real graph underneath.
"""
