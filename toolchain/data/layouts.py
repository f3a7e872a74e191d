"""Which layout a file or folder has: recognised by what it contains, and asked about where there are two readings."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from device_runner.documents import decoded
from device_runner.errors import AsrDeployError
from device_runner.files import existing, is_file, shown
from device_runner.suggestions import nearest
from toolchain.data.json_lines import is_json_lines, read_json_lines
from toolchain.data.kaldi import is_kaldi, read_kaldi
from toolchain.data.pairs import has_pairs, is_audio, read_pairs
from toolchain.data.tables import first_line, is_table, read_table, with_line_feeds
from toolchain.data.utterances import DataSet

MANIFEST_SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".ndjson")
WHOLE_STEMS = ("metadata", "manifest")  # manifests that name no split
FIRST_BYTES = 1 << 20
MOST_WAYS = 5  # readings of a folder that a message names
WHOLE = "all"  # name of the split of a set without splits
DEFAULT_SPLITS = ("test-clean", "test")  # the first that exists

Read = Callable[[Path, str, str], DataSet]


@dataclass(frozen=True)
class Reading:
    """One way to read a folder or a part of it.

    Args:
        layout: Name of the layout in ``--data LAYOUT:FOLDER``.
        path: File or folder that is read.
        split: The split that this is; None: the set has no splits.
        read: Reads it, given path, name and split.
    """

    layout: str
    path: Path
    split: str | None
    read: Read


def manifest_reader(path: Path) -> tuple[str, Read] | None:
    """Return layout and reader of a manifest, by its first line; None if it is none."""
    try:
        with path.open("rb") as file:
            data = file.read(FIRST_BYTES)
    except OSError:
        return None
    text = with_line_feeds(_text(data))
    first = first_line(text)
    if first.lstrip().startswith(("{", "[")):
        return ("json-lines", read_json_lines) if any(is_json_lines(each) for each in text.split("\n")[:1000]) else None
    return ("table", read_table) if is_table(first) else None


def _text(data: bytes) -> str:
    """Return the text of the beginning of a file, whose last character may be cut."""
    for cut in range(4):
        try:
            return decoded(data[: len(data) - cut])
        except UnicodeDecodeError:
            continue
    return data.decode("latin-1")  # the reader names the line that is not UTF-8


def read_manifest(path: Path, split: str | None) -> DataSet:
    """Read a CSV, TSV or JSON lines file that a user named; its stem is the split.

    Raises:
        AsrDeployError: ``split`` is another, or the file cannot be read.
    """
    path = existing(path)
    if is_audio(path.name):
        raise AsrDeployError(
            f"{shown(path)} is a recording. Give a table or a folder of recordings and references, or use `asrdeploy transcribe`."
        )
    own = _split_of(path)
    found = manifest_reader(path)
    if found is not None and split not in (None, own, path.stem):
        raise AsrDeployError(f"{shown(path)} is one split, {own or path.stem}, so --split {split} does not fit. Leave --split out.")
    if found is None:
        begins = path.read_bytes()[:64].lstrip(b"\xef\xbb\xbf \t\r\n")
        found = ("json-lines", read_json_lines) if begins.startswith((b"{", b"[")) else ("table", read_table)  # says what is missing
    return found[1](path, shown(path.resolve().parent.name) or "data", shown(own or path.stem))


def _split_of(path: Path) -> str | None:
    stem = path.stem
    if stem.lower() in WHOLE_STEMS:
        return None
    return next((stem[: -len(each)] for each in ("_manifest", "-manifest") if stem.endswith(each) and stem != each), stem)


def readings_of(folder: Path, librispeech: Callable[[Path], bool], read_librispeech: Read) -> list[Reading]:
    """Return all readings of a folder: of itself, and of the splits in it.

    Args:
        folder: The folder.
        librispeech: Whether a folder is a split in LibriSpeech's layout.
        read_librispeech: Reads a split, given the folder that contains it, name and split.
    """
    found = _readings_here(folder, None)
    whole_pairs = has_pairs(folder, below=False)
    if whole_pairs:
        found.append(Reading("pairs", folder, None, read_pairs))
    for place in (folder / "LibriSpeech", folder):
        for entry in sorted(place.iterdir()) if place.is_dir() else ():
            if not entry.is_dir() or entry.name.startswith(".") or entry.name == "LibriSpeech":
                continue
            if librispeech(entry):
                found = [each for each in found if each.layout != "librispeech" or each.split != entry.name]  # the folder's own comes first
                found.append(Reading("librispeech", entry, entry.name, _within(read_librispeech, place)))
                continue
            if place == folder:
                found += [each for each in _readings_here(entry, entry.name) if each.split == entry.name]
                if not whole_pairs and has_pairs(entry):
                    found.append(Reading("pairs", entry, entry.name, read_pairs))
    return found


def _within(read: Read, place: Path) -> Read:
    return lambda path, name, split: read(place, name, split)


def _readings_here(folder: Path, split: str | None) -> list[Reading]:
    """Return the manifests and the Kaldi directory in a folder itself; those that name no split get ``split``."""
    found = [Reading("kaldi", folder, split, read_kaldi)] if is_kaldi(folder) else []
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in MANIFEST_SUFFIXES and not path.name.startswith(".") and is_file(path) and (kind := manifest_reader(path)):
            found.append(Reading(kind[0], path, _split_of(path) or split, kind[1]))
    return found


def unread_manifest(folder: Path) -> Path | None:
    """Return a file of a folder that is named like a manifest and is none; None if there is no such file."""
    named = sorted(each for each in folder.iterdir() if each.suffix.lower() in MANIFEST_SUFFIXES and not each.name.startswith("."))
    return next((each for each in named if is_file(each) and manifest_reader(each) is None), None)


def chosen_reading(folder: Path, readings: list[Reading], split: str | None) -> Reading | None:
    """Return the reading for a split, or None if the folder has none that this module knows.

    Args:
        folder: The folder, for messages.
        readings: See ``readings_of``.
        split: Split that the user named; None: a set without splits, or the first of ``DEFAULT_SPLITS``.

    Raises:
        AsrDeployError: There are two readings, no such split, or several splits and none named.
    """
    splits = sorted({each.split for each in readings if each.split is not None})
    whole = [each for each in readings if each.split is None]
    if split is None:
        default = next((each for each in DEFAULT_SPLITS if each in splits), None)
        fitting = whole + [each for each in readings if default is not None and each.split == default]
        if not fitting and splits:
            raise AsrDeployError(f"{shown(folder)} has the splits {', '.join(splits)}. Name one with --split.")
    else:
        fitting = [each for each in readings if each.split == split]
        if not fitting and whole and not splits:
            if split in (folder.resolve().name, whole[0].path.stem, WHOLE):
                fitting = whole
            else:
                raise AsrDeployError(f"{shown(folder)} has no splits, so --split {split} does not fit. Leave --split out.")
        if not fitting and splits:
            raise nearest(split, splits, f"split of {shown(folder)}")
    if len(fitting) > 1:
        ways = " or ".join(f"as {each.layout} ({shown(each.path)})" for each in fitting[:MOST_WAYS])
        choices = " or ".join(_choice(folder, each) for each in fitting[:MOST_WAYS])
        raise AsrDeployError(f"{shown(folder)} can be read in {len(fitting)} ways: {ways}. Choose one with {choices}.")
    return fitting[0] if fitting else None


def _choice(folder: Path, reading: Reading) -> str:
    if reading.path.is_file():
        return f"--data {shown(reading.path)}"
    return f"--data {reading.layout}:{shown(folder)}" + ("" if reading.split is None else f" --split {reading.split}")


LAYOUTS = ("librispeech", "table", "json-lines", "kaldi", "pairs")
