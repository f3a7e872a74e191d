"""Control phones through Android's adb client. Each call starts the client once and has a time limit.

This module works around four traps of adb: it has no time limits, passes its arguments to the phone's shell unquoted, exits with code 0
if the phone disappears in the middle of a command, and reports most errors only as text.
"""

import contextlib
import importlib.util
import os
import re
import secrets
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from device_runner.errors import AsrDeployError, DeviceFailed
from device_runner.files import atomic_path
from device_runner.phone.adb_output import (
    EXITED,
    Listed,
    complaint,
    parse_devices,
    refusal,
    short,
    split_exit,
    state_in,
    verdict,
)
from device_runner.phone.remedies import READY, needs_a_person, remedy

SERVER_VARIABLE = "ASRDEPLOY_ADB_SERVER"
OLDEST_PROTOCOL, OLDEST_TOOLS = (1, 0, 41), 28
HOW_TO_INSTALL = (
    "Install Android's platform-tools (Debian and Ubuntu: `apt-get install adb`; other systems: `pip install adbutils`), "
    "or name the program with --adb"
)
QUICK = 15.0  # seconds for a call that only talks to adb's server
SLOWEST_LINK = 500_000  # bytes per second; the time limits of transfers assume this rate
PROBE, RETRY, POLL = 5.0, 0.5, 0.1  # seconds in Phone.wait: for an echo, between two connection attempts, between two checks
SETTLED = 0.5  # seconds until a state counts: a device that was just connected passes through several
LONGEST_COMMAND = 65_000  # bytes; adb's server reads lengths of four hexadecimal digits, and a longer command looks like a lost device
ADDRESS = re.compile(r".+:\d+")


class DeviceLost(DeviceFailed):
    """The device or its connection is lost. The caller can wait for it and retry."""


class CommandFailed(DeviceFailed):
    """A command on the device exited with a code other than 0.

    Args:
        serial: Serial number of the device.
        command: Command that was run.
        code: Exit code of the command.
        output: Text that the command printed.
    """

    def __init__(self, serial: str, command: str, code: int, output: str) -> None:
        said = output.strip().splitlines()
        super().__init__(f"“{short(command)}” exited with code {code} on {serial}{f': {short(said[-1])}' if said else ''}.")
        self.code, self.output = code, output


@dataclass(frozen=True)
class _Ended:
    code: int
    output: bytes
    errors: str

    @property
    def text(self) -> str:
        return "\n".join((self.output.decode(errors="replace"), self.errors))


def quoted(*words: str) -> str:
    """Join words into one string that a shell splits into the same words."""
    return shlex.join(words)


class Adb:
    """Android's adb client.

    Args:
        program: Path of the executable.
        server: Socket of adb's server, such as ``tcp:localhost:5037`` (default: ``ASRDEPLOY_ADB_SERVER``, or else adb's default).
        environment: Environment variables for the client, in addition to those of this process.

    Raises:
        AsrDeployError: If the program cannot be run or is too old.
    """

    def __init__(self, program: Path, *, server: str | None = None, environment: dict[str, str] | None = None) -> None:
        self.program = program
        self._environment = {**os.environ, **(environment or {})}
        self._environment.pop("ADB_TRACE", None)  # tracing would mix with the output
        self.server = server or self._environment.get(SERVER_VARIABLE) or None
        self.version = checked_version(self.run("version", seconds=QUICK).text, program)

    def devices(self) -> list[Listed]:
        """Return all devices that adb lists, including those that cannot be used.

        Raises:
            AsrDeployError: If adb's server does not answer.
        """
        done = self.run("devices", "-l", seconds=QUICK)
        if done.code != 0:
            raise AsrDeployError(f"adb cannot list its devices ({complaint(done.text)}). Run “{self.program} devices” to see why.")
        return parse_devices(done.output.decode(errors="replace"))

    def phone(self, serial: str) -> "Phone":
        """Return the device with this serial number, without checking that it is connected."""
        return Phone(self, serial)

    def run(self, *arguments: str, seconds: float) -> _Ended:
        """Run the client and return its exit code and output without interpreting them.

        Raises:
            DeviceLost: If the client ran longer than ``seconds`` and was killed.
            AsrDeployError: If the client cannot be run.
        """
        server = ["-L", self.server] if self.server else []
        command = [str(self.program), *server, *arguments]
        try:
            with subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self._environment
            ) as process:
                try:
                    output, errors = process.communicate(timeout=max(seconds, 0.0))
                except subprocess.TimeoutExpired:
                    process.kill()
                    raise DeviceLost(f"“adb {short(shlex.join(arguments))}” did not finish within {seconds:.3g} s.") from None
                except BaseException:
                    process.kill()
                    raise
        except OSError as error:
            raise AsrDeployError(f"Cannot run {self.program} ({error.strerror}). {HOW_TO_INSTALL}.") from error
        return _Ended(process.returncode, output, errors.decode(errors="replace"))


def find_adb(given: Path | None = None) -> Adb:
    """Return the given adb, or else the one on the PATH, or else the one in the package adbutils.

    Raises:
        AsrDeployError: If there is no adb, or it is too old.
    """
    if given is not None:
        found = shutil.which(given)
        if found is None:
            raise AsrDeployError(f"There is no program {given}. {HOW_TO_INSTALL}.")
        return Adb(Path(found))
    found = shutil.which("adb") or bundled_adb()
    if found is None:
        raise AsrDeployError(f"adb, which is required for phones, was not found. {HOW_TO_INSTALL}.")
    return Adb(Path(found))


def bundled_adb() -> str | None:
    """Return the adb that is included in the package adbutils, or None if that package is not installed."""
    spec = importlib.util.find_spec("adbutils")
    folders = spec.submodule_search_locations if spec else None
    return next((found for each in folders or () if (found := shutil.which("adb", path=str(Path(each) / "binaries")))), None)


class Phone:
    """One device, identified by its serial number. Its methods may be called from several threads.

    Every method raises ``DeviceLost`` if the device is not connected, is not authorised, disappears, or exceeds the time limit.

    Args:
        adb: Client to use.
        serial: Serial number, as ``Adb.devices`` lists it.
    """

    def __init__(self, adb: Adb, serial: str) -> None:
        self.adb, self.serial = adb, serial

    def shell(self, command: str, *, seconds: float = 30.0) -> str:
        """Run a command in the device's shell and return its output (stdout and stderr together).

        A background job must not keep these outputs open: start it with ``setsid JOB </dev/null >FILE 2>&1 &``.

        Args:
            command: Shell command. Pass paths and other arguments through ``quoted``.
            seconds: Time limit in seconds. When it is exceeded, the client is killed, but not the command on the device.

        Raises:
            DeviceLost: If no exit code arrived.
            CommandFailed: If the exit code is not 0.
            AsrDeployError: If the command is too long for adb.
        """
        nonce = secrets.token_hex(8)
        # An inner shell runs the command, so that a syntax error or `exit` cannot skip the line that prints the exit code.
        line = f"sh -c {shlex.quote(command)} 2>&1; echo {EXITED}:{nonce}:$?:"
        if len(line.encode(errors="replace")) > LONGEST_COMMAND:
            raise AsrDeployError(f"“{short(command)}” is longer than adb's limit of {LONGEST_COMMAND} bytes. Push it as a script.")
        done = self._run("shell", line, seconds=seconds, what=command)
        found = split_exit(done.output, nonce)
        if found is None:
            raise self._lost(done.errors, f"while running “{short(command)}”")
        code, output = found
        text = output.decode(errors="replace")
        if code != 0:
            raise CommandFailed(self.serial, command, code, text)
        return text

    def push(self, local: Path, remote: str, *, seconds: float | None = None) -> None:
        """Copy a file or a folder to the device. An interrupted copy may leave an incomplete file under the final name.

        Args:
            local: File or folder to copy.
            remote: Destination path on the device.
            seconds: Time limit in seconds (default: what the size requires on a slow link).

        Raises:
            AsrDeployError: If ``local`` cannot be read, or the device refuses it (full disk, no permission).
        """
        if not os.access(local, os.R_OK):
            raise AsrDeployError(f"Cannot read {local}, so nothing was copied to {self.serial}. Check the path and its permissions.")
        each = local.rglob("*") if local.is_dir() else (local,)
        if seconds is None:
            seconds = _time_for(sum(path.stat().st_size for path in each if path.is_file()))
        self._transfer("push", str(local), remote, seconds=seconds)

    def pull(self, remote: str, local: Path, *, seconds: float | None = None) -> None:
        """Copy a file from the device. ``local`` is written completely or not at all.

        Args:
            remote: Path of the file on the device.
            local: Destination path on this machine.
            seconds: Time limit in seconds (default: what the size requires on a slow link).

        Raises:
            AsrDeployError: If the device has no such file, or ``local`` cannot be written.
        """
        if seconds is None:
            try:
                size = self.shell(quoted("stat", "-c", "%s", remote)).strip()
            except CommandFailed as error:
                raise AsrDeployError(f"{self.serial} has no readable file {remote}.") from error
            seconds = _time_for(int(size) if size.isdecimal() else 0)
        with atomic_path(local) as temporary:
            self._transfer("pull", remote, str(temporary), seconds=seconds)

    def install(self, apk: Path, *, seconds: float = 300.0) -> None:
        """Install an app, replacing an earlier version.

        Raises:
            AsrDeployError: If ``apk`` does not exist, or the device refuses it.
        """
        if not apk.is_file():
            raise AsrDeployError(f"There is no app at {apk}. Build it, or give the path of the APK.")
        if apk.suffix != ".apk":
            raise AsrDeployError(f"{apk} is not an .apk file, and adb installs no other files. Give the path of the APK.")
        done = self._run("install", "-r", str(apk), seconds=seconds)
        reason = verdict(done.text.replace(str(apk), ""))
        if reason:
            raise AsrDeployError(f"{self.serial} refused to install {apk.name}: {reason}.")
        if reason is None or done.code != 0:
            raise self._failure(done, "install", str(apk))

    def wait(self, seconds: float, say: Callable[[str], None] = lambda sentence: None, *, give_up: bool = False) -> None:
        """Wait until the device answers. A device with an address (host:port) is reconnected.

        Args:
            seconds: Time limit in seconds.
            say: Function that receives what is wrong and what to do, as soon as it is known, once for each state.
            give_up: Whether to stop waiting at once in a state that only a person can end, such as ``unauthorized``.

        Raises:
            DeviceLost: If the device does not answer within the limit.
        """
        begun = since = time.monotonic()
        end, settled, told = begun + seconds, 0.0, set[str]()
        state = before = "adb does not answer"
        while True:
            state = self._state(end, state)
            if state == READY and self._answers(end):
                return
            now = time.monotonic()
            if state != before:
                since, before = now, state
            if now - since >= SETTLED:
                if give_up and needs_a_person(state):
                    raise DeviceLost(remedy(self.serial, state))
                if state not in told:
                    told.add(state)
                    say(f"{remedy(self.serial, state)} Waiting up to {max(end - now, 0):.0f} s for it.")
            if now >= end:
                raise DeviceLost(remedy(self.serial, state, f"waited {seconds:.3g} s"))
            if ADDRESS.fullmatch(self.serial) and now >= settled and not needs_a_person(state):
                # A lost device stays listed as offline, and `adb connect` then claims that it is connected: disconnect it first.
                said = ""
                for word in ("disconnect", "connect"):
                    with contextlib.suppress(DeviceLost):
                        said = self.adb.run(word, self.serial, seconds=min(QUICK, max(end - time.monotonic(), POLL))).text
                settled = time.monotonic() + RETRY
                if "connected to" in said:
                    continue
            time.sleep(min(POLL, max(end - time.monotonic(), 0.0)))

    def _state(self, end: float, before: str) -> str:
        try:
            done = self.adb.run("-s", self.serial, "get-state", seconds=min(QUICK, max(end - time.monotonic(), POLL)))
        except DeviceLost:
            return before
        if done.code == 0:
            return done.output.decode(errors="replace").strip()
        return state_in(done.errors)

    def _answers(self, end: float) -> bool:
        """Tell whether the device runs a command: a dead connection may still be listed."""
        try:
            return self.shell("echo", seconds=min(PROBE, max(end - time.monotonic(), POLL))) == "\n"
        except (DeviceLost, CommandFailed):
            return False

    def _run(self, *arguments: str, seconds: float, what: str = "") -> _Ended:
        try:
            return self.adb.run("-s", self.serial, *arguments, seconds=seconds)
        except DeviceLost as error:
            asked = short(what or shlex.join(arguments))
            raise DeviceLost(f"{self.serial} did not finish “{asked}” within {seconds:.3g} s. Check its connection.") from error

    def _transfer(self, verb: str, source: str, target: str, *, seconds: float) -> None:
        done = self._run(verb, source, target, seconds=seconds)
        if done.code != 0:
            raise self._failure(done, verb, source, target)

    def _failure(self, done: _Ended, verb: str, *names: str) -> AsrDeployError:
        """Return the error for a refusal, or else DeviceLost: adb has no fixed text for a lost device."""
        text = done.text
        reason = refusal(text)
        if reason is not None:
            return AsrDeployError(f"Cannot {verb} {names[0]} {'from' if verb == 'pull' else 'to'} {self.serial}: {reason}.")
        for name in names:  # a file name may contain the words that are searched for
            text = text.replace(name, "")
        return self._lost(text, f"during adb {verb}")

    def _lost(self, text: str, when: str) -> DeviceLost:
        return DeviceLost(remedy(self.serial, state_in(text), when))


def checked_version(text: str, program: Path) -> str:
    """Return the version from the output of `adb version`.

    Raises:
        AsrDeployError: If the program is not Android's adb, or is too old.
    """
    protocol = re.search(r"^Android Debug Bridge version (\d+)\.(\d+)\.(\d+)", text, re.MULTILINE)
    tools = re.search(r"^Version ((\d+)\S*)", text, re.MULTILINE)
    if protocol is None:
        raise AsrDeployError(f"{program} is not Android's adb. {HOW_TO_INSTALL}.")
    version = tools[1] if tools else ".".join(protocol.groups())
    if tuple(map(int, protocol.groups())) < OLDEST_PROTOCOL or (tools and int(tools[2]) < OLDEST_TOOLS):
        raise AsrDeployError(
            f"{program} is version {version}, which is too old (required: 1.0.41, platform-tools {OLDEST_TOOLS}). {HOW_TO_INSTALL}."
        )
    return version


def _time_for(size: int) -> float:
    return 30.0 + size / SLOWEST_LINK
