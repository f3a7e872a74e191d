"""Test sets and recordings: data sets, splits, downloads, transcript normalisers."""
