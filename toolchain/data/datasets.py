"""Speech with references: the bundled digits, LibriSpeech, and any folder in LibriSpeech's layout."""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from device_runner.errors import AsrDeployError
from device_runner.files import cache_folder
from device_runner.suggestions import nearest
from toolchain.data.download import download, unpack_tar

DIGITS = "digits"
LIBRISPEECH = "librispeech"

LIBRISPEECH_URL = "https://www.openslr.org/resources/12"
# Of the splits' .tar.gz there, as in torchaudio.datasets.librispeech._CHECKSUMS.
LIBRISPEECH_SHA256 = {
    "dev-clean": "76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3",
    "test-clean": "39fde525e59672dc6d1551919b1478f724438a95aa55f874b576be21967e6c23",
}
LIBRISPEECH_FOLDER = "LibriSpeech"  # the top of every archive

AUDIO_SUFFIXES = (".flac", ".wav")


@dataclass(frozen=True)
class Utterance:
    """One recording and what is said in it: upper case, apostrophes kept, one space between words."""

    id: str
    path: Path
    reference: str


@dataclass(frozen=True)
class DataSet:
    """The utterances of one split, in the order of their ids as strings (TorchAudio's order)."""

    name: str
    split: str
    utterances: tuple[Utterance, ...]

    @property
    def digest(self) -> str:
        """SHA-256 over ids, references and file sizes: tells a changed set from the same one, wherever it lies."""
        rows = [[each.id, each.reference, each.path.stat().st_size] for each in self.utterances]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()

    def limited(self, n: int) -> "DataSet":
        """Return the set of the first ``n`` utterances, or all where there are fewer.

        Raises:
            AsrDeployError: ``n`` is below 1.
        """
        if n < 1:
            raise AsrDeployError(f"Cannot take {n} utterances; take at least 1.")
        return replace(self, utterances=self.utterances[:n])


def open_data(data: str, split: str, *, download_allowed: bool = True) -> DataSet:
    """Return the data set that a user names.

    Args:
        data: ``digits`` (bundled), ``librispeech`` (in the cache folder, ``ASRDEPLOY_CACHE`` or ~/.cache/asrdeploy) or a folder.
        split: for example ``test-clean``.
        download_allowed: fetch a split of LibriSpeech that is not in the cache, from ``ASRDEPLOY_LIBRISPEECH_URL`` (with archives of
            ``ASRDEPLOY_LIBRISPEECH_SHA256``, where they are others) or OpenSLR.

    Raises:
        AsrDeployError: the set or the split is unknown, not there and not to be had, or damaged.
    """
    if data == DIGITS:
        return read_folder(Path(__file__).parent.parent / "assets" / "speech", split, DIGITS)
    if data == LIBRISPEECH:
        return read_folder(_librispeech(split, download_allowed), split, LIBRISPEECH)
    folder = Path(data).expanduser()
    if folder.name == data and not folder.is_dir():  # a bare name: more likely a misspelt set than a path
        raise nearest(data, (DIGITS, LIBRISPEECH), "data set or folder")
    return read_folder(folder, split, folder.resolve().name)


def _librispeech(split: str, download_allowed: bool) -> Path:
    """Return the corpus folder in the cache, with ``split`` in it."""
    if split not in LIBRISPEECH_SHA256:
        raise nearest(split, LIBRISPEECH_SHA256, "split of LibriSpeech")
    cache = cache_folder()
    corpus = cache / LIBRISPEECH_FOLDER
    if (corpus / split).is_dir():
        return corpus
    if not download_allowed:
        raise AsrDeployError(f"LibriSpeech's {split} is not at {corpus / split}; allow the download or place the folder there by hand.")
    base = os.environ.get("ASRDEPLOY_LIBRISPEECH_URL") or LIBRISPEECH_URL
    expected = os.environ.get("ASRDEPLOY_LIBRISPEECH_SHA256") or LIBRISPEECH_SHA256[split]
    # The archive stays: a folder that was damaged or removed is unpacked again without a network.
    archive = download(f"{base.rstrip('/')}/{split}.tar.gz", cache / f"{split}.tar.gz", sha256=expected)
    unpack_tar(archive, cache, unless=corpus / split)
    return corpus


def read_folder(folder: Path, split: str, name: str) -> DataSet:
    """Read one split in LibriSpeech's layout: ``SPLIT/SPEAKER/CHAPTER/`` with audio files and ``SPEAKER-CHAPTER.trans.txt``.

    Args:
        folder: has the splits as folders, directly or in a folder ``LibriSpeech``.
        split: the folder of the split.
        name: what the set is called in results.

    Raises:
        AsrDeployError: the folder or the split is missing or empty, audio and transcripts do not match one to one, an id is
            there twice, or a reference is empty.
    """
    root = _split_folder(folder, split)
    audio = _audio_by_id(root)
    if not audio:
        raise AsrDeployError(f"{root} holds no audio; expected are files such as SPEAKER/CHAPTER/SPEAKER-CHAPTER-0000.flac (or .wav).")
    references = _references_by_id(root)
    if untold := sorted(audio.keys() - references.keys()):
        raise AsrDeployError(f"{audio[untold[0]]} has no line in its transcript file{_and_more(untold)}; add the line or remove the audio.")
    if silent := sorted(references.keys() - audio.keys()):
        more = _and_more(silent)
        raise AsrDeployError(f"{silent[0]} has a transcript but no audio file in {root}{more}; add the audio or remove the line.")
    return DataSet(name, split, tuple(Utterance(each, audio[each], references[each]) for each in sorted(audio)))


def _split_folder(folder: Path, split: str) -> Path:
    if not folder.is_dir():
        raise AsrDeployError(f"There is no folder {folder}; check the path.")
    splits = {
        entry.name: entry
        for base in (folder / LIBRISPEECH_FOLDER, folder)
        if base.is_dir()
        for entry in base.iterdir()
        if entry.is_dir() and entry.name != LIBRISPEECH_FOLDER and not entry.name.startswith(".")
    }
    if split in splits:
        return splits[split]
    known = [name for name, entry in splits.items() if any(entry.glob("*/*/*.trans.txt"))]
    if not known:
        raise AsrDeployError(f"{folder} holds no splits; expected is a folder such as test-clean with SPEAKER/CHAPTER folders in it.")
    raise nearest(split, known, f"split of {folder}")


def _audio_by_id(root: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in sorted(root.glob("*/*/*")):
        # Hidden files are leftovers of file managers, with the name of the real one.
        if path.suffix.lower() not in AUDIO_SUFFIXES or path.name.startswith("."):
            continue
        if path.stem in files:
            raise AsrDeployError(f"{path} and {files[path.stem]} have the same id {path.stem}; remove one of them.")
        files[path.stem] = path
    return files


def _references_by_id(root: Path) -> dict[str, str]:
    references: dict[str, str] = {}
    for path in sorted(root.glob("*/*/*.trans.txt")):
        if path.name.startswith("."):
            continue
        try:
            lines = path.read_text(encoding="utf-8-sig").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise AsrDeployError(f"{path} cannot be read as UTF-8 text; replace it.") from error
        for utterance, reference in parse_transcript(lines, path):
            if utterance in references:
                raise AsrDeployError(f"{path} has a second line for {utterance}; remove one of them.")
            references[utterance] = reference
    return references


def parse_transcript(lines: Iterable[str], path: Path) -> list[tuple[str, str]]:
    """Return (id, reference) of each line ``ID WORDS…`` that is not blank; references in upper case, one space between words.

    Raises:
        AsrDeployError: a line has an id and no words; ``path`` is named.
    """
    parsed = []
    for line in lines:
        if not (words := line.split()):
            continue
        utterance, reference = words[0], " ".join(words[1:]).upper()
        if not reference:
            raise AsrDeployError(f"{path} has no words for {utterance}; write the reference or remove the line and its audio.")
        parsed.append((utterance, reference))
    return parsed


def _and_more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
