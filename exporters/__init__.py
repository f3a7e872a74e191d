"""Export of torch modules to artifacts: quantisation schemes, graph rewrites, ONNX and ExecuTorch."""
