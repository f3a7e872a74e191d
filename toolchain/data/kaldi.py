"""Kaldi's data directories: wav.scp, text and segments. Commands in wav.scp are never run."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from device_runner.errors import AsrDeployError
from device_runner.files import shown
from toolchain.data.rows import BadRow, Row, data_set, seconds_of
from toolchain.data.tables import text_of
from toolchain.data.utterances import DataSet

RECORDINGS, TEXT, SEGMENTS, SIDES = "wav.scp", "text", "segments", "reco2file_and_channel"
CHANNELS = {"A": 0, "B": 1, "1": 0, "2": 1}  # sides of a call as SIDES names them
TO_THE_END = "-1"  # as the end of a segment
IN_ARCHIVE = re.compile(r"\.ark:\d+(\[.*\])?$")


def is_kaldi(folder: Path) -> bool:
    """Return whether a folder is a Kaldi data directory."""
    return (folder / RECORDINGS).is_file()


def read_kaldi(folder: Path, name: str, split: str) -> DataSet:
    """Read a Kaldi data directory. Paths start from the folder, or from the current folder as Kaldi's recipes do.

    Args:
        folder: Folder with ``wav.scp``, ``text`` and, for segments, ``segments``.
        name: Name of the set.
        split: Name of the split.

    Raises:
        AsrDeployError: A file is missing or cannot be read, or ``wav.scp`` contains commands or archives.
    """
    recordings = _by_key(folder / RECORDINGS)
    for place, value in recordings.values():
        if value.startswith("|") or value.endswith("|"):
            raise AsrDeployError(
                f"{place} is a command ({value[:120]}), which asrdeploy does not run. Write its output to a file, and name that."
            )
        if IN_ARCHIVE.search(value):
            raise AsrDeployError(f"{place} names a Kaldi archive ({value[:120]}). Write the recordings to audio files, and name those.")
    if not (folder / TEXT).is_file():
        raise AsrDeployError(f"{shown(folder)} has wav.scp but no text. Add the file text with the lines UTTERANCE WORDS….")
    references = list(_entries(folder / TEXT))
    segments = _by_key(folder / SEGMENTS) if (folder / SEGMENTS).is_file() else None
    sides = _sides(folder, recordings)
    untold = (recordings if segments is None else segments).keys() - {key for key, _, _ in references}

    def rows() -> Iterator[Row | tuple[str, str]]:
        for key, words, place in references:
            try:
                yield _row(key, words, place, recordings, segments, sides)
            except BadRow as error:
                yield place, str(error)
        for each in sorted(untold):
            yield each, f"has no line in {shown(folder / TEXT)}; add its reference"

    return data_set(rows(), (folder, Path()), name, split, "Kaldi directory", folder)


def _entries(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield key, value and place of the lines ``KEY VALUE…``."""
    for number, line in enumerate(text_of(path, "Kaldi file").split("\n"), 1):
        if parts := line.split(maxsplit=1):
            yield parts[0], parts[1].strip() if len(parts) > 1 else "", f"{shown(path)} line {number}"


def _by_key(path: Path) -> dict[str, tuple[str, str]]:
    found: dict[str, tuple[str, str]] = {}
    for key, value, place in _entries(path):
        if key in found:
            raise AsrDeployError(f"{place} has the same key as {found[key][0]}, {key[:200]}. Remove one of the lines.")
        found[key] = (place, value)
    return found


def _sides(folder: Path, recordings: dict[str, tuple[str, str]]) -> dict[str, int]:
    """Return the channels of recordings, from 0, where several recordings are sides of one file.

    A recording with a file of its own needs none: recipes list the sides of calls also where each is in its own file already.
    """
    if not (folder / SIDES).is_file():
        return {}
    files = Counter(value for _, value in recordings.values())
    found = {}
    for key, (place, value) in _by_key(folder / SIDES).items():
        if files[recordings.get(key, ("", ""))[1]] > 1:
            side = value.split()[-1] if value else ""
            if side not in CHANNELS:
                raise AsrDeployError(f"{place} names the channel {side[:20] or '(none)'}. Write one of {', '.join(CHANNELS)}.")
            found[key] = CHANNELS[side]
    return found


def _row(
    key: str,
    words: str,
    place: str,
    recordings: dict[str, tuple[str, str]],
    segments: dict[str, tuple[str, str]] | None,
    sides: dict[str, int],
) -> Row:
    if segments is None:
        if key not in recordings:
            raise BadRow(f"is of {key[:200]}, which has no line in {RECORDINGS}; add it, or remove the line")
        return Row(place, recordings[key][1], words, id=key, channel=sides.get(key))
    if key not in segments:
        raise BadRow(f"is of {key[:200]}, which has no line in {SEGMENTS}; add it, or remove the line")
    where, segment = segments[key]
    fields = segment.split()
    if len(fields) not in (3, 4):
        raise BadRow(f"belongs to {where}, which is not UTTERANCE RECORDING START END; correct it")
    if fields[0] not in recordings:
        raise BadRow(f"belongs to the recording {fields[0][:200]}, which has no line in {RECORDINGS}; add it, or remove the line")
    start = seconds_of(fields[1], "start")
    seconds = None if fields[2] == TO_THE_END else seconds_of(fields[2], "end") - start
    if seconds is not None and seconds <= 0:
        raise BadRow(f"belongs to {where}, which ends before it starts; correct it")
    channel = fields[3] if len(fields) == 4 else None
    if channel is not None and not re.fullmatch("[0-9]{1,3}", channel, re.ASCII):
        raise BadRow(f"belongs to {where}, whose channel {channel[:20]} is no number; correct it")
    return Row(place, recordings[fields[0]][1], words, key, start, seconds, sides.get(fields[0]) if channel is None else int(channel))
