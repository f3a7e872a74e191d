"""Pools of workers that hear a set's utterances: batch 1 and exact length, so neither their number nor the order matters."""

import os
import signal
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
from toolchain.accuracy.transcriber import Transcriber
from toolchain.data.datasets import Utterance

AHEAD = 3  # recordings in memory for every worker
TRIED = 4  # utterances for every core, where the way to use the cores is measured

Made = TypeVar("Made")


@dataclass(frozen=True)
class Transcription:
    """What a worker heard. Times in seconds; reading the recording is not in ``compute_seconds``."""

    utterance: Utterance
    hypothesis: str
    audio_seconds: float
    compute_seconds: float


class Workers(Protocol):
    """Where a set is heard: this machine's cores, or a cluster's."""

    @property
    def count(self) -> int:
        """Utterances that are heard at the same time."""
        ...

    @property
    def configurations(self) -> int:
        """Test configurations that a sweep may have in work at the same time."""
        ...

    @property
    def facts(self) -> dict[str, Any]:
        """What a result has to say of it beside the facts about this machine."""
        ...

    def transcribe(self, transcriber: Transcriber, utterances: Sequence[Utterance]) -> Generator[Transcription, None, None]:
        """Hear utterances and yield each when it is done, in any order.

        Raises:
            AsrDeployError: a recording cannot be read or run, or a worker is lost for good.
        """
        ...

    def call(self, function: Callable[..., Made], *arguments: object) -> Made:
        """Return what a function of a module gives for arguments that can be sent, computed where there is room."""
        ...


@dataclass(frozen=True)
class LocalWorkers:
    """This machine's cores: threads around one engine where it lets go of Python's lock, so that all share its weights; else processes."""

    count: int = 1
    configurations: int = 1

    def __post_init__(self) -> None:
        if self.count < 1:
            raise AsrDeployError(f"--workers {self.count} leaves nobody to work; give 1 or more.")

    @property
    def facts(self) -> dict[str, Any]:
        """See ``Workers``."""
        return {}

    def transcribe(self, transcriber: Transcriber, utterances: Sequence[Utterance]) -> Generator[Transcription, None, None]:
        """See ``Workers``; recordings are read ahead, the longest first, so that the workers end together."""
        with self._workers_of(transcriber) as submit:
            yield from _as_finished(submit, longest_first(utterances), AHEAD * self.count)

    def rate(self, transcriber: Transcriber, utterances: Sequence[Utterance]) -> float:
        """Return seconds of audio heard in a second, once every worker has begun; see ``hear`` for what is raised."""
        with self._workers_of(transcriber) as submit:
            # An engine's first run allocates its memory; the first of two utterances may come before another worker has begun.
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
    """Return utterances by falling size of their files, then by id: without opening them, and the same everywhere."""
    return sorted(utterances, key=lambda each: (-_size(each.path), each.id))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # reading it will say what is wrong
        return 0


def _as_finished(
    submit: Callable[[Utterance], "Future[Transcription]"], utterances: Iterable[Utterance], window: int
) -> Iterator[Transcription]:
    """Yield results as they come, with at most ``window`` utterances begun."""
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
            "A worker ended by itself, perhaps for want of memory; the same command with fewer --workers goes on."
        ) from error


def transcribe(engine: Engine, waveform: Waveform, labels: tuple[str, ...], sample_rate: int, utterance: Utterance) -> Transcription:
    """Hear one recording.

    Raises:
        AsrDeployError: it is too short or too long; its file is named.
    """
    started = time.perf_counter()
    try:
        hypothesis = select_labels(engine.logits(waveform), labels)
    except AsrDeployError as error:
        raise AsrDeployError(f"{utterance.path}: {error}") from error
    return Transcription(utterance, hypothesis, len(waveform) / sample_rate, time.perf_counter() - started)


@contextmanager
def _threads(transcriber: Transcriber, workers: int) -> Iterator[Callable[[Utterance], "Future[Transcription]"]]:
    """Yield what submits an utterance to threads of this process; others read the recordings before."""
    engine = transcriber.running

    def work(utterance: Utterance, recording: "Future[Waveform]") -> Transcription:
        return transcribe(engine, recording.result(), transcriber.labels, transcriber.sample_rate, utterance)

    # A reader is some ten times as fast as the quickest worker.
    with shut_down(ThreadPoolExecutor(1 + workers // 8)) as readers, shut_down(ThreadPoolExecutor(workers)) as pool:
        yield lambda utterance: pool.submit(work, utterance, readers.submit(read_audio, utterance.path, transcriber.sample_rate))


@contextmanager
def _processes(transcriber: Transcriber, workers: int) -> Iterator[Callable[[Utterance], "Future[Transcription]"]]:
    """Yield what submits an utterance to processes with an engine each."""
    assert transcriber.artifact is not None, "only artifacts' engines cannot be shared"
    begun = ProcessPoolExecutor(workers, get_context("spawn"), _begin, (transcriber.artifact, transcriber.threads))
    with shut_down(begun) as pool:
        yield lambda utterance: pool.submit(_work, utterance)


@contextmanager
def shut_down(executor: Executor) -> Iterator[Executor]:
    """Shut an executor down at the end of the block without beginning what waits."""
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


_opened: list[tuple[Engine, tuple[str, ...], int]] = []  # of a worker process: its engine, labels, sample rate


def _begin(artifact: Artifact, threads: int) -> None:
    """Make a process of the pool ready; the artifact's files were compared with its manifest when it was opened."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of the terminal; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _opened.append((open_engine(artifact, threads), artifact.manifest.labels, artifact.manifest.sample_rate))


def _end_with_parent() -> None:
    """End this process with the one that began it: a killed parent tells nobody."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(utterance: Utterance) -> Transcription:
    engine, labels, sample_rate = _opened[-1]
    return transcribe(engine, read_audio(utterance.path, sample_rate), labels, sample_rate, utterance)


@dataclass(frozen=True)
class Split:
    """A way to use the cores, and how fast it was on a few utterances."""

    workers: int
    threads: int
    audio_seconds_per_second: float


def measure_splits(transcriber: Transcriber, utterances: Sequence[Utterance], cores: int) -> list[Split]:
    """Try ways to use the cores on a few utterances of middle length, the fastest first.

    Args:
        transcriber: its engine can be opened anew with other threads.
        utterances: what is to be heard.
        cores: of this machine, for us.

    Raises:
        AsrDeployError: see ``Workers.transcribe``.
    """
    ordered = longest_first(utterances)
    middle = max(0, len(ordered) // 2 - TRIED * cores // 2)
    chosen = ordered[middle : middle + TRIED * cores]
    found = []
    for threads in sorted({1, cores, min(4, cores)}):
        workers = LocalWorkers(max(1, cores // threads))
        found.append(Split(workers.count, threads, workers.rate(transcriber.with_threads(threads), chosen)))
    return sorted(found, key=lambda each: -each.audio_seconds_per_second)
