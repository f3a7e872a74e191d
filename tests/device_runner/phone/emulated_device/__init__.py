"""A phone that is a folder: a small adbd over TCP that the real adb client talks to, and that can be told to fail."""
