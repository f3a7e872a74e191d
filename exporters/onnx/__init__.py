"""Export to ONNX, and quantisation of ONNX graphs."""
