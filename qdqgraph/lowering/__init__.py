"""From a calibrated plan to a file: codes, insertion, opset, save, verification."""
