"""Models written for runtimes of other formats: ONNX, OpenVINO and MLX."""
