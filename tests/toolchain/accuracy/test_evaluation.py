"""Accuracy runs: they equal the scenario's procedure, and refuse random weights and inputs that cannot be evaluated."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from torchaudio.datasets import LIBRISPEECH
from torcheval.metrics import WordErrorRate

from device_runner.artifact import Artifact
from device_runner.errors import AsrDeployError
from device_runner.transcripts import Timing, Transcript
from tests.helpers import copied
from tests.toolchain.accuracy.evaluation_parts import speech_folder, transcripts
from toolchain.accuracy.evaluation import evaluate
from toolchain.accuracy.run_folder import SETTINGS
from toolchain.accuracy.scoring import RESULT, TIMES, TRANSCRIPTS, Evaluation
from toolchain.accuracy.transcriber import Transcriber, open_transcriber
from toolchain.data.datasets import DataSet, open_data, read_folder
from toolchain.models.digits_model import digits_asr_tiny
from toolchain.models.loading import BUNDLED_WEIGHTS
from toolchain.models.test_cases import LABELS

Heard = dict[str, str]


def heard(folder: Path) -> Heard:
    return {each.id: each.hypothesis for each in transcripts(folder)}


@pytest.fixture(scope="module")
def whole(test_clean: DataSet, tmp_path_factory: pytest.TempPathFactory) -> tuple[Evaluation, Path]:
    """The PyTorch engine on the whole bundled test-clean."""
    folder = tmp_path_factory.mktemp("whole") / "results"
    return evaluate(open_transcriber("0"), test_clean, folder), folder


# The scenario


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> tuple[Heard, float]:
    """The scenario's procedure with torchaudio, PyTorch and torcheval only: batch size 1, greedy labels, corpus WER."""
    root = tmp_path_factory.mktemp("corpus")
    (root / "LibriSpeech").symlink_to(Path(open_data("digits", "test-clean").utterances[0].path).parents[3])
    corpus = LIBRISPEECH(root, "test-clean")
    model = digits_asr_tiny()
    model.load_state_dict(load_file(BUNDLED_WEIGHTS))
    model.eval()
    metric = WordErrorRate()
    found = {}
    for number in range(len(corpus)):
        path, rate, reference, speaker, chapter, utterance = corpus.get_metadata(number)
        waveform, sample_rate = soundfile.read(root / "LibriSpeech" / path, dtype="float32")
        assert sample_rate == rate == 16_000
        with torch.inference_mode():
            emission, _ = model(torch.from_numpy(waveform)[None])
        indices = torch.unique_consecutive(torch.argmax(emission[0], dim=-1), dim=-1)
        hypothesis = "".join(LABELS[index] for index in indices if index != 0).replace("|", " ")
        metric.update([hypothesis], [reference])
        found[f"{speaker}-{chapter}-{utterance:04d}"] = hypothesis
    return found, float(metric.compute())


def test_torch_engine_hears_what_the_scenarios_procedure_hears(scenario: tuple[Heard, float], whole: tuple[Evaluation, Path]) -> None:
    found, wer = scenario
    evaluation, folder = whole
    assert heard(folder) == found and len(found) == 210
    assert evaluation.wer == pytest.approx(wer, abs=1e-7)


def test_onnx_fp32_hears_what_torch_hears(whole: tuple[Evaluation, Path], tiny_fp32: Artifact, test_clean: DataSet, tmp_path: Path) -> None:
    evaluation = evaluate(open_transcriber(str(tiny_fp32.folder)), test_clean, tmp_path / "results")
    assert heard(tmp_path / "results") == heard(whole[1])
    assert evaluation.wer == whole[0].wer


def test_int8_is_within_the_range_of_the_test_case(
    whole: tuple[Evaluation, Path], transcriber: Transcriber, test_clean: DataSet, tmp_path: Path
) -> None:
    evaluation = evaluate(transcriber, test_clean, tmp_path / "results")
    # Two-sided: int8 may be better than the anchor by chance. If 8-bit products saturate, it is worse than on a phone.
    assert abs(evaluation.wer - whole[0].wer) <= (0.05 if evaluation.machine["int8_exact"] else 0.25)
    assert evaluation.c_size is not None and evaluation.c_size < 0.5


def test_word_error_rate_of_the_bundled_model_in_fp32_is_at_most_3_4_percent(whole: tuple[Evaluation, Path]) -> None:
    assert whole[0].wer <= 0.034


# The result


def test_the_result_adds_up(whole: tuple[Evaluation, Path], test_clean: DataSet) -> None:
    evaluation, folder = whole
    assert Evaluation.model_validate_json((folder / RESULT).read_text()) == evaluation
    lines = transcripts(folder)
    assert [each.id for each in lines] == [each.id for each in test_clean.utterances]
    assert [each.reference for each in lines] == [each.reference for each in test_clean.utterances]
    for kind in ("substitutions", "deletions", "insertions", "words"):
        assert getattr(evaluation, kind) == sum(getattr(each, kind) for each in lines)
    assert evaluation.utterances == len(lines) == 210
    assert evaluation.words == sum(len(each.reference.split()) for each in test_clean.utterances)
    assert evaluation.wer == (evaluation.substitutions + evaluation.deletions + evaluation.insertions) / evaluation.words
    assert evaluation.wer_interval[0] <= evaluation.wer <= evaluation.wer_interval[1]
    assert evaluation.audio_seconds == pytest.approx(sum(soundfile.info(each.path).duration for each in test_clean.utterances))
    assert evaluation.real_time_factor == pytest.approx(evaluation.compute_seconds / evaluation.audio_seconds)
    assert (evaluation.size_bits, evaluation.c_size, evaluation.artifact_bytes) == (1_524_892 * 32, 1.0, None)


def test_the_result_says_what_it_came_from(uninterrupted: tuple[Evaluation, Path], transcriber: Transcriber, tiny_int8: Artifact) -> None:
    evaluation, folder = uninterrupted
    assert (evaluation.configuration, evaluation.model) == ("DIGITS_ASR_TINY-onnx-int8", "DIGITS_ASR_TINY")
    assert (evaluation.data, evaluation.split, evaluation.identity, evaluation.threads) == ("digits", "test-clean", tiny_int8.digest, 1)
    assert (evaluation.size_bits, evaluation.artifact_bytes) == (8 * tiny_int8.size_bytes, tiny_int8.size_bytes)
    assert {"cpu", "cpu_features", "int8_exact", "versions", "commit"} <= evaluation.machine.keys()
    assert sorted(path.name for path in folder.iterdir()) == sorted([RESULT, SETTINGS, TIMES, TRANSCRIPTS])


def test_a_result_of_another_shape_is_refused(uninterrupted: tuple[Evaluation, Path]) -> None:
    plain = json.loads(uninterrupted[0].model_dump_json())
    for changes in ({"version": 1}, {"colour": "red"}, {"wer": "low"}):
        with pytest.raises(ValueError):
            Evaluation.model_validate(plain | changes)


# Inputs and folders that are refused


def test_random_weights_are_refused(data: DataSet, tiny_int8: Artifact, tmp_path: Path) -> None:
    artifact = copied(tiny_int8, tmp_path / "artifact", trained=False, weights="random, seed 0")
    for transcriber in (open_transcriber("0", weights="random"), open_transcriber(str(artifact))):
        with pytest.raises(AsrDeployError, match="has random weights"):
            evaluate(transcriber, data, tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_an_utterance_that_cannot_be_run_is_named(transcriber: Transcriber, data: DataSet, tmp_path: Path) -> None:
    own_data = speech_folder(data, tmp_path / "speech")
    audio = own_data / "test-clean" / "101" / "1" / "101-1-0001.flac"
    data = read_folder(own_data, "test-clean", "own")
    soundfile.write(audio, np.zeros(100, np.float32), 16_000)
    with pytest.raises(AsrDeployError, match=rf"^{audio} lasts 0.006 s, and the model requires at least .* use --skip-bad\.$"):
        evaluate(transcriber, data, tmp_path / "results")
    audio.write_bytes(b"fLaC and no more")
    with pytest.raises(AsrDeployError, match=str(audio)):
        evaluate(transcriber, data, tmp_path / "results")


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("name", ["thesis.txt", RESULT, TRANSCRIPTS, SETTINGS])
def test_a_foreign_folder_stays_as_it_is(transcriber: Transcriber, data: DataSet, tmp_path: Path, name: str) -> None:
    # Editors use the name settings.json too.
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / name).write_text('{"years of": "work"}')
    before = content(tmp_path)
    with pytest.raises(AsrDeployError, match=r"is not the folder of an evaluation\. Choose another folder"):
        evaluate(transcriber, data, tmp_path / "results")
    assert content(tmp_path) == before


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_results_in_a_place_that_is_no_folder(transcriber: Transcriber, data: DataSet, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("years of work")
    with pytest.raises((AsrDeployError, OSError)):  # the command line turns both into one sentence
        evaluate(transcriber, data, tmp_path / place)
    assert content(tmp_path) == {"file": b"years of work"}


def test_two_processes_do_not_write_into_one_folder(transcriber: Transcriber, data: DataSet, tmp_path: Path) -> None:
    def second(transcript: Transcript, timing: Timing) -> None:
        with pytest.raises(AsrDeployError, match="Another process is writing an evaluation to"):
            evaluate(transcriber, data, tmp_path)

    assert evaluate(transcriber, data.limited(2), tmp_path, progress=second).utterances == 2


# Transcribers


def test_an_artifact_is_named_by_its_folder(tiny_int8: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copied(tiny_int8, tmp_path / "of my own")
    monkeypatch.chdir(folder)
    assert open_transcriber(".").configuration == "of my own"


def test_what_is_neither_an_artifact_nor_a_model(tmp_path: Path) -> None:
    with pytest.raises(AsrDeployError, match="Did you mean DIGITS_ASR_TINY"):
        open_transcriber("DIGITS_ASR_TINI")
    with pytest.raises(AsrDeployError, match="does not exist"):
        open_transcriber(str(tmp_path / "none"))
    with pytest.raises(AsrDeployError, match="--weights applies to models"):
        open_transcriber(str(tmp_path), weights="random")


def test_the_warning_of_inexact_int8_depends_on_the_machine_alone(tiny_fp32: Artifact, tiny_int8: Artifact) -> None:
    from device_runner.facts import machine_facts

    assert open_transcriber(str(tiny_fp32.folder)).warning is None
    assert (open_transcriber(str(tiny_int8.folder)).warning is None) == machine_facts()["int8_exact"]
