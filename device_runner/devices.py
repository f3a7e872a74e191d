"""Devices that run jobs as processes of this machine, natively or under qemu, and the interface that all devices share."""

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
from device_runner.files import cache_folder, lock, write_text
from device_runner.jobs import Task
from device_runner.package import NAME, ROOT

LOCAL, QEMU = "local", "qemu-arm64"
Progress = Callable[[Heard | Timed], None]
POLL_SECONDS = 0.1


class Device(Protocol):
    """A device that runs jobs."""

    @property
    def name(self) -> str:
        """Name of the device, as in ``--device``."""
        ...

    @property
    def kind(self) -> Kind:
        """Kind of the device. Times of emulated devices are never shown together with others."""
        ...

    def run(self, task: Task, progress: Progress = lambda line: None) -> Result:
        """Run a job and return its result. An interrupted accuracy job resumes.

        Args:
            task: Job and its files.
            progress: Callback that receives each finished line once and in order, including those of interrupted calls.

        Raises:
            AsrDeployError: If the job does not finish.
        """
        ...


@dataclass(frozen=True)
class ProcessDevice:
    """A device whose runner is a process on this machine.

    Args:
        name: Name of the device.
        kind: Kind of the device.
        command: Command line of the runner, without JOB and RESULT.
    """

    name: str
    kind: Kind
    command: tuple[str, ...]

    def run(self, task: Task, progress: Progress = lambda line: None) -> Result:
        """Run a job; see ``Device.run``."""
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
                lines_path(result).unlink(missing_ok=True)  # the runner starts from the beginning, and so must its lines
            self._follow(job, result, progress)
            made = read_result(result)
            if made.error is None:  # after an error the next call resumes from the folder
                shutil.rmtree(folder)
        return finished(made, digest, self.name)

    def _follow(self, job: Path, result: Path, progress: Progress) -> None:
        """Start the runner, report its lines and wait until it ends."""
        # `-m` searches the current folder first, so this also works in a checkout that is not installed.
        words, checkout = [*self.command, str(job), str(result)], ROOT
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
                last = said.read().decode(errors="replace").strip().splitlines()[-1:] or ["it printed nothing"]
                kind = AsrDeployError if runner.returncode == 2 else DeviceFailed  # 2: an error that the user can fix
                raise kind(f"The runner on {self.name} ended with code {runner.returncode} and without a result: {last[0].rstrip('.')}.")


def local_device() -> ProcessDevice:
    """Return this machine as a device. Every job runs in a new process."""
    return ProcessDevice(LOCAL, "host", (sys.executable, "-m", NAME))


def finished(result: Result, digest: str, name: str) -> Result:
    """Check a result from a device and return it.

    Args:
        result: Result from the device.
        digest: SHA-256 of the job.
        name: Name of the device.

    Raises:
        AsrDeployError: If the result belongs to another job or contains an error.
    """
    if result.job != digest:
        raise DeviceFailed(f"{name} returned the result of another job. Repeat the command.")
    if result.error is not None:
        raise AsrDeployError(f"On {name}: {result.error}" if name != LOCAL else result.error)
    return result


def _hand_on(lines: Path, offset: int, progress: Progress) -> int:
    """Report the complete lines after ``offset`` and return the offset of their end."""
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
    """Lock a job's folder, so that a second process with the same job waits for the first."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as file:
        lock(file.fileno(), folder.parent)
        folder.mkdir(exist_ok=True)
        yield
