"""Files that a user names: found however their name is composed, and with the true reason if they cannot be read."""

import os
import socket
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import soundfile

from device_runner.audio import check_audio, read_audio
from device_runner.errors import AsrDeployError
from device_runner.files import existing, file_bytes, shown
from tests.helpers import REPOSITORY

NAME = "Überführung Nguyễn 각.wav"
FORMS = ("NFC", "NFD")
NOBODY = 65_534


def recording(path: Path | bytes) -> None:
    samples = (np.random.default_rng(0).standard_normal(1_000) * 0.1).astype(np.float32)
    with open(path, "wb") as file:  # noqa: PTH123  # Path cannot be made from bytes
        soundfile.write(file, samples, 16_000, format="WAV")


def refused(path: Path) -> str:
    """Return the error message for a file: one line that can be printed."""
    with pytest.raises(AsrDeployError) as caught:
        read_audio(path, 16_000)
    sentence = str(caught.value)
    assert sentence.encode().decode() == sentence
    assert sentence.endswith(".") and "\n" not in sentence and ". " not in sentence
    return sentence


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user of the machine may enter."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Give up the rights of root, who may read everything."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("asked", FORMS)
def test_a_file_is_found_however_its_name_is_composed(tmp_path: Path, form: str, asked: str) -> None:
    folder = tmp_path / unicodedata.normalize(form, "Gespräche")
    folder.mkdir()
    path = folder / unicodedata.normalize(form, NAME)
    recording(path)
    wanted = tmp_path / unicodedata.normalize(asked, "Gespräche") / unicodedata.normalize(asked, NAME)
    assert existing(wanted) == path
    assert len(read_audio(wanted, 16_000)) == 1_000


def test_a_relative_path_is_found_however_it_is_composed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recording(tmp_path / unicodedata.normalize("NFD", "é.wav"))
    monkeypatch.chdir(tmp_path)
    assert existing(Path(unicodedata.normalize("NFC", "é.wav"))) == Path(unicodedata.normalize("NFD", "é.wav"))


def test_the_exact_name_is_preferred(tmp_path: Path) -> None:
    for form in FORMS:
        (tmp_path / unicodedata.normalize(form, NAME)).write_text(form)
    for form in FORMS:
        assert file_bytes(tmp_path / unicodedata.normalize(form, NAME)).decode() == form


@pytest.mark.parametrize("name", ["é.wav", "e.wav", "é/a.wav"])
def test_what_does_not_exist_keeps_its_name(tmp_path: Path, name: str) -> None:
    recording(tmp_path / "è.wav")
    assert existing(tmp_path / name) == tmp_path / name
    assert refused(tmp_path / name) == f"There is no audio file {tmp_path / name}; check the path."


@pytest.mark.parametrize("name", [b"caf\xe9.wav", b"two\nlines.wav", b"bell\x07.wav", b"-n.wav", b"a [b] {c} $d.wav", b" .wav"])
def test_any_name_is_read(tmp_path: Path, name: bytes) -> None:
    recording(os.fsencode(tmp_path) + b"/" + name)
    assert len(read_audio(tmp_path / os.fsdecode(name), 16_000)) == 1_000
    assert check_audio(tmp_path / os.fsdecode(name), 16_000).seconds == 1_000 / 16_000


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (b"caf\xe9.wav", r"caf\xe9.wav is empty"),
        (b"two\nlines.wav", r"two\nlines.wav is empty"),
        (b"bell\x07.wav", r"bell\x07.wav is empty"),
    ],
)
def test_any_name_can_be_printed(tmp_path: Path, name: bytes, words: str) -> None:
    path = tmp_path / os.fsdecode(name)
    path.touch()
    assert words in refused(path)
    path.unlink()
    assert words.removesuffix(" is empty") in refused(path)


def test_letters_are_shown_as_they_are() -> None:
    for form in FORMS:
        assert shown(unicodedata.normalize(form, NAME)) == unicodedata.normalize(form, NAME)


def test_a_file_without_permission(open_folder: Path) -> None:
    recording(open_folder / "a.wav")
    (open_folder / "a.wav").chmod(0)
    with as_nobody():
        assert "you have no permission" in refused(open_folder / "a.wav")


def test_a_folder_without_permission(open_folder: Path) -> None:
    (open_folder / "closed").mkdir()
    recording(open_folder / "closed" / "é.wav")
    (open_folder / "closed").chmod(0)
    with as_nobody():
        for name in ("é.wav", "a.wav", "è.wav"):
            assert "you have no permission" in refused(open_folder / "closed" / name)
    (open_folder / "closed").chmod(0o755)


def test_a_pipe_that_nobody_writes_into_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.wav")
    code = "import sys; from pathlib import Path; from device_runner.audio import read_audio; read_audio(Path(sys.argv[1]), 16_000)"
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "a.wav"], cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=60
    )
    assert "a.wav is a pipe, not a file; save its content to a file and give that." in done.stderr


def test_a_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the path of a socket may have 108 bytes
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("a.wav")
        assert "is a socket, not a file" in refused(tmp_path / "a.wav")


def test_a_device() -> None:
    assert "is a device, not a file" in refused(Path(os.devnull))


def test_a_folder_and_a_file_that_is_used_as_one(tmp_path: Path) -> None:
    assert refused(tmp_path) == f"{tmp_path} is a folder; give an audio file."
    (tmp_path / "a.wav").touch()
    assert "There is no audio file" in refused(tmp_path / "a.wav" / "b.wav")


def test_a_link_to_nothing_and_a_link_to_itself(tmp_path: Path) -> None:
    (tmp_path / "a.wav").symlink_to("elsewhere/a.wav")
    assert "is a link to elsewhere/a.wav, which does not exist" in refused(tmp_path / "a.wav")
    (tmp_path / "b.wav").symlink_to("b.wav")
    assert "is a link that leads back to itself" in refused(tmp_path / "b.wav")


@pytest.mark.parametrize("name", ["a" * 300 + ".wav", "é" * 300 + ".wav"])
def test_a_name_that_is_too_long(tmp_path: Path, name: str) -> None:
    assert "is too long for a file name" in refused(tmp_path / name)


def test_a_name_with_a_null_character(tmp_path: Path) -> None:
    assert r"a\x00.wav cannot be read" in refused(tmp_path / "a\0.wav")
