"""Benchmarks of speed, size and memory. Each reports ratios to a baseline measured in the same run."""
