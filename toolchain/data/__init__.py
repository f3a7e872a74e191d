"""Test sets: data sets and splits, downloads, text normalisers and calibration recordings."""
