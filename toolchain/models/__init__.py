"""Anchor models: test cases, network architectures and weights."""
