"""Accuracy runs resume at any point, and never mix with transcripts of another run."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from device_runner.artifact import Artifact
from device_runner.errors import AsrDeployError
from device_runner.transcripts import Timing, Transcript, read_timings
from tests.toolchain.accuracy.evaluation_parts import counted, speech_folder, transcripts
from toolchain.accuracy.evaluation import evaluate
from toolchain.accuracy.run_folder import SETTINGS
from toolchain.accuracy.scoring import RESULT, TIMES, TRANSCRIPTS, Evaluation
from toolchain.accuracy.transcriber import Transcriber, open_transcriber
from toolchain.accuracy.workers import LocalWorkers
from toolchain.data.datasets import DataSet, read_folder


def stopping(after: int) -> Callable[[Transcript, Timing], None]:
    """Return a progress callback that interrupts at a certain call, like Ctrl-C."""
    left = after

    def progress(transcript: Transcript, timing: Timing) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt

    return progress


# Resuming an interrupted run


@pytest.mark.parametrize("k", [1, 3, 6])
@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupted_run_goes_on(
    transcriber: Transcriber, data: DataSet, uninterrupted: tuple[Evaluation, Path], tmp_path: Path, k: int, workers: int
) -> None:
    transcriber, engine = counted(transcriber)
    with pytest.raises(KeyboardInterrupt):
        evaluate(transcriber, data, tmp_path, workers=LocalWorkers(workers), progress=stopping(after=k))
    before = transcripts(tmp_path)
    # Workers may have started more utterances, but only reported ones are kept.
    assert len(before) == k <= engine.runs and not (tmp_path / RESULT).exists()
    begun, seen = engine.runs, []
    evaluation = evaluate(
        transcriber, data, tmp_path, workers=LocalWorkers(workers), progress=lambda transcript, timing: seen.append(transcript)
    )
    assert engine.runs == begun + len(data.utterances) - k
    assert set(seen[:k]) == set(before) and len(seen) == len(data.utterances)
    assert (tmp_path / TRANSCRIPTS).read_bytes() == (uninterrupted[1] / TRANSCRIPTS).read_bytes()
    assert evaluation.wer == uninterrupted[0].wer and evaluation.wer_interval == uninterrupted[0].wer_interval


@settings(max_examples=12, deadline=None)
@given(share=st.floats(0, 1), times=st.floats(0, 1))
def test_a_killed_run_goes_on_from_any_byte(
    share: float,
    times: float,
    transcriber: Transcriber,
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
    transcriber, engine = counted(transcriber)
    evaluate(transcriber, data, folder)
    assert engine.runs == len(data.utterances) - min(whole)
    assert (folder / TRANSCRIPTS).read_bytes() == (uninterrupted[1] / TRANSCRIPTS).read_bytes()
    assert [each.id for each in read_timings(folder / TIMES)] == [each.id for each in data.utterances]


def test_the_same_run_again_costs_no_inference(transcriber: Transcriber, data: DataSet, uninterrupted: tuple[Evaluation, Path]) -> None:
    evaluation, folder = uninterrupted
    transcriber, engine = counted(transcriber)
    before = (folder / TRANSCRIPTS).read_bytes()
    assert evaluate(transcriber, data, folder) == evaluation
    assert engine.runs == 0 and (folder / TRANSCRIPTS).read_bytes() == before


# Other inputs and other settings


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_result_of_another_artifact_is_refused_and_stays(
    tiny_fp32: Artifact, data: DataSet, uninterrupted: tuple[Evaluation, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "results"
    shutil.copytree(uninterrupted[1], folder)
    before = content(folder)
    transcriber, engine = counted(open_transcriber(str(tiny_fp32.folder)))
    with pytest.raises(AsrDeployError, match=rf"^{folder} holds the result of another model or artifact\. Choose another folder with -o"):
        evaluate(transcriber, data, folder)
    assert content(folder) == before and engine.runs == 0
    evaluation = evaluate(transcriber, data, folder, replace=True)
    assert engine.runs == len(data.utterances) == len(transcripts(folder)) and evaluation.identity == tiny_fp32.digest


def test_another_data_set_is_refused_even_if_it_has_the_same_name(
    transcriber: Transcriber, data: DataSet, test_clean: DataSet, uninterrupted: tuple[Evaluation, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "results"
    shutil.copytree(uninterrupted[1], folder)
    before = content(folder)
    others = tuple(replace(theirs, id=ours.id) for ours, theirs in zip(data.utterances, test_clean.utterances[6:], strict=False))
    for other in (replace(data, utterances=others), replace(data, name="mine"), replace(data, split="dev-clean")):
        with pytest.raises(AsrDeployError, match=rf"^{folder} holds the result of another (data set|split)\."):
            evaluate(transcriber, other, folder)
    with pytest.raises(AsrDeployError, match="holds the result of 6 utterances, of which this run has 2"):
        evaluate(transcriber, data.limited(2), folder)
    assert content(folder) == before


def test_other_threads_start_anew_and_more_data_go_on(
    transcriber: Transcriber, data: DataSet, test_clean: DataSet, uninterrupted: tuple[Evaluation, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "results"
    shutil.copytree(uninterrupted[1], folder)
    transcriber, engine = counted(transcriber)
    transcriber = replace(transcriber, threads=2)
    assert evaluate(transcriber, data, folder).threads == 2
    assert engine.runs == len(data.utterances)
    assert evaluate(transcriber, test_clean.limited(8), folder).utterances == 8
    assert engine.runs == 8


def test_transcripts_stay_while_references_and_other_recordings_change(transcriber: Transcriber, data: DataSet, tmp_path: Path) -> None:
    own_data = speech_folder(data, tmp_path / "speech")
    results = tmp_path / "results"

    def runs() -> int:
        watched, engine = counted(transcriber)
        evaluate(watched, read_folder(own_data, "test-clean", "own"), results)
        return engine.runs

    assert (runs(), runs()) == (2, 0)
    transcript = own_data / "test-clean" / "101" / "1" / "101-1.trans.txt"
    transcript.write_text(transcript.read_text() + "\n")
    assert runs() == 0  # the file changed, but not its references
    words = Evaluation.model_validate_json((results / RESULT).read_text()).words
    transcript.write_text(transcript.read_text().replace("101-1-0000 ", "101-1-0000 OH "))
    assert (runs(), runs()) == (0, 0)
    assert transcripts(results)[0].reference.startswith("OH ")
    result = Evaluation.model_validate_json((results / RESULT).read_text())
    assert (result.words, result.deletions) == (words + 1, 1)
    audio = own_data / "test-clean" / "101" / "1" / "101-1-0000.flac"
    samples, rate = soundfile.read(audio)
    soundfile.write(audio, samples[:8000], rate)
    assert (runs(), runs()) == (1, 0)
    transcript.write_text("".join(transcript.read_text().splitlines(keepends=True)[1:]))
    audio.unlink()
    assert runs() == 0 and [each.id for each in transcripts(results)] == ["101-1-0001"]


@pytest.mark.parametrize("name", [RESULT, TRANSCRIPTS, TIMES])
def test_a_folder_in_the_place_of_a_file_is_told_and_stays(
    transcriber: Transcriber, data: DataSet, uninterrupted: tuple[Evaluation, Path], tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "results"
    shutil.copytree(uninterrupted[1], folder)
    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises(AsrDeployError, match=rf"^{folder / name} is a folder, but a file belongs there\. Rename or remove it, or choose"):
        evaluate(transcriber, data, folder)
    assert (folder / name).is_dir()


# Recordings that cannot be transcribed


def with_bad_recordings(data: DataSet, folder: Path) -> Path:
    """Two good recordings, one that is shorter than a frame, and one that is a text file."""
    speech_folder(data, folder)
    chapter = folder / "test-clean" / "101" / "1"
    soundfile.write(chapter / "101-1-0007.flac", [0.0] * 100, 16_000)
    (chapter / "101-1-0008.wav").write_text("no recording")
    with (chapter / "101-1.trans.txt").open("a") as lines:
        lines.write("101-1-0007 ONE\n101-1-0008 TWO\n")
    return folder


def test_all_bad_recordings_are_named_before_anything_runs(transcriber: Transcriber, data: DataSet, tmp_path: Path) -> None:
    mixed = read_folder(with_bad_recordings(data, tmp_path / "speech"), "test-clean", "own")
    watched, engine = counted(transcriber)
    with pytest.raises(AsrDeployError) as raised:
        evaluate(watched, mixed, tmp_path / "results")
    said = str(raised.value)
    assert said.startswith("2 of 4 recordings of own test-clean cannot be transcribed. ") and said.endswith(
        "leave them out with --skip-bad."
    )
    assert "101-1-0007.flac lasts 0.006 s" in said and "101-1-0008.wav is a text file" in said
    assert engine.runs == 0 and not (tmp_path / "results").exists()


def test_no_bad_recording_is_left_unnamed_however_many_there_are(
    transcriber: Transcriber, data: DataSet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    missing = [replace(data.utterances[0], id=f"9-9-{number:04}", path=tmp_path / f"{number:04}.flac") for number in range(100)]
    with pytest.raises(AsrDeployError, match=r"^100 of 100 recordings .* They are named above\. Mend them"):
        evaluate(transcriber, replace(data, utterances=tuple(missing)), tmp_path / "results")
    assert all(str(each.path) in caplog.text for each in missing)


def test_bad_recordings_are_left_out_and_the_result_says_so(transcriber: Transcriber, data: DataSet, tmp_path: Path) -> None:
    folder = with_bad_recordings(data, tmp_path / "speech")
    result = evaluate(transcriber, read_folder(folder, "test-clean", "own"), tmp_path / "results", skip_bad=True)
    assert result.utterances == 2 and [each.id for each in result.left_out] == ["101-1-0007", "101-1-0008"]
    assert "is a text file" in result.left_out[1].reason
    shutil.copy(data.utterances[2].path, folder / "test-clean" / "101" / "1" / "101-1-0007.flac")
    watched, engine = counted(transcriber)
    mended = evaluate(watched, read_folder(folder, "test-clean", "own"), tmp_path / "results", skip_bad=True)
    assert engine.runs == 1 and mended.utterances == 3 and [each.id for each in mended.left_out] == ["101-1-0008"]


def test_folders_of_an_older_version_start_anew(
    transcriber: Transcriber, data: DataSet, uninterrupted: tuple[Evaluation, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "results"
    shutil.copytree(uninterrupted[1], folder)
    plain = json.loads((folder / SETTINGS).read_text())
    (folder / SETTINGS).write_text(json.dumps({key: plain[key] for key in ("identity", "data", "threads")}))
    (folder / TRANSCRIPTS).write_text('{"id": "101-1-0000", "compute_seconds": 1}\n')
    transcriber, engine = counted(transcriber)
    assert evaluate(transcriber, data, folder).wer == uninterrupted[0].wer and engine.runs == len(data.utterances)


def test_a_normaliser_needs_no_second_run(
    transcriber: Transcriber, data: DataSet, uninterrupted: tuple[Evaluation, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "results"
    shutil.copytree(uninterrupted[1], folder)
    transcriber, engine = counted(transcriber)
    both = evaluate(transcriber, data, folder, normalizer="whisper")
    assert both.normalised is not None and both.wer == uninterrupted[0].wer and engine.runs == 0
    assert Evaluation.model_validate_json((folder / RESULT).read_text()) == both
    assert evaluate(transcriber, data, folder) == uninterrupted[0]
