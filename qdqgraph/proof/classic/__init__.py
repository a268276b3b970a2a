"""The layers that classic TensorRT builds."""
