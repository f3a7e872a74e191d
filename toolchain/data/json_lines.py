"""Manifests of JSON lines: NeMo's, and Hugging Face's metadata.jsonl."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from device_runner.errors import AsrDeployError
from device_runner.files import shown
from toolchain.data.rows import (
    AUDIO_NAMES,
    DURATION,
    END,
    NEMO,
    STARTS,
    TEXT_NAMES,
    BadRow,
    Row,
    column,
    data_set,
    segment_of,
)
from toolchain.data.tables import text_of
from toolchain.data.utterances import DataSet

LONGEST_LINE = 1 << 20  # characters; a row with word times of an hour of speech is shorter


def is_json_lines(first: str) -> bool:
    """Return whether a first line is a row of a manifest of recordings with references."""
    try:
        found = _object(first)
    except BadRow:
        return False
    return bool(column(found, AUDIO_NAMES) and column(found, TEXT_NAMES))


def read_json_lines(path: Path, name: str, split: str) -> DataSet:
    """Read a manifest with one JSON object a line.

    ``offset`` and ``duration`` (in seconds) cut a segment out of a file. ``duration`` alone does so for ``audio_filepath``, as in NeMo.

    Args:
        path: The manifest.
        name: Name of the set.
        split: Name of the split.

    Raises:
        AsrDeployError: The file cannot be read, or no line names an audio file and a reference.
    """
    lines = text_of(path, "manifest").split("\n")  # JSON strings may contain other separators of lines
    if (first := next((each.strip() for each in lines if each.strip()), "")).startswith("["):
        raise AsrDeployError(f"{shown(path)} is a JSON array. Write one object a line, for example with `jq -c '.[]'`.")
    if first and not any(is_json_lines(each) for each in lines[:1000]):
        raise AsrDeployError(
            f"{shown(path)} has no line with an audio file ({', '.join(AUDIO_NAMES)}) and a reference ({', '.join(TEXT_NAMES)}). "
            "Write one JSON object with both keys a line."
        )

    def rows() -> Iterator[Row | tuple[str, str]]:
        for number, line in enumerate(lines, 1):
            if line.strip():
                place = f"{shown(path)} line {number}"
                try:
                    yield _row(_object(line), place)
                except BadRow as error:
                    yield place, str(error)

    return data_set(rows(), (path.parent,), name, split, "JSON lines", path)


def _object(line: str) -> dict[str, Any]:
    if len(line) > LONGEST_LINE:
        raise BadRow(f"has {len(line)} characters, and a row has at most {LONGEST_LINE}; remove other data from it")
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadRow("is not JSON; write one object a line") from error
    if not isinstance(found, dict):
        raise BadRow("is not a JSON object; write one object a line")
    return found


def _row(found: dict[str, Any], place: str) -> Row:
    audio, text = _only(found, AUDIO_NAMES, "audio file"), _only(found, TEXT_NAMES, "reference")
    begins, ends, lasts = (_time(found, known) for known in (STARTS, (END,), (DURATION,)))
    begin, duration, end = (None if each is None else found[each] for each in (begins, lasts, ends))
    start, seconds = segment_of(begin, duration, end, whole=audio.casefold() == NEMO)
    return Row(place, found[audio], found[text], start=start, seconds=seconds)


def _time(found: dict[str, Any], known: tuple[str, ...]) -> str | None:
    """Return the key of a time; None if there is none."""
    keys = [each for each in column(found, known) if found[each] is not None]
    if len(keys) > 1:
        raise BadRow(f"has several keys for a time: {', '.join(keys)}; leave one of them")
    return keys[0] if keys else None


def _only(found: dict[str, Any], known: tuple[str, ...], what: str) -> str:
    keys = column(found, known)
    if not keys:
        raise BadRow(f"has no {what}; add one of the keys {', '.join(known)}")
    if len(keys) > 1:
        raise BadRow(f"has several keys for the {what}: {', '.join(keys)}; leave one of them")
    if not isinstance(found[keys[0]], str):
        raise BadRow(f"has no text in {keys[0]}; write a string")
    return keys[0]
