"""Accuracy runs: transcribe a test set, count word errors, compare evaluations."""
