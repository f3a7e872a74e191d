"""The bitstream format, its decoders, and the receiver. Needs numpy, not torch."""
