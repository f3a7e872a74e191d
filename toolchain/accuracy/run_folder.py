"""The folder of an accuracy run: transcripts are saved one by one, so an interrupted run resumes."""

import errno
import fcntl
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from device_runner.errors import AsrDeployError
from device_runner.files import is_temporary, write_json, write_record
from device_runner.transcripts import Timing, Transcript, read_timings, read_transcripts, write_lines
from toolchain.accuracy.scoring import RESULT, TIMES, TRANSCRIPTS, Evaluation

SETTINGS = "settings.json"
FILES = (SETTINGS, TRANSCRIPTS, TIMES, RESULT)
PLACE = "place"  # where the recordings were; two folders of one name may hold different sets
OURS = {"identity", "data", "threads"}  # keys that the settings of every version have
# Settings that say what was evaluated, with the words for messages. The others say how: if they change, the run is repeated.
INPUTS = {
    "identity": "another model or artifact",
    "data": "another data set",
    "split": "another split",
    "device": "another device",
    "provider": "another execution provider",
    "half": "another precision",
    "torch_device": "another PyTorch device",
    "window": "other windows",
    "overlap": "other windows",
}
FULL = (errno.ENOSPC, errno.EDQUOT)
logger = logging.getLogger("asrdeploy")

Line = tuple[Transcript, Timing]


class RunFolder:
    """The folder of an accuracy run, used by one process at a time; see ``run_folder``.

    Args:
        path: The folder.
        audio: SHA-256 of the recordings by id, in the order of the test set.
        lines: Transcripts and times of an earlier run with the same settings and recordings, by id.
    """

    def __init__(self, path: Path, audio: Mapping[str, str], lines: dict[str, Line]) -> None:
        self.path = path
        self._audio = audio
        self._lines = lines
        self._files: list[BinaryIO] = []

    @property
    def results(self) -> tuple[list[Transcript], list[Timing]]:
        """The transcripts of all utterances, and their timings, in the order of ``lines``."""
        return [transcript for transcript, _ in self.lines], [timing for _, timing in self.lines]

    @property
    def lines(self) -> list[Line]:
        """Finished transcripts and times, in the order of the test set."""
        return [self._lines[each] for each in self._audio if each in self._lines]

    @property
    def complete(self) -> bool:
        """Whether every utterance has been transcribed."""
        return len(self._lines) == len(self._audio)

    def add(self, transcript: Transcript, timing: Timing) -> None:
        """Save the transcript and the time of an utterance at once, so that they survive the end of this process."""
        transcript = transcript.model_copy(update={"audio_sha256": self._audio[transcript.id]})
        if not self._files:
            # Unbuffered: a killed process loses nothing that it has written.
            self._files = [(self.path / name).open("ab", buffering=0) for name in (TIMES, TRANSCRIPTS)]
        # The transcript last: an utterance is finished when both lines exist.
        for file, line in zip(self._files, (timing, transcript), strict=True):
            content = line.model_dump_json().encode() + b"\n"
            try:
                written = file.write(content)
            except OSError as error:
                if error.errno not in FULL:
                    raise
                written = 0
            if written != len(content):  # the disk has just become full
                raise AsrDeployError(f"Cannot write {self.path}: the disk is full. Free some space and repeat the command to resume.")
        self._lines[transcript.id] = (transcript, timing)

    def change(self, transcripts: Mapping[str, Transcript]) -> None:
        """Replace transcripts whose references have changed. The caller then replaces the result."""
        self._lines |= {key: (transcript, self._lines[key][1]) for key, transcript in transcripts.items()}
        self.rewrite()

    def finish(self, result: Evaluation) -> None:
        """Sort the lines in the order of the test set and write the result."""
        self.close()
        self.rewrite()
        write_record(self.path / RESULT, result)

    def earlier_result(self) -> Evaluation | None:
        """Return the result of an earlier run with the same settings; None if it did not finish or has another version."""
        if not self.complete:
            return None
        try:
            return Evaluation.model_validate_json((self.path / RESULT).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def close(self) -> None:
        """Close the files of transcripts and times."""
        while self._files:
            self._files.pop().close()

    def rewrite(self) -> None:
        """Rewrite the lines in the order of the test set, without a truncated last line."""
        write_lines(self.path / TRANSCRIPTS, [transcript for transcript, _ in self.lines])
        write_lines(self.path / TIMES, [timing for _, timing in self.lines])


@contextmanager
def run_folder(
    path: Path, settings: dict[str, Any], audio: Mapping[str, str], *, place: str | None = None, replace: bool = False
) -> Iterator[RunFolder]:
    """Lock a folder for a run. Transcripts of recordings that have not changed are kept if the settings are the same.

    If only settings that say how the run was made have changed (versions, threads), its transcripts are made again.

    Args:
        path: The folder. It is created if needed.
        settings: Everything that the transcripts depend on, except the recordings.
        audio: SHA-256 of the recordings by id, in the order of the test set.
        place: Digest of the place of the recordings, for ``earlier_place``. A test set may move: its transcripts stay.
        replace: Delete the result of another input instead of refusing the folder.

    Raises:
        AsrDeployError: The folder contains something else or the result of another input, another process uses it, or it cannot be
            written.
    """
    _check_ours(path)
    if misplaced := next((each for name in FILES if (each := path / name).is_dir()), None):
        raise AsrDeployError(f"{misplaced} is a folder, but a file belongs there. Rename or remove it, or choose another folder with -o.")
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise AsrDeployError(f"Cannot write {path}: {error.strerror}.") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AsrDeployError(
                f"Another process is writing an evaluation to {path}. Wait until it ends, or choose another folder with -o."
            ) from None
        except OSError as error:
            raise AsrDeployError(f"{path} cannot be locked ({error.strerror}). Choose a folder on another file system with -o.") from error
        if not replace:
            _check_input(path, settings, audio)
        for each in _left(path):
            each.unlink(missing_ok=True)
        taken = _opened(path, settings, audio, place)
        try:
            yield taken
        finally:
            taken.close()
    finally:
        os.close(lock)


def other_input(path: Path, settings: Mapping[str, Any], audio: Mapping[str, str]) -> str | None:
    """Return what another run in a folder has evaluated, in words; None if the folder has no transcripts or those of this input.

    The same input may have more recordings than before, or mended ones, but not less than half of those that were transcribed.

    Args:
        path: The folder.
        settings: Settings of this run.
        audio: SHA-256 of the recordings by id.

    Raises:
        AsrDeployError: The transcripts in the folder cannot be read.
    """
    earlier = earlier_settings(path)
    if not earlier or not (path / TRANSCRIPTS).exists():
        return None
    old = earlier.get("version") != settings["version"]
    asked = [key for key in INPUTS if not old or key == "identity"]
    changed = next((key for key in asked if earlier.get(key) != settings.get(key)), None)
    if changed is not None:
        return INPUTS[changed]
    if old:  # an older version could not tell its data set
        return None
    found = read_transcripts(path / TRANSCRIPTS)
    shared = [each for each in found if each.id in audio]
    if found and not any(audio[each.id] == each.audio_sha256 for each in shared):
        return INPUTS["data"]
    if 2 * len(shared) < len(found):
        return f"{len(found)} utterances, of which this run has {len(shared)}"
    return None


def _check_input(path: Path, settings: Mapping[str, Any], audio: Mapping[str, str]) -> None:
    other = other_input(path, settings, audio)
    if other is not None:
        raise AsrDeployError(f"{path} holds the result of {other}. Choose another folder with -o, or use --replace to delete it.")


def _left(path: Path) -> list[Path]:
    """Return temporary files of killed processes; see ``files.atomic_path``."""
    return [each for name in FILES for each in path.glob(f".{name}.*") if is_temporary(each, name)]


def _check_ours(path: Path) -> None:
    fresh = not path.exists() or (path.is_dir() and set(path.iterdir()) <= set(_left(path)))
    if not fresh and not earlier_settings(path).keys() >= OURS:
        raise AsrDeployError(f"{path} exists and is not the folder of an evaluation. Choose another folder with -o.")


def earlier_settings(path: Path) -> dict[str, Any]:
    """Return the settings of the run in a folder, without its place; empty if there is no run."""
    return {key: value for key, value in _stored(path).items() if key != PLACE}


def earlier_place(path: Path) -> str | None:
    """Return the digest of the place of the recordings of the run in a folder; None if it is not known."""
    return _stored(path).get(PLACE)


def _stored(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads((path / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return settings if isinstance(settings, dict) else {}


def _opened(path: Path, settings: dict[str, Any], audio: Mapping[str, str], place: str | None) -> RunFolder:
    transcripts, times = path / TRANSCRIPTS, path / TIMES
    earlier = earlier_settings(path)
    if earlier != settings:
        if earlier.get("identity") == settings["identity"] and transcripts.exists():
            changed = [key for key in settings if key in earlier and earlier[key] != settings[key]] or ["settings"]
            logger.warning(f"{path} was made with other {' and '.join(changed)}, so all utterances are transcribed again.")
        # In this order: a run that stops in between leaves no transcripts with the wrong settings.
        for each in (path / RESULT, transcripts, times):
            each.unlink(missing_ok=True)
        write_json(path / SETTINGS, settings | {PLACE: place})
        return RunFolder(path, audio, {})
    timings = {each.id: each for each in read_timings(times)}
    found = read_transcripts(transcripts)
    finished = {each.id: (each, timings[each.id]) for each in found if each.id in timings and each.audio_sha256 == audio.get(each.id, "")}
    taken = RunFolder(path, audio, finished)
    if beyond := sum(each.id not in audio for each in found):
        logger.warning(f"{path} has transcripts of {beyond} utterances that are not in this run. They are deleted.")
    if len(finished) < max(len(audio), len(found)) or not (path / RESULT).is_file():
        # The last line may be truncated, and the next one must not be appended to it.
        (path / RESULT).unlink(missing_ok=True)
        taken.rewrite()
    return taken
