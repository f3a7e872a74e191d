"""Export to ONNX and its quantisation."""
