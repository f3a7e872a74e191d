"""Data sets of recordings with references: the bundled digits, LibriSpeech, and files and folders in the layouts of docs/data.md."""

import os
import re
import unicodedata
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path

from device_runner.documents import decoded
from device_runner.errors import AsrDeployError
from device_runner.files import cache_folder, file_bytes, shown
from device_runner.home import in_home
from device_runner.suggestions import nearest
from toolchain.data.download import download, unpack_tar
from toolchain.data.layouts import DEFAULT_SPLITS, LAYOUTS, WHOLE, Reading, chosen_reading, read_manifest, readings_of, unread_manifest
from toolchain.data.pairs import AUDIO_SUFFIXES as ALL_SUFFIXES
from toolchain.data.pairs import CONTAINER_SUFFIXES
from toolchain.data.utterances import DataSet as DataSet
from toolchain.data.utterances import LeftOut as LeftOut
from toolchain.data.utterances import Utterance as Utterance
from toolchain.data.utterances import visible

DIGITS = "digits"
LIBRISPEECH = "librispeech"

LIBRISPEECH_URL = "https://www.openslr.org/resources/12"
# Checksums of the .tar.gz archives, as in torchaudio.datasets.librispeech._CHECKSUMS.
LIBRISPEECH_SHA256 = {
    "dev-clean": "76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3",
    "test-clean": "39fde525e59672dc6d1551919b1478f724438a95aa55f874b576be21967e6c23",
}
LIBRISPEECH_FOLDER = "LibriSpeech"  # top folder in every archive

AUDIO_SUFFIXES = (".flac", ".wav")
OTHER_SUFFIXES = tuple(each for each in (*ALL_SUFFIXES, *CONTAINER_SUFFIXES) if each not in AUDIO_SUFFIXES)
TRANSCRIPT = ".trans.txt"


def check_channel(channel: int | None) -> None:
    """Raise AsrDeployError if a channel, counted from 1, does not exist."""
    if channel is not None and channel < 1:
        raise AsrDeployError(f"--channel {channel} does not exist. Channels count from 1.")


def open_data(data: str, split: str | None = None, *, channel: int | None = None, download_allowed: bool = True) -> DataSet:
    """Open a data set by its name, file or folder. Its layout is recognised by its content; see docs/data.md.

    Example:
        >>> data = asrdeploy.open_data("digits", "test-clean").limited(20)  # doctest: +SKIP
        >>> data = asrdeploy.open_data("cv-corpus/en", "dev")  # doctest: +SKIP

    Args:
        data: ``digits`` (bundled), ``librispeech`` (in the cache folder, ``ASRDEPLOY_CACHE`` or ~/.cache/asrdeploy), a CSV, TSV or JSON
            lines file, or a folder. ``LAYOUT:FOLDER`` names the layout: librispeech, table, json-lines, kaldi or pairs.
        split: Name of the split, for example ``test-clean`` (default: test-clean or test, or a set without splits).
        channel: Channel of every recording, counted from 1 (default: recordings must have one channel).
        download_allowed: Whether to download a LibriSpeech split that is not in the cache. The source is
            ``ASRDEPLOY_LIBRISPEECH_URL`` or OpenSLR; ``ASRDEPLOY_LIBRISPEECH_SHA256`` replaces the expected checksum.

    Returns:
        The utterances of the split, sorted by their ids. Rows that cannot be used are in ``bad``.

    Raises:
        AsrDeployError: The set or the split is unknown, damaged, missing and cannot be downloaded, or can be read in two ways.
    """
    check_channel(channel)
    found = _opened(data, split, download_allowed)
    if channel is None:
        return found
    chosen = (each if each.channel is not None else replace(each, channel=channel - 1) for each in found.utterances)
    return replace(found, utterances=tuple(chosen))


def open_tuning_and_test(data: str) -> tuple[DataSet, DataSet]:
    """Return the split to tune on and the split to report on: dev-clean and test-clean, dev and test, or validation and test.

    Args:
        data: See ``open_data``.

    Raises:
        AsrDeployError: See ``open_data``.
    """
    pairs = (("dev-clean", "test-clean"), ("dev", "test"), ("validation", "test"))
    folder = in_home(Path(data))
    known: set[str | None] = set()
    if data not in (DIGITS, LIBRISPEECH) and folder.is_dir():
        known = {each.split for each in readings_of(folder, _has_transcripts, _librispeech_split)}
    dev, test = next((each for each in pairs if known.issuperset(each)), pairs[0])
    return open_data(data, dev), open_data(data, test)


def _librispeech_split(place: Path, name: str, split: str) -> DataSet:
    return read_folder(place, split, name)


def _opened(data: str, split: str | None, download_allowed: bool) -> DataSet:
    if data == DIGITS:
        return read_folder(Path(__file__).parent.parent / "assets" / "speech", split or DEFAULT_SPLITS[0], DIGITS)
    if data == LIBRISPEECH:
        named = split or DEFAULT_SPLITS[0]
        return read_folder(_librispeech(named, download_allowed), named, LIBRISPEECH)
    layout, separator, rest = data.partition(":")
    if not (separator and layout in LAYOUTS) or Path(data).exists():
        layout, rest = "", data
    if not rest.strip():
        raise AsrDeployError(f"--data {data} names no folder. Give its path, or . for the current folder.")
    folder = in_home(Path(rest))
    if folder.name == data and not folder.exists():  # a bare name is more likely a misspelt set than a path
        raise nearest(data, (DIGITS, LIBRISPEECH), "data set or folder")
    if folder.is_file():
        return read_manifest(folder, split)
    name = shown(folder.resolve().name)
    if folder.is_dir():
        readings = readings_of(folder, _has_transcripts, _librispeech_split)
        if layout:
            readings = [each for each in readings if each.layout == layout]
            if not readings:
                raise AsrDeployError(f"{shown(folder)} contains nothing in the layout {layout}. Leave {layout}: out, or check the path.")
        if chosen := chosen_reading(folder, readings, split) if _is_elsewhere(folder, readings, split) else None:
            return chosen.read(chosen.path, name, shown(chosen.split or WHOLE))
        if not readings and (manifest := unread_manifest(folder)):
            return read_manifest(manifest, split)  # says what it lacks
    return read_folder(folder, split or DEFAULT_SPLITS[0], name)


def _is_elsewhere(folder: Path, readings: list[Reading], split: str | None) -> bool:
    """Return whether anything else than LibriSpeech's layout, which has its own messages, may be meant."""
    if any(each.layout != "librispeech" for each in readings):
        return True
    return split is None and bool(readings)


def _librispeech(split: str, download_allowed: bool) -> Path:
    """Return the corpus folder in the cache, which then contains ``split``."""
    if split not in LIBRISPEECH_SHA256:
        raise nearest(split, LIBRISPEECH_SHA256, "LibriSpeech split")
    cache = cache_folder()
    corpus = cache / LIBRISPEECH_FOLDER
    if (corpus / split).is_dir():
        return corpus
    if not download_allowed:
        raise AsrDeployError(f"{corpus / split} does not exist. Allow the download of LibriSpeech, or place the folder there by hand.")
    base = os.environ.get("ASRDEPLOY_LIBRISPEECH_URL") or LIBRISPEECH_URL
    expected = os.environ.get("ASRDEPLOY_LIBRISPEECH_SHA256") or LIBRISPEECH_SHA256[split]
    # The archive is kept, so that a damaged or removed folder can be unpacked again without a network.
    archive = download(f"{base.rstrip('/')}/{split}.tar.gz", cache / f"{split}.tar.gz", sha256=expected)
    unpack_tar(archive, cache, unless=corpus / split)
    return corpus


def read_folder(folder: Path, split: str, name: str) -> DataSet:
    """Read one split in LibriSpeech's layout: ``SPLIT/SPEAKER/CHAPTER/`` with audio files and ``SPEAKER-CHAPTER.trans.txt``.

    Args:
        folder: Folder that contains the splits, directly or in a subfolder ``LibriSpeech``.
        split: Name of the split's folder.
        name: Name of the set in results.

    Raises:
        AsrDeployError: The folder or the split is missing or empty, audio files and transcript lines do not match one to one, an
            id occurs twice, or a reference is empty.
    """
    root = _split_folder(folder, split)
    audio = _audio_by_id(root, AUDIO_SUFFIXES)
    others = {} if audio and _references_by_id(root, audio).keys() <= audio.keys() else _audio_by_id(root, OTHER_SUFFIXES)
    audio = others | audio  # a FLAC or WAV comes before other formats of the same recording
    if not audio:
        raise AsrDeployError(f"{root} contains no audio. Expected files such as SPEAKER/CHAPTER/SPEAKER-CHAPTER-0000.flac (or .wav).")
    references = _references_by_id(root, audio)
    untold, silent = sorted(audio.keys() - references.keys()), sorted(references.keys() - audio.keys())
    if untold:
        found = f"{audio[untold[0]]} has no line in its transcript file{_and_more(untold)}"
        if alike := [each for each in silent if _bare(each) == _bare(untold[0])]:
            raise AsrDeployError(f"{found}. It has one for {alike[0]}: write ids as the file names without their suffix.")
        raise AsrDeployError(f"{found}. Add the line, or remove the audio file.")
    if silent:
        found = f"{silent[0]} has a transcript line but no audio file in {root}{_and_more(silent)}"
        raise AsrDeployError(f"{found}. Add the audio file, or remove the line.")
    return DataSet(name, split, tuple(Utterance(each, audio[each], references[each]) for each in sorted(audio)))


def _split_folder(folder: Path, split: str) -> Path:
    if not folder.is_dir():
        raise AsrDeployError(f"Folder {folder} does not exist. Check the path.")
    splits = {
        entry.name: entry
        for base in (folder / LIBRISPEECH_FOLDER, folder)
        if base.is_dir()
        for entry in base.iterdir()
        if entry.is_dir() and entry.name != LIBRISPEECH_FOLDER and not entry.name.startswith(".")
    }
    if split in splits:
        return splits[split]
    known = [name for name, entry in splits.items() if _transcript_files(entry)]
    if not known and _transcript_files(folder):
        given = folder.resolve()
        raise AsrDeployError(
            f"{folder} is a split. Give the folder that contains it, and name the split: --data {given.parent} --split {given.name}."
        )
    if not known:
        raise AsrDeployError(
            f"{folder} contains no splits. Expected a folder such as test-clean that contains SPEAKER/CHAPTER folders, or another "
            "layout of docs/data.md."
        )
    raise nearest(split, known, f"split of {folder}")


def _audio_by_id(root: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in sorted(root.glob("*/*/*")):
        # File managers leave hidden files that carry the name of the real one.
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        utterance = _id_of(path)
        if utterance in files:
            raise AsrDeployError(
                f"{path} and {files[utterance]} have the same id {utterance}. Rename one of them, and its line in the transcript file."
            )
        files[utterance] = path
    return files


def _id_of(path: Path) -> str:
    """Return the id of a recording: its name in NFC (some systems store NFD), without invisible characters. Other bytes are escaped."""
    return visible(unicodedata.normalize("NFC", os.fsencode(path.stem).decode("utf-8", "backslashreplace")))


def _bare(utterance: str) -> str:
    """Return an id without what spellings of it differ in: upper case, and the suffix of the file."""
    lower = utterance.casefold()
    return next((lower.removesuffix(each) for each in AUDIO_SUFFIXES if lower.endswith(each)), lower)


def _transcript_files(root: Path) -> list[Path]:
    return sorted(each for each in root.glob("*/*/*") if each.name.lower().endswith(TRANSCRIPT) and not each.name.startswith("."))


def _has_transcripts(root: Path) -> bool:
    return any(each.name.lower().endswith(TRANSCRIPT) and not each.name.startswith(".") for each in root.glob("*/*/*"))


def _references_by_id(root: Path, ids: Collection[str]) -> dict[str, str]:
    references: dict[str, str] = {}
    spaced = [each for each in ids if len(each.split()) > 1]
    for path in _transcript_files(root):
        try:
            text = decoded(file_bytes(path, "transcript file"))
        except UnicodeDecodeError as error:
            raise AsrDeployError(f"{path} cannot be read as UTF-8 text. Save it as UTF-8.") from error
        for utterance, reference in parse_transcript(re.split("\r\n|\r|\n", text), path, spaced):
            if utterance in references:
                raise AsrDeployError(f"{path} contains a second line for {utterance}. Remove one of the two lines.")
            references[utterance] = reference
    return references


def parse_transcript(lines: Iterable[str], path: Path, spaced: Collection[str] = ()) -> list[tuple[str, str]]:
    """Parse the lines ``ID WORDS…`` of a transcript file; blank lines are ignored.

    Args:
        lines: Lines of the file.
        path: Path of the file, for error messages.
        spaced: Ids with white space inside. All others end at the first white space.

    Returns:
        Pairs of id and reference in Unicode's form NFC without invisible characters, the reference with one space between words.

    Raises:
        AsrDeployError: A line has an id but no words.
    """
    parsed = []
    known = {" ".join(each.split()): each for each in spaced}
    most = max((len(each.split()) for each in spaced), default=1)
    for line in lines:
        if not (words := visible(unicodedata.normalize("NFC", line)).split()):
            continue
        taken = next((count for count in range(most, 1, -1) if " ".join(words[:count]) in known), 1)
        utterance, reference = " ".join(words[:taken]), " ".join(words[taken:])
        utterance = known.get(utterance, utterance)
        if not reference:
            raise AsrDeployError(f"{path} contains no words for {utterance}. Write the reference, or remove the line and its audio file.")
        parsed.append((utterance, reference))
    return parsed


def _and_more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
