"""Accuracy runs: equal to the scenario's own procedure, resumed at any point, never mixed, and honest about random weights."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from helpers import copied
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torchaudio.datasets import LIBRISPEECH
from torcheval.metrics import WordErrorRate

from device_runner.artifact import Artifact
from device_runner.engines import Engine
from device_runner.errors import AsrDeployError
from device_runner.transcripts import Timing, Transcript, read_timings, read_transcripts
from toolchain.datasets import DataSet, open_data, read_folder
from toolchain.digits_model import digits_asr_tiny
from toolchain.evaluate import evaluate
from toolchain.models import BUNDLED_WEIGHTS
from toolchain.pools import LocalPool
from toolchain.run_folder import SETTINGS
from toolchain.scoring import RESULT, TIMES, TRANSCRIPTS, Evaluation
from toolchain.subjects import Subject, open_subject
from toolchain.testcases import LABELS

Heard = dict[str, str]


class Counting:
    """An engine that counts how often the real one behind it runs."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.runs = 0

    def logits(self, waveform: np.ndarray) -> np.ndarray:
        self.runs += 1
        return self.engine.logits(waveform)


def counted(subject: Subject) -> tuple[Subject, Counting]:
    engine = Counting(subject.engine)
    return replace(subject, engine=engine), engine


def transcripts(folder: Path) -> list[Transcript]:
    return read_transcripts(folder / TRANSCRIPTS)


def heard(folder: Path) -> Heard:
    return {each.id: each.hypothesis for each in transcripts(folder)}


def stopping(after: int) -> Callable[[Transcript, Timing], None]:
    """Return a progress callback that interrupts at a certain call, as the user's Control-C does."""
    left = after

    def progress(transcript: Transcript, timing: Timing) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt

    return progress


@pytest.fixture(scope="module")
def subject(tiny_int8: Artifact) -> Subject:
    return open_subject(str(tiny_int8.folder))


@pytest.fixture(scope="module")
def data(test_clean: DataSet) -> DataSet:
    return test_clean.limited(6)


@pytest.fixture(scope="module")
def uninterrupted(subject: Subject, data: DataSet, tmp_path_factory: pytest.TempPathFactory) -> tuple[Evaluation, Path]:
    folder = tmp_path_factory.mktemp("uninterrupted") / "results"
    return evaluate(subject, data, folder), folder


@pytest.fixture(scope="module")
def whole(test_clean: DataSet, tmp_path_factory: pytest.TempPathFactory) -> tuple[Evaluation, Path]:
    """The torch engine on all of the bundled test-clean."""
    folder = tmp_path_factory.mktemp("whole") / "results"
    return evaluate(open_subject("0"), test_clean, folder), folder


# The scenario


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> tuple[Heard, float]:
    """The scenario's own procedure, straight from torchaudio, torch and torcheval: batch 1, greedy labels, corpus rate."""
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
    evaluation = evaluate(open_subject(str(tiny_fp32.folder)), test_clean, tmp_path / "results")
    assert heard(tmp_path / "results") == heard(whole[1])
    assert evaluation.wer == whole[0].wer


def test_int8_is_within_the_range_of_the_test_case(
    whole: tuple[Evaluation, Path], subject: Subject, test_clean: DataSet, tmp_path: Path
) -> None:
    evaluation = evaluate(subject, test_clean, tmp_path / "results")
    # Either side: int8 may by chance be better than the anchor. Where 8-bit products saturate, it is worse than on a phone.
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


def test_the_result_says_what_it_came_from(uninterrupted: tuple[Evaluation, Path], subject: Subject, tiny_int8: Artifact) -> None:
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


# Going on where a run was stopped


@pytest.mark.parametrize("k", [1, 3, 6])
@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupted_run_goes_on(
    subject: Subject, data: DataSet, uninterrupted: tuple[Evaluation, Path], tmp_path: Path, k: int, workers: int
) -> None:
    subject, engine = counted(subject)
    with pytest.raises(KeyboardInterrupt):
        evaluate(subject, data, tmp_path, pool=LocalPool(workers), progress=stopping(after=k))
    before = transcripts(tmp_path)
    # Workers may have begun some more; what was told is kept, and nothing else is.
    assert len(before) == k <= engine.runs and not (tmp_path / RESULT).exists()
    begun, seen = engine.runs, []
    evaluation = evaluate(subject, data, tmp_path, pool=LocalPool(workers), progress=lambda transcript, timing: seen.append(transcript))
    assert engine.runs == begun + len(data.utterances) - k
    assert set(seen[:k]) == set(before) and len(seen) == len(data.utterances)
    assert (tmp_path / TRANSCRIPTS).read_bytes() == (uninterrupted[1] / TRANSCRIPTS).read_bytes()
    assert evaluation.wer == uninterrupted[0].wer and evaluation.wer_interval == uninterrupted[0].wer_interval


@settings(max_examples=12, deadline=None)
@given(share=st.floats(0, 1), times=st.floats(0, 1))
def test_a_killed_run_goes_on_from_any_byte(
    share: float,
    times: float,
    subject: Subject,
    data: DataSet,
    uninterrupted: tuple[Evaluation, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("killed") / "results"
    shutil.copytree(uninterrupted[1], folder)
    whole = []
    for name, kept in ((TRANSCRIPTS, share), (TIMES, times)):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: round(kept * len(content))])
        whole.append((folder / name).read_bytes().count(b"\n"))
    subject, engine = counted(subject)
    evaluate(subject, data, folder)
    assert engine.runs == len(data.utterances) - min(whole)
    assert (folder / TRANSCRIPTS).read_bytes() == (uninterrupted[1] / TRANSCRIPTS).read_bytes()
    assert [each.id for each in read_timings(folder / TIMES)] == [each.id for each in data.utterances]


def test_the_same_run_again_costs_no_inference(subject: Subject, data: DataSet, uninterrupted: tuple[Evaluation, Path]) -> None:
    evaluation, folder = uninterrupted
    subject, engine = counted(subject)
    before = (folder / TRANSCRIPTS).read_bytes()
    assert evaluate(subject, data, folder) == evaluation
    assert engine.runs == 0 and (folder / TRANSCRIPTS).read_bytes() == before


# Starting anew where something else was run


def test_another_artifact_starts_anew(tiny_fp32: Artifact, data: DataSet, uninterrupted: tuple[Evaluation, Path], tmp_path: Path) -> None:
    folder = tmp_path / "results"
    shutil.copytree(uninterrupted[1], folder)
    subject, engine = counted(open_subject(str(tiny_fp32.folder)))
    evaluation = evaluate(subject, data, folder)
    assert engine.runs == len(data.utterances) == len(transcripts(folder)) and evaluation.identity == tiny_fp32.digest


def test_other_threads_or_more_data_start_anew(
    subject: Subject, data: DataSet, test_clean: DataSet, uninterrupted: tuple[Evaluation, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "results"
    shutil.copytree(uninterrupted[1], folder)
    subject, engine = counted(subject)
    subject = replace(subject, threads=2)
    assert evaluate(subject, data, folder).threads == 2
    assert engine.runs == len(data.utterances)
    assert evaluate(subject, test_clean.limited(8), folder).utterances == 8
    assert engine.runs == len(data.utterances) + 8


@pytest.fixture
def own_data(data: DataSet, tmp_path: Path) -> Path:
    """A folder in LibriSpeech's layout with two bundled utterances, to be changed."""
    chapter = tmp_path / "speech" / "test-clean" / "101" / "1"
    chapter.mkdir(parents=True)
    for each in data.utterances[:2]:
        shutil.copy(each.path, chapter)
    (chapter / "101-1.trans.txt").write_text("".join(f"{each.id} {each.reference}\n" for each in data.utterances[:2]))
    return tmp_path / "speech"


def test_changed_data_start_anew(subject: Subject, own_data: Path, tmp_path: Path) -> None:
    def runs() -> int:
        watched, engine = counted(subject)
        evaluate(watched, read_folder(own_data, "test-clean", "own"), tmp_path / "results")
        return engine.runs

    assert (runs(), runs()) == (2, 0)
    transcript = own_data / "test-clean" / "101" / "1" / "101-1.trans.txt"
    transcript.write_text(transcript.read_text() + "\n")
    assert runs() == 0  # the text of the file changed, not the references
    transcript.write_text(transcript.read_text().replace("101-1-0000 ", "101-1-0000 OH "))
    assert (runs(), runs()) == (2, 0)
    assert transcripts(tmp_path / "results")[0].reference.startswith("OH ")
    audio = own_data / "test-clean" / "101" / "1" / "101-1-0000.flac"
    samples, rate = soundfile.read(audio)
    soundfile.write(audio, samples[:8000], rate)
    assert (runs(), runs()) == (2, 0)


# What cannot be evaluated, and where not


def test_random_weights_are_refused(data: DataSet, tiny_int8: Artifact, tmp_path: Path) -> None:
    artifact = copied(tiny_int8, tmp_path / "artifact", trained=False, weights="random, seed 0")
    for subject in (open_subject("0", weights="random"), open_subject(str(artifact))):
        with pytest.raises(AsrDeployError, match="has random weights"):
            evaluate(subject, data, tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_an_utterance_that_cannot_be_run_is_named(subject: Subject, own_data: Path, tmp_path: Path) -> None:
    audio = own_data / "test-clean" / "101" / "1" / "101-1-0001.flac"
    data = read_folder(own_data, "test-clean", "own")
    soundfile.write(audio, np.zeros(100, np.float32), 16_000)
    with pytest.raises(AsrDeployError, match=rf"^{audio}: The audio has 100 samples"):
        evaluate(subject, data, tmp_path / "results")
    audio.write_bytes(b"fLaC and no more")
    with pytest.raises(AsrDeployError, match=str(audio)):
        evaluate(subject, data, tmp_path / "results")


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("name", ["thesis.txt", RESULT, TRANSCRIPTS, SETTINGS])
def test_a_foreign_folder_stays_as_it_is(subject: Subject, data: DataSet, tmp_path: Path, name: str) -> None:
    # settings.json is a name that editors use too.
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / name).write_text('{"years of": "work"}')
    before = content(tmp_path)
    with pytest.raises(AsrDeployError, match="choose another folder"):
        evaluate(subject, data, tmp_path / "results")
    assert content(tmp_path) == before


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_results_in_a_place_that_is_no_folder(subject: Subject, data: DataSet, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("years of work")
    with pytest.raises((AsrDeployError, OSError)):  # the command line makes a sentence of either
        evaluate(subject, data, tmp_path / place)
    assert content(tmp_path) == {"file": b"years of work"}


def test_transcripts_of_other_utterances_are_not_gone_on_with(
    subject: Subject, data: DataSet, uninterrupted: tuple[Evaluation, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "results"
    shutil.copytree(uninterrupted[1], folder)
    lines = (folder / TRANSCRIPTS).read_text().splitlines(keepends=True)
    (folder / TRANSCRIPTS).write_text("".join([lines[0].replace(data.utterances[0].id, "9-9-0000"), *lines[1:]]))
    with pytest.raises(AsrDeployError, match="does not fit the data set: remove it"):
        evaluate(subject, data, folder)


def test_two_processes_do_not_write_into_one_folder(subject: Subject, data: DataSet, tmp_path: Path) -> None:
    def second(transcript: Transcript, timing: Timing) -> None:
        with pytest.raises(AsrDeployError, match="Another process evaluates into"):
            evaluate(subject, data, tmp_path)

    assert evaluate(subject, data.limited(2), tmp_path, progress=second).utterances == 2


def test_folders_of_an_older_version_start_anew(
    subject: Subject, data: DataSet, uninterrupted: tuple[Evaluation, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "results"
    shutil.copytree(uninterrupted[1], folder)
    plain = json.loads((folder / SETTINGS).read_text())
    (folder / SETTINGS).write_text(json.dumps({key: plain[key] for key in ("identity", "data", "threads")}))
    (folder / TRANSCRIPTS).write_text('{"id": "101-1-0000", "compute_seconds": 1}\n')
    subject, engine = counted(subject)
    assert evaluate(subject, data, folder).wer == uninterrupted[0].wer and engine.runs == len(data.utterances)


def test_a_normaliser_needs_no_second_run(subject: Subject, data: DataSet, uninterrupted: tuple[Evaluation, Path], tmp_path: Path) -> None:
    folder = tmp_path / "results"
    shutil.copytree(uninterrupted[1], folder)
    subject, engine = counted(subject)
    both = evaluate(subject, data, folder, normalizer="whisper")
    assert both.normalised is not None and both.wer == uninterrupted[0].wer and engine.runs == 0
    assert Evaluation.model_validate_json((folder / RESULT).read_text()) == both
    assert evaluate(subject, data, folder) == uninterrupted[0]


# Subjects


def test_an_artifact_is_named_by_its_folder(tiny_int8: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copied(tiny_int8, tmp_path / "of my own")
    monkeypatch.chdir(folder)
    assert open_subject(".").configuration == "of my own"


def test_what_is_neither_an_artifact_nor_a_model(tmp_path: Path) -> None:
    with pytest.raises(AsrDeployError, match="Did you mean DIGITS_ASR_TINY"):
        open_subject("DIGITS_ASR_TINI")
    with pytest.raises(AsrDeployError, match="does not exist"):
        open_subject(str(tmp_path / "none"))
    with pytest.raises(AsrDeployError, match="--weights is for models"):
        open_subject(str(tmp_path), weights="random")


def test_the_warning_of_inexact_int8_depends_on_the_machine_alone(tiny_fp32: Artifact, tiny_int8: Artifact) -> None:
    from device_runner.facts import machine_facts

    assert open_subject(str(tiny_fp32.folder)).warning is None
    assert (open_subject(str(tiny_int8.folder)).warning is None) == machine_facts()["int8_exact"]
