"""Where a job runs: this machine, Arm instructions under qemu, or an adb device. All take the same job and give the same result."""

import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from device_runner.contract import Heard, Kind, Result, Timed, job_digest, job_text, lines_path, parse_line, read_lines, read_result
from device_runner.errors import AsrDeployError, DeviceFailed
from device_runner.files import cache_folder, write_text
from device_runner.jobs import Task

LOCAL, QEMU = "local", "qemu-arm64"
Progress = Callable[[Heard | Timed], None]
POLL_SECONDS = 0.1


class Device(Protocol):
    """Something that runs jobs."""

    @property
    def name(self) -> str:
        """What ``--device`` calls it."""
        ...

    @property
    def kind(self) -> Kind:
        """What its times are worth: those of emulated devices are never shown beside others."""
        ...

    def run(self, task: Task, progress: Progress = lambda line: None) -> Result:
        """Run a job to its end; what an earlier, interrupted call of the same accuracy job finished is not done again.

        Args:
            task: the job and its files.
            progress: is told every finished line, once and in order, those of earlier calls too.

        Raises:
            AsrDeployError: the job could not be run to its end.
        """
        ...


@dataclass(frozen=True)
class ProcessDevice:
    """A runner that is started as a process of this machine.

    Args:
        name: see ``Device``.
        kind: see ``Device``.
        command: words before JOB and RESULT.
    """

    name: str
    kind: Kind
    command: tuple[str, ...]

    def run(self, task: Task, progress: Progress = lambda line: None) -> Result:
        """Run a job; see ``Device``."""
        text = job_text(task.job)
        digest = job_digest(text)
        folder = cache_folder() / "jobs" / f"{self.name}-{digest[:16]}"
        with _alone(folder):
            shutil.rmtree(folder / "files", ignore_errors=True)
            (folder / "files").mkdir()
            for name, path in task.files.items():
                (folder / "files" / name).symlink_to(path.resolve())
            job, result = folder / "job.json", folder / "result.json"
            write_text(job, text)
            result.unlink(missing_ok=True)
            if task.job.mode == "latency" or not read_lines(lines_path(result), digest):
                lines_path(result).unlink(missing_ok=True)  # the runner begins anew, and so do its lines
            self._follow(job, result, progress)
            made = read_result(result)
            if made.error is None:  # else the next call goes on after the lines that are finished
                shutil.rmtree(folder)
        return finished(made, digest, self.name)

    def _follow(self, job: Path, result: Path, progress: Progress) -> None:
        """Start the runner, hand on its lines, and wait for its end."""
        # `-m` looks in the current folder first, so a checkout that is not installed works too.
        words, checkout = [*self.command, str(job), str(result)], Path(__file__).parent.parent
        with tempfile.TemporaryFile() as said:
            with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=said, stderr=said, cwd=checkout) as runner:
                try:
                    offset = 0
                    while runner.poll() is None:
                        time.sleep(POLL_SECONDS)
                        offset = _hand_on(lines_path(result), offset, progress)
                    _hand_on(lines_path(result), offset, progress)
                finally:
                    runner.kill()
            if not result.is_file():
                said.seek(0)
                last = said.read().decode(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
                kind = AsrDeployError if runner.returncode == 2 else DeviceFailed  # 2: the runner's own sentence on what to mend
                raise kind(f"The runner on {self.name} ended with code {runner.returncode} and no result: {last[0].rstrip('.')}.")


def local_device() -> ProcessDevice:
    """Return this machine: every job in a fresh process."""
    return ProcessDevice(LOCAL, "host", (sys.executable, "-m", "device_runner"))


def finished(result: Result, digest: str, name: str) -> Result:
    """Return a result that came from a device, if it is of this job and has no error.

    Raises:
        AsrDeployError: it is of another job, or the job failed there.
    """
    if result.job != digest:
        raise DeviceFailed(f"{name} gave the result of another job; run it again.")
    if result.error is not None:
        raise AsrDeployError(f"On {name}: {result.error}" if name != LOCAL else result.error)
    return result


def _hand_on(lines: Path, offset: int, progress: Progress) -> int:
    """Tell the whole lines behind ``offset`` and return where they end."""
    try:
        with lines.open("rb") as file:
            file.seek(offset)
            new = file.read()
    except FileNotFoundError:
        return offset
    whole = new[: new.rfind(b"\n") + 1]
    for line in whole.splitlines():
        parsed = parse_line(line)
        if parsed is not None:
            progress(parsed)
    return offset + len(whole)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a job's folder, so that the same job, started twice, is not written by two processes; the second one waits."""
    import fcntl  # not on Windows, where this module is imported too

    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder.mkdir(exist_ok=True)
        yield
