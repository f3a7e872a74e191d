"""Test the readers of JSON and TOML files: encodings, sizes, and what parsers do not answer with an error of their own."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from device_runner.documents import read_json, read_toml
from device_runner.errors import LONGEST_MESSAGE, AsrDeployError

Reader = Callable[..., Any]
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-32")


def refused(read: Reader, path: Path, **limits: int) -> str:
    with pytest.raises(AsrDeployError) as caught:
        read(path, "list of words", **limits)
    return str(caught.value).removeprefix(f"{path} ")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_files_of_windows_editors_are_read(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_text('{"a": "ü😀"}', encoding)
    (tmp_path / "b").write_text('a = "ü😀"', encoding)
    assert read_json(tmp_path / "a", "file") == read_toml(tmp_path / "b", "file") == {"a": "ü😀"}


@pytest.mark.parametrize(
    ("read", "content", "sentence"),
    [
        (read_json, b'{"a": "\xe4"}', "is not valid JSON: line 1 is not text in UTF-8; save the file as UTF-8."),
        (read_json, b"[" * 5000, "is not valid JSON: its values are nested too deeply."),
        (read_json, b"1" * 5000, "is not valid JSON: a number has too many digits."),
        (read_json, b'{"a": "\\ud800"}', "is not valid JSON: a string contains half of a surrogate pair. Write it again."),
        (read_json, b"", "is not valid JSON: Expecting value: line 1 column 1 (char 0)."),
        (read_toml, b'a = 1\nb = "\xe4"', "is not TOML: line 2 is not text in UTF-8; save the file as UTF-8."),
        (read_toml, b"a = " + b"[" * 5000, "is not TOML: its values are nested too deeply."),
        (read_toml, b"a = " + b"1" * 5000, "is not TOML: a number has too many digits."),
        (read_toml, b"a = 1\na = 2", "is not TOML: Cannot overwrite a value (at end of document)."),
    ],
)
def test_what_cannot_be_parsed_is_told_in_a_sentence(read: Reader, content: bytes, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content)
    assert refused(read, tmp_path / "a") == sentence


def test_a_pair_of_surrogates_is_a_character(tmp_path: Path) -> None:
    (tmp_path / "a").write_text(json.dumps({"a": "😀"}))
    assert "\\ud83d" in (tmp_path / "a").read_text() and read_json(tmp_path / "a", "file") == {"a": "😀"}


@pytest.mark.parametrize("read", [read_json, read_toml])
def test_large_files_folders_and_pipes_are_not_read(read: Reader, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b" " * 11)
    assert refused(read, tmp_path / "a", largest=10) == "has 11 bytes, but a list of words has at most 10; check the path."
    assert refused(read, tmp_path) == "is a folder; give a list of words."
    os.mkfifo(tmp_path / "b")
    assert refused(read, tmp_path / "b").startswith("is a pipe")
    assert "There is no list of words" in refused(read, tmp_path / "c")


@pytest.mark.parametrize("hostile", ["a\nb", "\x1b[2J", "\ud800", "\u2028", "\x00"])
def test_messages_are_one_printable_line(hostile: str) -> None:
    message = str(AsrDeployError(f"The name {hostile} is unknown. Choose another."))
    assert hostile not in message and "\\" in message and message.isprintable() and message.encode().decode() == message


def test_long_messages_keep_their_beginning_and_their_end() -> None:
    message = str(AsrDeployError(f"The name {'x' * 10**7} is unknown. Choose another."))
    assert message.startswith("The name x") and message.endswith("x is unknown. Choose another.") and len(message) == LONGEST_MESSAGE
    assert str(AsrDeployError("x" * LONGEST_MESSAGE)) == "x" * LONGEST_MESSAGE
