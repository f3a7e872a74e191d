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


def make(made: list[Path], options: object = "x") -> Path:
    def fill(folder: Path) -> None:
        folder.mkdir()
        made.append(folder)

    return exports.kept("name", options, fill)


def test_the_same_export_is_made_once(made: list[Path]) -> None:
    assert make(made) == make(made) and len(made) == 1


def test_another_one_takes_its_place(made: list[Path]) -> None:
    first, second = make(made, "x"), make(made, "y")
    assert len(made) == 2 and first != second and not first.exists() and second.is_dir()


def test_what_was_not_finished_is_made_again(made: list[Path]) -> None:
    def fails(folder: Path) -> None:
        folder.mkdir()
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        exports.kept("name", "x", fails)
    assert make(made).is_dir() and len(made) == 1


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
