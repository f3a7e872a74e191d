"""Progress displays of the command line."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock
from types import TracebackType
from typing import Protocol

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TaskProgressColumn, TimeElapsedColumn, TimeRemainingColumn

from device_runner.terminal import PlainConsole, plain_column
from device_runner.transcripts import Timing, Transcript
from toolchain.data.datasets import DataSet
from toolchain.data.recordings import OnChecked


def _bars(*, counted: bool = True) -> Progress:
    count = [MofNCompleteColumn()] if counted else []
    return Progress(
        plain_column("{task.description}"),
        BarColumn(),
        *count,
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=PlainConsole(stderr=True),
    )


OnUtterance = Callable[[Transcript, Timing], None]


class _Running:
    """WER and real-time factor of a run so far, for a progress line. ``timed`` is False where times mean nothing."""

    def __init__(self, *, timed: bool = True) -> None:
        self.timed = timed
        self.errors = self.words = 0
        self.audio = self.compute = 0.0

    def add(self, transcript: Transcript, timing: Timing) -> str:
        """Add an utterance and return the text."""
        self.errors += transcript.errors
        self.words += transcript.words
        self.audio += transcript.audio_seconds
        self.compute += timing.compute_seconds
        factor = f", RTF {self.compute / self.audio:.4f}" if self.timed else ""
        return f"WER {self.errors / self.words:.2%}{factor}, {self.audio / 3600:.2f} h"


@contextmanager
def evaluation_progress(data: DataSet, *, timed: bool = True) -> Iterator[OnUtterance]:
    """Show the progress of an evaluation: utterances, WER, real-time factor, hours of audio and time left.

    The bar is proportional to file sizes, because lengths differ and the longest utterances may come first.

    Args:
        data: The test set.
        timed: Show the real-time factor.
    """
    segments = Counter(each.path for each in data.utterances)
    sizes = {each.id: each.path.stat().st_size / segments[each.path] for each in data.utterances}
    running, lock, count = _Running(timed=timed), Lock(), 0
    columns = (plain_column("{task.description}"), BarColumn(), plain_column("{task.fields[count]}"))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=PlainConsole(stderr=True)) as bars:
        task = bars.add_task("transcribing", total=sum(sizes.values()), count=f"0/{len(sizes)}")

        def transcribed(transcript: Transcript, timing: Timing) -> None:
            nonlocal count
            with lock:
                count += 1
                line = running.add(transcript, timing)
                bars.update(task, advance=sizes[transcript.id], description=line, count=f"{count}/{len(sizes)}")

        yield transcribed


@contextmanager
def checking_progress(recordings: int) -> Iterator[OnChecked]:
    """Show how many recordings of a test set have been checked; the bar disappears at the end."""
    columns = (plain_column("checking recordings"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=PlainConsole(stderr=True), transient=True) as bars:
        task = bars.add_task("", total=recordings)
        yield lambda utterance: bars.advance(task)


LONG_RECORDING = 60.0  # seconds of audio


class LongRecordings:
    """Shows on a terminal how much of a long recording is transcribed, and the time left. The line disappears at its end.

    A recording that runs whole shows only since when it is transcribed.
    """

    def __init__(self) -> None:
        self._bars: Progress | None = None

    @contextmanager
    def recording(self, name: str, seconds: float) -> Iterator[None]:
        """Show a recording until the block ends.

        Args:
            name: What is shown.
            seconds: Duration of the recording.
        """
        console = PlainConsole(stderr=True)
        columns = (plain_column("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        # Standard output stays as it is: rich would send it to standard error, and a pipe would get nothing.
        hidden = seconds < LONG_RECORDING or not console.is_terminal
        with Progress(*columns, console=console, transient=True, disable=hidden, redirect_stdout=False) as self._bars:
            self._bars.add_task(f"{name}: {seconds / 60:.1f} min of audio", total=None)
            try:
                yield
            finally:
                self._bars = None

    def __call__(self, done: float, total: float) -> None:
        """Show that a recording is transcribed up to a time; see ``device_runner.windows.OnWindow``."""
        if self._bars is not None:
            for task in self._bars.task_ids:
                self._bars.update(task, completed=done, total=total)


@contextmanager
def share_progress() -> Iterator[Callable[[str, float], None]]:
    """Yield what shows the current step and the finished share, 0 to 1. The bar appears with the first step."""
    bars = _bars(counted=False)
    task = bars.add_task("", total=1.0)
    with ExitStack() as shown:

        def show(step: str, share: float) -> None:
            if not bars.live.is_started:
                shown.enter_context(bars)
            bars.update(task, completed=share, description=step)

        yield show


class Watcher(Protocol):
    """Receives the progress of a run over several configurations. A sweep may evaluate several at the same time."""

    def configuration(self, name: str, step: str, utterances: int) -> OnUtterance:
        """Start a step of a configuration, and return the function to call for every utterance."""
        ...


class NoProgress:
    """A watcher that shows nothing."""

    def configuration(self, name: str, step: str, utterances: int) -> OnUtterance:
        """See ``Watcher``."""
        return lambda transcript, timing: None


class ConfigurationBars:
    """Shows a bar for the configurations of a run, and a bar for the utterances of each running configuration."""

    def __init__(self, configurations: int) -> None:
        self._bars = _bars()
        self._whole = self._bars.add_task("configurations", total=configurations)
        self._begun: dict[str, TaskID] = {}
        self._lock = Lock()

    def __enter__(self) -> "ConfigurationBars":
        return self  # the first configuration shows the bars, so that mistakes are answered without them

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if kind is None:
            self._bars.update(self._whole, completed=self._bars.tasks[self._whole].total)
        self._bars.stop()

    def configuration(self, name: str, step: str, utterances: int) -> OnUtterance:
        """See ``Watcher``. The bars of finished configurations are removed."""
        with self._lock:
            self._bars.start()
            finished = {each.id for each in self._bars.tasks if each.finished}
            for other, task in list(self._begun.items()):
                if other == name or task in finished:
                    self._bars.remove_task(task)
                    del self._begun[other]
                    self._bars.advance(self._whole, other != name)
            task = self._begun[name] = self._bars.add_task(f"{name}: {step}", total=utterances)
        running = _Running()

        def transcribed(transcript: Transcript, timing: Timing) -> None:
            with self._lock:
                self._bars.update(task, advance=1, description=f"{name}: {running.add(transcript, timing)}")

        return transcribed
