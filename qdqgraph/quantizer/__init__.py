"""The quantizer as torch knows it: one operator, its gradient, a module that holds its scale.

Importing this package imports torch.
"""

from qdqgraph.quantizer.module import Quantizer
from qdqgraph.quantizer.rounding import dequantize, fake_quantize, quantize

__all__ = ["Quantizer", "dequantize", "fake_quantize", "quantize"]
