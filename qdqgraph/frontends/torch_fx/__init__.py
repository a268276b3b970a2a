"""The torch frontend: the view over a torch.fx `GraphModule`, captured by torch.export.

The only part of the library that imports torch.
"""

from qdqgraph.frontends.torch_fx.capture import capture
from qdqgraph.frontends.torch_fx.graph import FxGraph

__all__ = ["FxGraph", "capture"]
