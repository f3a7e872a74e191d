"""Run cases of a reader in a process of its own, which may be killed, and keep every case that fails."""

import contextlib
import logging
import multiprocessing
import resource
import shutil
import signal
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.sharedctypes import SynchronizedArray
from pathlib import Path
from random import Random

from device_runner.errors import LONGEST_MESSAGE, AsrDeployError, printable
from scripts.fuzz import data_files, device_files, model_files, result_files
from scripts.fuzz.reader import MEGABYTE, Case, Reader, write

READERS: dict[str, Reader] = {
    each.name: each for each in (*data_files.READERS, *device_files.READERS, *model_files.READERS, *result_files.READERS)
}
MOST_ADDRESSES = 16 * 1024 * MEGABYTE  # beyond what a process has when it starts: protects the machine; ``Reader.memory`` is what counts
LARGEST_FILE = 512 * MEGABYTE
WALL_SECONDS = 1_200  # a case that waits and computes nothing; far above what a busy machine needs
KEPT = 3  # cases for each kind of failure
# Places in the array that a worker shares.
NEXT, READ, REFUSED, FAILED, PEAK = range(5)


class Failure(Exception):
    """What a reader must not do, although it raises nothing."""


@dataclass
class Summary:
    """What a run has found.

    Args:
        name: Name of the reader.
        cases: Number of cases.
        read: Number of cases that were read.
        refused: Number of cases that were refused with a sentence.
        failures: Number of failures by kind.
        peak_bytes: Growth of the resident memory over that of the valid files.
        seconds: Duration.
    """

    name: str
    cases: int = 0
    read: int = 0
    refused: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    peak_bytes: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        rate = self.cases / self.seconds if self.seconds else 0.0
        return (
            f"{self.name}: {self.cases} cases, {rate:.0f}/s, {self.read} read, {self.refused} refused, "
            f"{sum(self.failures.values())} failed ({len(self.failures)} kinds), {self.peak_bytes / MEGABYTE:.0f} MiB"
        )


def high_water() -> int:
    """Return the peak resident memory of this process in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def forget_peak() -> int:
    """Start the measurement of the peak anew, and return the resident memory in bytes. Without Linux, earlier peaks hide lower ones."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return high_water()


def attempt(reader: Reader, folder: Path) -> bool:
    """Read a case, and return whether it was read (rather than refused).

    Raises:
        Failure: The message cannot be shown in one line.
        Exception: Anything else than ``AsrDeployError`` that the reader raises.
    """
    try:
        reader.read(folder)
    except AsrDeployError as error:
        message = str(error)
        if len(message) > LONGEST_MESSAGE or not message.endswith((".", "?")) or printable(message) != message:
            raise Failure(f"the message is too long, not printable or no sentence: {message[:500]!a}") from error
        return False
    return True


def case_of(reader: Reader, valid: Sequence[Case], seed: int, number: int) -> Case:
    """Return a case; the same numbers give the same case."""
    rng = Random(f"{reader.name}:{seed}:{number}")
    return reader.change(rng, rng.choice(valid))


def valid_cases(reader: Reader) -> Sequence[Case]:
    """Return the valid cases of a reader."""
    with tempfile.TemporaryDirectory() as folder:
        return reader.valid(Path(folder))


def kind_of(error: BaseException) -> str:
    """Return what tells failures apart: the type, and where in our code it was raised."""
    frames = [
        each
        for each in traceback.extract_tb(error.__traceback__)
        if "site-packages" not in each.filename and "/lib/python" not in each.filename
    ]
    last = frames[-1] if frames else None
    where = f"{'/'.join(Path(last.filename).parts[-2:])}:{last.lineno}" if last else "?"
    message = f" {str(error)[:60]!a}" if isinstance(error, Failure | AssertionError) else ""
    return f"{type(error).__name__} at {where}{message}"


def _work(name: str, seed: int, last: int, shared: "SynchronizedArray[int]", folder: Path, kept: Path) -> None:
    """Run cases until ``last``; the process ends at once if one takes too much processor time."""
    logging.getLogger("asrdeploy").addHandler(logging.NullHandler())
    logging.getLogger("asrdeploy").propagate = False
    warnings.simplefilter("ignore")
    reader = READERS[name]
    valid = valid_cases(reader)
    for case in valid:
        write(case, folder)
        reader.read(folder)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MOST_ADDRESSES,) * 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    start = forget_peak()
    found: Counter[str] = Counter()
    while (number := shared[NEXT]) < last:
        case = case_of(reader, valid, seed, number)
        write(case, folder)
        before = forget_peak()  # that of making the case
        signal.setitimer(signal.ITIMER_PROF, reader.seconds)  # processor time, so that a busy machine decides nothing; SIGPROF kills
        try:
            shared[READ if attempt(reader, folder) else REFUSED] += 1
            signal.setitimer(signal.ITIMER_PROF, 0)
            if (grown := high_water() - before) > 0:
                shared[PEAK] = max(shared[PEAK], before + grown - start)
                if grown > reader.memory:
                    raise Failure(f"the memory grew by {grown // MEGABYTE} MiB")
        except BaseException as error:
            signal.setitimer(signal.ITIMER_PROF, 0)
            shared[FAILED] += 1
            kind = kind_of(error)
            found[kind] += 1
            if found[kind] <= KEPT:
                keep(kept, name, seed, number, case, kind, "".join(traceback.format_exception(error)))
            if isinstance(error, KeyboardInterrupt):
                raise
        shared[NEXT] = number + 1


def keep(kept: Path, name: str, seed: int, number: int, case: Case, kind: str, report: str) -> None:
    """Write a failed case, with what to say about it."""
    folder = kept / name / f"{seed}-{number}"
    write(case, folder / "files")
    (folder / "kind").write_text(kind)
    (folder / "report.txt").write_text(
        f"{kind}\npython -m scripts.fuzz again {name} --seed {seed} --case {number}\n\n{report}", "utf-8", "backslashreplace"
    )


def run(
    reader: Reader,
    *,
    seed: int,
    cases: int,
    seconds: float,
    kept: Path,
    first: int = 0,
    say: Callable[[str], None] = print,
    every: float = 60,
) -> Summary:
    """Run cases of a reader until their number or the time is reached.

    Args:
        reader: Reader to run.
        seed: Seed of all cases.
        cases: Number of cases at most.
        seconds: Seconds at most.
        kept: Folder for cases that fail.
        first: Number of the first case.
        say: Called with the state now and then.
        every: Seconds between two calls of ``say``.
    """
    context = multiprocessing.get_context("spawn")
    shared = context.Array("q", 5)
    shared[NEXT] = first
    summary = Summary(reader.name)
    began = told = time.monotonic()
    before = set(kept.rglob("kind"))
    folder = Path(tempfile.mkdtemp(prefix="asrdeploy-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    try:
        while shared[NEXT] < first + cases and time.monotonic() - began < seconds:
            shutil.rmtree(folder)
            folder.mkdir()
            worker = context.Process(target=_work, args=(reader.name, seed, first + cases, shared, folder, kept), daemon=True)
            worker.start()
            place, since = -1, time.monotonic()
            while worker.is_alive() and time.monotonic() - began < seconds:
                worker.join(0.5)
                if shared[NEXT] != place:
                    place, since = shared[NEXT], time.monotonic()
                if time.monotonic() - since > WALL_SECONDS:
                    worker.kill()
                    worker.join()
                if time.monotonic() - told > every:
                    told = time.monotonic()
                    _count(summary, shared, first, told - began)
                    say(str(summary))
            if worker.exitcode is None:  # the time is over
                worker.kill()
                worker.join()
                break
            if worker.exitcode > 0:  # the worker catches all that a reader raises
                raise RuntimeError(f"{reader.name}: case {shared[NEXT]} could not be made, or a valid case is refused")
            if worker.exitcode < 0:
                number = shared[NEXT]
                how = f"the process ended with {_ending(worker.exitcode)}"
                shared[FAILED] += 1
                shared[NEXT] = number + 1
                keep(kept, reader.name, seed, number, case_of(reader, valid_cases(reader), seed, number), how, how)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    _count(summary, shared, first, time.monotonic() - began)
    summary.failures.update(path.read_text() for path in set(kept.rglob("kind")) - before if path.parent.parent.name == reader.name)
    return summary


def _ending(code: int) -> str:
    name = signal.Signals(-code).name
    return f"{name} (too much processor time)" if name == "SIGPROF" else f"{name} (it did not answer)" if name == "SIGKILL" else name


def _count(summary: Summary, shared: "SynchronizedArray[int]", first: int, seconds: float) -> None:
    summary.cases, summary.read, summary.refused = shared[NEXT] - first, shared[READ], shared[REFUSED]
    summary.peak_bytes, summary.seconds = shared[PEAK], seconds


def again(reader: Reader, seed: int, number: int) -> str:
    """Read one case in this process, and return what comes of it."""
    with tempfile.TemporaryDirectory() as place, contextlib.suppress(FileNotFoundError):
        write(case_of(reader, valid_cases(reader), seed, number), Path(place))
        try:
            reader.read(Path(place))
        except AsrDeployError as error:
            return f"refused: {error}"
    return "read"
