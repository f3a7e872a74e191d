"""From rows of a table, a manifest or a folder to utterances; rows that cannot be used are kept with their reason."""

import math
import os
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from device_runner.errors import AsrDeployError, printable
from device_runner.files import existing, is_file, shown
from device_runner.home import in_home
from toolchain.data.utterances import DataSet, LeftOut, Utterance, reference_of, visible

# Names of columns and keys, in lower case: Hugging Face, Common Voice, NeMo, DeepSpeech, and what people write themselves.
AUDIO_NAMES = ("file_name", "path", "audio_filepath", "audio_path", "wav_filename", "filename", "audio", "file")
TEXT_NAMES = ("transcription", "text", "sentence", "transcript")
STARTS, DURATION, END, NEMO = ("offset", "start"), "duration", "end", "audio_filepath"
LARGEST_MANIFEST = 1 << 30  # bytes; the largest table of Common Voice has about 400 MB
LONGEST_NAME = 200  # characters of an id that a message shows


class BadRow(Exception):
    """Why a row cannot be used: the rest of a sentence behind its place."""


@dataclass(frozen=True)
class Row:
    """What a row says.

    Args:
        place: Where it stands, for messages: ``metadata.csv line 7``.
        audio: The audio file as written, or its path.
        text: The reference as written.
        id: Id; None: the path of the audio file without its suffix, and the times of a segment.
        start: Start of the segment in seconds; None: the row states none.
        seconds: Duration in seconds; None: to the end.
        channel: Channel, counted from 0.
    """

    place: str
    audio: str | Path
    text: str
    id: str | None = None
    start: float | None = None
    seconds: float | None = None
    channel: int | None = None


def data_set(rows: Iterable[Row | tuple[str, str]], bases: tuple[Path, ...], name: str, split: str, layout: str, source: Path) -> DataSet:
    """Make a data set of rows.

    Args:
        rows: Rows, and places with what is wrong there.
        bases: Folders that relative paths may start from.
        name: Name of the set.
        split: Name of the split.
        layout: What was read.
        source: File or folder that was read.

    Raises:
        AsrDeployError: There are no rows.
    """
    found: dict[str, tuple[Utterance, str]] = {}
    bad: list[LeftOut] = []
    for row in rows:
        if isinstance(row, tuple):
            bad.append(LeftOut(row[0], f"{row[0]} {row[1]}."))
            continue
        try:
            made = _utterance(row, bases)
            if made.id in found:
                raise BadRow(f"has the same id as {found[made.id][1]} ({made.id[:LONGEST_NAME]}); remove one of them")
        except BadRow as error:
            bad.append(LeftOut(row.id or row.place, f"{row.place} {error}."))
        else:
            found[made.id] = (made, row.place)
    if not found and not bad:
        raise AsrDeployError(f"{shown(source)} contains no rows. Write a row for each recording.")
    return DataSet(name, split, tuple(found[each][0] for each in sorted(found)), bad=tuple(bad), layout=layout)


def _utterance(row: Row, bases: tuple[Path, ...]) -> Utterance:
    reference = reference_of(row.text)
    if not reference:
        raise BadRow("has no words; write the reference, or remove the row")
    try:
        reference.encode()
    except UnicodeEncodeError as error:
        raise BadRow("contains half of a surrogate pair; write the text again") from error
    path, told = _audio(row.audio, bases)
    name = told if row.id is None else row.id
    if row.id is None and row.start is not None:
        end = "end" if row.seconds is None else f"{row.start + row.seconds:.3f}"
        name = f"{told}-{row.start:.3f}-{end}"
    return Utterance(name, path, reference, row.start or 0.0, row.seconds, row.channel)


def _audio(written: str | Path, bases: tuple[Path, ...]) -> tuple[Path, str]:
    """Return the audio file that a row names, and its id."""
    if isinstance(written, str) and not written.strip():
        raise BadRow("names no audio file; write its path, or remove the row")
    if isinstance(written, str) and (scheme := re.match("[a-zA-Z][a-zA-Z0-9+.-]*(?=://)", written.strip())):
        raise BadRow(f"names an address ({scheme[0]}://…); download the recording, and write its path")
    try:
        path = Path(written)
        if not path.is_absolute():
            if ".." in path.parts and os.path.normpath(path).startswith(".."):
                raise BadRow(f"names {shown(path)[:LONGEST_NAME]}, which leaves the folder; write an absolute path, or move the files")
            here = [base / path for base in bases if is_file(existing(base / path))]
            home = in_home(path)
            if not here and home != path:
                here = [home] if is_file(home) else []
            different = list({os.path.realpath(each): each for each in here}.values())
            if len(different) > 1:
                raise BadRow(
                    f"names {shown(path)[:LONGEST_NAME]}, which is {shown(different[0])} or {shown(different[1])}; write an absolute path"
                )
        else:
            different = [path] if is_file(existing(path)) else []
    except AsrDeployError as error:  # no such home folder
        raise BadRow(f"names an audio file that cannot be found: {str(error).rstrip('.')}") from error
    except (OSError, ValueError) as error:
        raise BadRow(f"names {printable(str(written))[:LONGEST_NAME]}, which cannot be the name of a file; correct it") from error
    if not different:
        where = shown(path if path.is_absolute() else bases[0] / path)
        raise BadRow(f"names {where[-2 * LONGEST_NAME :]}, but there is no such audio file; add it, or remove the row")
    return existing(different[0]), _id_of(path, bases)


def _id_of(path: Path, bases: tuple[Path, ...]) -> str:
    for base in bases:
        if path.is_absolute() and path.is_relative_to(base.absolute()):
            path = path.relative_to(base.absolute())
    text = os.path.normpath(path.with_suffix("")).lstrip("/")
    return visible(unicodedata.normalize("NFC", os.fsencode(text).decode("utf-8", "backslashreplace")))


def column(names: Iterable[str], known: tuple[str, ...]) -> list[str]:
    """Return the names that mean the same as ``known``, whatever their case."""
    return [each for each in names if each.strip().casefold() in known]


def seconds_of(value: object, what: str, *, least: float = 0.0) -> float:
    """Return a time in seconds.

    Raises:
        BadRow: It is no finite number, or below zero; for a duration (``least`` above 0) also zero.
    """
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError
        number = float(value)
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or number < 0 or (least > 0 and number == 0):
        raise BadRow(f"has the {what} {printable(repr(value))[:60]}; write seconds, such as 1.5")
    return number


def segment_of(start: object, duration: object, end: object, *, whole: bool = False) -> tuple[float | None, float | None]:
    """Return start and duration of a segment in seconds, from what a row says; None where it says nothing.

    Args:
        start: Start as written; None if the row has none. Only then is it a segment.
        duration: Duration as written.
        end: End as written, used if there is no duration.
        whole: A duration without a start counts too, as in NeMo's manifests.

    Raises:
        BadRow: A time is no number of seconds, or the end is not behind the start.
    """
    begin = None if start is None else seconds_of(start, STARTS[0])
    if duration is not None and (begin is not None or whole):
        return begin, seconds_of(duration, DURATION, least=1e-9)
    if begin is None or end is None:
        return begin, None
    last = seconds_of(end, END)
    if last <= begin:
        raise BadRow(f"has the {END} {last:g}, which is not behind its start {begin:g}; correct the times")
    return begin, last - begin
