"""Progress displays of the command line."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from device_runner.transcripts import Transcript


def _bars(*, counted: bool = True) -> Progress:
    count = [MofNCompleteColumn()] if counted else []
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        *count,
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


class _Running:
    """Word error rate and real-time factor so far, for a progress line; ``timed`` False: without the latter."""

    def __init__(self, *, timed: bool = True) -> None:
        self.timed = timed
        self.errors = self.words = 0
        self.audio = self.compute = 0.0

    def add(self, transcript: Transcript) -> str:
        """Count an utterance and return the line."""
        self.errors += transcript.errors
        self.words += transcript.words
        self.audio += transcript.audio_seconds
        self.compute += transcript.compute_seconds
        factor = f", real-time factor {self.compute / self.audio:.4f}" if self.timed else ""
        return f"wer {self.errors / self.words:.2%}{factor}"


@contextmanager
def evaluation_progress(utterances: int, *, timed: bool = True) -> Iterator[Callable[[Transcript], None]]:
    """Show the utterances of an evaluation with running word error rate and, where times mean something, real-time factor."""
    with _bars() as bars:
        task, running = bars.add_task("transcribing", total=utterances), _Running(timed=timed)
        yield lambda transcript: bars.update(task, advance=1, description=running.add(transcript))


@contextmanager
def share_progress() -> Iterator[Callable[[str, float], None]]:
    """Show what is being done and the share of the whole."""
    with _bars(counted=False) as bars:
        task = bars.add_task("", total=1.0)
        yield lambda what, share: bars.update(task, completed=share, description=what)


class Watcher(Protocol):
    """Is told how a run over configurations goes on."""

    def configuration(self, name: str, step: str, utterances: int) -> Callable[[Transcript], None]:
        """Take note of a configuration's step; return what to call for every utterance."""
        ...


class ConfigurationBars:
    """One line for the configurations of a run, one for the utterances of the present one."""

    def __init__(self, configurations: int) -> None:
        self._bars = _bars()
        self._whole = self._bars.add_task("configurations", total=configurations)
        self._one: TaskID | None = None
        self._name = ""

    def __enter__(self) -> "ConfigurationBars":
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if kind is None:
            self._bars.update(self._whole, completed=self._bars.tasks[self._whole].total)
        self._bars.stop()

    def configuration(self, name: str, step: str, utterances: int) -> Callable[[Transcript], None]:
        """Show a configuration's step; return what counts its utterances."""
        if self._name and name != self._name:
            self._bars.advance(self._whole)
        self._name = name
        if self._one is not None:
            self._bars.remove_task(self._one)
        task = self._one = self._bars.add_task(f"{name}: {step}", total=utterances)
        running = _Running()
        return lambda transcript: self._bars.update(task, advance=1, description=f"{name}: {running.add(transcript)}")
