"""The device graph: every rewrite equals TorchAudio's own module, at any length, and leaves the model that it was given alone."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from exporters.recogniser import Recogniser, fold_weight_norm
from exporters.rewrites import (
    Slices,
    Unfold,
    Windows,
    convolutions_as_products,
    for_device,
    is_convolution,
    merged_attention,
    positional_as_products,
)
from tests.helpers import OneLayer
from toolchain.models.anchor_model import AnchorModel

Rewrite = Callable[[nn.Module], None]
WINDOWS: list[type[Windows]] = [Slices, Unfold]


def small(mode: str, kernel: int) -> nn.Module:
    """A small network of the anchors' family with every parameter random: a norm that does nothing would hide mistakes."""
    torch.manual_seed(3)
    network = torchaudio.models.wav2vec2_model(
        extractor_mode=mode,
        extractor_conv_layer_config=[(16, 10, 5), (24, 3, 2), (24, 2, 2), (24, 7, 3)],
        extractor_conv_bias=mode == "layer_norm",
        encoder_embed_dim=32,
        encoder_projection_dropout=0.0,
        encoder_pos_conv_kernel=kernel,
        encoder_pos_conv_groups=4,
        encoder_num_layers=2,
        encoder_num_heads=4,
        encoder_attention_dropout=0.0,
        encoder_ff_interm_features=64,
        encoder_ff_interm_dropout=0.0,
        encoder_dropout=0.0,
        encoder_layer_norm_first=mode == "layer_norm",
        encoder_layer_drop=0.0,
        aux_num_out=29,
    ).eval()
    fold_weight_norm(network)
    for parameter in network.parameters():
        parameter.requires_grad_(False).add_(torch.randn_like(parameter) * 0.1)
    return network


@pytest.mark.parametrize("windows", WINDOWS)
@settings(max_examples=60, deadline=None)
@given(kernel=st.integers(1, 12), stride=st.integers(1, 6), time=st.integers(0, 40), channels=st.integers(1, 5))
def test_windows_times_weight_is_the_convolution(windows: type[Windows], kernel: int, stride: int, time: int, channels: int) -> None:
    torch.manual_seed(kernel * 100 + stride)
    x = torch.randn(1, kernel + time, channels)
    weight = torch.randn(7, channels, kernel)
    expected = nn.functional.conv1d(x.transpose(1, 2), weight, stride=stride).transpose(1, 2)
    found = windows.of(x, kernel, stride) @ windows.weight(weight).t()
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("windows", WINDOWS)
@pytest.mark.parametrize(("mode", "kernel"), [("group_norm", 128), ("layer_norm", 128), ("group_norm", 31), ("layer_norm", 5)])
@pytest.mark.parametrize("rewrite", ["convolutions", "positional", "attention"])
def test_a_rewrite_equals_torchaudio(windows: type[Windows], mode: str, kernel: int, rewrite: str) -> None:
    plain = small(mode, kernel)
    rewritten = copy.deepcopy(plain)
    rewrites: dict[str, Rewrite] = {
        "convolutions": lambda network: convolutions_as_products(network, windows),
        "positional": lambda network: positional_as_products(network, windows),
        "attention": merged_attention,
    }
    rewrites[rewrite](rewritten)
    for samples in (400, 401, 447, 1600, 5003):
        waveform = torch.from_numpy(np.random.default_rng(samples).normal(0, 0.1, (1, samples)).astype(np.float32))
        with torch.inference_mode():
            expected: Tensor = plain(waveform)[0]
            torch.testing.assert_close(rewritten(waveform)[0], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("level", [0.0, 1e-4, 1.0])
def test_the_norm_inside_the_first_convolution_holds_at_any_level(level: float) -> None:
    plain = small("group_norm", 31)
    rewritten = copy.deepcopy(plain)
    convolutions_as_products(rewritten, Slices)
    waveform = level * (torch.sin(torch.arange(8000) / 7)[None] + 0.5)
    with torch.inference_mode():
        expected = plain.feature_extractor(waveform, None)[0]
        torch.testing.assert_close(rewritten.feature_extractor(waveform, None)[0], expected, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("format_name", ["onnx", "executorch"])
def test_all_rewrites_together_leave_the_model_alone(tiny: AnchorModel, format_name: str, waveform: np.ndarray) -> None:
    before = {name: tensor.clone() for name, tensor in tiny.network.state_dict().items()}
    rewritten, names = for_device(tiny.recogniser, format_name)
    assert set(names) == {"convolutions_as_products", "positional_as_products", "merged_attention"}
    with torch.inference_mode():
        expected = tiny.recogniser(torch.from_numpy(waveform)[None])
        torch.testing.assert_close(rewritten(torch.from_numpy(waveform)[None]), expected, atol=1e-3, rtol=1e-4)
    assert all(torch.equal(before[name], tensor) for name, tensor in tiny.network.state_dict().items())


def test_a_module_of_somebody_else_stays_as_it_is() -> None:
    network = OneLayer().eval()
    rewritten, names = for_device(Recogniser(network, normalised_waveform=True), "onnx")
    waveform = torch.randn(1, 4000)
    assert names == () and rewritten.normalised_waveform
    torch.testing.assert_close(rewritten.network(waveform)[0], network(waveform)[0])


def test_convolutions_are_known_by_name(tiny: AnchorModel) -> None:
    rewritten, _ = for_device(tiny.recogniser, "onnx")
    names = [name for name, parameter in rewritten.named_parameters() if parameter.ndim > 1]
    assert sum(map(is_convolution, names)) == 5 and len(names) == 23
