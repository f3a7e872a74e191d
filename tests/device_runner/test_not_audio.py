"""Files that are not audio, or audio that cannot be read: the message says what they are."""

import gzip
import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest

from device_runner.audio import read_audio
from device_runner.errors import AsrDeployError


def archive(write: str) -> bytes:
    file = io.BytesIO()
    if write == "zip":
        with zipfile.ZipFile(file, "w") as packed:
            packed.writestr("a.wav", b"RIFF")
    else:
        with tarfile.open(fileobj=file, mode="w") as tarred:
            tarred.addfile(tarfile.TarInfo("a.wav"))
    return file.getvalue()


def wav_of_format(tag: int, rest: bytes = b"") -> bytes:
    fmt = tag.to_bytes(2, "little") + bytes.fromhex("0100803e0000007d000002001000") + rest
    return b"RIFF\x64\x00\x00\x00WAVEfmt " + len(fmt).to_bytes(4, "little") + fmt + b"data\x10\x00\x00\x00" + bytes(16)


CONTENTS = {
    "empty": (b"", "is empty (0 bytes)"),
    "zero bytes": (bytes(9_000), "only zero bytes"),
    "text": (b"one two three\n", "is a text file"),
    "text in UTF-8": ("Überall grüßt Ödön: 你好\n".encode() * 400, "is a text file"),
    "text in UTF-16": ("one two three\r\n".encode("utf-16"), "is a text file"),
    "text in Latin-1": ("Überall grüßt Ödön\n".encode("latin-1"), "is a text file"),
    "web page": (b"\n<!DOCTYPE html>\n<html><body>404 Not Found</body></html>", "is a web page"),
    "XML": (b"\xef\xbb\xbf<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "is an XML file"),
    "JSON": (json.dumps({"error": "not found"}).encode(), "is a JSON"),
    "Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "git lfs pull"),
    "git-annex pointer": (b"/annex/objects/SHA256E-s12345--4d7a.wav\n", "git annex get"),
    "ZIP": (archive("zip"), "is a ZIP archive"),
    "tar": (archive("tar"), "is a tar archive"),
    "gzip": (gzip.compress(b"RIFF"), "is a gzip archive"),
    "M4A": (b"\x00\x00\x00\x1cftypM4A \x00\x00\x02\x00" + bytes(40), "is an MP4 (M4A)"),
    "WebM": (bytes.fromhex("1a45dfa39f4286810142f7810142f2810442f381084282847765626d"), "is a WebM"),
    "WMA": (bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c") + b"\x01" * 30, "is a Windows Media file"),
    "AAC": (bytes.fromhex("fff16040039ffc") + b"\x00\x02La" * 20, "is an AAC file"),
    "AMR": (b"#!AMR\n" + b"\x3c" * 64, "is an AMR file"),
    "Speex": (b"OggS\x00\x02" + bytes(20) + b"\x01\x50" + b"Speex   1.2".ljust(80, b"\x00"), "Speex"),
    "NIST SPHERE, compressed": (
        b"NIST_1A\n   1024\nsample_coding -s26 pcm,embedded-shorten-v2.00\nend_head\n".ljust(1024) + b"ajkg\x02" * 20,
        "samples are compressed",
    ),
    "WAV of another encoding": (wav_of_format(0x0161), "format 0x0161"),
    "WAV of another encoding, extensible": (wav_of_format(0xFFFE, bytes.fromhex("16001000000000006101") + bytes(14)), "format 0x0161"),
    "two WAVs": (wav_of_format(1) * 2, "contains a second WAV behind the first"),
    "WAV with two chunks of samples": (wav_of_format(1) + b"data\x10\x00\x00\x00" + bytes(16), "with 2 chunks of samples instead of one"),
    "WAV without a rate": (wav_of_format(1).replace(b"\x80>\0\0", bytes(4)), "header states 0 Hz"),
    "AU without a rate": (b".snd" + bytes.fromhex("0000001800000020 00000003 00000000 00000001") + bytes(32), "a sample rate of 0 Hz"),
    "beginning of a WAV": (b"RIFF\x00\x00\x00\x00WAVE", "cut short or damaged within its header"),
    "beginning of a FLAC": (b"fLaC", "cut short, damaged"),
    "PDF": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "is a PDF document"),
    "PNG": (b"\x89PNG\r\n\x1a\n" + b"\x01" * 30, "is a PNG picture"),
    "noise": (bytes(range(1, 256)) * 4, "cannot be read as audio; give a FLAC or WAV file"),
}


@pytest.mark.parametrize(("content", "words"), CONTENTS.values(), ids=CONTENTS)
def test_the_message_says_what_the_file_is(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    with pytest.raises(AsrDeployError) as caught:
        read_audio(path, 16_000)
    sentence = str(caught.value)
    assert sentence.startswith(f"{path} ") and words in sentence
    assert sentence.endswith(".") and "\n" not in sentence and ". " not in sentence
