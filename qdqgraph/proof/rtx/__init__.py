"""What TensorRT-RTX will run in int8, and in how many kernels, without its compiler."""
