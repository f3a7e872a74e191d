"""The bitstream format, its decoders, and the receiver. Requires NumPy, but not PyTorch."""
