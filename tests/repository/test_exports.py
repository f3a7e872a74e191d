"""Exports that are kept between runs of the tests: the same content is found again, other content is made anew."""

from pathlib import Path

import pytest

from tests import exports
from tests.helpers import REPOSITORY


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that were made, in a cache of this test's own."""
    monkeypatch.setenv(exports.FOLDER_VARIABLE, str(tmp_path / "cache"))
    return []


def make(made: list[Path], copy: Path, options: object = "x") -> Path:
    def fill(folder: Path) -> None:
        folder.mkdir()
        (folder / "file").write_text(str(options))
        made.append(folder)

    return exports.kept("name", options, fill, copy)


def test_the_same_export_is_made_once_and_copied(made: list[Path], tmp_path: Path) -> None:
    first = make(made, tmp_path / "a")
    (first / "file").write_text("damaged")
    assert (make(made, tmp_path / "b") / "file").read_text() == "x" and len(made) == 1


def test_the_latest_versions_are_kept(made: list[Path], tmp_path: Path) -> None:
    for number in range(exports.VERSIONS + 1):
        make(made, tmp_path / str(number), number)
    assert [each.is_dir() for each in made] == [False, *[True] * exports.VERSIONS]
    make(made, tmp_path / "again", 1)
    assert len(made) == exports.VERSIONS + 1


def test_what_was_not_finished_is_made_again(made: list[Path], tmp_path: Path) -> None:
    def fails(folder: Path) -> None:
        folder.mkdir()
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        exports.kept("name", "x", fails, tmp_path / "a")
    assert make(made, tmp_path / "a").is_dir() and len(made) == 1


def test_a_changed_source_makes_another_key(tmp_path: Path) -> None:
    source = tmp_path / "exporters" / "onnx" / "graph.py"
    source.parent.mkdir(parents=True)
    source.write_text("a = 1\n")
    before = exports.content_key("x", tmp_path)
    assert exports.content_key("x", tmp_path) == before != exports.content_key("y", tmp_path)
    source.write_text("a = 2\n")
    assert exports.content_key("x", tmp_path) != before


def test_every_pattern_of_sources_names_files() -> None:
    for pattern in exports.SOURCES:
        assert list(REPOSITORY.glob(pattern)), pattern
