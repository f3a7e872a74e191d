"""Transcripts and timings: one line per utterance, even if writing is interrupted."""

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from device_runner.errors import AsrDeployError
from device_runner.transcripts import Timing, Transcript, read_timings, read_transcripts, write_lines

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def transcript(identity: str = "1-1-0000", hypothesis: str = "ONE TO", **changes: object) -> Transcript:
    facts: dict[str, object] = {
        "id": identity,
        "audio_seconds": 1.5,
        "reference": "ONE TWO",
        "hypothesis": hypothesis,
        "substitutions": 1,
        "deletions": 0,
        "insertions": 0,
        "words": 2,
    }
    return Transcript.model_validate(facts | changes)


def written(path: Path, count: int = 3) -> list[Transcript]:
    transcripts = [transcript(f"1-1-{number:04d}") for number in range(count)]
    write_lines(path, transcripts)
    return transcripts


def test_a_line_each_in_the_order_of_writing(tmp_path: Path) -> None:
    transcripts = written(tmp_path / "a.jsonl")
    assert read_transcripts(tmp_path / "a.jsonl") == transcripts
    assert (tmp_path / "a.jsonl").read_text().count("\n") == 3
    assert transcripts[0].errors == 1


def test_no_file_is_no_transcripts(tmp_path: Path) -> None:
    assert read_transcripts(tmp_path / "a.jsonl") == [] == read_timings(tmp_path / "a.jsonl")
    (tmp_path / "a.jsonl").touch()
    assert read_transcripts(tmp_path / "a.jsonl") == []


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT, st.floats(0, 1e6)), max_size=4))
def test_any_text_survives(tmp_path_factory: pytest.TempPathFactory, texts: list[tuple[str, str, float]]) -> None:
    path = tmp_path_factory.mktemp("transcripts") / "a.jsonl"
    transcripts = [transcript(identity, hypothesis) for identity, hypothesis, _ in texts]
    write_lines(path, transcripts)
    assert read_transcripts(path) == transcripts
    timings = [Timing(id=identity, compute_seconds=seconds) for identity, _, seconds in texts]
    write_lines(path, timings)
    assert read_timings(path) == timings


@pytest.mark.parametrize("hypothesis", ["ONE TO", "ÜÉ “ONE” 一二三"])
def test_a_cut_last_line_is_dropped_wherever_it_was_cut(tmp_path: Path, hypothesis: str) -> None:
    path = tmp_path / "a.jsonl"
    first = written(path, 2)
    whole = path.read_bytes()
    write_lines(path, [*first, transcript("1-1-0002", hypothesis)])
    last = path.read_bytes()[len(whole) :]
    for kept in range(len(last)):
        path.write_bytes(whole + last[:kept])
        assert read_transcripts(path) == first
    path.write_bytes(whole + last)
    assert len(read_transcripts(path)) == 3


@pytest.mark.parametrize("line", ["", "{}", "not JSON", '{"id": "1"}', "[]", "null", '{"id": "1-1-0000", "compute_seconds": 0.5}'])
def test_a_damaged_line_before_the_last_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "a.jsonl"
    written(path, 1)
    whole = path.read_text()
    path.write_text(whole + line + "\n" + whole)
    with pytest.raises(AsrDeployError, match=rf"^Line 2 of {path} is not a transcript\. Delete the file and repeat the evaluation\.$"):
        read_transcripts(path)
    with pytest.raises(AsrDeployError, match=rf"^Line 1 of {path} is not a timing"):
        read_timings(path)


@pytest.mark.parametrize(
    "changes", [{"words": 0}, {"deletions": -1}, {"audio_seconds": 0}, {"audio_seconds": math.inf}, {"colour": "red"}, {"hypothesis": None}]
)
def test_impossible_entries_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        transcript(**changes)  # type: ignore[arg-type]


def test_no_time_is_negative() -> None:
    with pytest.raises(ValidationError):
        Timing(id="1-1-0000", compute_seconds=-1)
    with pytest.raises(ValidationError):
        Timing(id="1-1-0000", compute_seconds=math.inf)
