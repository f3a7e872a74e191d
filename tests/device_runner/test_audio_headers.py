"""Audio files of unknown length are read to their end, and files that end early are refused."""

import io
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from device_runner.audio import check_audio, read_audio
from device_runner.errors import AsrDeployError

SPEECH = (np.random.default_rng(0).standard_normal(10_001) * 0.1).astype(np.float32)
FORMATS = {"RF64": "PCM_16", "W64": "PCM_16", "CAF": "PCM_16", "AIFF": "PCM_16", "AU": "PCM_16", "OGG": "VORBIS"}


def encoded(format_: str = "WAV", subtype: str = "PCM_16", samples: np.ndarray = SPEECH) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, 16_000, format=format_, subtype=subtype)
    return file.getvalue()


def wav(data: bytes, claimed: int, riff: int, *, bits: int = 16, tag: int = 1) -> bytes:
    """Return a WAV with the given sizes in its header."""
    width = bits // 8
    numbers = ((16, 4), (tag, 2), (1, 2), (16_000, 4), (16_000 * width, 4), (width, 2), (bits, 2))
    fmt = b"fmt " + b"".join(value.to_bytes(size, "little") for value, size in numbers)
    return b"RIFF" + riff.to_bytes(4, "little") + b"WAVE" + fmt + b"data" + claimed.to_bytes(4, "little") + data


def count(folder: Path, content: bytes) -> int:
    path = folder / "a.wav"
    path.write_bytes(content)
    return len(read_audio(path, 16_000))


def refused(folder: Path, content: bytes) -> str:
    with pytest.raises(AsrDeployError) as caught:
        count(folder, content)
    return str(caught.value)


PLACEHOLDERS = {
    "ffmpeg": (0xFFFFFFFF, 0xFFFFFFFF),
    "SoX": (0x7FFFF024, 0x7FFFF000),
    "arecord": (0x80000024, 0x80000000),
    "arecord, the size beside the header": (0x7FFFFFFF, 0x7FFFFFDB),
    "Oboe": (0x7FFFFFFF, 0x7FFFFFFF),
    "a service that streams": (0xFFFFFFFF, 0xFFFFFFDB),
    "4 GiB less 60 KiB": (0xFFFF1024, 0xFFFF1000),
    "4 GiB less 60 KiB, without RIFF's size": (0, 0xFFFF1000),
    "odd": (0x7FFFFFFF, 0x7FFFF001),
    "a thousand million frames": (2_000_000_036, 2_000_000_000),
    "Python's wave": (36, 0),
    "a recorder that was killed": (0, 0),
    "GStreamer": (0xFFFFFFFF, 0),
}
SAMPLES = encoded()[44:]


@pytest.mark.parametrize("sizes", PLACEHOLDERS.values(), ids=PLACEHOLDERS)
@pytest.mark.parametrize("rest", [b"", b"\x05"], ids=["whole", "half a sample more"])
def test_a_wav_of_unknown_length_is_read_to_its_end(tmp_path: Path, sizes: tuple[int, int], rest: bytes) -> None:
    riff, claimed = sizes
    assert count(tmp_path, wav(SAMPLES + rest, claimed, riff)) == len(SPEECH)


@pytest.mark.parametrize(("bits", "tag"), [(8, 1), (24, 1), (32, 1), (32, 3), (64, 3), (8, 7)])
@pytest.mark.parametrize("claimed", [0, 0x7FFFF000, 0xFFFF1000, 0xFFFFFFFF])
def test_samples_of_every_width_are_read_to_their_end(tmp_path: Path, bits: int, tag: int, claimed: int) -> None:
    data = np.zeros(999 * bits // 8 + (bits > 8), np.uint8).tobytes()  # the last sample is incomplete, as in a recording that was killed
    assert count(tmp_path, wav(data, claimed, 0, bits=bits, tag=tag)) == 999


def test_a_wav_that_python_writes_to_a_pipe_and_never_finishes_is_read(tmp_path: Path) -> None:
    pipe = io.BytesIO()
    with wave.open(pipe, "wb") as writer:
        writer.setparams((1, 2, 16_000, 0, "NONE", ""))
        writer.writeframesraw(b"")
        writer.writeframesraw(SAMPLES)
        unfinished = pipe.getvalue()
    assert unfinished[40:44] == bytes(4)
    assert count(tmp_path, unfinished) == len(SPEECH)


@pytest.mark.parametrize(
    "claimed",
    [len(SAMPLES) + 2, len(SAMPLES) * 2, 115_200_000, 999_999_999],
    ids=["a sample", "half", "an hour", "nine hours"],
)
def test_a_wav_that_ends_early_is_told(tmp_path: Path, claimed: int) -> None:
    assert "cut short" in refused(tmp_path, wav(SAMPLES, claimed, claimed + 36))


def test_a_claim_of_half_a_sample_more_than_there_is_does_no_harm(tmp_path: Path) -> None:
    assert count(tmp_path, wav(SAMPLES, len(SAMPLES) + 1, len(SAMPLES) + 37)) == len(SPEECH)


@pytest.mark.parametrize("note", [b"LIST\x04\x00\x00\x00INFO", b"note\x03\x00\x00\x00abc\x00", b"note\x03\x00\x00\x00abc"])
def test_an_empty_wav_with_notes_behind_it_contains_no_samples(tmp_path: Path, note: bytes) -> None:
    assert "no samples" in refused(tmp_path, wav(note, 0, 36 + len(note)))


@pytest.mark.parametrize("padding", [b"\x00", b""], ids=["padded", "not padded"])
def test_a_wav_of_unknown_length_may_have_notes_before_its_samples(tmp_path: Path, padding: bytes) -> None:
    content = wav(SAMPLES, 0x7FFFF000, 0x7FFFF024)
    assert count(tmp_path, content[:36] + b"note\x03\x00\x00\x00abc" + padding + content[36:]) == len(SPEECH)


def put(at: bytes, offset: int, value: bytes) -> Callable[[bytes], bytes]:
    """Return a function that writes ``value`` at an offset from the first ``at``."""

    def change(content: bytes) -> bytes:
        position = content.index(at) + offset
        return content[:position] + value + content[position + len(value) :]

    return change


UNKNOWN = {
    "RF64 by ffmpeg": ("RF64", put(b"ds64", 8, bytes(24))),
    "RF64": ("RF64", put(b"ds64", 16, b"\xff" * 8)),
    "W64 by ffmpeg": ("W64", put(b"data\xf3\xac\xd3\x11", 16, b"\xff" * 8)),
    "W64": ("W64", put(b"data\xf3\xac\xd3\x11", 16, b"\xff" * 7 + b"\x7f")),
    "CAF": ("CAF", put(b"data", 4, b"\xff" * 8)),
    "AU": ("AU", put(b".snd", 8, b"\xff" * 4)),
    "AIFF by ffmpeg": ("AIFF", put(b"SSND", 4, bytes(4))),
    "AIFF by SoX": ("AIFF", put(b"SSND", 4, b"\x7f\x00\x00\x08")),
}


@pytest.mark.parametrize(("format_", "change"), UNKNOWN.values(), ids=UNKNOWN)
def test_other_formats_of_unknown_length_are_read_to_their_end(tmp_path: Path, format_: str, change: Callable[[bytes], bytes]) -> None:
    assert count(tmp_path, change(encoded(format_))) == len(SPEECH)


@pytest.mark.parametrize("format_", FORMATS)
@settings(max_examples=30, deadline=None)
@given(share=st.floats(0, 1, exclude_max=True))
def test_other_formats_cut_anywhere_are_refused(tmp_path_factory: pytest.TempPathFactory, format_: str, share: float) -> None:
    content = encoded(format_, FORMATS[format_])
    assert count(tmp_path_factory.mktemp("whole"), content) == len(SPEECH)
    refused(tmp_path_factory.mktemp("cut"), content[: int(len(content) * share)])


def unknown_flac(samples: np.ndarray = SPEECH, subtype: str = "PCM_16") -> bytes:
    """Return a FLAC whose header states neither the number of samples nor their MD5, as encoders write it to a pipe."""
    content = bytearray(encoded("FLAC", subtype, samples))
    content[21] &= 0xF0
    content[22:42] = bytes(20)
    return bytes(content)


@pytest.mark.parametrize("length", [1, 17, 4096, 4097, 10_001, 700_000])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
def test_a_flac_of_unknown_length_is_read_to_its_end(tmp_path: Path, length: int, subtype: str) -> None:
    samples = np.resize(SPEECH, length)
    path = tmp_path / "a.flac"
    path.write_bytes(unknown_flac(samples, subtype))
    np.testing.assert_allclose(read_audio(path, 16_000), samples, atol=2**-15)


def test_a_flac_of_unknown_length_may_end_with_an_id3_tag(tmp_path: Path) -> None:
    assert count(tmp_path, unknown_flac() + b"TAG".ljust(128)) == len(SPEECH)


def test_a_flac_of_unknown_length_without_frames_contains_no_samples(tmp_path: Path) -> None:
    content = unknown_flac()
    assert "no samples" in refused(tmp_path, content[: content.index(b"\xff\xf8")])


@settings(max_examples=60, deadline=None)
@given(missing=st.integers(1, 15_000))
def test_a_flac_of_unknown_length_that_ends_within_a_frame_is_told(tmp_path_factory: pytest.TempPathFactory, missing: int) -> None:
    content = unknown_flac()
    first, end = content.index(b"\xff\xf8"), len(content) - missing
    if end > first and not content[end:].startswith(b"\xff\xf8"):
        assert "ends within a block" in refused(tmp_path_factory.mktemp("cut"), content[:end])


def test_a_flac_of_unknown_length_with_a_hole_is_told(tmp_path: Path) -> None:
    content = bytearray(unknown_flac())
    content[5_000:5_500] = bytes(500)
    assert "cut short or damaged" in refused(tmp_path, bytes(content))


def test_an_mp3_whose_length_is_only_estimated_is_read_to_its_end(tmp_path: Path) -> None:
    content = encoded("MP3", "MPEG_LAYER_III", np.concatenate([np.zeros(100_000, np.float32), SPEECH, SPEECH]))
    mark = content.index(b"Xing") if b"Xing" in content else content.index(b"Info")
    start = content.rindex(b"\xff", 0, mark - 3)
    following = content.index(content[start : start + 2], mark)
    assert count(tmp_path, content[following:]) >= 100_000 + 2 * len(SPEECH)


@pytest.mark.parametrize(("format_", "claimed"), [("AU", b"\xff" * 4), ("AU", b"\0" * 4), ("AU", b"\0\0\1\0")])
def test_a_header_that_leads_beyond_the_end_of_the_file_is_told(tmp_path: Path, format_: str, claimed: bytes) -> None:
    whole = encoded(format_)
    assert "is cut short" in refused(tmp_path, whole[:4] + b"\x7f\xff\xff\0" + claimed + whole[12:])


def test_a_caf_that_ends_within_the_header_of_its_samples_is_told(tmp_path: Path) -> None:
    whole = encoded("CAF")
    start = whole.index(b"data") + 12  # -1: until the end of the file
    assert "is cut short" in refused(tmp_path, whole[: start - 8] + b"\xff" * 8)


@pytest.mark.parametrize("format_", ["WAV", "RF64", "AIFF", "AU", "CAF"])
def test_audio_behind_the_end_that_a_header_states_is_remarked(tmp_path: Path, format_: str) -> None:
    path, whole, notes = tmp_path / "a", encoded(format_), b"LIST\x04\x00\x00\x00INFO"
    for more, told in ((SAMPLES, True), (b"", False), (notes, False), (b"TAG".ljust(5_000, b"x"), False), (bytes(5_000), False)):
        path.write_bytes(whole + more)
        checked = check_audio(path, 16_000)
        assert (checked.remark is not None) == told and checked.seconds == len(SPEECH) / 16_000
        assert not told or "has 0.63 s of audio behind the 0.63 s that its header states" in str(checked.remark)


def test_a_wav_whose_header_states_half_of_its_samples_is_remarked(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(wav(SAMPLES, 10_000, 10_036))
    assert "has 0.31 s of audio behind the 0.31 s" in str(check_audio(tmp_path / "a.wav", 16_000).remark)
