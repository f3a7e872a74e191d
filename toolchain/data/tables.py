"""Tables with a header in CSV or TSV: Common Voice, Hugging Face's audiofolder, and what spreadsheets write."""

import codecs
import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from device_runner.documents import decoded
from device_runner.errors import AsrDeployError
from device_runner.files import file_bytes, shown
from toolchain.data.rows import (
    AUDIO_NAMES,
    DURATION,
    END,
    LARGEST_MANIFEST,
    STARTS,
    TEXT_NAMES,
    BadRow,
    Row,
    column,
    data_set,
    segment_of,
)
from toolchain.data.utterances import DataSet

DELIMITERS = {"\t": "tab", ",": "comma", ";": "semicolon"}
LEAD = re.compile(r"((sep=.)?[ \t\r]*\n)*", re.IGNORECASE)
CLIPS = "clips"  # Common Voice's folder of recordings
BYTE_ORDER_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
LONGEST_HEADER = 1 << 16  # characters


class _Header(NamedTuple):
    delimiter: str
    names: list[str]


def text_of(path: Path, kind: str) -> str:
    """Return the text of a manifest.

    Raises:
        AsrDeployError: It is missing, too large or no text in UTF-8.
    """
    data = file_bytes(path, kind, largest=LARGEST_MANIFEST)
    if data[:64].count(b"\0") > 16 and not data.startswith(BYTE_ORDER_MARKS):
        raise AsrDeployError(f"{shown(path)} seems to be UTF-16 without a byte order mark. Save the file as UTF-8.")
    try:
        return with_line_feeds(decoded(data))
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise AsrDeployError(f"Line {line} of {shown(path)} is not text in UTF-8. Save the file as UTF-8.") from error


def with_line_feeds(text: str) -> str:
    """Return a text with line feeds where it has only carriage returns, as old programs for the Mac write."""
    return text if "\n" in text else text.replace("\r", "\n")


def is_table(first: str) -> bool:
    """Return whether a first line is the header of a table of recordings with references."""
    return any(column(each.names, AUDIO_NAMES) and column(each.names, TEXT_NAMES) for each in _headers(first))


def _without_lead(text: str) -> tuple[int, str]:
    """Return a table from its header on, and the number of lines before: blank ones, and Excel's line that names the separator."""
    lead = LEAD.match(text)
    assert lead, "it matches nothing, too"
    return lead[0].count("\n"), text[lead.end() :]


def first_line(text: str) -> str:
    """Return the line of a text that is its header if it is a table."""
    return _without_lead(text)[1].split("\n", 1)[0].rstrip("\r")


def _headers(first: str) -> list[_Header]:
    """Return the first line under each delimiter that occurs in it."""
    found = []
    for delimiter in DELIMITERS:
        if delimiter in first[:LONGEST_HEADER]:
            try:
                names = next(csv.reader([first[:LONGEST_HEADER].rstrip("\r\n")], delimiter=delimiter), [])
            except csv.Error:
                continue
            found.append(_Header(delimiter, [each.strip() for each in names]))
    return found


def read_table(path: Path, name: str, split: str) -> DataSet:
    """Read a CSV or TSV file with a header.

    The delimiter is the one under which the header has a column of audio files and one of references. Paths start from the table's
    folder, or from the folder ``clips`` in it. ``offset`` or ``start``, and ``duration`` or ``end`` (in seconds) cut segments out of files.

    Args:
        path: The table.
        name: Name of the set.
        split: Name of the split.

    Raises:
        AsrDeployError: The table cannot be read, has no such columns, or two of them.
    """
    text = text_of(path, "table")
    skipped, text = _without_lead(text)
    header = _chosen(text.split("\n", 1)[0].rstrip("\r"), path)
    audio, reference = _only(header.names, AUDIO_NAMES, "audio files", path), _only(header.names, TEXT_NAMES, "references", path)
    offset = _only(header.names, STARTS, "starts", path) if column(header.names, STARTS) else None
    duration = next(iter(column(header.names, (DURATION,))), None) if offset else None
    end = next(iter(column(header.names, (END,))), None) if offset else None
    places = {each: header.names.index(each) for each in (audio, reference, offset, duration, end) if each}

    def rows() -> Iterator[Row | tuple[str, str]]:
        for line, fields in _records(text, header.delimiter, path):
            place = f"{shown(path)} line {line + skipped}"
            if len(fields) != len(header.names):
                yield place, f"has {len(fields)} fields, and the header has {len(header.names)}; correct it, or remove the row"
                continue
            value = {each: fields[number] for each, number in places.items()}
            try:
                start, seconds = segment_of(*((value[each].strip() or None) if each else None for each in (offset, duration, end)))
            except BadRow as error:
                yield place, str(error)
                continue
            yield Row(place, value[audio], value[reference], start=start, seconds=seconds)

    clips = path.parent / CLIPS
    bases = (clips, path.parent) if clips.is_dir() else (path.parent,)
    kind = "TSV" if header.delimiter == "\t" else "CSV"
    return data_set(rows(), bases, name, split, "Common Voice" if clips.is_dir() else f"{kind} table", path)


def _chosen(first: str, path: Path) -> _Header:
    headers = _headers(first)
    fitting = [each for each in headers if column(each.names, AUDIO_NAMES) and column(each.names, TEXT_NAMES)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        two = " and ".join(DELIMITERS[each.delimiter] for each in fitting)
        raise AsrDeployError(f"The header of {shown(path)} can be read with two delimiters, {two}. Use one of them only.")
    names = max(headers, key=lambda each: len(each.names)).names if headers else [first.strip()]
    found = ", ".join(each[:40] for each in names[:20])
    raise AsrDeployError(
        f"The first line of {shown(path)} names no columns of audio files ({', '.join(AUDIO_NAMES)}) and references "
        f"({', '.join(TEXT_NAMES)}). It has: {found}. Add a header, or rename the columns."
    )


def _only(names: list[str], known: tuple[str, ...], what: str, path: Path) -> str:
    found = column(names, known)
    if len(found) > 1:
        raise AsrDeployError(f"{shown(path)} has several columns of {what}: {', '.join(found)}. Rename all but the one to use.")
    return found[0]


def _records(text: str, delimiter: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the line and the fields of each row after the header; blank lines are skipped."""
    if delimiter == "\t":  # a row is a line: Common Voice has quotes within sentences, which quote nothing
        for number, line in enumerate(text.split("\n")[1:], 2):
            if line.strip():
                yield number, [_unquoted(each) for each in line.rstrip("\r").split("\t")]
        return
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    begun = 1
    try:
        for fields in reader:
            if begun > 1 and fields:
                yield begun, fields
            begun = reader.line_num + 1
    except csv.Error as error:
        raise AsrDeployError(f"The row in line {begun} of {shown(path)} is not CSV: {error}. Correct its quotes.") from error


def _unquoted(field: str) -> str:
    """Return a field of a TSV without the quotes around it, in which all others are doubled."""
    inner = field[1:-1]
    quoted = len(field) >= 2 and field[0] == field[-1] == '"' and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if quoted else field
