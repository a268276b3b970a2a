"""Training with quantizers: preparation, calibration on the captured graph, schedules.

Importing this package imports torch.
"""

from qdqgraph.training.schedule import Schedule

__all__ = ["Schedule"]
