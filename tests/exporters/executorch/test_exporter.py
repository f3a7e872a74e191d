"""ExecuTorch: the bundled model as .pte, its parity with torch, what is stored, its bounds, and what damages it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from device_runner.artifact import Artifact, describe_file, open_artifact
from device_runner.audio import read_audio
from device_runner.engines import open_engine
from device_runner.errors import AsrDeployError
from device_runner.labels import select_labels
from exporters.executorch.exporter import export_executorch, stored_in
from exporters.inspection import inspect
from exporters.outcome import ExportOutcome
from exporters.schemes import find_scheme
from exporters.weights import StoredWeight
from tests.helpers import Completed, complaint, copied
from toolchain.accuracy.evaluation import evaluate
from toolchain.accuracy.transcriber import open_transcriber
from toolchain.data.datasets import DataSet
from toolchain.data.speech import bundled_speech
from toolchain.models.anchor_model import AnchorModel
from toolchain.models.loading import load_model
from toolchain.models.test_cases import LABELS
from toolchain.scenario.exporting import export_model

SHARED: dict = {}  # hypothesis runs a test's body many times, fixtures once


@pytest.fixture(scope="module")
def fp32(tiny: AnchorModel, exported_once: Callable[..., Artifact]) -> Artifact:
    artifact = exported_once("executorch", "fp32")
    SHARED.update(tiny=tiny, engine=open_engine(artifact), speech=bundled_speech([35.0], 16_000)[35.0])
    return artifact


@pytest.fixture(scope="module")
def int4(exported_once: Callable[..., Artifact]) -> Artifact:
    """The scheme that stores in every way but half precision: 4 bits, 8 bits computed in float, float."""
    return exported_once("executorch", "int4+conv8")


@pytest.fixture(scope="module")
def int8_full(exported_once: Callable[..., Artifact]) -> Artifact:
    return exported_once("executorch", "int8-full", max_seconds=15)


@settings(max_examples=15, deadline=None)
@given(samples=st.integers(1600, 560_000))
def _transcripts_are_torchs(samples: int) -> None:
    waveform = SHARED["speech"][:samples]
    with torch.inference_mode():
        expected = SHARED["tiny"].recogniser(torch.from_numpy(waveform)[None])[0].numpy()
    found = SHARED["engine"].logits(waveform)
    assert np.abs(found - expected).max() < 1e-3
    assert select_labels(found, LABELS) == select_labels(expected, LABELS)


def test_transcripts_are_torchs_at_any_length(fp32: Artifact) -> None:
    _transcripts_are_torchs()


def test_logits_of_an_earlier_call_stay(fp32: Artifact) -> None:
    engine = open_engine(fp32)
    first = engine.logits(SHARED["speech"][:16_000])
    kept = first.copy()
    engine.logits(SHARED["speech"][16_000:32_000])
    assert np.array_equal(first, kept)


def test_bounds(fp32: Artifact, int8_full: Artifact) -> None:
    assert (fp32.manifest.minimum_samples, fp32.manifest.maximum_samples) == (1600, 560_000)
    assert int8_full.manifest.maximum_samples == 240_000
    assert 0 < int8_full.manifest.planned_bytes < fp32.manifest.planned_bytes  # type: ignore[operator]
    for artifact in (fp32, int8_full):
        engine = open_engine(artifact)
        assert engine.logits(np.zeros(1600, np.float32)).shape[1] == 29
        with pytest.raises(AsrDeployError, match="requires at least 1600"):
            engine.logits(np.zeros(1599, np.float32))
        with pytest.raises(AsrDeployError, match="accepts at most"):
            engine.logits(np.zeros(artifact.manifest.maximum_samples + 1, np.float32))  # type: ignore[operator]


def test_what_is_stored(fp32: Artifact, int4: Artifact, int8_full: Artifact) -> None:
    assert inspect(fp32).elements_by_bits.keys() == {32}
    products = 1_259_040
    assert inspect(int4).elements_by_bits[4] == products and inspect(int4).elements_by_bits[8] == 257_024
    bits = inspect(int8_full).elements_by_bits
    assert bits[8] == products + 257_024 - 6144 and bits[32] < 25_000  # the first convolution stays in float
    for artifact in (fp32, int4, int8_full):
        found = inspect(artifact)
        assert sum(found.bytes_by_kind.values()) == artifact.size_bytes
        assert "network.encoder.transformer.layers" in found.bytes_by_module(4)
        assert artifact.manifest.portable["native_layer_norm"] == 14 and artifact.manifest.delegated["gelu"] == 9


def test_sizes_and_distance(fp32: Artifact, int4: Artifact, int8_full: Artifact) -> None:
    assert int8_full.size_bytes < 0.3 * fp32.size_bytes and int4.size_bytes < 0.25 * fp32.size_bytes
    # XNNPACK's 8-bit sums do not saturate: the same on every processor.
    assert all(each.relative < 0.02 for each in int8_full.manifest.parity)
    assert all(each.relative < 0.1 for each in int4.manifest.parity)


def test_words_lost(int4: Artifact, int8_full: Artifact, test_clean: DataSet, tmp_path: Path) -> None:
    anchor = evaluate(open_transcriber("0"), test_clean, tmp_path / "anchor").wer
    for artifact, limit in ((int8_full, 0.003), (int4, 0.01)):
        found = evaluate(open_transcriber(str(artifact.folder)), test_clean, tmp_path / artifact.manifest.scheme)
        assert found.wer <= anchor + limit


def test_threads_are_set(fp32: Artifact) -> None:
    from executorch.extension.pybindings import _portable_lib

    for threads in (2, 1):
        open_engine(fp32, threads)
        assert _portable_lib._threadpool_get_thread_count() == threads


def test_the_command_line_takes_a_pte(cli: Callable[..., Completed], int8_full: Artifact, test_clean: DataSet) -> None:
    utterance = test_clean.utterances[0]
    expected = select_labels(open_engine(int8_full).logits(read_audio(utterance.path, 16_000)), LABELS)
    assert cli("transcribe", int8_full.folder, utterance.path).stdout.strip() == expected
    shown = cli("inspect", int8_full.folder).stdout
    assert "ExecuTorch" in shown and "native_layer_norm" in shown and "0.1 s .. 15 s" in shown


class Layers(nn.Module):
    """Linear layers on frames of 320 samples, one after the other."""

    def __init__(self, *layers: nn.Linear) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, waveform: Tensor) -> Tensor:
        frames = waveform.unfold(1, 320, 320)
        for layer in self.layers:
            frames = layer(frames)
        return frames


def lowered(network: nn.Module, scheme: str, path: Path) -> tuple[ExportOutcome, dict[str, StoredWeight]]:
    made = export_executorch(
        network.eval(),
        find_scheme(scheme, "executorch"),
        sample_rate=16_000,
        minimum_samples=1600,
        maximum_samples=160_000,
        path=path,
        progress=lambda step: None,
    )
    return made, {weight.name: weight for weight in stored_in(path, made.weight_names) if weight.kind != "scales"}


def test_a_scheme_that_stored_less_than_it_claims_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What was written is read back: a quantiser that did nothing leaves a file in float.
    monkeypatch.setattr("torchao.quantization.quantize_", lambda layer, config: None)
    with pytest.raises(AsrDeployError, match=r"int8 quantised 0 of 2 layers: a layer with \d+ weights is not stored as int8"):
        lowered(Layers(nn.Linear(320, 96), nn.Linear(96, 29)), "int8", tmp_path / "model.pte")


def test_layers_with_the_same_weights_share_their_bytes(tmp_path: Path) -> None:
    twins = [nn.Linear(320, 320, bias=False), nn.Linear(320, 320, bias=False)]
    with torch.no_grad():
        twins[1].weight.copy_(twins[0].weight)
    made, stored = lowered(Layers(*twins, nn.Linear(320, 29)), "int8", tmp_path / "model.pte")
    assert made.quantised == {"layers in int8": 3}
    assert {name for name in stored if name.startswith("layers")} == {"layers.0.weight", "layers.2.weight"}
    # The scales are named after the weights that they belong to.
    scales = {each.name for each in stored_in(tmp_path / "model.pte", made.weight_names) if each.kind == "scales"}
    assert {"layers.0.weight", "layers.2.weight"} <= scales


def test_4_bits_of_a_layer_that_no_group_divides_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AsrDeployError, match=r"int4 cannot quantise layers\.1: its 50 inputs are not a multiple of 32, the smallest group"):
        lowered(Layers(nn.Linear(320, 50), nn.Linear(50, 29)), "int4", tmp_path / "model.pte")


def test_8_bits_of_a_convolution_that_is_no_product_are_refused(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Unflatten(1, (1, -1)), nn.Conv1d(1, 8, 5, 5), nn.Conv1d(8, 29, 3, 2))
    with pytest.raises(AsrDeployError, match=r"int8-full cannot quantise 2: .* this is a convolution"):
        lowered(network, "int8-full", tmp_path / "model.pte")


@pytest.mark.parametrize("length", [0, 10, 1000, 200_000])
def test_a_cut_program_is_refused(int4: Artifact, tmp_path: Path, length: int) -> None:
    folder = copied(int4, tmp_path / "copy")
    path = folder / "model.pte"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(AsrDeployError, match="sha256"):
        open_artifact(folder)
    # Even where the manifest was made to fit.
    manifest = int4.manifest.model_copy(update={"files": (describe_file(path),)})
    with pytest.raises(AsrDeployError, match="cannot load"):
        open_engine(Artifact(folder, manifest))
    with pytest.raises(AsrDeployError, match="cannot be read"):
        inspect(Artifact(folder, manifest))


def test_labels_that_do_not_fit(int4: Artifact) -> None:
    with pytest.raises(AsrDeployError, match="returns 29 logits per frame"):
        open_engine(Artifact(int4.folder, int4.manifest.model_copy(update={"labels": LABELS[:-1]})))


def test_a_bound_below_the_shortest_is_refused(cli: Callable[..., Completed], tmp_path: Path) -> None:
    done = cli("export", "--format", "executorch", "--max-seconds", "0.05", "-o", tmp_path / "artifact")
    assert "below the model's shortest input" in complaint(done) and not list(tmp_path.iterdir())


def test_a_network_of_somebodys_own(tmp_path: Path, waveform: np.ndarray) -> None:
    model = load_model("tests.toolchain.models.custom.factory:clamped")
    artifact, _ = export_model(model, tmp_path / "artifact", format="executorch", quant="int8")
    stored = {(each.name, each.kind) for each in stored_in(artifact.model_path, artifact.manifest.weight_names)}
    assert ("network.network.head.weight", "int8") in stored
    assert max(each.relative for each in artifact.manifest.parity) < 0.02
    assert open_engine(artifact).logits(waveform).shape[1] == len(artifact.manifest.labels)
