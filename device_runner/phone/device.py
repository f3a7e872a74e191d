"""Run jobs on a phone or an emulator over adb: push the files, start the job, follow its lines and pull the result.

The job continues without the connection, and every step can be repeated. If the connection is lost, the step waits and is retried.
"""

import contextlib
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from device_runner.contract import Heard, Job, Kind, Result, State, Timed, job_digest, job_text, parse_line
from device_runner.devices import Progress, finished
from device_runner.errors import AsrDeployError, DeviceFailed
from device_runner.files import sha256_of
from device_runner.jobs import Task
from device_runner.phone.adb import DeviceLost, Phone, quoted
from device_runner.phone.runners import PhoneRunner, Place, alive, last_words, start
from device_runner.phone.state import kind_of, merged, model_of, read_properties, read_state, system_of
from device_runner.phone.transfers import ROOT, batches_of, exists, pull_result, push_batch, push_checked, require_space, said
from device_runner.runner import why_not_quotable

FILES, JOBS = f"{ROOT}/files", f"{ROOT}/jobs"
MOST_LOSSES = 200  # lost connections in one step
RESTARTS = 3  # consecutive ends of the runner without a result and without a new line
Step = TypeVar("Step")


@dataclass(frozen=True)
class Patience:
    """Waiting times for a device, in seconds.

    Args:
        connection: Time limit for a lost connection to return.
        silence: Time limit for a running job to finish its next line.
        poll: Interval between checks of a running job.
        cool_down: Pause between two latency jobs on a phone.
        heat: Time limit for a hot device to become cool enough for a latency job.
        heat_poll: Interval between checks of the temperature.
    """

    connection: float = 120.0
    silence: float = 1800.0
    poll: float = 1.0
    cool_down: float = 60.0
    heat: float = 1800.0
    heat_poll: float = 10.0


@dataclass
class AdbDevice:
    """One adb device; see ``devices.Device``.

    Args:
        phone: Connection to the device.
        runner: Runner to use: the app or the Arm bundle.
        patience: Waiting times.
        say: Function that receives progress messages.
    """

    phone: Phone
    runner: PhoneRunner
    patience: Patience = field(default_factory=Patience)
    say: Callable[[str], None] = lambda sentence: None

    def __post_init__(self) -> None:
        self.properties = self._steadily(lambda: read_properties(self.phone))
        self.name, self.kind = self.phone.serial, kind_of(self.properties)
        self._latency_ended: float | None = None

    def run(self, task: Task, progress: Progress = lambda line: None) -> Result:
        """Run a job; see ``devices.Device``.

        Raises:
            AsrDeployError: If the device does not return, is full or stays hot, its runner keeps ending, or the job fails there.
        """
        text = job_text(task.job.model_copy(update={"files": "../../files"}))
        digest = job_digest(text)
        there = self.runner.place(digest[:16])
        self._steadily(lambda: self.runner.prepare(self.phone, self.properties))
        if task.job.mode == "latency":  # earlier lines were measured under other conditions
            self._steadily(lambda: self._remove(there))
        self._send(task)
        self._send_job(text, there)
        if task.job.mode == "latency":
            self._settle(task.job)
        before = self._steadily(lambda: read_state(self.phone))
        try:
            self._follow(there, progress)
            result = self._steadily(lambda: pull_result(self.phone, there.result))
        except KeyboardInterrupt:
            with contextlib.suppress(AsrDeployError):  # the user may have interrupted because the device does not answer
                self.runner.stop(self.phone, there)
            raise
        after = self._steadily(lambda: read_state(self.phone))
        if task.job.mode == "latency":
            self._latency_ended = time.monotonic()
        if result.error is None:
            self._steadily(lambda: self._remove(there))
        else:  # keep the finished lines, so that the next call resumes after them
            self._steadily(lambda: self.phone.shell(quoted("rm", "-f", there.result)))
        return finished(self._with_facts(task.job, result, before, after), digest, self.name)

    def _remove(self, there: Place) -> None:
        if exists(self.phone, there.folder):
            self.runner.stop(self.phone, there)
        self.phone.shell(quoted("rm", "-rf", *there.everything))

    def _with_facts(self, job: Job, result: Result, before: State, after: State) -> Result:
        """Add the facts that adb knows and the runner does not."""
        device = result.device.model_copy(
            update={"model": model_of(self.properties), "system": system_of(self.properties), "kind": self._kind(result)}
        )
        states = merged(result.before, before), merged(result.after, after)
        reasons = tuple(dict.fromkeys([*result.reasons, *why_not_quotable(job, *states)]))
        changes = {"device": device, "before": states[0], "after": states[1], "reasons": reasons, "valid": result.valid and not reasons}
        return result.model_copy(update=changes)

    def _kind(self, result: Result) -> Kind:
        return "emulated" if result.device.kind == "emulated" else self.kind

    # Steps that communicate with the device

    def _steadily(self, step: Callable[[], Step]) -> Step:
        """Do a repeatable step, and retry it whenever the connection is lost."""
        for _ in range(MOST_LOSSES):
            try:
                return step()
            except DeviceLost as error:
                self.say(f"{error} Waiting for the device to return.")
                self.phone.wait(self.patience.connection, self.say)
        raise DeviceLost(f"The connection to {self.phone.serial} was lost {MOST_LOSSES} times. Check its cable and repeat the command.")

    def _send(self, task: Task) -> None:
        """Push the files that the device does not have, each named after its sha256."""
        self._steadily(lambda: self.phone.shell(quoted("mkdir", "-p", FILES, JOBS)))
        have = set(self._steadily(lambda: said(self.phone, quoted("ls", FILES), seconds=120)).split())
        missing = {digest: path for digest, path in task.files.items() if digest not in have}
        if missing:
            self._steadily(lambda: require_space(self.phone, sum(path.stat().st_size for path in missing.values())))
        for number, batch in enumerate(batches := batches_of(missing), 1):
            size = sum(path.stat().st_size for path in batch.values())
            self.say(f"Sending {len(batch)} files, {size / 1e6:.1f} MB (batch {number} of {len(batches)})")
            self._steadily(partial(push_batch, self.phone, batch, FILES))

    def _send_job(self, text: str, there: Place) -> None:
        self._steadily(lambda: self.phone.shell(quoted("mkdir", "-p", there.folder)))
        with tempfile.TemporaryDirectory(prefix="asrdeploy-") as folder:
            local = Path(folder) / "job.json"
            local.write_text(text)
            self._push(local, f"{there.folder}/job.json", sha256_of(local))

    def _push(self, local: Path, remote: str, digest: str) -> None:
        self._steadily(lambda: push_checked(self.phone, local, remote, digest))

    def _settle(self, job: Job) -> None:
        """Wait until a latency job may start: until the cool-down is over and the device is neither hot nor throttled."""
        if self._latency_ended is not None and self.kind == "phone":
            rest = self._latency_ended + self.patience.cool_down - time.monotonic()
            if rest > 0:
                self.say(f"Cooling down for {rest:.0f} s")
                time.sleep(rest)
        end = time.monotonic() + self.patience.heat
        while True:
            state = self._steadily(lambda: read_state(self.phone))
            reasons = why_not_quotable(job, state, State())
            if not reasons:
                return
            if time.monotonic() >= end:
                raise DeviceFailed(
                    f"{self.name} did not cool down within {self.patience.heat:g} s ({reasons[0].replace(' before the job', '')}). "
                    "Let it cool down and repeat the command."
                )
            self.say(f"Waiting for the device to cool down: {reasons[0]}")
            time.sleep(self.patience.heat_poll)

    def _follow(self, there: Place, progress: Progress) -> None:
        """Start the job if it is not running, report its lines, and restart it if its runner was killed."""
        offset = finished_lines = lines_at_start = failures = told = 0
        self._start(there)
        since = time.monotonic()
        while True:
            # Check the process first, so that lines written just before its end are still read.
            lives = self._steadily(lambda: alive(self.phone, there))
            new, offset = self._new_lines(there, offset)
            told, known = max(told - len(new), 0), told
            for line in new[known:]:
                progress(line)
                finished_lines += 1
                since = time.monotonic()
            if not lives:
                if self._steadily(lambda: exists(self.phone, there.result)):
                    return
                failures = 0 if finished_lines > lines_at_start else failures + 1
                if failures >= RESTARTS:
                    reason = self._steadily(lambda: last_words(self.phone, there))
                    raise DeviceFailed(f"The runner on {self.name} ended {RESTARTS} times without a result. Its last message: {reason}.")
                self.say("The runner ended early and is restarted. The job resumes after the last finished line.")
                # A restarted runner rewrites the lines that it keeps; those that were reported already are skipped.
                lines_at_start = told = finished_lines
                offset = 0
                self._start(there)
            elif time.monotonic() - since > self.patience.silence:
                self._steadily(lambda: self.runner.stop(self.phone, there))
                raise DeviceFailed(
                    f"The runner on {self.name} finished no line within {self.patience.silence:g} s and was stopped. Repeat the command."
                )
            else:
                time.sleep(self.patience.poll)

    def _start(self, there: Place) -> None:
        self._steadily(lambda: start(self.phone, there, self.runner))

    def _new_lines(self, there: Place, offset: int) -> tuple[list[Heard | Timed], int]:
        """Return the complete lines after the first ``offset`` bytes of a job's lines file, and the offset of their end."""
        lines = quoted(there.lines)
        text = self._steadily(lambda: said(self.phone, f"[ ! -e {lines} ] || tail -c +{offset + 1} {lines}", seconds=120))
        whole = text[: text.rfind("\n") + 1]
        parsed = [parse_line(line.encode()) for line in whole.splitlines()]
        return [each for each in parsed if each is not None], offset + len(whole.encode())
