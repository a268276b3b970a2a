"""The ONNX frontend: the view over an `onnx.ModelProto`, edited in place."""
