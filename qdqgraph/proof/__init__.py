"""What TensorRT does with a file: its input contract, and what it builds from it."""
