"""Export of PyTorch models to artifacts: quantisation schemes, graph rewrites, ONNX and ExecuTorch."""
