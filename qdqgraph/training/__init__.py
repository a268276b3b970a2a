"""Training with quantizers: preparation, calibration on the captured graph, schedules.

Importing this package imports torch.
"""
