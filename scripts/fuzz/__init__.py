"""Fuzz every reader of files that others make: ``python -m scripts.fuzz`` (docs/tests.md)."""
