"""Run jobs on a phone with the app, or with the Arm bundle in adb's shell. Both read the same job file and write the same result file."""

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from device_runner.contract import lines_path
from device_runner.errors import AsrDeployError
from device_runner.files import sha256_of
from device_runner.phone.adb import CommandFailed, Phone, quoted
from device_runner.phone.arm_bundle import build_bundle, command, pack_bundle
from device_runner.phone.state import ABI
from device_runner.phone.transfers import ROOT, exists, push_checked, require_space, said

APP, APP_VERSION_CODE = "org.asrdeploy.bench", 1
INSTRUMENTATION = f"{APP}/.JobInstrumentation"
APP_FILES = f"/sdcard/Android/data/{APP}/files"  # the app's folder, which adb's shell can also read
ARM64 = "arm64-v8a"
STARTING = 100  # tenths of a second for a started job to write its process ID


@dataclass(frozen=True)
class Place:
    """Paths of a job on the device.

    Args:
        id: Identifier of the job, which also appears in the command line of its process.
        folder: Folder of the job file and the log.
        result: Path of the result file.
    """

    id: str
    folder: str
    result: str

    @property
    def lines(self) -> str:
        """Path of the lines file, in the folder of the result."""
        return str(lines_path(Path(self.result)))

    @property
    def everything(self) -> tuple[str, str]:
        """Folders that contain only this job."""
        return self.folder, self.result.rpartition("/")[0]


class PhoneRunner(Protocol):
    """Runs jobs on a phone."""

    def place(self, job: str) -> Place:
        """Return the paths of a job, given the first digits of its sha256."""
        ...

    def prepare(self, phone: Phone, properties: Mapping[str, str]) -> None:
        """Install the runner on the device if it is not there yet. The call can be repeated."""
        ...

    def command(self, there: Place) -> str:
        """Return the shell command that runs a job until it ends."""
        ...

    def stop(self, phone: Phone, there: Place) -> None:
        """Stop a running job and keep the lines that it has finished."""
        ...


@dataclass(frozen=True)
class AppRunner:
    """Runs jobs with the app, started as an Android instrumentation.

    Args:
        apk: APK to install if the device has no app or an older one.
    """

    apk: Path | None = None

    def place(self, job: str) -> Place:
        """Return the place of a job; see ``PhoneRunner``."""
        return Place(job, f"{ROOT}/jobs/{job}", f"{APP_FILES}/jobs/{job}/result.json")

    def prepare(self, phone: Phone, properties: Mapping[str, str]) -> None:
        """Install or update the app.

        Raises:
            AsrDeployError: If the app is missing or too old, and there is no APK to install.
        """
        version = installed_version(phone)
        if version is not None and version >= APP_VERSION_CODE:
            return
        if self.apk is None:
            what = "does not have the app" if version is None else f"has version {version} of the app, but {APP_VERSION_CODE} is required"
            raise AsrDeployError(f"{phone.serial} {what}. Build it (see android/README.md) and add --apk FILE, or use --via shell.")
        phone.install(self.apk)
        version = installed_version(phone)
        if version is None or version < APP_VERSION_CODE:
            raise AsrDeployError(f"{self.apk} contains version {version} of the app, but {APP_VERSION_CODE} is required. Build it again.")

    def command(self, there: Place) -> str:
        """Return the shell command that runs a job in the app."""
        return quoted("am", "instrument", "-w", "-e", "job", f"{there.folder}/job.json", "-e", "result", there.result, INSTRUMENTATION)

    def stop(self, phone: Phone, there: Place) -> None:
        """Stop the app and the process that waits for it."""
        phone.shell(quoted("am", "force-stop", APP))
        kill(phone, there)


@dataclass(frozen=True)
class ShellRunner:
    """Runs jobs with the Arm bundle in adb's shell, without an app and without root.

    Args:
        say: Function that receives progress messages.
    """

    say: Callable[[str], None] = lambda sentence: None

    def place(self, job: str) -> Place:
        """Return the place of a job; see ``PhoneRunner``."""
        return Place(job, f"{ROOT}/jobs/{job}-shell", f"{ROOT}/jobs/{job}-shell/result.json")

    def prepare(self, phone: Phone, properties: Mapping[str, str]) -> None:
        """Push the layers of the bundle that the device does not have.

        Raises:
            AsrDeployError: If the device is not arm64, its disk is full, or the bundle cannot be built.
        """
        if properties.get(ABI) != ARM64:
            raise AsrDeployError(f"--via shell requires {ARM64}, but {phone.serial} is {properties.get(ABI, 'unknown')}. Use --via app.")
        phone.shell(quoted("mkdir", "-p", ROOT))
        for archive in pack_bundle(build_bundle(progress=self.say)):
            folder = f"{ROOT}/{archive.stem}"
            if exists(phone, folder):
                continue
            require_space(phone, 2 * archive.stat().st_size)  # the archive and its unpacked content
            self.say(f"Sending {archive.name} ({archive.stat().st_size / 1e6:.0f} MB)")
            packed, unpacked = f"{folder}.tar", f"{folder}.unpacked"
            push_checked(phone, archive, packed, sha256_of(archive))
            steps = (
                ("rm", "-rf", unpacked),
                ("mkdir", unpacked),
                ("tar", "-xf", packed, "-C", unpacked),
                ("mv", f"{unpacked}/{archive.stem}", folder),  # so that only a complete layer has the final name
                ("rm", "-rf", unpacked, packed),
            )
            phone.shell(" && ".join(quoted(*words) for words in steps), seconds=300)

    def command(self, there: Place) -> str:
        """Return the shell command that runs a job with the bundle."""
        bundle = f"{ROOT}/{build_bundle().name}"
        return quoted(*command(Path(bundle), emulated=False), f"{there.folder}/job.json", there.result)

    def stop(self, phone: Phone, there: Place) -> None:
        """Stop the job's processes."""
        kill(phone, there)


def start(phone: Phone, there: Place, runner: PhoneRunner) -> None:
    """Start a job in the background, unless it is running or has a result. It continues without the connection."""
    job = f"echo $$ >pid; {runner.command(there)} >log 2>&1; echo $? >exit"
    # The job's id is the script's name, because after a restart of the phone another process may have the same process ID.
    background = f"setsid sh -c {shlex.quote(job)} {shlex.quote(there.id)} </dev/null >/dev/null 2>&1 &"
    phone.shell(
        f"cd {shlex.quote(there.folder)} || exit 1\n"
        f"[ -e {shlex.quote(there.result)} ] && exit 0\n"
        f"{_alive(there)} && exit 0\n"
        f"rm -f pid exit\n{background}\n"
        f"i=0; while [ ! -s pid ] && [ $i -lt {STARTING} ]; do sleep 0.1; i=$((i+1)); done; [ -s pid ]"
    )


def alive(phone: Phone, there: Place) -> bool:
    """Tell whether a job's process is running."""
    return said(phone, f"cd {shlex.quote(there.folder)} && {{ {_alive(there)} && echo yes || echo no; }}").strip() == "yes"


def kill(phone: Phone, there: Place) -> None:
    """Kill a job's process group."""
    phone.shell(f"cd {shlex.quote(there.folder)} && {_alive(there)} && kill -9 -$(cat pid) || true")


def last_words(phone: Phone, there: Place) -> str:
    """Return the error in a job's log: the error of the instrumentation, or else the last line."""
    log = said(phone, f"cd {shlex.quote(there.folder)} && tail -n 20 log 2>/dev/null || true").strip().splitlines()
    lines = [line.strip().rstrip(".") for line in log if line.strip() and not line.startswith("INSTRUMENTATION_CODE")]
    errors = [line.partition("error=")[2] for line in lines if "error=" in line]
    return (errors or lines or ["its log is empty"])[-1]


def _alive(there: Place) -> str:
    return f'{{ [ -s pid ] && grep -q {shlex.quote(there.id)} "/proc/$(cat pid)/cmdline" 2>/dev/null; }}'


def installed_version(phone: Phone) -> int | None:
    """Return the version code of the app on the device, or None if it is not installed."""
    try:
        if not said(phone, quoted("pm", "path", APP)).strip().startswith("package:"):
            return None
    except CommandFailed:
        return None
    found = re.search(r"versionCode=(\d+)", said(phone, quoted("dumpsys", "package", APP)))
    return int(found[1]) if found else None
