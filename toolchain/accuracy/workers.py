"""Workers that transcribe utterances, each with batch size 1 and its exact length: transcripts do not depend on number or order."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context, parent_process
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

from device_runner.artifact import Artifact
from device_runner.audio import read_audio
from device_runner.engines import Engine, Waveform, open_engine
from device_runner.errors import AsrDeployError
from device_runner.labels import select_labels
from device_runner.windows import WindowedEngine, Windows
from toolchain.accuracy.transcriber import Transcriber
from toolchain.data.datasets import Utterance

AHEAD = 3  # recordings in memory per worker
TRIED = 4  # utterances per core when splits of the cores are measured

Made = TypeVar("Made")


@dataclass(frozen=True)
class Transcription:
    """One transcribed utterance. Times are in seconds; ``compute_seconds`` does not include reading the recording."""

    utterance: Utterance
    hypothesis: str
    audio_seconds: float
    compute_seconds: float


class Workers(Protocol):
    """Where utterances are transcribed: the cores of this machine, or a cluster."""

    @property
    def count(self) -> int:
        """Number of utterances that are transcribed at the same time."""
        ...

    @property
    def configurations(self) -> int:
        """Number of test configurations that a sweep may evaluate at the same time."""
        ...

    @property
    def facts(self) -> dict[str, Any]:
        """Facts for the result, in addition to those about this machine."""
        ...

    def transcribe(self, transcriber: Transcriber, utterances: Sequence[Utterance]) -> Generator[Transcription, None, None]:
        """Transcribe utterances and yield each one when it is finished, in any order.

        Raises:
            AsrDeployError: A recording cannot be read or transcribed, or a worker is lost.
        """
        ...

    def call(self, function: Callable[..., Made], *arguments: object) -> Made:
        """Call a function, possibly on another machine, and return its result. Function and arguments must be picklable."""
        ...


@dataclass(frozen=True)
class LocalWorkers:
    """The cores of this machine: threads that share one engine if it releases Python's lock, otherwise processes.

    Args:
        count: Number of workers.
        configurations: Number of test configurations that a sweep may evaluate at the same time.
    """

    count: int = 1
    configurations: int = 1

    def __post_init__(self) -> None:
        if self.count < 1:
            raise AsrDeployError(f"--workers {self.count} is out of range. Use 1 or more.")

    @property
    def facts(self) -> dict[str, Any]:
        """See ``Workers``."""
        return {}

    def transcribe(self, transcriber: Transcriber, utterances: Sequence[Utterance]) -> Generator[Transcription, None, None]:
        """See ``Workers``. The longest recordings come first, so that the workers finish together."""
        with self._workers_of(transcriber) as submit:
            yield from _as_finished(submit, longest_first(utterances), AHEAD * self.count)

    def rate(self, transcriber: Transcriber, utterances: Sequence[Utterance]) -> float:
        """Return the throughput after all workers have started, in seconds of audio per second; see ``transcribe`` for errors."""
        with self._workers_of(transcriber) as submit:
            # Warm-up: the first run of an engine allocates memory, and two utterances per worker make sure that all have started.
            list(_as_finished(submit, utterances[: 2 * self.count], 2 * self.count))
            started = time.perf_counter()
            audio = sum(each.audio_seconds for each in _as_finished(submit, utterances, AHEAD * self.count))
            return audio / (time.perf_counter() - started)

    def _workers_of(self, transcriber: Transcriber) -> AbstractContextManager[Callable[[Utterance], "Future[Transcription]"]]:
        shared = transcriber.shareable or self.count == 1
        return _threads(transcriber, self.count) if shared else _processes(transcriber, self.count)

    def call(self, function: Callable[..., Made], *arguments: object) -> Made:
        """See ``Workers``."""
        return function(*arguments)


def longest_first(utterances: Iterable[Utterance]) -> list[Utterance]:
    """Return utterances sorted by file size, largest first, then by id, without opening the files."""
    return sorted(utterances, key=lambda each: (-_size(each.path), each.id))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # reading it later reports the error
        return 0


def _as_finished(
    submit: Callable[[Utterance], "Future[Transcription]"], utterances: Iterable[Utterance], window: int
) -> Iterator[Transcription]:
    """Yield results as they finish, with at most ``window`` utterances submitted at once."""
    finished: SimpleQueue[Future[Transcription]] = SimpleQueue()
    waiting, begun = iter(utterances), 0
    try:
        while True:
            for utterance in islice(waiting, window - begun):
                submit(utterance).add_done_callback(finished.put)
                begun += 1
            if not begun:
                return
            yield finished.get().result()
            begun -= 1
    except BrokenProcessPool as error:
        raise AsrDeployError(
            "A worker process ended unexpectedly, perhaps because memory ran out. Repeat the command with fewer --workers to resume."
        ) from error


def transcribe(engine: Engine, waveform: Waveform, labels: tuple[str, ...], sample_rate: int, utterance: Utterance) -> Transcription:
    """Transcribe one recording.

    Args:
        engine: Engine that computes the logits.
        waveform: Samples ``[samples]`` of the recording.
        labels: Labels by index, the blank first.
        sample_rate: Sample rate in hertz.
        utterance: The utterance, for the result and for errors.

    Raises:
        AsrDeployError: The recording is too short or too long. The message names its file.
    """
    started = time.perf_counter()
    try:
        hypothesis = select_labels(engine.logits(waveform), labels)
    except AsrDeployError as error:
        raise AsrDeployError(f"{utterance.path}: {error}") from error
    return Transcription(utterance, hypothesis, len(waveform) / sample_rate, time.perf_counter() - started)


@contextmanager
def _threads(transcriber: Transcriber, workers: int) -> Iterator[Callable[[Utterance], "Future[Transcription]"]]:
    """Yield a function that submits an utterance to threads of this process. Other threads read the recordings ahead."""
    engine = transcriber.running

    def work(utterance: Utterance, recording: "Future[Waveform]") -> Transcription:
        return transcribe(engine, recording.result(), transcriber.labels, transcriber.sample_rate, utterance)

    # A reader is about ten times as fast as the fastest worker.
    with shut_down(ThreadPoolExecutor(1 + workers // 8)) as readers, shut_down(ThreadPoolExecutor(workers)) as threads:
        yield lambda utterance: threads.submit(
            work, utterance, readers.submit(read_audio, utterance.path, transcriber.sample_rate, utterance.part)
        )


@contextmanager
def _processes(transcriber: Transcriber, workers: int) -> Iterator[Callable[[Utterance], "Future[Transcription]"]]:
    """Yield a function that submits an utterance to processes, each with its own engine."""
    assert transcriber.artifact is not None, "only engines of artifacts cannot be shared"
    _check_script()
    begun = ProcessPoolExecutor(workers, get_context("spawn"), _begin, (transcriber.artifact, transcriber.threads, transcriber.windows))
    with shut_down(begun) as processes:
        yield lambda utterance: processes.submit(_work, utterance)


def _check_script() -> None:
    """Refuse a program that new processes, which run it again, cannot find, or whose calls they would repeat."""
    program = sys.modules["__main__"]
    path = getattr(program, "__file__", None)
    if program.__spec__ is not None or path is None:  # a module, or a notebook
        return
    if not Path(path).is_file():
        raise AsrDeployError("Worker processes cannot run a program from standard input. Save it to a file, or use one worker.")
    if "__main__" not in Path(path).read_text(encoding="utf-8", errors="replace"):
        raise AsrDeployError(
            f'{path} would run again in every worker process. Put its calls below `if __name__ == "__main__":`, or use one worker.'
        )


@contextmanager
def shut_down(executor: Executor) -> Iterator[Executor]:
    """Shut an executor down at the end of the block. Waiting tasks are cancelled."""
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


_opened: list[tuple[Engine, tuple[str, ...], int]] = []  # in a worker process: its engine, labels and sample rate


def _begin(artifact: Artifact, threads: int, windows: Windows | None) -> None:
    """Prepare a worker process. The parent process has already checked the files of the artifact."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of the terminal, and the parent handles it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    engine = open_engine(artifact, threads)
    _opened.append(
        (engine if windows is None else WindowedEngine(engine, windows), artifact.manifest.labels, artifact.manifest.sample_rate)
    )


def _end_with_parent() -> None:
    """End this process when its parent ends, because a killed parent cannot stop it."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(utterance: Utterance) -> Transcription:
    engine, labels, sample_rate = _opened[-1]
    return transcribe(engine, read_audio(utterance.path, sample_rate, utterance.part), labels, sample_rate, utterance)


@dataclass(frozen=True)
class Split:
    """A split of the cores into workers and threads, with its throughput on a few utterances.

    Args:
        workers: Number of workers.
        threads: Number of threads of every worker.
        audio_seconds_per_second: Throughput in seconds of audio per second.
    """

    workers: int
    threads: int
    audio_seconds_per_second: float


def measure_splits(transcriber: Transcriber, utterances: Sequence[Utterance], cores: int) -> list[Split]:
    """Measure several splits of the cores on a few utterances of medium length, and return them, fastest first.

    Args:
        transcriber: Transcriber whose engine can be opened with another number of threads.
        utterances: The test set.
        cores: Number of usable cores.

    Raises:
        AsrDeployError: See ``Workers.transcribe``.
    """
    ordered = longest_first(utterances)
    middle = max(0, len(ordered) // 2 - TRIED * cores // 2)
    chosen = ordered[middle : middle + TRIED * cores]
    found = []
    for threads in sorted({1, cores, min(4, cores)}):
        workers = LocalWorkers(max(1, cores // threads))
        found.append(Split(workers.count, threads, workers.rate(transcriber.with_threads(threads), chosen)))
    return sorted(found, key=lambda each: -each.audio_seconds_per_second)
