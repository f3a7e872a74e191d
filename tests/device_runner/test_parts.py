"""Segments and channels of audio files in every format, and the command that converts what libsndfile cannot read."""

import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from device_runner import decoding
from device_runner.artifact import Artifact
from device_runner.audio import Part, check_audio, read_audio
from device_runner.errors import AsrDeployError
from scripts.fuzz.device_files import AUDIO_KINDS
from toolchain.accuracy.transcriber import open_transcriber

RATE = 16_000
NOISE = np.random.default_rng(0).uniform(-0.4, 0.4, 2 * RATE).astype(np.float32)


@pytest.mark.parametrize(("kind", "encoding"), AUDIO_KINDS)
def test_a_segment_is_a_piece_of_the_whole_in_every_format(tmp_path: Path, kind: str, encoding: str) -> None:
    path = tmp_path / "a"
    soundfile.write(path, NOISE, RATE, format=kind, subtype=encoding)
    whole = read_audio(path, RATE)
    for start, seconds in ((0.0, 0.5), (0.7, 0.25), (1.5, None)):
        stop = None if seconds is None else round((start + seconds) * RATE)
        np.testing.assert_array_equal(read_audio(path, RATE, Part(start, seconds)), whole[round(start * RATE) : stop])


# Least ratio of signal and error in dB. Encodings of telephony and 8 bits change the transcript of this quiet recording.
LOSSY = {"PCM_U8": 4, "ULAW": 30, "ALAW": 25, "IMA_ADPCM": 20, "MS_ADPCM": 15, "GSM610": 7, "VORBIS": 17, "OPUS": 14, "MPEG_LAYER_III": 17}
COARSE = ("PCM_U8", "GSM610")


@pytest.mark.parametrize(("kind", "encoding"), AUDIO_KINDS)
def test_speech_in_every_format_is_read_and_transcribed_like_its_source(
    tmp_path: Path, kind: str, encoding: str, waveform: np.ndarray, tiny_fp32: Artifact
) -> None:
    path = tmp_path / "a"
    soundfile.write(path, waveform, RATE, format=kind, subtype=encoding)
    found = read_audio(path, RATE)
    assert len(waveform) <= len(found) < len(waveform) + 0.1 * RATE
    error = found[: len(waveform)] - waveform
    if encoding in LOSSY:
        assert 10 * np.log10((waveform**2).sum() / (error**2).sum()) > LOSSY[encoding]
    else:
        np.testing.assert_array_equal(error, 0)
    if encoding not in COARSE:
        transcribe = open_transcriber(str(tiny_fp32.folder)).transcribe
        words = zip(transcribe(found).split(), transcribe(waveform).split(), strict=True)
        assert sum(heard != said for heard, said in words) <= (encoding in LOSSY)


def test_a_segment_of_an_exact_format_reads_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, NOISE, RATE)
    read_audio(path, RATE, Part(0.1, 0.1))
    monkeypatch.setattr(decoding, "file_bytes", lambda *args, **options: pytest.fail("the whole file was read again"))
    for start in np.arange(0, 1.9, 0.1):
        assert len(read_audio(path, RATE, Part(float(start), 0.1))) == 1_600


def test_a_lossy_file_is_decoded_once_for_its_segments_and_again_after_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, decodings = tmp_path / "a.mp3", []
    soundfile.write(path, NOISE, RATE)
    whole = decoding._whole
    monkeypatch.setattr(decoding, "_whole", lambda *args: decodings.append(1) or whole(*args))
    for start in (0.0, 0.5, 1.0):
        read_audio(path, RATE, Part(start, 0.5))
    assert len(decodings) == 1
    soundfile.write(path, NOISE[:RATE], RATE)
    assert len(read_audio(path, RATE, Part(0.5, 0.25))) == 4_000 and len(decodings) == 2


def test_digests_differ_between_segments_channels_and_the_whole(tmp_path: Path) -> None:
    mono, stereo = tmp_path / "a.wav", tmp_path / "b.wav"
    soundfile.write(mono, NOISE, RATE)
    soundfile.write(stereo, np.stack([NOISE, -NOISE], axis=1), RATE)
    parts = [(mono, Part()), (mono, Part(0, 1)), (mono, Part(0.5, 1)), (mono, Part(0.5)), *((stereo, Part(0, 1, each)) for each in (0, 1))]
    parts += [(stereo, Part(channel=each)) for each in (0, 1)]
    assert len({check_audio(path, RATE, part=part).sha256 for path, part in parts}) == len(parts)
    assert check_audio(mono, RATE, part=Part(channel=0)).sha256 == check_audio(mono, RATE).sha256
    for part in (Part(channel=1), Part(0.5, 0.5, 1)):
        first = read_audio(stereo, RATE, Part(part.start, part.seconds, 0))
        np.testing.assert_allclose(read_audio(stereo, RATE, part), -first, atol=1e-4)


@pytest.mark.parametrize("suffix", [".wav", ".mp3"])
def test_times_beyond_the_end_are_refused_unless_they_are_rounded(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    soundfile.write(path, NOISE, RATE)
    assert 8_000 <= len(read_audio(path, RATE, Part(1.5, 0.9))) < 10_000
    for part in (Part(2.5), Part(1.0, 2.0), Part(1e300, 1.0)):
        with pytest.raises(AsrDeployError, match=r"lies beyond the end of the file, which lasts 2\.\d\d s; correct the times\."):
            read_audio(path, RATE, part)
    with pytest.raises(AsrDeployError, match="There is no audio file"):
        read_audio(tmp_path / "none.wav", RATE, Part(1.0))


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
@pytest.mark.parametrize("name", ["a b's.m4a", "c.webm", "-d.m4a", "e:f.m4a"])
def test_the_command_of_the_message_converts_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    soundfile.write("source.wav", np.stack([NOISE, NOISE], axis=1), RATE)
    subprocess.run(["ffmpeg", "-v", "error", "-i", "source.wav", f"./{name}"], check=True)
    with pytest.raises(AsrDeployError) as caught:
        read_audio(Path(name), RATE)
    command = str(caught.value).split("`")[1]
    subprocess.run(shlex.split(command), check=True, capture_output=True)
    assert abs(len(read_audio(Path(name).with_suffix(".flac"), RATE)) - len(NOISE)) < 3_000
