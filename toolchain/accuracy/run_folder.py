"""The folder of an accuracy run: what was heard is kept line by line, and a stopped run goes on where it was."""

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from device_runner.errors import AsrDeployError
from device_runner.files import write_json, write_record
from device_runner.transcripts import Timing, Transcript, read_timings, read_transcripts, write_lines
from toolchain.accuracy.scoring import RESULT, TIMES, TRANSCRIPTS, Evaluation

SETTINGS = "settings.json"
OURS = {"identity", "data", "threads"}  # what the settings of every version hold

Line = tuple[Transcript, Timing]


class RunFolder:
    """An accuracy run's folder, taken by one process at a time; see ``run_folder``.

    Args:
        path: the folder.
        ids: of the set's utterances, in its order.
        lines: what an earlier run of the same settings left, by id.
    """

    def __init__(self, path: Path, ids: Sequence[str], lines: dict[str, Line]) -> None:
        self.path = path
        self._ids = ids
        self._lines = lines
        self._files: list[BinaryIO] = []

    @property
    def lines(self) -> list[Line]:
        """What is done, in the order of the set."""
        return [self._lines[each] for each in self._ids if each in self._lines]

    def add(self, transcript: Transcript, timing: Timing) -> None:
        """Keep what was heard of an utterance, whatever happens to this process afterwards."""
        if not self._files:
            # Without a buffer of ours: a killed process loses nothing that it has written.
            self._files = [(self.path / name).open("ab", buffering=0) for name in (TIMES, TRANSCRIPTS)]
        # The transcript last: an utterance is done when both are there.
        for file, line in zip(self._files, (timing, transcript), strict=True):
            content = line.model_dump_json().encode() + b"\n"
            if file.write(content) != len(content):  # as a disk does that has just become full
                raise AsrDeployError(f"Cannot write {self.path}: there is no room left; free some, and the same command goes on.")
        self._lines[transcript.id] = (transcript, timing)

    def finish(self, result: Evaluation) -> None:
        """Bring the lines into the set's order and write the result."""
        self.close()
        self.rewrite()
        write_record(self.path / RESULT, result)

    def earlier_result(self) -> Evaluation | None:
        """Return the result of an earlier run of the same settings; None where it did not end or is of another version."""
        if len(self._lines) < len(self._ids):
            return None
        try:
            return Evaluation.model_validate_json((self.path / RESULT).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def close(self) -> None:
        """Close the files that are written to."""
        while self._files:
            self._files.pop().close()

    def rewrite(self) -> None:
        """Write the lines anew in the set's order, without one that was cut."""
        write_lines(self.path / TRANSCRIPTS, [transcript for transcript, _ in self.lines])
        write_lines(self.path / TIMES, [timing for _, timing in self.lines])


@contextmanager
def run_folder(path: Path, settings: dict[str, Any], ids: Sequence[str]) -> Iterator[RunFolder]:
    """Take a folder for a run; transcripts of other settings are not mixed with: they go, and the run starts anew.

    Raises:
        AsrDeployError: the folder holds something else or transcripts of other utterances, another process writes into it, or it
            cannot be written.
    """
    _check_ours(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise AsrDeployError(f"Cannot write {path}: {error.strerror}.") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AsrDeployError(f"Another process evaluates into {path}; wait for it, or choose another folder.") from None
        except OSError as error:
            raise AsrDeployError(f"{path} cannot be locked ({error.strerror}); choose a folder on another file system.") from error
        for each in _left(path):
            each.unlink(missing_ok=True)
        taken = _opened(path, settings, ids)
        try:
            yield taken
        finally:
            taken.close()
    finally:
        os.close(lock)


def _left(path: Path) -> list[Path]:
    """Return what killed processes were writing when they ended; see ``files.atomic_path``."""
    return [each for name in (SETTINGS, TRANSCRIPTS, TIMES, RESULT) for each in path.glob(f".{name}.*")]


def _check_ours(path: Path) -> None:
    fresh = not path.exists() or (path.is_dir() and set(path.iterdir()) <= set(_left(path)))
    if not fresh and not earlier_settings(path).keys() >= OURS:
        raise AsrDeployError(f"{path} exists and holds no evaluation; choose another folder for the results.")


def earlier_settings(path: Path) -> dict[str, Any]:
    """Return the settings of the run in a folder; empty where there is none."""
    try:
        settings = json.loads((path / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return settings if isinstance(settings, dict) else {}


def _opened(path: Path, settings: dict[str, Any], ids: Sequence[str]) -> RunFolder:
    transcripts, times = path / TRANSCRIPTS, path / TIMES
    if earlier_settings(path) != settings:
        # In this order: a run that stops in between leaves no transcripts under settings that are not theirs.
        for each in (path / RESULT, transcripts, times):
            each.unlink(missing_ok=True)
        write_json(path / SETTINGS, settings)
        return RunFolder(path, ids, {})
    timings = {each.id: each for each in read_timings(times)}
    found = read_transcripts(transcripts)
    heard = {each.id: (each, timings[each.id]) for each in found if each.id in timings}
    if not {each.id for each in found} <= set(ids):
        raise AsrDeployError(f"{transcripts} does not fit the data set: remove it and evaluate again.")
    taken = RunFolder(path, ids, heard)
    if len(heard) < len(ids) or not (path / RESULT).is_file():
        # A line may be cut at the end, and the next one shall not be written behind it.
        (path / RESULT).unlink(missing_ok=True)
        taken.rewrite()
    return taken
