"""Anchor models: names, random weights, other weights, folded weight norm, the shortest waveform."""

import hashlib

import numpy as np
import pytest
import torch
import torchaudio
from torch import Tensor, nn

from device_runner.errors import AsrDeployError
from exporters.recogniser import Recogniser, fold_weight_norm, minimum_samples
from tests.helpers import OneLayer
from tests.toolchain.models.damaged_weights import bundled, refused
from toolchain.models.anchor_model import AnchorModel
from toolchain.models.digits_model import digits_asr_tiny, start_with_filterbank
from toolchain.models.loading import BUNDLED_WEIGHTS, load_model
from toolchain.models.test_cases import TEST_CASES, UNUSED_ROWS, find_test_case


@torch.inference_mode()
def logits(model: AnchorModel, waveform: np.ndarray) -> Tensor:
    found: Tensor = model.recogniser(torch.from_numpy(waveform)[None])
    return found


# Names


@pytest.mark.parametrize("name", ["0", "DIGITS_ASR_TINY", "digits_asr_tiny"])
def test_a_model_has_a_number_and_a_name(name: str, tiny: AnchorModel) -> None:
    model = load_model(name)
    assert model.case == tiny.case and model.weights == tiny.weights and model.trained
    assert model.weights == f"bundled, sha256 {hashlib.sha256(BUNDLED_WEIGHTS.read_bytes()).hexdigest()[:16]}"


def test_an_unknown_name_names_the_nearest() -> None:
    assert "Did you mean HUBERT_ASR_LARGE?" in refused("HUBERT_LARGE")
    assert "Unknown model “3”" in refused("3")
    assert "Unknown model “”" in refused("")


def test_sizes_and_rates_of_the_anchors() -> None:
    anchors = {case.name: (case.number, case.anchor.num_param, round(case.anchor.size_bits / 1e6), case.anchor.wer) for case in TEST_CASES}
    assert anchors["WAV2VEC2_ASR_BASE_960H"] == (1, 94_393_245, 3021, 0.034)
    assert anchors["HUBERT_ASR_LARGE"] == (2, 315_463_837, 10095, 0.021)
    assert anchors["DIGITS_ASR_TINY"] == (0, 1_524_892, 49, None)
    case = find_test_case("1")
    assert [case.in_range(wer, 0.034) for wer in (0.0339, 0.034, 0.05, 0.084, 0.085)] == [False, True, True, True, False]


@pytest.mark.parametrize("name", ["WAV2VEC2_ASR_BASE_960H", "HUBERT_ASR_LARGE"])
def test_anchors_are_torchaudios_bundles(name: str) -> None:
    bundle, case = getattr(torchaudio.pipelines, name), find_test_case(name)
    assert bundle.get_labels() == case.labels and bundle.sample_rate == case.sample_rate
    assert bundle._normalize_waveform == case.anchor.normalised_waveform and tuple(bundle._remove_aux_axis) == UNUSED_ROWS
    with torch.device("meta"):
        network = torchaudio.models.wav2vec2_model(**bundle._params)
    assert sum(each.numel() for each in network.parameters()) == case.anchor.num_param


def test_parameters_of_the_tiny_model(tiny: AnchorModel) -> None:
    assert sum(each.numel() for each in digits_asr_tiny().parameters()) == tiny.case.anchor.num_param == 1_524_892
    # Folding the weight norm takes its magnitudes away, one for each of the kernel's 31 taps.
    assert sum(each.numel() for each in tiny.network.parameters()) == tiny.case.anchor.num_param - 31
    assert not tiny.network.training and not tiny.recogniser.training


# Random weights


def test_random_weights_are_seeded(tiny: AnchorModel) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (load_model("0", "random", seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)  # the global random state does not change
    assert first.weights == "random, seed 1" and not first.trained
    assert all(torch.equal(again.state()[name], tensor) for name, tensor in first.state().items())
    assert not all(torch.equal(other.state()[name], tensor) for name, tensor in first.state().items())
    assert first.state().keys() == tiny.state().keys()


def test_the_filter_bank_of_the_first_convolution() -> None:
    model = digits_asr_tiny()
    start_with_filterbank(model)
    filters = model.feature_extractor.conv_layers[0].conv.weight[:, 0].detach()
    assert torch.allclose(filters.norm(dim=1), torch.ones(len(filters)), atol=1e-5)
    peaks = torch.fft.rfft(filters, 1024).abs().argmax(dim=1) * 16_000 / 1024
    half = len(filters) // 2
    assert (peaks[: half - 1] <= peaks[1:half] + 20).all() and peaks[half - 1] == pytest.approx(7500, abs=100)


# Other weights


def test_with_state_leaves_the_original(tiny: AnchorModel, waveform: np.ndarray) -> None:
    model = load_model("0")
    before = {name: tensor.clone() for name, tensor in model.state().items()}
    halved = {name: tensor * 0.5 for name, tensor in before.items()}
    other = model.with_state(halved, "halved")
    assert other.weights == "halved" and other.case == model.case and other.trained and not other.network.training
    assert all(torch.equal(other.state()[name], tensor) for name, tensor in halved.items())
    assert all(torch.equal(model.state()[name], tensor) for name, tensor in before.items())
    assert torch.equal(logits(model, waveform), logits(tiny, waveform))
    assert not torch.equal(logits(model, waveform), logits(other, waveform))
    with torch.no_grad():
        next(iter(other.network.parameters())).zero_()
    assert all(torch.equal(model.state()[name], tensor) for name, tensor in before.items())


def test_with_a_state_that_does_not_fit(tiny: AnchorModel) -> None:
    state = tiny.state()
    for changed in ({}, state | {"aux.bias": torch.ones(3)}, state | {"aux.bias": torch.full((29,), torch.nan)}):
        with pytest.raises(AsrDeployError, match=r"^the codec "):
            tiny.with_state(changed, "the codec")


# Weight norm and the shortest waveform


def test_folding_the_weight_norm_changes_nothing(tiny: AnchorModel, waveform: np.ndarray) -> None:
    unfolded = digits_asr_tiny().eval()
    unfolded.load_state_dict(bundled())
    names = unfolded.state_dict().keys()
    assert any("parametrizations" in name for name in names) and not any("parametrizations" in name for name in tiny.state())
    with torch.inference_mode():
        expected = unfolded(torch.from_numpy(waveform)[None])[0]
    assert torch.allclose(logits(tiny, waveform), expected, atol=1e-5)
    fold_weight_norm(unfolded)
    fold_weight_norm(unfolded)  # a second time is harmless
    assert all(torch.equal(unfolded.state_dict()[name], tensor) for name, tensor in tiny.state().items())


def test_folded_weights_do_not_depend_on_the_threads(tiny: AnchorModel) -> None:
    """Otherwise exports would differ on machines with more cores."""
    try:
        states = []
        for threads in (1, 2, 3, 4):
            torch.set_num_threads(threads)
            states.append(load_model("0").state())
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(state[name], tensor) for state in states for name, tensor in tiny.state().items())


def base_extractor() -> nn.Module:
    """WAV2VEC2_ASR_BASE_960H's own extractor on a narrow encoder of one layer."""
    narrow = {"encoder_embed_dim": 32, "encoder_num_layers": 1, "encoder_num_heads": 2, "encoder_ff_interm_features": 32}
    bundle = torchaudio.pipelines.WAV2VEC2_ASR_BASE_960H
    network: nn.Module = torchaudio.models.wav2vec2_model(**{**bundle._params, **narrow})
    return network.eval()


@pytest.mark.parametrize("network, least", [(digits_asr_tiny().eval(), 744), (base_extractor(), 400)], ids=["tiny", "base"])
def test_the_fewest_samples_that_give_a_frame(network: nn.Module, least: int) -> None:
    assert minimum_samples(network) == least
    with torch.inference_mode():
        assert network(torch.full((1, least), 0.1))[0].shape == (1, 1, 29)
        try:
            shorter = network(torch.full((1, least - 1), 0.1))[0].shape[1]
        except RuntimeError:  # torch refuses inputs that give no frame
            shorter = 0
    assert shorter == 0


def test_a_normalised_waveform_is_torchaudios() -> None:
    torch.manual_seed(0)
    network, signal = OneLayer().eval(), 0.5 * torch.randn(1, 8000)
    with torch.inference_mode():
        plain, normalised = (Recogniser(network, normalised_waveform=each)(signal) for each in (False, True))
        assert torch.equal(plain, network(signal)[0])
        assert torch.allclose(normalised, network(nn.functional.layer_norm(signal, signal.shape))[0])
        assert torch.allclose(Recogniser(network, normalised_waveform=True)(signal * 0.3), normalised, atol=1e-3)
    assert not torch.allclose(plain, normalised)
