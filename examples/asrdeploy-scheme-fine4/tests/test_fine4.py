"""Tests of the scheme: asrdeploy finds it, and it keeps the output layer in float32."""

from asrdeploy_scheme_fine4 import FINE4

from asrdeploy.schemes import find_scheme


def test_asrdeploy_finds_it_by_name_and_its_variants_too() -> None:
    assert find_scheme("fine4", "onnx") == FINE4
    assert find_scheme("fine4+conv8", "onnx").convolutions == "stored8"


def test_the_labels_layer_stays_in_float() -> None:
    assert FINE4.stores("aux.weight", convolution=False, first=False) == "float32"
    assert FINE4.stores("encoder.transformer.layers.0.attention.k_proj.weight", convolution=False, first=False) == "int4"
