"""Folders of pairs: an audio file NAME.wav and its reference NAME.txt."""

import os
from collections.abc import Iterator
from pathlib import Path

from device_runner.documents import decoded
from device_runner.errors import AsrDeployError
from device_runner.files import file_bytes, shown
from toolchain.data.rows import Row, data_set
from toolchain.data.utterances import DataSet

# Suffixes of what libsndfile reads. LibriSpeech's own layout takes the first two before the others.
AUDIO_SUFFIXES = (
    *(".flac", ".wav", ".wave", ".mp3", ".ogg", ".oga", ".opus", ".aiff", ".aif", ".aifc", ".caf", ".w64", ".rf64", ".bwf"),
    *(".au", ".snd", ".sph", ".nist", ".mp1", ".mp2"),
)
# Containers that libsndfile cannot read: listed, so that a sentence names the conversion instead of the file being overlooked.
CONTAINER_SUFFIXES = (".m4a", ".mp4", ".m4b", ".aac", ".mov", ".3gp", ".webm", ".mkv", ".wma", ".amr")
REFERENCE = ".txt"
LARGEST_REFERENCE = 1 << 20  # bytes
ABOUT = ("readme", "license", "licence", "copying", "changelog")  # texts that belong to no recording


def is_audio(name: str) -> bool:
    """Return whether a file name has the suffix of an audio file and is not hidden."""
    return name.lower().endswith((*AUDIO_SUFFIXES, *CONTAINER_SUFFIXES)) and not name.startswith(".")


def has_pairs(folder: Path, *, below: bool = True) -> bool:
    """Return whether a folder, or with ``below`` one in it, contains a pair."""
    for place, folders, names in os.walk(folder):
        folders[:] = [each for each in folders if not each.startswith(".")] if below else []
        texts = {Path(each).stem for each in names if each.lower().endswith(REFERENCE)}
        if texts and any(is_audio(each) and Path(each).stem in texts for each in names):
            return True
        del place
    return False


def read_pairs(folder: Path, name: str, split: str) -> DataSet:
    """Read all pairs in a folder and in the folders below it.

    Args:
        folder: The folder.
        name: Name of the set.
        split: Name of the split.

    Raises:
        AsrDeployError: There is no pair.
    """
    audio: dict[Path, list[Path]] = {}
    texts: dict[Path, Path] = {}
    for path in sorted(folder.rglob("*")):
        if is_audio(path.name):
            audio.setdefault(path.with_suffix(""), []).append(path)
        elif path.suffix.lower() == REFERENCE and not path.name.startswith("."):
            texts[path.with_suffix("")] = path

    def rows() -> Iterator[Row | tuple[str, str]]:
        for key, paths in audio.items():
            if key not in texts:
                yield shown(paths[0]), f"has no reference; write it to {shown(key.name)}{REFERENCE}"
            for path in paths if key in texts else ():
                try:
                    text = decoded(file_bytes(texts[key], "reference", largest=LARGEST_REFERENCE))
                except UnicodeDecodeError:
                    yield shown(texts[key]), "is not text in UTF-8; save it as UTF-8"
                except AsrDeployError as error:
                    yield shown(texts[key]), f"cannot be used: {str(error).rstrip('.')}"
                else:
                    yield Row(shown(path), path.relative_to(folder), text)
        for key, path in texts.items():
            if key not in audio and not path.name.lower().startswith(ABOUT):
                yield shown(path), "has no audio file of the same name; add it, or remove the text"

    return data_set(rows(), (folder,), name, split, "pairs of audio and text files", folder)
