"""Reading audio: the samples, and an error message for every file that cannot be read."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from device_runner.audio import CheckedAudio, check_audio, read_audio, read_checked, resample
from device_runner.errors import AsrDeployError
from device_runner.files import sha256_of

SPEECH = (np.random.default_rng(0).standard_normal(4_000) * 0.1).astype(np.float32)


def written(path: Path, samples: np.ndarray = SPEECH, rate: int = 16_000, subtype: str | None = None) -> Path:
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


def refused(path: Path) -> str:
    """Return the error message for a file: one sentence that names the file."""
    with pytest.raises(AsrDeployError) as caught:
        read_audio(path, 16_000)
    sentence = str(caught.value)
    assert sentence.startswith(str(path)) or f" {path};" in sentence
    assert sentence.endswith(".") and "\n" not in sentence and ". " not in sentence
    return sentence


@pytest.mark.parametrize("name, subtype", [("a.flac", "PCM_16"), ("a.wav", "PCM_16"), ("a.wav", "PCM_24"), ("a.wav", "FLOAT")])
def test_samples_come_as_float32_in_one_dimension(tmp_path: Path, name: str, subtype: str) -> None:
    samples = read_audio(written(tmp_path / name, subtype=subtype), 16_000)
    assert samples.dtype == np.float32 and samples.shape == SPEECH.shape
    np.testing.assert_allclose(samples, SPEECH, atol=2**-15)


def test_full_scale_is_one(tmp_path: Path) -> None:
    extremes = np.array([-32768, 0, 32767], dtype=np.int16)
    assert read_audio(written(tmp_path / "a.wav", extremes), 16_000).tolist() == [-1.0, 0.0, 32767 / 32768]


def test_wav_of_unknown_length_from_a_pipe_is_read_whole(tmp_path: Path) -> None:
    path = written(tmp_path / "a.wav")
    data = bytearray(path.read_bytes())
    data[4:8] = data[40:44] = b"\xff" * 4
    path.write_bytes(data)
    assert len(read_audio(path, 16_000)) == len(SPEECH)


def test_chunks_beside_the_samples_do_no_harm(tmp_path: Path) -> None:
    path = written(tmp_path / "a.wav")
    data = path.read_bytes()
    note = b"note\x03\x00\x00\x00abc\x00"  # odd length, therefore padded by a byte
    path.write_bytes(data[:36] + note + data[36:] + note)
    assert len(read_audio(path, 16_000)) == len(SPEECH)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_other_rates_are_resampled_as_by_the_scenarios_script(tmp_path: Path, rate: int) -> None:
    import torch
    import torchaudio.functional

    path = written(tmp_path / "a.wav", rate=rate, subtype="FLOAT")
    expected = torchaudio.functional.resample(torch.from_numpy(SPEECH)[None], rate, 16_000)[0].numpy()
    samples = read_audio(path, 16_000)
    assert samples.dtype == np.float32
    np.testing.assert_array_equal(samples, expected)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 47_952, 48_000])
@pytest.mark.parametrize("samples", [4_000, 3_528, 3_001])
def test_long_waveforms_are_resampled_in_blocks_as_if_whole(monkeypatch: pytest.MonkeyPatch, rate: int, samples: int) -> None:
    expected = resample(SPEECH[:samples], rate, 16_000)
    monkeypatch.setattr("device_runner.audio.BLOCK", 0.02)
    np.testing.assert_allclose(resample(SPEECH[:samples], rate, 16_000), expected, atol=1e-6)


def test_without_torchaudio_the_sentence_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchaudio", None)
    monkeypatch.setitem(sys.modules, "torchaudio.functional", None)
    sentence = refused(written(tmp_path / "a.wav", rate=8_000))
    assert "convert it to 16000 Hz" in sentence and "toolchain" in sentence


def test_reading_at_the_right_rate_imports_no_torch(tmp_path: Path) -> None:
    path = written(tmp_path / "a.flac")
    code = (
        "import sys; from pathlib import Path; from device_runner.audio import read_audio; "
        "print(len(read_audio(Path(sys.argv[1]), 16_000)), 'torch' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    answer = subprocess.run([sys.executable, "-c", code, path], cwd=root, capture_output=True, text=True, check=True)
    assert answer.stdout.split() == [str(len(SPEECH)), "False"]


def test_a_rate_from_a_damaged_header_is_refused_rather_than_resampled(tmp_path: Path) -> None:
    assert "44101 Hz" in refused(written(tmp_path / "a.wav", rate=44_101))


def test_missing_file(tmp_path: Path) -> None:
    assert "no audio file" in refused(tmp_path / "none.wav")


def test_folder(tmp_path: Path) -> None:
    (tmp_path / "a.wav").mkdir()
    assert "is a folder" in refused(tmp_path / "a.wav")


@pytest.mark.parametrize("content", [b"one two three\n", b"RIFF", b"RIFF\x00\x00\x00\x00WAVE", b"fLaC"])
def test_no_audio_in_spite_of_its_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    assert "cannot be read as audio" in refused(path)


def test_no_samples(tmp_path: Path) -> None:
    assert "no samples" in refused(written(tmp_path / "a.wav", SPEECH[:0]))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite(tmp_path: Path, value: float) -> None:
    samples = SPEECH.copy()
    samples[7] = value
    assert "not finite" in refused(written(tmp_path / "a.wav", samples, subtype="FLOAT"))


def test_two_channels(tmp_path: Path) -> None:
    assert "2 channels; convert it to mono" in refused(written(tmp_path / "a.wav", np.stack([SPEECH, SPEECH], axis=1)))


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
@settings(max_examples=40, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_anywhere_is_refused(tmp_path_factory: pytest.TempPathFactory, name: str, share: float) -> None:
    path = written(tmp_path_factory.mktemp("cut") / name)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    refused(path)


def test_flac_with_a_hole_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.flac")
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 500] = bytes(500)
    path.write_bytes(data)
    assert "cut short or damaged" in refused(path)


def test_flac_that_claims_more_samples_than_memory_holds(tmp_path: Path) -> None:
    path = written(tmp_path / "a.flac")
    data = bytearray(path.read_bytes())
    data[22:26] = b"\xff" * 4  # the total number of samples: these bytes and the low half of byte 21
    data[21] |= 0x0F
    path.write_bytes(data)
    assert "cut short or damaged" in refused(path)


def test_a_check_gives_duration_and_digest_of_the_file(tmp_path: Path) -> None:
    path = written(tmp_path / "a.flac")
    assert check_audio(path, 16_000) == CheckedAudio(0.25, sha256_of(path), None)
    assert check_audio(written(tmp_path / "b.wav", rate=8_000), 16_000).seconds == 0.5


def test_a_check_refuses_what_cannot_be_read_or_resampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (tmp_path / "none.wav", written(tmp_path / "a.wav", rate=44_101), written(tmp_path / "b.wav", SPEECH[:0])):
        with pytest.raises(AsrDeployError) as caught:
            check_audio(path, 16_000)
        assert str(caught.value) == refused(path)
    monkeypatch.setitem(sys.modules, "torchaudio", None)
    monkeypatch.setitem(sys.modules, "torchaudio.functional", None)
    with pytest.raises(AsrDeployError, match="convert it to 16000 Hz"):
        check_audio(written(tmp_path / "a.wav", rate=8_000), 16_000)


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_a_check_counts_samples_at_the_models_rate(tmp_path: Path, rate: int) -> None:
    path = written(tmp_path / "a.wav", rate=rate)
    count = len(read_audio(path, 16_000))
    check_audio(path, 16_000, count, count)
    with pytest.raises(AsrDeployError, match=r"a\.wav lasts .* s, and the model requires at least"):
        check_audio(path, 16_000, count + 1)
    with pytest.raises(AsrDeployError, match=r"a\.wav lasts .* s, and the artifact accepts at most .* --max-seconds"):
        check_audio(path, 16_000, 1, count - 1)


def test_a_file_is_read_and_checked_at_once(tmp_path: Path) -> None:
    path = written(tmp_path / "a.wav", rate=8_000)
    samples, checked = read_checked(path, 16_000)
    assert np.array_equal(samples, read_audio(path, 16_000)) and checked == check_audio(path, 16_000)


def test_a_check_remarks_on_what_is_peculiar(tmp_path: Path) -> None:
    assert check_audio(written(tmp_path / "a.wav", np.zeros(4_000, np.float32)), 16_000).remark == "is silent: all samples are 0."
    loud = check_audio(written(tmp_path / "b.wav", SPEECH * 32768, subtype="FLOAT"), 16_000).remark
    assert loud is not None and "divide them by 32768" in loud


@pytest.mark.parametrize("value", [1e30, -1e30])
def test_samples_that_are_absurdly_large(tmp_path: Path, value: float) -> None:
    samples = SPEECH.copy()
    samples[7] = value
    assert "as large as 1e+30" in refused(written(tmp_path / "a.wav", samples, subtype="FLOAT"))


@pytest.mark.parametrize(("kind", "encoding"), [("WAV", "GSM610"), ("AIFF", "GSM610"), ("AU", "G721_32"), ("WAV", "NMS_ADPCM_16")])
def test_encodings_of_telephony_are_read_whole(kind: str, encoding: str, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "call", 0.3 * np.sin(np.arange(16_000) / 10), 8_000, format=kind, subtype=encoding)
    assert 16_000 <= len(read_audio(tmp_path / "call", 8_000)) < 16_500


def test_a_file_beside_the_recording_that_carries_its_name_is_not_read(tmp_path: Path) -> None:
    """macOS leaves ``._NAME`` with the resource fork on foreign disks; libsndfile takes the recording for Sound Designer II then."""
    path = written(tmp_path / "a.mp3")
    data = path.read_bytes()
    if data[:3] == b"ID3":
        data = data[10 + sum(each << 7 * place for place, each in enumerate(reversed(data[6:10]))) :]
    path.write_bytes(data)
    expected = read_audio(path, 16_000)
    fork = (0x100, 0x100, 0, 30, *[0] * 62, 0x100, 0x100, 0, 30, 0, 0x1C_0000, 0x1E_FFFF, 0)
    entries = (0x0005_1607, 0x0002_0000, *[0] * 4, 2 << 16)
    head = b"".join(each.to_bytes(4, "big") for each in entries)[:26] + b"".join(
        each.to_bytes(4, "big") for each in (9, 50, 32, 2, 82, 286)
    )
    path.with_name("._a.mp3").write_bytes(head + bytes(32) + b"".join(each.to_bytes(4, "big") for each in fork))
    np.testing.assert_array_equal(read_audio(path, 16_000), expected)


SUBTYPES = ("PCM_U8", "PCM_32", "DOUBLE", "ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM")
ENCODINGS = [(form, each) for form in ("WAV", "WAVEX", "W64") for each in SUBTYPES if soundfile.check_format(form, each)]


@pytest.mark.parametrize(("form", "subtype"), ENCODINGS)
def test_telephone_and_studio_encodings_are_read(tmp_path: Path, form: str, subtype: str) -> None:
    soundfile.write(tmp_path / "a.wav", SPEECH, 8_000, format=form, subtype=subtype)
    samples = read_audio(tmp_path / "a.wav", 8_000)[: len(SPEECH)]
    assert np.corrcoef(samples, SPEECH)[0, 1] > 0.95
