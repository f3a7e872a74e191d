"""`asrdeploy transcribe` with times: formats, output places, folders, patterns and standard input."""

import io
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from device_runner.artifact import Artifact
from device_runner.audio import read_audio
from device_runner.words import frame_times, words_of
from tests.helpers import Completed
from toolchain.accuracy.transcriber import Transcriber, open_transcriber
from toolchain.cli.inputs import open_sources
from toolchain.data.datasets import DataSet, Utterance

Command = Callable[..., Completed]
RATE = 16_000
TOLERANCE = 0.3  # seconds: CTC places a label anywhere within its sound, and the last sound of a word has no label of its own


@pytest.fixture(scope="module")
def transcriber(tiny_fp32: Artifact) -> Transcriber:
    return open_transcriber(tiny_fp32.folder)


@pytest.fixture
def recording(speech: tuple[Utterance, ...], tmp_path: Path) -> Path:
    return Path(shutil.copy(speech[0].path, tmp_path / "a.flac"))


Joined = tuple[np.ndarray, list[tuple[str, float, float]]]


def joined(utterances: Sequence[Utterance], silences: Iterable[float]) -> Joined:
    """Join recordings behind silences, and return for each its reference, and the seconds at which its sound begins and ends."""
    parts, known, now = [], [], 0
    for each, seconds in zip(utterances, silences, strict=True):
        silence, sound = np.zeros(int(RATE * seconds), np.float32), read_audio(each.path, RATE)
        loud = np.flatnonzero(np.abs(sound) > 0.02 * np.abs(sound).max()) + now + silence.size
        known.append((each.reference, loud[0] / RATE, loud[-1] / RATE))
        parts += [silence, sound]
        now += silence.size + sound.size
    return np.concatenate(parts), known


def test_words_lie_where_the_recordings_were_joined(transcriber: Transcriber, test_clean: DataSet) -> None:
    samples, known = joined([each for each in test_clean.utterances if each.id.endswith("-0002")][:8], [0.75] * 8)
    words = transcriber.words(samples)
    assert " ".join(each.text for each in words) == " ".join(transcriber.transcribe(samples).split())
    assert len(words) == sum(len(reference.split()) for reference, _, _ in known)
    for reference, start, end in known:
        inside = [each for each in words if start - TOLERANCE <= each.start and each.end <= end + TOLERANCE]
        assert len(inside) == len(reference.split())
        assert abs(inside[0].start - start) <= TOLERANCE and abs(inside[-1].end - end) <= TOLERANCE


def test_letters_lie_in_the_recordings_although_words_may_run_over_a_silence(
    transcriber: Transcriber, speech: tuple[Utterance, ...]
) -> None:
    # The bundled model leaves the separator out across some long silences, so that two words become one.
    samples, known = joined(speech[:6], [1 + number / 2 for number in range(6)])
    logits = transcriber.logits(samples)
    times = frame_times(len(logits), samples.size, RATE, transcriber.minimum_samples)
    letters = words_of(logits, transcriber.labels, times, characters=True)
    for reference, start, end in known:
        inside = [each for each in letters if start - TOLERANCE <= each.start and each.end <= end + TOLERANCE]
        assert len(inside) == pytest.approx(len(reference.replace(" ", "")), rel=0.15)  # the model drops some letters: EIGT
    assert all(any(start - TOLERANCE <= each.start and each.end <= end + TOLERANCE for _, start, end in known) for each in letters)


def test_times_are_those_of_the_recording_whatever_its_sample_rate(transcriber: Transcriber, speech: tuple[Utterance, ...]) -> None:
    sound = read_audio(speech[0].path, RATE)
    doubled = np.repeat(sound, 2)
    for one, other in zip(transcriber.words(sound), transcriber.words(doubled, 2 * RATE), strict=True):
        assert one.text == other.text and abs(one.start - other.start) < 0.06 and abs(one.end - other.end) < 0.06


def test_every_format_goes_to_standard_output_and_to_a_file(cli: Command, tiny_fp32: Artifact, recording: Path, tmp_path: Path) -> None:
    text = cli("transcribe", tiny_fp32.folder, "a.flac").stdout.strip()
    for name in ("text", "json", "srt", "vtt", "tsv"):
        printed = cli("transcribe", tiny_fp32.folder, "a.flac", "--format", name)
        written = cli("transcribe", tiny_fp32.folder, "a.flac", "--format", name, "-o", f"out.{name}")
        assert printed.returncode == written.returncode == 0 and written.stdout == ""
        assert (tmp_path / f"out.{name}").read_text(encoding="utf-8") == printed.stdout
    entry = json.loads((tmp_path / "out.json").read_text())
    rows = [each.split("\t") for each in (tmp_path / "out.tsv").read_text().splitlines()[1:]]
    assert entry["text"].strip() == text and [each["text"] for each in entry["words"]] == text.split() == [row[2] for row in rows]
    assert (tmp_path / "out.srt").read_text().startswith("1\n00:00:00,") and (tmp_path / "out.vtt").read_text().startswith("WEBVTT\n\n00:")
    again = cli("transcribe", tiny_fp32.folder, "a.flac", "--format", "srt", "--json", "-")
    assert "words" in json.loads(again.stdout)[0]


def test_existing_files_and_recordings_are_not_overwritten(cli: Command, tiny_fp32: Artifact, recording: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("mine\n")
    refused = cli("transcribe", tiny_fp32.folder, "a.flac", "-o", "a.txt")
    assert refused.returncode == 2 and "a.txt exists. Choose another output" in refused.stderr
    assert (tmp_path / "a.txt").read_text() == "mine\n"
    sound = recording.read_bytes()
    over = cli("transcribe", tiny_fp32.folder, "a.flac", "-o", "a.flac", "--replace")
    assert over.returncode == 2 and "is a recording that is transcribed" in over.stderr and recording.read_bytes() == sound
    assert cli("transcribe", tiny_fp32.folder, "a.flac", "-o", "a.txt", "--replace").returncode == 0
    assert (tmp_path / "a.txt").read_text() != "mine\n"


def test_folders_and_patterns_are_searched_and_every_recording_gets_a_file(
    cli: Command, tiny_fp32: Artifact, recording: Path, tmp_path: Path
) -> None:
    for name in ("in/b/a.flac", "in/a.FLAC", "in/.hidden.flac", "in/.cache/c.flac", "in/[x].flac"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(recording, tmp_path / name)
    (tmp_path / "in" / "notes.txt").write_text("no audio")
    done = cli("transcribe", tiny_fp32.folder, "in", "a.flac", "--format", "vtt", "-o", "out")
    assert done.returncode == 0
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == ["[x].vtt", "a-2.vtt", "a-3.vtt", "a.vtt"]
    listed = cli("transcribe", tiny_fp32.folder, "in")
    assert [line.partition(": ")[0] for line in listed.stdout.splitlines()] == ["in/[x].flac", "in/a.FLAC", "in/b/a.flac"]
    matched = cli("transcribe", tiny_fp32.folder, "in/**/a.*")
    assert [line.partition(": ")[0] for line in matched.stdout.splitlines()] == ["in/a.FLAC", "in/b/a.flac"]
    with open_sources([tmp_path / "in" / "[x].flac", tmp_path / "in" / "[x].flac"]) as sources:  # a file, although it looks like a pattern
        assert [each.path.name for each in sources] == ["[x].flac", "[x].flac"]
    (tmp_path / "in" / "y.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(40))  # found, so that it is not left out in silence
    told = cli("transcribe", tiny_fp32.folder, "in")
    assert told.returncode == 2 and "in/y.m4a is an MP4" in told.stderr and told.stdout == listed.stdout
    (tmp_path / "in" / "y.m4a").unlink()
    lines = cli("transcribe", tiny_fp32.folder, "in", "--format", "json").stdout.splitlines()
    assert [json.loads(each)["file"] for each in lines] == ["in/[x].flac", "in/a.FLAC", "in/b/a.flac"]


def piped(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_standard_input_is_read_in_any_format_and_only_once(
    cli: Command, tiny_fp32: Artifact, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = cli("transcribe", tiny_fp32.folder, "a.flac").stdout
    sound, rate = soundfile.read(recording, dtype="float32")
    wav = io.BytesIO()
    soundfile.write(wav, sound, rate, format="WAV")
    for data in (recording.read_bytes(), wav.getvalue()):
        piped(monkeypatch, data)
        assert cli("transcribe", tiny_fp32.folder, "-").stdout == text
    piped(monkeypatch, recording.read_bytes())
    twice = cli("transcribe", tiny_fp32.folder, "-", "-", "--format", "srt", "-o", "out")
    assert twice.returncode == 2 and "Standard input (-) is given twice." in twice.stderr
    assert (tmp_path / "out" / "standard-input.srt").exists()
    piped(monkeypatch, b"four zero\n")
    bad = cli("transcribe", tiny_fp32.folder, "-")
    assert bad.returncode == 2 and "asrdeploy: Standard input is a text file" in bad.stderr and "asrdeploy-" not in bad.stderr
    piped(monkeypatch, b"\0\0\0\x20ftypM4A " + bytes(40))
    assert "with ffmpeg: `ffmpeg -i - -vn -ac 1 -f wav - | asrdeploy …`" in cli("transcribe", tiny_fp32.folder, "-").stderr
    monkeypatch.setattr("toolchain.cli.inputs.LARGEST_INPUT", 1 << 10)
    piped(monkeypatch, recording.read_bytes())
    assert "has more than" in cli("transcribe", tiny_fp32.folder, "-").stderr


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["a.flac", "--format", "sub"], "format"),
        (["a.flac", "a.flac", "--format", "srt"], "--format srt writes a file for each recording. Give a folder with -o."),
        (["a.flac", "a.flac", "-o", "a.flac"], "a.flac is a file, and several recordings need a folder."),
        (["empty"], "empty contains no audio files."),
        ([""], "The argument behind"),
        (["a.flac", "-o", "a.flac/x.txt"], "Cannot write a.flac/x.txt: a file lies where its folder would be."),
        (["a.flac", "--threads", "100000"], "--threads 100000 is more than 1024."),
        (["*.opus"], "No file matches *.opus."),
        (["a.flac", "--device", "qemu-arm64", "--format", "srt"], "qemu-arm64 returns text only. Use --format text."),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(
    cli: Command, tiny_fp32: Artifact, recording: Path, tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    (tmp_path / "empty").mkdir()
    done = cli("transcribe", tiny_fp32.folder, *arguments)
    assert done.returncode == 2 and sentence in done.stderr and len(done.stderr.strip().splitlines()) == 1 and done.stdout == ""
