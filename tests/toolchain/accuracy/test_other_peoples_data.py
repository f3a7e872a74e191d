"""Evaluations of other people's models and data: default folders, bad recordings, languages, characters that no label prints."""

import errno
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from device_runner.artifact import Artifact
from device_runner.errors import AsrDeployError
from device_runner.transcripts import Timing, Transcript
from tests.helpers import Completed, complaint, copied
from tests.toolchain.accuracy.evaluation_parts import speech_folder, transcripts
from tests.toolchain.accuracy.written_evaluations import write_evaluation
from toolchain.accuracy.comparison import compare_runs
from toolchain.accuracy.evaluation import checked_for, evaluate
from toolchain.accuracy.metrics import count_character_errors
from toolchain.accuracy.run_folder import run_folder
from toolchain.accuracy.scoring import RESULT, Evaluation, read_evaluation, score
from toolchain.accuracy.transcriber import Transcriber
from toolchain.data.casing import upper
from toolchain.data.datasets import DataSet, Utterance, open_data
from toolchain.data.scripts import unprintable_warning, unspaced
from toolchain.reports import comparisons, tables
from toolchain.reports.savings import reservations
from toolchain.scenario.points import read_curve

Command = Callable[..., Completed]


def result(folder: Path) -> Evaluation:
    return Evaluation.model_validate_json((folder / RESULT).read_text())


# Default folders


def test_two_artifacts_of_one_name_do_not_share_a_default_folder(
    cli: Command, tiny_int8: Artifact, tiny_fp32: Artifact, tmp_path: Path
) -> None:
    runs = [copied(tiny_int8, tmp_path / "run-a" / "checkpoint-1000"), copied(tiny_fp32, tmp_path / "run-b" / "checkpoint-1000")]
    for _ in range(2):  # the second time nothing moves
        for run in runs:
            assert cli("evaluate", run, "--limit", 2).returncode == 0
    folders = sorted((tmp_path / "results").iterdir())
    assert [each.name[:36] for each in folders] == ["checkpoint-1000-digits-test-clean-2", "checkpoint-1000-digits-test-clean-2-"]
    assert [result(each).identity for each in folders] == [tiny_int8.digest, tiny_fp32.digest]


def test_two_data_sets_of_one_name_do_not_share_a_default_folder(
    cli: Command, tiny_int8: Artifact, test_clean: DataSet, tmp_path: Path
) -> None:
    for start, name in ((0, "cv/de"), (2, "mls/de")):
        speech_folder(replace(test_clean, utterances=test_clean.utterances[start:]), tmp_path / name)
        assert cli("evaluate", tiny_int8.folder, "--data", tmp_path / name).returncode == 0
    folders = sorted((tmp_path / "results").iterdir())
    assert len(folders) == 2 and folders[1].name.startswith(folders[0].name + "-")
    assert {transcripts(each)[0].id for each in folders} == {test_clean.utterances[0].id, test_clean.utterances[2].id}


def test_two_versions_of_a_data_set_do_not_share_a_default_folder(
    cli: Command, tiny_int8: Artifact, test_clean: DataSet, tmp_path: Path
) -> None:
    for version in ("v1", "v2"):
        speech_folder(test_clean, tmp_path / version / "de")
    shutil.copy(test_clean.utterances[3].path, tmp_path / "v2" / "de" / "test-clean" / "101" / "1" / test_clean.utterances[0].path.name)
    for version in ("v1", "v2", "v1", "v2"):
        assert cli("evaluate", tiny_int8.folder, "--data", tmp_path / version / "de").returncode == 0
    folders = sorted((tmp_path / "results").iterdir())
    assert len(folders) == 2 and [len(transcripts(each)) for each in folders] == [2, 2]
    (tmp_path / "v1").rename(tmp_path / "moved")  # named by the user, the folder of a set that has moved goes on
    done = cli("evaluate", tiny_int8.folder, "--data", tmp_path / "moved" / "de", "-o", folders[0])
    assert done.returncode == 0 and "again" not in done.stderr


def test_an_output_folder_with_another_result_is_refused_until_replace(
    cli: Command, tiny_int8: Artifact, tiny_fp32: Artifact, tmp_path: Path
) -> None:
    assert cli("evaluate", tiny_int8.folder, "--limit", 2, "-o", tmp_path / "out").returncode == 0
    before = (tmp_path / "out" / RESULT).read_bytes()
    said = complaint(cli("evaluate", tiny_fp32.folder, "--limit", 2, "-o", tmp_path / "out"), alone=False)
    assert "holds the result of another model or artifact" in said and "--replace" in said
    assert (tmp_path / "out" / RESULT).read_bytes() == before
    assert cli("evaluate", tiny_fp32.folder, "--limit", 2, "-o", tmp_path / "out", "--replace").returncode == 0
    assert result(tmp_path / "out").identity == tiny_fp32.digest


# Bad recordings


def test_the_command_names_bad_recordings_and_leaves_them_out(
    cli: Command, tiny_int8: Artifact, test_clean: DataSet, tmp_path: Path
) -> None:
    chapter = speech_folder(test_clean, tmp_path / "mine") / "test-clean" / "101" / "1"
    for number in (7, 8):
        (chapter / f"101-1-000{number}.wav").write_bytes(b"")
    with (chapter / "101-1.trans.txt").open("a") as lines:
        lines.write("101-1-0007 ONE\n101-1-0008 TWO\n")
    asked = ("evaluate", tiny_int8.folder, "--data", tmp_path / "mine", "-o", tmp_path / "out")
    said = complaint(cli(*asked), alone=False)
    assert "101-1-0007.wav" in said and "101-1-0008.wav" in said and "--skip-bad" in said and not (tmp_path / "out").exists()
    done = cli(*asked, "--skip-bad")
    assert done.returncode == 0 and "2: 101-1-0007, 101-1-0008; reasons in result.json" in done.stdout
    assert [each.id for each in result(tmp_path / "out").left_out] == ["101-1-0007", "101-1-0008"]


def test_a_sweep_leaves_bad_recordings_out(cli: Command, test_clean: DataSet, tmp_path: Path) -> None:
    for split in ("dev-clean", "test-clean"):
        place = tmp_path / "mine" / split / "900" / ("1" if split == "dev-clean" else "2")
        place.mkdir(parents=True)
        chapter = f"900-{place.name}"
        for number, each in enumerate(test_clean.utterances[:2]):
            shutil.copy(each.path, place / f"{chapter}-000{number}.flac")
        (place / f"{chapter}-0002.wav").write_bytes(b"RIFF")
        references = [each.reference for each in test_clean.utterances[:2]] + ["ONE"]
        (place / f"{chapter}.trans.txt").write_text("".join(f"{chapter}-000{n} {text}\n" for n, text in enumerate(references)))
    (tmp_path / "sweep.toml").write_text(f'data = "{tmp_path / "mine"}"\n[[method]]\ncodec = "uniform"\nrates = [8]\n')
    assert "900-1-0002.wav" in complaint(cli("sweep", "--config", tmp_path / "sweep.toml", "-o", tmp_path / "out"), alone=False)
    text = (tmp_path / "sweep.toml").read_text()
    (tmp_path / "sweep.toml").write_text("skip_bad = true\n" + text)
    done = cli("sweep", "--config", tmp_path / "sweep.toml", "-o", tmp_path / "out")
    (sentence, _) = reservations(read_curve(tmp_path / "out"))
    assert "1 recording of mine test-clean could not be transcribed and was left out. The reasons are in" in sentence
    assert done.returncode == 0 and sentence in done.stderr and (tmp_path / "out" / sentence.split(f"{tmp_path}/out/")[1][:-1]).is_file()
    assert "The search on mine dev-clean leaves out 1 that cannot be transcribed: 900-1-0002." in done.stderr
    (point,) = json.loads((tmp_path / "out" / "points.json").read_text())["points"]
    assert point["cer"] is not None and len(result(tmp_path / "out" / point["evaluation"]).left_out) == 1


def test_a_silent_recording_is_remarked(transcriber: Transcriber, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    soundfile.write(tmp_path / "silent.wav", np.zeros(16_000, np.float32), 16_000)
    data = DataSet("mine", "test-clean", (Utterance("silent", tmp_path / "silent.wav", "ONE"),))
    evaluate(transcriber, data, tmp_path / "out")
    assert f"{tmp_path / 'silent.wav'} is silent" in caplog.text


# Languages


class Says:
    """An engine whose logits spell one text, whatever it hears."""

    def __init__(self, text: str, labels: tuple[str, ...]) -> None:
        self.frames = [labels.index("|" if each == " " else each) for each in text]
        self.width = len(labels)

    def logits(self, waveform: np.ndarray) -> np.ndarray:
        logits = np.zeros((2 * len(self.frames), self.width), np.float32)
        logits[np.arange(0, 2 * len(self.frames), 2), self.frames] = 1  # blanks between, so that doubled letters stay
        logits[np.arange(1, 2 * len(self.frames), 2), 0] = 1
        return logits


TURKISH = ("-", "|", *"ABCÇDEFGĞHIİJKLMNOÖPRSŞTUÜVYZ")
ENGLISH = ("-", "|", "'", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ")


def heard(
    said: str, reference: str, labels: tuple[str, ...], transcriber: Transcriber, data: DataSet, folder: Path, **more: object
) -> Evaluation:
    saying = replace(transcriber, labels=labels, engine=Says(said, labels))
    one = replace(data, utterances=(replace(data.utterances[0], reference=reference),))
    return evaluate(saying, one, folder, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("said", "reference", "wrong"),
    [("ILIK SU", "ılık su", 0), ("İLİK SU", "ilik su", 0), ("ILIK SU", "ilik su", 1), ("İLİK SU", "ılık su", 1)],
)
def test_turkish_labels_decide_upper_case(
    said: str, reference: str, wrong: int, transcriber: Transcriber, data: DataSet, tmp_path: Path
) -> None:
    found = heard(said, reference, TURKISH, transcriber, data, tmp_path / "out")
    assert (found.substitutions, found.words, found.language) == (wrong, 2, "tr")


def test_a_language_decides_where_labels_do_not(
    transcriber: Transcriber, data: DataSet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    undecided = heard("ILIK", "ılık", ENGLISH, transcriber, data, tmp_path / "a")
    assert undecided.wer == 1 and undecided.unprintable == {"ı": 2} and "--language of `asrdeploy evaluate` says how" in caplog.text
    assert heard("ILIK", "ılık", ENGLISH, transcriber, data, tmp_path / "b", language="tr").wer == 0
    assert heard("ISTANBUL", "İstanbul", ENGLISH, transcriber, data, tmp_path / "c", language="en").wer == 0


def test_references_in_nfd_are_compared_in_one_form(transcriber: Transcriber, data: DataSet, tmp_path: Path) -> None:
    labels = ("-", "|", *"CAFÉ")
    found = heard("CAFÉ", "cafe\u0301", labels, transcriber, data, tmp_path / "out")
    assert found.wer == 0 and not found.unprintable
    parts = ("-", "|", *"CAFE", "\u0301")
    assert heard("CAFE\u0301", "caf\u00e9", parts, transcriber, data, tmp_path / "parts").wer == 0


def test_punctuation_and_digits_are_warned_about(
    transcriber: Transcriber, data: DataSet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = heard("WELL DONE", "Well, done.", ENGLISH, transcriber, data, tmp_path / "out", normalizer="punctuation")
    assert found.wer == 1 and found.unprintable == {",": 1, ".": 1}
    assert found.normalised is not None and found.normalised.wer == 0
    assert f"“,” “.”, 18.2% of the characters of the references in {data.name} {data.split}. " in caplog.text
    assert "`asrdeploy score RESULT --normalizer punctuation` adds" in caplog.text
    heard("THREE", "3", ENGLISH, transcriber, data, tmp_path / "digits")
    assert "--normalizer whisper" in caplog.text


def test_characters_are_the_main_figure_without_spaces(transcriber: Transcriber, data: DataSet, tmp_path: Path) -> None:
    found = heard("今日はよい", "今日は いい", ("-", "|", *"今日はいよ"), transcriber, data, tmp_path / "out")
    assert (found.main, found.characters, found.character_errors, found.cer) == ("cer", 5, 1, 0.2)
    assert next(row for row in tables.evaluation(found).columns[0].cells if row in ("WER", "CER")) == "CER"


def test_character_errors_by_hand() -> None:
    assert count_character_errors("THE CAT", "THE  CT") == (1, 7)
    assert count_character_errors("ABC", "") == (3, 3)
    assert count_character_errors("今 日", "今日", spaced=False) == (0, 2)
    transcript = Transcript(
        id="a", audio_seconds=1, reference="THE CAT", hypothesis="THE CATS", substitutions=1, deletions=0, insertions=0, words=2
    )
    assert score([transcript]).cer == 1 / 7


def test_runs_without_spaces_are_compared_by_characters(tmp_path: Path) -> None:
    for name, hypothesis in (("A", "今日はいい"), ("B", "今日はよい")):
        write_evaluation(tmp_path / name, {"one": ("今日はいい", hypothesis)})
    found = compare_runs(tmp_path / "A", tmp_path / "B")
    assert (found.main, found.words, found.difference) == ("cer", 5, 0.2)
    assert comparisons.verdict(found).startswith("B is worse by 20.00 CER points")


def test_a_result_of_the_version_before_gets_its_character_errors(tmp_path: Path) -> None:
    made = write_evaluation(tmp_path / "A", {"one": ("ONE TWO", "ONE TOO")})
    plain = json.loads((tmp_path / "A" / RESULT).read_text())
    new = ("characters", "character_errors", "cer", "cer_interval", "left_out", "language", "unprintable", "main")
    (tmp_path / "A" / RESULT).write_text(json.dumps({key: value for key, value in plain.items() if key not in new} | {"version": 2}))
    assert read_evaluation(tmp_path / "A")[0].model_dump(exclude={"unprintable"}) == made.model_dump(exclude={"unprintable"})


# What changes meanwhile, or was changed by hand


def test_a_recording_that_changes_during_the_evaluation_is_refused(transcriber: Transcriber, test_clean: DataSet, tmp_path: Path) -> None:
    data = open_data(str(speech_folder(test_clean, tmp_path / "speech")), "test-clean")
    checked = checked_for(transcriber, data)
    shutil.copy(test_clean.utterances[3].path, data.utterances[1].path)
    with pytest.raises(AsrDeployError, match=rf"{data.utterances[1].path} was changed during the evaluation\. Repeat the command\."):
        evaluate(transcriber, checked, tmp_path / "results")
    assert [each.id for each in transcripts(tmp_path / "results")] == [data.utterances[0].id]


def test_transcripts_that_a_smaller_run_deletes_are_told_and_files_of_editors_stay(
    transcriber: Transcriber, data: DataSet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "results"
    evaluate(transcriber, data, folder)
    (folder / ".result.json.swp").write_text("of an editor")
    (folder / ".result.json.0123abcd.json").write_text("of a killed process")
    evaluate(transcriber, data.limited(4), folder)
    assert f"{folder} has transcripts of 2 utterances that are not in this run. They are deleted." in caplog.text
    assert {each.name for each in folder.iterdir() if each.name.startswith(".")} == {".result.json.swp"}


def test_a_run_with_an_utterance_twice_is_not_scored(cli: Command, uninterrupted: tuple[Evaluation, Path], tmp_path: Path) -> None:
    folder = tmp_path / "results"
    shutil.copytree(uninterrupted[1], folder)
    lines = (folder / "transcripts.jsonl").read_text().splitlines(keepends=True)
    (folder / "transcripts.jsonl").write_text("".join([*lines[:-1], lines[0]]))
    stored = (folder / RESULT).read_bytes()
    assert "results has two transcripts of the same utterance" in complaint(cli("score", "results"))
    assert (folder / RESULT).read_bytes() == stored


def test_runs_in_two_languages_are_compared_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, language in (("a", "zh"), ("b", "en")):
        write_evaluation(tmp_path / name, {"1": ("你好", "你")}, language=language)
    compare_runs(tmp_path / "a", tmp_path / "b")
    assert f"{tmp_path / 'a'} was scored with zh, and {tmp_path / 'b'} with en. Both are compared with zh." in caplog.text


def test_codes_of_three_letters_mean_the_same_language() -> None:
    assert upper("ılık iyi", "tur") == upper("ılık iyi", "tr") == "ILIK İYİ"
    assert unspaced(["latin"], "cmn") and unspaced(["latin"], "jpn") and not unspaced(["latin"], "deu")


def test_characters_that_cannot_be_seen_are_named_by_their_numbers() -> None:
    assert "No label of the model prints U+200D, " in unprintable_warning({"\u200d": 1}, 10)


def test_a_full_disk_is_named_with_its_folder(transcriber: Transcriber, data: DataSet, tmp_path: Path) -> None:
    class Full(io.BytesIO):
        def write(self, content: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    with run_folder(tmp_path / "results", {"version": 3, "identity": "x", "data": "d", "threads": 1}, {"1": "0" * 64}) as run:
        run._files = [Full(), Full()]
        line = Transcript(id="1", audio_seconds=1, reference="A", hypothesis="A", substitutions=0, deletions=0, insertions=0, words=1)
        with pytest.raises(AsrDeployError, match=f"Cannot write {run.path}: the disk is full"):
            run.add(line, Timing(id="1", compute_seconds=1))
