"""Atomic writes: all or nothing, and only asrdeploy's own folders are replaced."""

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_runner.errors import AsrDeployError
from device_runner.files import atomic_folder, atomic_path, file_name_of, lock, sha256_of, unshared, write_json, write_text


def ours(folder: Path) -> bool:
    return (folder / "mark").is_file()


def made(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def content(folder: Path) -> dict[str, str]:
    """Return the content of all files below a folder, including hidden ones."""
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


class Stopped(BaseException):
    """An exception like KeyboardInterrupt that only these tests raise."""


# Files


def test_a_file_appears_whole_with_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "new" / "er" / "a.json"
    with atomic_path(path) as temporary:
        assert temporary.parent == path.parent and temporary.suffix == ".json" and not path.exists()
        temporary.write_text("whole")
        assert not path.exists()
    assert content(tmp_path) == {"new/er/a.json": "whole"}


def test_a_file_can_be_read_by_others(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o644


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    """Set the umask until the end of the test."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


@pytest.mark.parametrize(("mask", "file", "folder"), [(0o077, 0o600, 0o700), (0o007, 0o660, 0o770), (0o022, 0o644, 0o755)])
def test_permissions_follow_the_umask(tmp_path: Path, umask: Callable[[int], int], mask: int, file: int, folder: int) -> None:
    umask(mask)
    for _ in range(2):  # new, and replaced
        write_text(tmp_path / "a.json", "")
        with atomic_folder(tmp_path / "folder", owned=lambda old: True) as temporary:
            (temporary / "b").write_text("")
        modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a.json", "folder", "folder/b")]
        assert modes == [file, folder, file]


def test_a_link_stays_and_the_file_that_it_leads_to_is_written(tmp_path: Path) -> None:
    made(tmp_path / "elsewhere", old="old")
    for name in ("old", "new"):
        (tmp_path / name).symlink_to(Path("elsewhere") / name)
        write_text(tmp_path / name, "written")
        assert (tmp_path / name).is_symlink()
    assert content(tmp_path / "elsewhere") == {"old": "written", "new": "written"}
    assert sorted(each.name for each in tmp_path.iterdir()) == ["elsewhere", "new", "old"]


def test_a_link_stays_and_the_folder_that_it_leads_to_is_replaced(tmp_path: Path) -> None:
    made(tmp_path / "elsewhere" / "old", mark="", file="old")
    for name in ("old", "new"):
        (tmp_path / name).symlink_to(Path("elsewhere") / name)
        with atomic_folder(tmp_path / name, owned=ours) as temporary:
            (temporary / "file").write_text("new")
        assert (tmp_path / name).is_symlink()
    assert content(tmp_path / "elsewhere") == {"old/file": "new", "new/file": "new"}
    assert sorted(each.name for each in tmp_path.iterdir()) == ["elsewhere", "new", "old"]


def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path: Path) -> None:
    write_text(tmp_path / ("a" * 250 + ".json"), "whole")
    with atomic_folder(tmp_path / ("\u00e9" * 127), owned=ours) as temporary:
        (temporary / "file").write_text("")
    assert len(list(tmp_path.iterdir())) == 2


def test_a_file_that_cannot_be_locked_is_told(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_PATH)  # which the system refuses to lock, as network file systems without locks do
    try:
        with pytest.raises(AsrDeployError, match=r"cannot be locked: .*\. Choose a folder on a file system with locks"):
            lock(descriptor, tmp_path)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("error", [Stopped, KeyboardInterrupt, RuntimeError, AsrDeployError])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises(error), atomic_path(tmp_path / "a") as temporary:
        temporary.write_text("half")
        raise error
    with pytest.raises(error), atomic_path(tmp_path / "b") as temporary:
        temporary.write_text("half")
        raise error
    assert content(tmp_path) == {"a": "old"}


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises(AsrDeployError, match=r"^Cannot write .*a: No space left on device\.$"), atomic_path(tmp_path / "a") as temporary:
        temporary.write_text("half")
        with Path("/dev/full").open("w") as file:
            file.write("anything")
    assert content(tmp_path) == {"a": "old"}


def test_a_device_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/full")):
        with pytest.raises(AsrDeployError, match="a device or a pipe, not a file"):
            write_text(path, "anything")
    assert Path("/dev/full").is_char_device()


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "a", tmp_path / "file" / "b" / "a", tmp_path / "folder"):
        with pytest.raises(AsrDeployError, match="Cannot write"):
            write_text(path, "new")
    assert content(tmp_path) == {"file": "old"}


def test_a_file_that_is_replaced_keeps_the_bytes_of_its_other_names(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    os.link(tmp_path / "a", tmp_path / "b")
    write_text(tmp_path / "a", "new")
    assert content(tmp_path) == {"a": "new", "b": "old"}


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_text_is_utf_8(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "text"
    write_text(path, text)
    assert path.read_bytes().decode() == text.replace("\n", os.linesep)
    assert sha256_of(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_json_keeps_letters_and_ends_with_a_line(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": "é", "b": [1, None]})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert text.endswith("}\n") and "é" in text and json.loads(text) == {"a": "é", "b": [1, None]}


# Folders


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "artifact"
    with atomic_folder(folder, owned=ours) as temporary:
        (temporary / "mark").write_text("new")
        assert not folder.exists() and temporary.parent == folder.parent
    assert content(tmp_path) == {"new/artifact/mark": "new"}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "artifact").mkdir()
    with atomic_folder(tmp_path / "artifact", owned=ours) as temporary:
        (temporary / "mark").write_text("new")
    assert content(tmp_path) == {"artifact/mark": "new"}


def test_our_older_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    folder = made(tmp_path / "artifact", mark="old", leftover="old")
    with atomic_folder(folder, owned=ours) as temporary:
        (temporary / "mark").write_text("new")
        assert content(folder) == {"mark": "old", "leftover": "old"}
    assert content(tmp_path) == {"artifact/mark": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["artifact"]


@pytest.mark.parametrize("error", [Stopped, KeyboardInterrupt, RuntimeError, AsrDeployError])
def test_a_failure_keeps_the_older_folder_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    folder = made(tmp_path / "artifact", mark="old")
    for place in (folder, tmp_path / "other"):
        with pytest.raises(error), atomic_folder(place, owned=ours) as temporary:
            (temporary / "mark").write_text("half")
            raise error
    assert content(tmp_path) == {"artifact/mark": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["artifact"]


def test_a_failure_in_the_last_step_keeps_the_older_folder(tmp_path: Path) -> None:
    folder = made(tmp_path / "artifact", mark="old")
    with pytest.raises(AsrDeployError, match="Cannot write"), atomic_folder(folder, owned=ours) as temporary:
        temporary.rmdir()  # makes the final rename fail
    assert content(folder) == {"mark": "old"}


def test_a_foreign_folder_is_refused_and_stays(tmp_path: Path) -> None:
    folder = made(tmp_path / "artifact", thesis="years of work")
    entered = False
    with pytest.raises(AsrDeployError, match=r"was not created by asrdeploy\. Choose another folder"), atomic_folder(folder, owned=ours):
        entered = True
    assert not entered and content(tmp_path) == {"artifact/thesis": "years of work"}


def test_a_file_in_the_place_of_a_folder_is_refused_and_stays(tmp_path: Path) -> None:
    (tmp_path / "artifact").write_text("years of work")
    with pytest.raises(AsrDeployError, match="was not created by asrdeploy"), atomic_folder(tmp_path / "artifact", owned=lambda old: True):
        pass
    with pytest.raises(AsrDeployError, match="Cannot write"), atomic_folder(tmp_path / "artifact" / "below", owned=ours):
        pass
    assert content(tmp_path) == {"artifact": "years of work"}


# Names


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("emulator-5554", "emulator-5554"),
        ("10.0.0.7:5555", "10.0.0.7-5555"),
        ("int8, of ../a", "int8--of-..-a"),
        ("Größe_1", "Größe_1"),
    ],
)
def test_names_of_devices_and_jobs_as_names_of_files(text: str, name: str) -> None:
    assert file_name_of(text) == name


def test_a_default_name_that_another_input_took_gets_a_digest(tmp_path: Path) -> None:
    digest = "0123456789abcdef"
    folder, file = tmp_path / "bench-a.b", tmp_path / "bench-a.json"
    assert unshared(folder, digest, lambda path: False) == folder
    folder.mkdir()
    file.write_text("{}")
    assert unshared(folder, digest, lambda path: path == folder) == folder
    assert unshared(folder, digest, lambda path: False) == tmp_path / "bench-a.b-01234567"
    assert unshared(file, digest, lambda path: False) == tmp_path / "bench-a-01234567.json"
