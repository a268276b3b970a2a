"""Small ONNX networks, each a function that builds it anew, seeded."""
