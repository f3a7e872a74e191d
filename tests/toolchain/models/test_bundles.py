"""CTC models of torchaudio.pipelines by name: names without torch, architectures, downloads, the whole way with narrow networks."""

import dataclasses
import io
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchaudio
from torchaudio.pipelines import Wav2Vec2ASRBundle

from device_runner.artifact import open_artifact
from device_runner.bitstream.format import read_header
from device_runner.labels import select_labels
from tests.helpers import REPOSITORY, complaint
from tests.http_files import FileServer, serving
from tests.toolchain.models.damaged_weights import refused
from toolchain.accuracy.metrics import count_errors
from toolchain.accuracy.progress import NoProgress
from toolchain.accuracy.torch_engine import TorchEngine
from toolchain.accuracy.workers import LocalWorkers
from toolchain.data.casing import upper
from toolchain.models.loading import load_model
from toolchain.models.networks import build_on_meta
from toolchain.models.test_cases import BUILT_IN, BUNDLES, TEST_CASES, case_of, find_test_case
from toolchain.scenario.sweeps import describe_sweeps, prepare_sweeps

NAMES = [name for name in BUILT_IN if name != "DIGITS_ASR_TINY"]
GERMAN = "VOXPOPULI_ASR_BASE_10K_DE"
# Layers, width and inner width of the encoder, as in the papers of wav2vec 2.0 and HuBERT; extractors with layer norms.
SIZES = {"BASE": (12, 768, 3072), "LARGE": (24, 1024, 4096), "XLARGE": (48, 1280, 5120)}
LAYER_NORMS = ("HUBERT_ASR_LARGE", "HUBERT_ASR_XLARGE", "WAV2VEC2_ASR_LARGE_LV60K")


def counted(name: str, labels: int) -> int:
    """Count a network's parameters from the papers' figures, without building it."""
    layers, width, inner = SIZES["XLARGE" if "XLARGE" in name else "LARGE" if "LARGE" in name else "BASE"]
    normed = name.startswith(LAYER_NORMS)
    extractor = 512 * 10 + 512 * 512 * (4 * 3 + 2 * 2) + 2 * 512 * (7 if normed else 1)
    # Of the three, only the convolutions of LV60K have biases.
    extractor += 7 * 512 if "LV60K" in name else 0
    position = width * width // 16 * 128 + 128 + width
    layer = 4 * (width + 1) * width + 2 * 2 * width + (width + 1) * inner + (inner + 1) * width
    return extractor + 2 * 512 + (512 + 1) * width + position + 2 * width + layers * layer + (width + 1) * labels


# Names


def test_the_names_are_those_of_torchaudio() -> None:
    theirs = [name for name, each in vars(torchaudio.pipelines).items() if type(each) is Wav2Vec2ASRBundle]
    assert sorted(NAMES) == sorted(theirs) and len(theirs) == 16


def test_names_are_known_without_torch() -> None:
    code = f"""
import sys
sys.modules["torch"] = sys.modules["torchaudio"] = None
from toolchain.models.test_cases import *
from device_runner.errors import AsrDeployError
print(is_built_in({GERMAN.lower()!r}), names_custom_model({GERMAN!r}))
try:
    find_test_case("VOXPOPULI_ASR_BASE_10K_NL")
except AsrDeployError as error:
    print(error)
try:
    find_test_case({GERMAN!r})
except ModuleNotFoundError as error:
    print(error.name)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    first, second, third = done.stdout.splitlines()
    assert first == "True False" and "Unknown model “VOXPOPULI_ASR_BASE_10K_NL”. Did you mean VOXPOPULI" in second and third == "torch"
    assert all(name in second for name in BUILT_IN)


# Architectures


@pytest.mark.parametrize("name", NAMES)
def test_architecture_and_labels(name: str) -> None:
    bundle, case = getattr(torchaudio.pipelines, name), find_test_case(name.lower())
    assert case.name == name and case.sample_rate == bundle.sample_rate == 16_000 and case.network is None
    assert (case.anchor.normalised_waveform, case.wer_range) == (bundle._normalize_waveform, 0.05)
    assert (case.number, case.anchor.wer) == (None, None) or case in TEST_CASES
    labels = bundle.get_labels()
    assert case.labels == tuple(upper(each) for each in labels) and len(set(case.labels)) == len(labels)
    network = build_on_meta(case, folded=True)
    assert network(torch.empty(1, 16_000, device="meta"))[0].shape == (1, 49, len(labels))
    assert network(torch.empty(1, 400, device="meta"))[0].shape == (1, 1, len(labels))
    assert case.anchor.num_param == counted(name, len(labels))


SENTENCES = {
    "VOXPOPULI_ASR_BASE_10K_EN": ("the european parliament", "THE EUROPEAN PARLIAMENT"),
    "VOXPOPULI_ASR_BASE_10K_ES": ("mañana también habrá pingüinos", "MAÑANA TAMBIÉN HABRÁ PINGÜINOS"),
    GERMAN: ("große straßen für ältere menschen", "GROSSE STRASSEN FÜR ÄLTERE MENSCHEN"),
    "VOXPOPULI_ASR_BASE_10K_FR": ("où êtes vous ma sœur ça naïve noël", "OÙ ÊTES VOUS MA SŒUR ÇA NAÏVE NOËL"),
    "VOXPOPULI_ASR_BASE_10K_IT": ("perché così è la città più", "PERCHÉ COSÌ È LA CITTÀ PIÙ"),
}


@pytest.mark.parametrize("name", SENTENCES)
def test_labels_of_a_language_in_transcripts_and_scores(name: str) -> None:
    text, printed = SENTENCES[name]
    theirs, ours = getattr(torchaudio.pipelines, name).get_labels(), find_test_case(name).labels
    # The frames that torchaudio's labels would give, with a blank between them.
    frames = [index for letter in text.replace(" ", "|") for index in (theirs.index(letter), 0)]
    logits = np.eye(len(ours), dtype=np.float32)[frames]
    hypothesis = select_labels(logits, ours)
    assert hypothesis == printed
    score = count_errors(upper(text), hypothesis)
    assert score.errors == 0 and score.words == len(text.split())


# Downloads and the whole way, with the published layout and narrow networks


def narrowed(name: str) -> Any:
    """Return a bundle with its own extractor's strides, labels and unused rows, but few channels and one layer."""
    bundle = getattr(torchaudio.pipelines, name)
    layers = [(16, kernel, stride) for _, kernel, stride in bundle._params["extractor_conv_layer_config"]]
    narrow = {"extractor_conv_layer_config": layers, "encoder_embed_dim": 32, "encoder_num_layers": 1, "encoder_num_heads": 2}
    narrow |= {"encoder_ff_interm_features": 32, "encoder_pos_conv_kernel": 8, "encoder_pos_conv_groups": 2}
    return dataclasses.replace(bundle, _params=bundle._params | narrow)


def published(bundle: Any) -> bytes:
    """Return a checkpoint as torchaudio publishes it: with the rows that no label uses, which would win if they stayed."""
    torch.manual_seed(len(bundle._labels))
    state = torchaudio.models.wav2vec2_model(**bundle._params).state_dict()
    width, unused = bundle._params["aux_num_out"] + len(bundle._remove_aux_axis), bundle._remove_aux_axis
    for key in ("aux.weight", "aux.bias"):
        rows = torch.full((width, *state[key].shape[1:]), 1e6)
        rows[[index for index in range(width) if index not in unused]] = torch.randn_like(state[key])
        state[key] = rows
    content = io.BytesIO()
    torch.save(dict(state), content)
    return content.getvalue()


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """Serve narrow checkpoints of all bundles, with an empty torch cache at tmp_path/cache."""
    files = {}
    for name in NAMES:
        bundle = narrowed(name)
        monkeypatch.setattr(torchaudio.pipelines, name, bundle)
        if name in BUNDLES:
            files[f"/models/{bundle._path}"] = published(bundle)
    with serving(files) as server:
        monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
        monkeypatch.setattr(torch.hub, "_hub_dir", None)
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
        monkeypatch.setenv("ASRDEPLOY_WEIGHTS_URL", server.url + "/models")
        monkeypatch.delenv("ASRDEPLOY_WEIGHTS_SHA256", raising=False)
        yield server


def test_every_bundle_computes_what_torchaudio_computes(mirror: FileServer, waveform: np.ndarray) -> None:
    for name in BUNDLES:
        model = load_model(name)
        theirs = getattr(torchaudio.pipelines, name).get_model()  # from the file that we downloaded
        with torch.inference_mode():
            expected = theirs(torch.from_numpy(waveform)[None])[0][0].numpy()
        np.testing.assert_allclose(TorchEngine(model).logits(waveform), expected, atol=1e-4, err_msg=name)
        assert model.trained and model.case == find_test_case(name)
        assert model.weights.startswith("downloaded from the TorchAudio bundle, sha256 ")
    assert sorted(path for path, _ in mirror.asked) == sorted(mirror.files)


def test_a_changed_download_is_refused(mirror: FileServer, tmp_path: Path) -> None:
    bundle = getattr(torchaudio.pipelines, GERMAN)
    load_model(GERMAN)
    kept = tmp_path / "cache" / "hub" / "checkpoints" / bundle._path
    record = kept.with_suffix(".sha256")
    assert len(record.read_text().strip()) == 64
    kept.write_bytes(kept.read_bytes() + b"more")
    mirror.files[f"/models/{bundle._path}"] = published(torchaudio.pipelines.VOXPOPULI_ASR_BASE_10K_FR)
    assert "not the expected file" in refused(GERMAN)


def test_weights_of_another_language_are_refused(mirror: FileServer, tmp_path: Path) -> None:
    (tmp_path / "french.pt").write_bytes(published(torchaudio.pipelines.VOXPOPULI_ASR_BASE_10K_FR))
    assert "does not fit the model" in refused(GERMAN, tmp_path / "french.pt")


def test_from_the_name_to_artifact_and_bitstream(
    mirror: FileServer, tmp_path: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = getattr(torchaudio.pipelines, GERMAN)
    two = bundle._params | {"extractor_conv_layer_config": [(16, 10, 10), (16, 32, 32)]}  # exports in less time
    monkeypatch.setattr(torchaudio.pipelines, GERMAN, dataclasses.replace(bundle, _params=two))
    mirror.files[f"/models/{bundle._path}"] = published(getattr(torchaudio.pipelines, GERMAN))
    artifact, bitstream, sent = (str(tmp_path / each) for each in ("artifact", "de.asrb", "sent"))
    assert cli("export", "--model", GERMAN.lower(), "-o", artifact).returncode == 0
    manifest = open_artifact(Path(artifact)).manifest
    assert manifest.model == GERMAN and "SS" in manifest.labels and case_of(manifest) == find_test_case(GERMAN)

    assert cli("compress", "--model", GERMAN, "--codec", "fp16", "-o", bitstream).returncode == 0
    header = read_header(Path(bitstream))
    assert (header.model, header.network) == (GERMAN, None)
    assert cli("export", "--from", bitstream, "-o", sent).returncode == 0  # by its name, without --model
    assert open_artifact(Path(sent)).manifest.labels == manifest.labels
    assert cli("evaluate", artifact, "--limit", "2", "--workers", "1", "-o", str(tmp_path / "result")).returncode == 0
    assert cli("evaluate", GERMAN, "--limit", "2", "--workers", "1", "-o", str(tmp_path / "float")).returncode == 0


# Lists and sweeps


def test_the_list_of_models(cli: Callable[..., Any]) -> None:
    short, full = cli("testcases").stdout, cli("testcases", "--all").stdout
    assert "14 other models of TorchAudio: asrdeploy testcases --all" in short and GERMAN not in short
    assert full.index("HUBERT_ASR_LARGE") < full.index("WAV2VEC2_ASR_BASE_10M") and all(name in full for name in BUILT_IN)
    assert "Give one of the two" in complaint(cli("testcases", "--all", "--model", "0"))


def test_a_sweep_says_which_range_it_takes(mirror: FileServer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    described = describe_sweeps("uniform", model=GERMAN, limit=1)
    prepare_sweeps(described, tmp_path / "sweep", LocalWorkers(1), NoProgress())
    (said,) = (each.getMessage() for each in caplog.records if GERMAN in each.getMessage())
    assert "no WER range" in said and said.endswith("ends 5 points above it.")
    caplog.clear()
    prepare_sweeps(describe_sweeps("uniform", limit=1), tmp_path / "tiny", LocalWorkers(1), NoProgress())
    assert not caplog.records


def test_the_table_of_the_page_is_torchaudios() -> None:
    page = (REPOSITORY / "docs" / "scenario.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in line.strip("| ").split("|")]
        for line in page.splitlines()
        if line.startswith(("| WAV2", "| HUB", "| VOX"))
    ]
    assert [row[0] for row in rows] == NAMES
    for name, parameters, size, language, labels, normalised in rows:
        case = find_test_case(name)
        assert parameters == f"{case.anchor.num_param:,}" and size == f"{case.anchor.size_bits / 1e6:,.0f}"
        assert int(labels) == len(case.labels) and normalised == ("yes" if case.anchor.normalised_waveform else "no")
        endings = {"ES": "Spanish", "DE": "German", "FR": "French", "IT": "Italian"}
        assert language == endings.get(name.rpartition("_")[2], "English")
