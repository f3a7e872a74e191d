"""`--window`, `--overlap` and `--channel` of transcribe and evaluate, and the bar of a long recording."""

import json
import shutil
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile

from device_runner.artifact import Artifact
from device_runner.audio import read_audio
from device_runner.errors import say_once
from device_runner.windows import window_starts
from tests.helpers import Completed, complaint
from tests.toolchain.accuracy.evaluation_parts import transcripts
from tests.toolchain.cli.test_timed_transcripts import RATE, TOLERANCE, joined
from toolchain.accuracy.scoring import RESULT
from toolchain.accuracy.transcriber import open_transcriber
from toolchain.data.datasets import DataSet, Utterance

Command = Callable[..., Completed]
STRIDE = 400  # samples from a frame of the bundled model to the next
NOTICE = "asrdeploy: Recordings longer than"


@pytest.fixture(scope="module")
def minutes(test_clean: DataSet) -> tuple[np.ndarray, list[tuple[str, float, float]]]:
    """Three minutes of speech, and when each utterance begins and ends."""
    chosen = [each for each in test_clean.utterances if each.id.endswith(("0", "2", "4", "6", "8"))]
    return joined(chosen, [0.3] * len(chosen))


def borders(samples: int, window: float, overlap: float) -> list[float]:
    """Return the seconds at which the logits of a window end and those of the next begin."""
    frames, width = samples // STRIDE, int(window * RATE) // STRIDE
    starts = window_starts(frames, width, width - int(overlap * RATE) // STRIDE)
    return [(before + width + after) / 2 * STRIDE / RATE for before, after in pairwise(starts)]


def test_words_of_three_minutes_lie_where_they_are_said_also_at_the_borders_of_windows(
    cli: Command, tiny_fp32: Artifact, minutes: tuple[np.ndarray, list[tuple[str, float, float]]], tmp_path: Path
) -> None:
    samples, known = minutes
    assert samples.size / RATE > 170
    soundfile.write(tmp_path / "long.wav", samples, RATE, subtype="FLOAT")
    words = json.loads(cli("transcribe", tiny_fp32.folder, "long.wav", "--format", "json", "--window", 8, "--overlap", 2).stdout)["words"]
    assert all(before["end"] <= after["start"] for before, after in pairwise(words))
    cut = {each for each in known if any(each[1] < border < each[2] for border in borders(samples.size, 8, 2))}
    assert len(cut) > 8
    for utterances in (known, sorted(cut)):
        placed = 0
        for reference, start, end in utterances:
            inside = [each for each in words if start - TOLERANCE <= each["start"] and each["end"] <= end + TOLERANCE]
            if len(inside) == len(reference.split()):
                placed += 1
                assert abs(inside[0]["start"] - start) <= TOLERANCE and abs(inside[-1]["end"] - end) <= TOLERANCE
        assert placed >= 0.9 * len(utterances)  # the model drops a word or a separator here and there, also in single utterances


def test_a_long_recording_becomes_subtitles_up_to_its_end(
    cli: Command, tiny_fp32: Artifact, minutes: tuple[np.ndarray, list], tmp_path: Path
) -> None:
    soundfile.write(tmp_path / "long.flac", minutes[0], RATE)
    say_once.cache_clear()
    done = cli("transcribe", tiny_fp32.folder, "long.flac", "--format", "srt", "-o", "long.srt")
    assert done.returncode == 0 and done.stdout == ""
    assert done.stderr.count(NOTICE) == 1 and len(done.stderr.splitlines()) == 1
    cues = (tmp_path / "long.srt").read_text().strip().split("\n\n")
    assert [each.splitlines()[0] for each in cues] == [str(number) for number in range(1, len(cues) + 1)]
    assert cues[-1].splitlines()[1].startswith("00:03:")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--window", "0"), "--window 0 is not a length of time"),
        (("--window", "-5"), "--window -5 is not a length of time"),
        (("--window", "nan"), "--window nan is not a length of time"),
        (("--window", "inf"), "--window inf is not a length of time"),
        (("--window", "0.01"), "--window 0.01 is too short"),
        (("--window", "5", "--overlap", "5"), "--overlap 5 must be 0 or more and less than --window, which is 5 s"),
        (("--window", "5", "--overlap", "-1"), "--overlap -1 is not a length of time"),
        (("--window", "5", "--overlap", "nan"), "--overlap nan is not a length of time"),
        (("--window", "36"), "--window 36 is too long"),
        (("--overlap", "1"), "--overlap 1 applies to windows. Add --window"),
        (("--window", "5", "--device", "qemu-arm64"), "--window and --overlap apply to this machine"),
        (("--channel", "0"), "--channel 0 does not exist. Channels count from 1"),
        (("--channel", "2"), "has no channel 2: it has 1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
@pytest.mark.parametrize("command", ["transcribe", "evaluate"])
def test_wrong_values_are_one_sentence(
    cli: Command, tiny_fp32: Artifact, speech: tuple[Utterance, ...], tmp_path: Path, command: str, options: Sequence[str], words: str
) -> None:
    shutil.copy(speech[0].path, tmp_path / "a.flac")
    argument = ("a.flac",) if command == "transcribe" else ("--limit", "1", "-o", "out")
    sentence = complaint(cli(command, tiny_fp32.folder, *argument, *options))
    assert words in sentence
    assert [each.name for each in tmp_path.iterdir()] == ["a.flac"]


def test_a_channel_is_chosen_and_windows_apply_to_it(
    cli: Command, tiny_fp32: Artifact, speech: tuple[Utterance, ...], tmp_path: Path
) -> None:
    sounds = [np.concatenate([read_audio(each.path, RATE) for each in speech[part::2]]) for part in (0, 1)]
    length = min(map(len, sounds))
    folder = tmp_path / "calls"
    folder.mkdir()
    soundfile.write(folder / "call.wav", np.stack([each[:length] for each in sounds], axis=1), RATE, subtype="FLOAT")
    (folder / "metadata.csv").write_text("file_name,text\ncall.wav,ONE TWO\n")
    refused = complaint(cli("transcribe", tiny_fp32.folder, "calls/call.wav"))
    assert "has 2 channels" in refused and "choose one with --channel (1 to 2)" in refused
    windowed = open_transcriber(tiny_fp32.folder).windowed(4, 1)
    heard = []
    for channel, sound in enumerate(sounds, 1):
        options = ("--channel", channel, "--window", 4, "--overlap", 1)
        heard.append(cli("transcribe", tiny_fp32.folder, "calls/call.wav", *options).stdout.strip())
        done = cli("evaluate", tiny_fp32.folder, "--data", "calls", *options, "-o", f"out-{channel}")
        assert done.returncode == 0, done.stderr
        assert [each.hypothesis.strip() for each in transcripts(tmp_path / f"out-{channel}")] == heard[-1:]
        assert heard[-1] == windowed.transcribe(sound[:length]).strip()
        assert (tmp_path / f"out-{channel}" / RESULT).is_file()
    assert heard[0] != heard[1] and all(len(each.split()) > 10 for each in heard)
    other = complaint(cli("evaluate", tiny_fp32.folder, "--data", "calls", "--channel", 1, "--window", 5, "-o", "out-1"), alone=False)
    assert "other windows" in other


def test_a_terminal_shows_the_share_that_is_done_and_the_time_left(
    cli: Command, tiny_fp32: Artifact, minutes: tuple[np.ndarray, list], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = minutes[0][: 64 * RATE]
    soundfile.write(tmp_path / "long.flac", samples, RATE)
    plain = cli("transcribe", tiny_fp32.folder, "long.flac")
    assert "%" not in plain.stderr
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    done = cli("transcribe", tiny_fp32.folder, "long.flac")
    assert done.returncode == 0 and done.stdout == plain.stdout
    assert "long.flac (1/1): 1.1 min of audio" in done.stderr
    assert "100%" in done.stderr
