"""Data sets of recordings with references: the bundled digits, LibriSpeech, and folders in LibriSpeech's layout."""

import os
import re
import unicodedata
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from device_runner.documents import decoded
from device_runner.errors import AsrDeployError
from device_runner.files import cache_folder, file_bytes, shown
from device_runner.home import in_home
from device_runner.suggestions import nearest
from toolchain.data.download import download, unpack_tar

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
TRANSCRIPT = ".trans.txt"
JOINERS = "\u200c\u200d"  # invisible, but letters of Persian and Indian words depend on them


@dataclass(frozen=True)
class Utterance:
    """One recording and its reference, in the case of its transcript file, in Unicode's form NFC with one space between words.

    References become upper case when they are scored, because the language of the model decides how; see ``toolchain.data.casing``.
    """

    id: str
    path: Path
    reference: str


@dataclass(frozen=True)
class LeftOut:
    """A recording that cannot be transcribed and was left out of a test set, and the reason."""

    id: str
    reason: str


@dataclass(frozen=True)
class DataSet:
    """The utterances of one split, sorted by their ids as strings (as TorchAudio does), and the recordings that were left out."""

    name: str
    split: str
    utterances: tuple[Utterance, ...]
    left_out: tuple[LeftOut, ...] = ()

    def limited(self, n: int) -> "DataSet":
        """Return the set of the first ``n`` utterances, or of all utterances if there are fewer.

        Args:
            n: Number of utterances, at least 1.

        Raises:
            AsrDeployError: ``n`` is below 1.
        """
        if n < 1:
            raise AsrDeployError(f"Cannot select {n} utterances. Select at least 1.")
        return replace(self, utterances=self.utterances[:n])

    def sample(self, n: int) -> "DataSet":
        """Return ``n`` utterances spread evenly over the set, or all if it has fewer.

        Raises:
            AsrDeployError: ``n`` is below 1.
        """
        count = len(self.limited(n).utterances)
        return replace(self, utterances=tuple(self.utterances[index * len(self.utterances) // count] for index in range(count)))


def open_data(data: str, split: str, *, download_allowed: bool = True) -> DataSet:
    """Open a data set by its name or folder.

    Example:
        >>> data = asrdeploy.open_data("digits", "test-clean").limited(20)  # doctest: +SKIP

    Args:
        data: ``digits`` (bundled), ``librispeech`` (in the cache folder, ``ASRDEPLOY_CACHE`` or ~/.cache/asrdeploy) or a folder.
        split: Name of the split, for example ``test-clean``.
        download_allowed: Whether to download a LibriSpeech split that is not in the cache. The source is
            ``ASRDEPLOY_LIBRISPEECH_URL`` or OpenSLR; ``ASRDEPLOY_LIBRISPEECH_SHA256`` replaces the expected checksum.

    Returns:
        The utterances of the split, sorted by their ids.

    Raises:
        AsrDeployError: The set or the split is unknown, damaged, or missing and cannot be downloaded.
    """
    if data == DIGITS:
        return read_folder(Path(__file__).parent.parent / "assets" / "speech", split, DIGITS)
    if data == LIBRISPEECH:
        return read_folder(_librispeech(split, download_allowed), split, LIBRISPEECH)
    folder = in_home(Path(data))
    if folder.name == data and not folder.is_dir():  # a bare name is more likely a misspelt set than a path
        raise nearest(data, (DIGITS, LIBRISPEECH), "data set or folder")
    return read_folder(folder, split, shown(folder.resolve().name))


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
    audio = _audio_by_id(root)
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
        raise AsrDeployError(f"{folder} contains no splits. Expected a folder such as test-clean that contains SPEAKER/CHAPTER folders.")
    raise nearest(split, known, f"split of {folder}")


def _audio_by_id(root: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in sorted(root.glob("*/*/*")):
        # File managers leave hidden files that carry the name of the real one.
        if path.suffix.lower() not in AUDIO_SUFFIXES or path.name.startswith("."):
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


def visible(text: str) -> str:
    """Return a text without invisible characters, which editors and web pages leave in words; a zero-width space becomes a space.

    Removed are Unicode's format characters, such as byte order marks, soft hyphens and marks of the writing direction.
    """
    if text.isascii():
        return text
    spaced = text.replace("\u200b", " ")
    return "".join(each for each in spaced if each in JOINERS or unicodedata.category(each) != "Cf")


def _and_more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
