"""Long recordings: windows give the transcript of the whole, in every kind of worker, and bad windows are refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from device_runner.artifact import Artifact
from device_runner.audio import read_audio
from device_runner.engines import open_engine
from device_runner.errors import AsrDeployError, say_once
from device_runner.labels import select_labels
from tests.toolchain.accuracy.evaluation_parts import transcripts
from tests.toolchain.accuracy.test_workers import Processes
from toolchain.accuracy.evaluation import evaluate, run_settings
from toolchain.accuracy.long_recordings import windowed_if_long
from toolchain.accuracy.metrics import count_errors
from toolchain.accuracy.transcriber import Transcriber, artifact_transcriber, model_transcriber
from toolchain.accuracy.workers import LocalWorkers
from toolchain.data.datasets import DataSet
from toolchain.models.anchor_model import AnchorModel


@pytest.fixture(scope="module")
def joined(test_clean: DataSet) -> tuple[np.ndarray, str]:
    """About two minutes of bundled speech in one recording, and its words."""
    chosen = test_clean.utterances[:70]
    return np.concatenate([read_audio(each.path, 16_000) for each in chosen]), " ".join(each.reference for each in chosen)


@pytest.fixture(scope="module")
def unlimited(tiny: AnchorModel) -> Transcriber:
    """The bundled model in PyTorch, which takes recordings of any length; its artifacts have a maximum."""
    return model_transcriber(tiny)


def test_windows_lose_no_words_of_a_long_recording(unlimited: Transcriber, joined: tuple[np.ndarray, str]) -> None:
    waveform, reference = joined
    seen: list[float] = []
    windowed = unlimited.windowed(10, 2, lambda done, total: seen.append(done / total))
    whole, divided = unlimited.logits(waveform), windowed.logits(waveform)
    assert whole.shape == divided.shape
    errors = [count_errors(reference, select_labels(each, unlimited.labels)) for each in (whole, divided)]
    wrong, wrong_divided = (each.substitutions + each.deletions + each.insertions for each in errors)
    assert wrong_divided <= wrong + 0.02 * len(reference.split())
    assert len(seen) > 10
    assert seen[-1] == 1


@pytest.mark.parametrize("workers", [LocalWorkers(2), Processes(2)])
def test_workers_use_the_windows(
    workers: LocalWorkers, transcriber: Transcriber, joined: tuple[np.ndarray, str], test_clean: DataSet, tmp_path: Path
) -> None:
    soundfile.write(tmp_path / "long.wav", joined[0][:640_000], 16_000, subtype="FLOAT")
    data = replace(test_clean, utterances=(replace(test_clean.utterances[0], path=tmp_path / "long.wav"),))
    windowed = transcriber.windowed(5, 1)
    evaluate(windowed, data, tmp_path / "results", workers=workers)
    assert transcripts(tmp_path / "results")[0].hypothesis == windowed.transcribe(joined[0][:640_000])
    with pytest.raises(AsrDeployError, match="holds the result of other windows"):
        evaluate(transcriber.windowed(6, 1), data, tmp_path / "results")


def test_a_run_with_windows_is_another_run(transcriber: Transcriber, test_clean: DataSet) -> None:
    settings = run_settings(transcriber.windowed(5, 1).with_threads(2), test_clean, None)
    assert (settings["window"], settings["overlap"]) == (80_000, 16_000)
    assert "window" not in run_settings(transcriber, test_clean, None)


def test_only_recordings_over_35_seconds_are_divided_unless_asked(
    unlimited: Transcriber, joined: tuple[np.ndarray, str], caplog: pytest.LogCaptureFixture
) -> None:
    say_once.cache_clear()
    automatic, short = windowed_if_long(unlimited), joined[0][:560_000]
    np.testing.assert_array_equal(automatic.logits(short), unlimited.logits(short))
    assert not caplog.records
    for _ in range(2):
        automatic.logits(joined[0])
    assert [each.getMessage() for each in caplog.records] == [
        "Recordings longer than 35 s are transcribed in windows of 10 s that overlap by 1 s. Choose others with --window and --overlap."
    ]


def test_bad_windows_are_refused_in_a_sentence(transcriber: Transcriber, tiny_int8: Artifact) -> None:
    for window, overlap, message in (
        (float("nan"), 1, "--window nan is not a length of time"),
        (5, -1, "--overlap -1 is not a length of time"),
        (5, 5, "--overlap 5 must be 0 or more and less than --window"),
        (0.01, 0, "--window 0.01 is too short"),
    ):
        with pytest.raises(AsrDeployError, match=message):
            transcriber.windowed(window, overlap)
    with pytest.raises(AsrDeployError, match=r"accepts at most 2\.00 s"):
        replace(transcriber, maximum_samples=32_000).windowed(5, 1)
    with pytest.raises(AsrDeployError, match="has windows already"):
        transcriber.windowed(5, 1).windowed(5, 1)
    with pytest.raises(AsrDeployError, match="a device runs whole recordings"):
        artifact_transcriber(tiny_int8).windowed(5, 1)


def test_an_artifact_with_a_longest_input_transcribes_longer_recordings(transcriber: Transcriber, joined: tuple[np.ndarray, str]) -> None:
    longest = transcriber.maximum_samples
    assert longest is not None
    automatic = windowed_if_long(transcriber)
    assert automatic.needs.longest is None
    recording = joined[0][: longest + 160_000]
    frames = len(transcriber.logits(recording[:longest]))
    assert len(automatic.logits(recording)) == frames + 400


def test_executorch_transcribes_recordings_beyond_its_upper_bound(
    exported_once: Callable[..., Artifact], unlimited: Transcriber, joined: tuple[np.ndarray, str]
) -> None:
    artifact = exported_once("executorch", "fp32")
    transcriber = artifact_transcriber(artifact, open_engine(artifact))
    recording, longest = joined[0][:1_280_000], transcriber.maximum_samples
    assert longest is not None and recording.size > 2 * longest
    with pytest.raises(AsrDeployError, match="accepts at most"):
        transcriber.transcribe(recording)
    expected = unlimited.windowed(10, 2).logits(recording)
    np.testing.assert_allclose(transcriber.windowed(10, 2).logits(recording), expected, atol=1e-3)
