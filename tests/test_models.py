"""Anchor models: what is loaded, what is refused without being run, and weights from a server."""

import hashlib
import io
import os
import pickle
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchaudio
from helpers import OneLayer
from http_files import FileServer, serving
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from device_runner.errors import AsrDeployError
from exporters.recogniser import Recogniser, fold_weight_norm, minimum_samples, not_finite
from toolchain import download as download_module
from toolchain.digits_model import digits_asr_tiny, start_with_filterbank
from toolchain.models import BUNDLED_WEIGHTS, UNUSED_ROWS, AnchorModel, load_model
from toolchain.testcases import LABELS, TEST_CASES, find_test_case

State = dict[str, Tensor]
CHECKPOINT = "wav2vec2_fairseq_base_ls960_asr_ls960.pth"


def refused(name: str, weights: Path | str | None = None) -> str:
    with pytest.raises(AsrDeployError) as caught:
        load_model(name, None if weights is None else str(weights))
    sentence = str(caught.value)
    assert sentence.endswith(".") and "\n" not in sentence
    return sentence


def bundled() -> State:
    return load_file(BUNDLED_WEIGHTS)


def saved(path: Path, state: State) -> Path:
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    else:
        torch.save(state, path)
    return path


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
    assert torch.equal(torch.get_rng_state(), before)  # somebody else's random numbers are not disturbed
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


# Weights from files


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
def test_weights_from_a_file(tmp_path: Path, tiny: AnchorModel, suffix: str) -> None:
    path = saved(tmp_path / f"weights{suffix}", bundled())
    model = load_model("0", str(path))
    assert model.trained and model.weights == f"file, sha256 {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"
    assert all(torch.equal(model.state()[name], tensor) for name, tensor in tiny.state().items())


def test_weights_in_half_precision_become_fp32(tmp_path: Path) -> None:
    model = load_model("0", str(saved(tmp_path / "half.safetensors", {name: tensor.half() for name, tensor in bundled().items()})))
    assert {tensor.dtype for tensor in model.state().values()} == {torch.float32}


def with_unused_rows(state: State) -> State:
    """Put fairseq's rows behind the blank, as TorchAudio's published checkpoints have them."""
    rows = {}
    for name in ("aux.weight", "aux.bias"):
        unused = torch.full((len(UNUSED_ROWS), *state[name].shape[1:]), 1e6)
        rows[name] = torch.cat([state[name][:1], unused, state[name][1:]])
    return state | rows


def published(state: State) -> State:
    """Return a state dict with the older names of weight norm, as TorchAudio's published checkpoints have them."""
    names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
    found = {}
    for name, tensor in with_unused_rows(state).items():
        for new, old in names.items():
            name = name.replace(new, old)
        found[name] = tensor
    return found


def test_rows_that_no_label_uses_are_dropped(tmp_path: Path, tiny: AnchorModel) -> None:
    state = with_unused_rows(bundled())
    assert state["aux.weight"].shape[0] == state["aux.bias"].shape[0] == 32
    model = load_model("0", str(saved(tmp_path / "weights.safetensors", state)))
    assert all(torch.equal(model.state()[name], tensor) for name, tensor in tiny.state().items())


def test_a_checkpoint_in_torchaudios_published_form(tmp_path: Path, tiny: AnchorModel) -> None:
    state = published(bundled())
    assert any(name.endswith("weight_g") for name in state)
    model = load_model("0", str(saved(tmp_path / "weights.pt", state)))
    assert all(torch.equal(model.state()[name], tensor) for name, tensor in tiny.state().items())


def test_a_missing_file(tmp_path: Path) -> None:
    assert f"{tmp_path / 'none.pt'} does not exist" in refused("0", tmp_path / "none.pt")
    assert f"{tmp_path} does not exist" in refused("0", tmp_path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_cut_file(tmp_path: Path, suffix: str) -> None:
    path = saved(tmp_path / f"weights{suffix}", bundled())
    content = path.read_bytes()
    for kept in (0, 1, 8, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:kept])
        assert "cannot be read as weights" in refused("0", path)


class Evil:
    """A pickle that makes a file when it is loaded carelessly."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_runs_code_is_refused_unrun(tmp_path: Path, legacy: bool) -> None:
    trap = tmp_path / "sprung"
    state = {**bundled(), "aux.bias": Evil(trap)}
    torch.save(state, tmp_path / "evil.pt", _use_new_zipfile_serialization=not legacy)
    assert "cannot be read as weights" in refused("0", tmp_path / "evil.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(state))
    assert "cannot be read as weights" in refused("0", tmp_path / "plain.pt")
    assert not trap.exists()
    pickle.loads((tmp_path / "plain.pt").read_bytes())  # noqa: S301  # the trap does work
    assert trap.exists()


def legacy_file() -> bytes:
    content = io.BytesIO()
    torch.save({"w": torch.ones(3)}, content, _use_new_zipfile_serialization=False)
    return content.getvalue()


LEGACY = legacy_file()


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.binary(max_size=40), st.tuples(st.integers(0, len(LEGACY) - 1), st.integers(0, 255))))
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_damaged_files_never_crash(tmp_path_factory: pytest.TempPathFactory, damage: bytes | tuple[int, int]) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.pt"
    if isinstance(damage, tuple):
        content = bytearray(LEGACY)
        content[damage[0]] = damage[1]
        damage = bytes(content)
    path.write_bytes(damage)
    refused("0", path)  # even undamaged it does not fit


@pytest.mark.parametrize("content", [[1, 2], {}, {"a": 1}, torch.ones(3), {"model": {"aux.bias": torch.ones(29)}}], ids=range(5))
def test_what_is_no_state_dict(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "weights.pt")
    assert "is not a state dict" in refused("0", tmp_path / "weights.pt")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite(tmp_path: Path, value: float) -> None:
    state = bundled()
    state["aux.weight"][3, 3] = value
    assert not_finite(state) == ["aux.weight"]
    assert "holds NaN or infinite weights, first in aux.weight" in refused("0", saved(tmp_path / "weights.safetensors", state))


@pytest.mark.parametrize("shape", [(28, 160), (33, 160), (29, 161), (29,), ()])
def test_wrong_shapes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    state = bundled() | {"aux.weight": torch.zeros(shape)}
    assert "size mismatch for aux.weight" in refused("0", saved(tmp_path / "weights.safetensors", state))


def test_missing_and_unexpected_names(tmp_path: Path) -> None:
    state = bundled()
    del state["aux.bias"]
    assert "aux.bias is missing (1 names differ)" in refused("0", saved(tmp_path / "less.safetensors", state))
    state["mask.colour"] = torch.ones(1)
    assert "aux.bias is missing (2 names differ)" in refused("0", saved(tmp_path / "both.safetensors", state))
    more = bundled() | {"colour": torch.ones(1)}
    assert "colour is unknown (1 names differ)" in refused("0", saved(tmp_path / "more.safetensors", more))
    assert "does not fit the model" in refused("0", saved(tmp_path / "other.safetensors", {"a": torch.ones(1)}))
    torch.save({1: torch.ones(1)}, tmp_path / "numbers.pt")
    assert refused("0", tmp_path / "numbers.pt")


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
    """Else the same export has other bytes on a machine with more cores."""
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
        except RuntimeError:  # torch has no convolution without a frame
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


# Weights from a server


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A server of checkpoints in the environment, with an empty torch cache at tmp_path/cache."""
    with serving({f"/models/{CHECKPOINT}": b"not what was expected"}) as server:
        monkeypatch.setattr(download_module, "RETRY_PAUSES", (0.01, 0.01, 0.01))
        monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
        monkeypatch.setenv("ASRDEPLOY_WEIGHTS_URL", server.url + "/models")
        monkeypatch.delenv("ASRDEPLOY_WEIGHTS_SHA256", raising=False)
        yield server


@pytest.fixture(autouse=True)
def _default_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "_hub_dir", None)


def test_a_download_that_is_not_the_published_file(mirror: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "not the expected file" in refused("WAV2VEC2_ASR_BASE_960H")  # against the sha256 that the program knows
    monkeypatch.setenv("ASRDEPLOY_WEIGHTS_SHA256", "0" * 64)
    assert "expected 000000000000…" in refused("1")
    assert [path for path, _ in mirror.asked] == [f"/models/{CHECKPOINT}"] * 2
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_a_download_from_nowhere(mirror: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("ASRDEPLOY_WEIGHTS_URL", f"http://127.0.0.1:{closed.getsockname()[1]}/models")
        assert f"Cannot download {CHECKPOINT} from 127.0.0.1" in refused("1")
    monkeypatch.setenv("ASRDEPLOY_WEIGHTS_URL", "ftp://127.0.0.1/models")
    assert "http:// or https://" in refused("1")


@pytest.mark.slow
def test_a_published_checkpoint_is_downloaded_once(mirror: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = torchaudio.models.wav2vec2_model(**torchaudio.pipelines.WAV2VEC2_ASR_BASE_960H._params)
    content = io.BytesIO()
    torch.save(published(dict(network.state_dict())), content)
    mirror.files[f"/models/{CHECKPOINT}"] = content.getvalue()
    monkeypatch.setenv("ASRDEPLOY_WEIGHTS_SHA256", hashlib.sha256(content.getbuffer()).hexdigest())
    # With and without a slash at its end, the address is the same.
    monkeypatch.setenv("ASRDEPLOY_WEIGHTS_URL", mirror.url + "/models/")
    model = load_model("WAV2VEC2_ASR_BASE_960H")
    assert model.trained and model.minimum_samples == 400 and model.case.labels == LABELS
    fold_weight_norm(network)
    assert all(torch.equal(model.state()[name], tensor) for name, tensor in network.state_dict().items())
    monkeypatch.setenv("ASRDEPLOY_WEIGHTS_URL", mirror.url + "/models")
    load_model("1")
    assert len(mirror.asked) == 1
