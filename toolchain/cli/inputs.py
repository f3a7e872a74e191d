"""The recordings that a command is given: files, folders, globs and standard input."""

import glob
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from device_runner.errors import AsrDeployError
from device_runner.files import shown
from toolchain.data.pairs import is_audio

STANDARD_INPUT = "-"
LARGEST_INPUT = 4 << 30  # bytes of standard input: ten hours of 16-bit stereo at 44.1 kHz are 6 GB, of 16 kHz mono 1.2 GB
CHUNK = 1 << 20


@dataclass(frozen=True)
class Source:
    """A recording to transcribe.

    Args:
        name: What the user calls it.
        path: File to read.
        error: Why it cannot be transcribed; None if that is not known yet.
    """

    name: Path
    path: Path
    error: str | None = None


@contextmanager
def open_sources(given: Iterable[Path]) -> Iterator[tuple[Source, ...]]:
    """Yield the recordings that arguments mean, in their order; a recording that is named twice is there twice.

    A folder means the audio files in it and its subfolders, sorted, without hidden ones. A pattern that no file is named like means the
    files that match it. ``-`` means standard input, if no file has that name; it is kept in a temporary file until the block ends.
    What cannot be read is there with its error.
    """
    with tempfile.TemporaryDirectory(prefix="asrdeploy-") as folder:
        spooled = Path(folder) / "standard-input"
        yield tuple(source for argument in given for source in _sources(argument, spooled))


def several(given: Iterable[Path]) -> bool:
    """Return whether arguments mean several recordings, or a folder or pattern that may."""
    arguments = list(given)
    return len(arguments) != 1 or arguments[0].is_dir() or _is_pattern(arguments[0])


def _sources(argument: Path, spooled: Path) -> list[Source]:
    try:
        if str(argument) == STANDARD_INPUT and not argument.exists():
            _spool(spooled)
            return [Source(argument, spooled)]
        if argument.is_dir():
            return [Source(path, path) for path in _recordings(argument)]
        if _is_pattern(argument):
            return [Source(path, path) for path in _matches(argument)]
    except AsrDeployError as error:
        return [Source(argument, argument, str(error))]
    return [Source(argument, argument)]


def _spool(path: Path) -> None:
    """Copy standard input to a file, in pieces."""
    if path.exists():
        raise AsrDeployError("Standard input (-) is given twice. Give it once.")
    if sys.stdin is None or sys.stdin.isatty():
        raise AsrDeployError("Standard input (-) is a terminal. Send a recording to it, for example with `asrdeploy … - < recording.wav`.")
    size = 0
    with path.open("wb") as file:
        while chunk := sys.stdin.buffer.read(CHUNK):
            size += len(chunk)
            if size > LARGEST_INPUT:
                raise AsrDeployError(f"Standard input (-) has more than {LARGEST_INPUT >> 30} GiB. Save it to files and give their names.")
            file.write(chunk)


def _recordings(folder: Path) -> list[Path]:
    found = []

    def refuse(error: OSError) -> None:
        raise AsrDeployError(f"{shown(error.filename or folder)} cannot be read: {error.strerror}. Change its permissions.") from error

    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [each for each in folders if not each.startswith(".")]
        found += [Path(parent, each) for each in names if is_audio(each)]
    if not found:
        raise AsrDeployError(f"{shown(folder)} contains no audio files. Files are found by their ending, such as .wav, .flac or .mp3.")
    return sorted(found)


def _is_pattern(argument: Path) -> bool:
    return glob.has_magic(str(argument)) and not os.path.lexists(argument)


def _matches(pattern: Path) -> list[Path]:
    names = glob.glob(str(pattern), recursive=True)  # noqa: PTH207  (absolute patterns, which pathlib refuses)
    found = [path for path in map(Path, names) if path.is_file()]
    if not found:
        raise AsrDeployError(f"No file matches {shown(pattern)}. Check the pattern; ** means any folders.")
    return sorted(found)
