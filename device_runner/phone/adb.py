"""Phones by the Android Debug Bridge: Android's own client in a process a call, every call with a time limit.

adb has traps that are dealt with here, once: it knows no time limits, hands its arguments to the phone's shell unquoted, ends with code 0
when a phone dies in the middle of a command, and says most of what matters in words.
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

SERVER_VARIABLE = "ASRDEPLOY_ADB_SERVER"
OLDEST_PROTOCOL, OLDEST_TOOLS = (1, 0, 41), 28
HOW_TO_INSTALL = (
    "install Android's platform-tools (Debian and Ubuntu: apt-get install adb; or pip install adbutils), or name the program with --adb"
)
QUICK = 15.0  # seconds for a call that only asks adb's own server
SLOWEST_LINK = 500_000  # bytes per second that a transfer is given time for
PROBE, RETRY, POLL = 5.0, 0.5, 0.1  # seconds in Phone.wait: for an echo, between two connections, between two looks
LONGEST_COMMAND = 65_000  # bytes; adb's server reads lengths of four hexadecimal digits, and a longer one looks like a lost device
ADDRESS = re.compile(r".+:\d+")


class DeviceLost(DeviceFailed):
    """The device or its connection is gone: wait for it, and go on."""


class CommandFailed(DeviceFailed):
    """A command on the device ended with a code other than 0.

    Args:
        serial: the device.
        command: what was run.
        code: its exit code.
        output: what it printed.
    """

    def __init__(self, serial: str, command: str, code: int, output: str) -> None:
        said = output.strip().splitlines()
        super().__init__(f"On {serial} “{short(command)}” ended with code {code}{f': {short(said[-1])}' if said else ''}.")
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
    """Return the words as one string that a shell splits into them again."""
    return shlex.join(words)


class Adb:
    """Android's adb client.

    Args:
        program: the executable.
        server: the socket of adb's server, such as ``tcp:localhost:5037``; None: what ``ASRDEPLOY_ADB_SERVER`` names, else adb's usual one.
        environment: variables for the client beside those of this process.

    Raises:
        AsrDeployError: it cannot be run, or is too old.
    """

    def __init__(self, program: Path, *, server: str | None = None, environment: dict[str, str] | None = None) -> None:
        self.program = program
        self._environment = {**os.environ, **(environment or {})}
        self._environment.pop("ADB_TRACE", None)  # it would print among the output
        self.server = server or self._environment.get(SERVER_VARIABLE) or None
        self.version = checked_version(self.run("version", seconds=QUICK).text, program)

    def devices(self) -> list[Listed]:
        """Return the devices that adb knows, usable or not.

        Raises:
            AsrDeployError: adb's server does not answer.
        """
        done = self.run("devices", "-l", seconds=QUICK)
        if done.code != 0:
            raise AsrDeployError(f"adb cannot list its devices ({complaint(done.text)}); look at what “{self.program} devices” says.")
        return parse_devices(done.output.decode(errors="replace"))

    def phone(self, serial: str) -> "Phone":
        """Return the device of this serial number; that it is there shows with the first call."""
        return Phone(self, serial)

    def run(self, *arguments: str, seconds: float) -> _Ended:
        """Run the client to its end; nothing is read into what it prints.

        Raises:
            DeviceLost: it took longer than ``seconds`` and was ended.
            AsrDeployError: it cannot be run.
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
                    raise DeviceLost(f"adb did not end within {seconds:.3g} s: {short(shlex.join(arguments))}.") from None
                except BaseException:
                    process.kill()
                    raise
        except OSError as error:
            raise AsrDeployError(f"Cannot run {self.program} ({error.strerror}): {HOW_TO_INSTALL}.") from error
        return _Ended(process.returncode, output, errors.decode(errors="replace"))


def find_adb(given: Path | None = None) -> Adb:
    """Return the adb that is named, else the one on the PATH, else the one in the package adbutils.

    Raises:
        AsrDeployError: there is none, or it is too old.
    """
    if given is not None:
        found = shutil.which(given)
        if found is None:
            raise AsrDeployError(f"There is no program {given}: {HOW_TO_INSTALL}.")
        return Adb(Path(found))
    found = shutil.which("adb") or bundled_adb()
    if found is None:
        raise AsrDeployError(f"Phones need adb, and there is none here: {HOW_TO_INSTALL}.")
    return Adb(Path(found))


def bundled_adb() -> str | None:
    """Return the adb that the package adbutils brings; None where it is not installed."""
    spec = importlib.util.find_spec("adbutils")
    folders = spec.submodule_search_locations if spec else None
    return next((found for each in folders or () if (found := shutil.which("adb", path=str(Path(each) / "binaries")))), None)


class Phone:
    """One device, by its serial number. Its calls may be made from several threads.

    Every call raises ``DeviceLost`` when the device is not there, is not authorised, goes away meanwhile, or takes longer than its limit.

    Args:
        adb: the client.
        serial: as ``Adb.devices`` lists it.
    """

    def __init__(self, adb: Adb, serial: str) -> None:
        self.adb, self.serial = adb, serial

    def shell(self, command: str, *, seconds: float = 30.0) -> str:
        """Run a command in the device's shell and return what it printed, its two outputs as one.

        A job that outlives the command must not keep its outputs: ``setsid JOB </dev/null >FILE 2>&1 &``.

        Args:
            command: one string for the shell; words from elsewhere go through ``quoted``.
            seconds: the limit. The client is ended then, not what runs on the device.

        Raises:
            DeviceLost: no exit code came.
            CommandFailed: the exit code is not 0.
            AsrDeployError: the command is too long for adb.
        """
        nonce = secrets.token_hex(8)
        # The inner shell: syntax errors and `exit` end it, and not the line that tells its code.
        line = f"sh -c {shlex.quote(command)} 2>&1; echo {EXITED}:{nonce}:$?:"
        if len(line.encode(errors="replace")) > LONGEST_COMMAND:
            raise AsrDeployError(f"“{short(command)}” is longer than the {LONGEST_COMMAND} bytes that adb carries; push it as a script.")
        done = self._run("shell", line, seconds=seconds, what=command)
        found = split_exit(done.output, nonce)
        if found is None:
            raise self._lost(done.errors, f"in “{short(command)}”")
        code, output = found
        text = output.decode(errors="replace")
        if code != 0:
            raise CommandFailed(self.serial, command, code, text)
        return text

    def push(self, local: Path, remote: str, *, seconds: float | None = None) -> None:
        """Copy a file or a folder to the device. Ended early, it may leave a part under the final name there.

        Args:
            local: what to copy.
            remote: its path on the device.
            seconds: the limit; None: what the size needs on a slow link.

        Raises:
            AsrDeployError: it cannot be read, or the device refuses it (a full disk, no permission).
        """
        if not os.access(local, os.R_OK):
            raise AsrDeployError(f"Cannot read {local}; nothing was copied to {self.serial}.")
        each = local.rglob("*") if local.is_dir() else (local,)
        if seconds is None:
            seconds = _time_for(sum(path.stat().st_size for path in each if path.is_file()))
        self._transfer("push", str(local), remote, seconds=seconds)

    def pull(self, remote: str, local: Path, *, seconds: float | None = None) -> None:
        """Copy a file from the device; ``local`` is written whole or not at all.

        Args:
            remote: its path on the device.
            local: where to write it.
            seconds: the limit; None: what the size needs on a slow link.

        Raises:
            AsrDeployError: the device has no such file, or ``local`` cannot be written.
        """
        if seconds is None:
            try:
                size = self.shell(quoted("stat", "-c", "%s", remote)).strip()
            except CommandFailed as error:
                raise AsrDeployError(f"{self.serial} has no file {remote} that can be read.") from error
            seconds = _time_for(int(size) if size.isdecimal() else 0)
        with atomic_path(local) as temporary:
            self._transfer("pull", remote, str(temporary), seconds=seconds)

    def install(self, apk: Path, *, seconds: float = 300.0) -> None:
        """Install an app, over an earlier version of it.

        Raises:
            AsrDeployError: there is no such file, or the device refuses it.
        """
        if not apk.is_file():
            raise AsrDeployError(f"There is no app at {apk}; build it, or name the file.")
        if apk.suffix != ".apk":
            raise AsrDeployError(f"{apk} is not named .apk, and adb installs nothing else; name the app's file.")
        done = self._run("install", "-r", str(apk), seconds=seconds)
        reason = verdict(done.text.replace(str(apk), ""))
        if reason:
            raise AsrDeployError(f"{self.serial} refuses {apk.name}: {reason}.")
        if reason is None or done.code != 0:
            raise self._failure(done, "install", str(apk))

    def wait(self, seconds: float) -> None:
        """Wait until the device answers; one with an address (host:port) is connected anew.

        Raises:
            DeviceLost: it does not within the limit.
        """
        end = time.monotonic() + seconds
        settled = 0.0
        state = "adb does not answer"
        while True:
            state = self._state(end, state)
            if state == "device" and self._answers(end):
                return
            now = time.monotonic()
            if now >= end:
                raise DeviceLost(f"{_what_to_do(self.serial, state)} (waited {seconds:.3g} s).")
            if ADDRESS.fullmatch(self.serial) and now >= settled and state != "unauthorized":
                # A gone one stays listed as offline, and connecting says that it is connected.
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
        """A connection may be dead while it is still listed."""
        try:
            return self.shell("echo", seconds=min(PROBE, max(end - time.monotonic(), POLL))) == "\n"
        except (DeviceLost, CommandFailed):
            return False

    def _run(self, *arguments: str, seconds: float, what: str = "") -> _Ended:
        try:
            return self.adb.run("-s", self.serial, *arguments, seconds=seconds)
        except DeviceLost as error:
            asked = short(what or shlex.join(arguments))
            raise DeviceLost(f"{self.serial} did not end “{asked}” within {seconds:.3g} s: look at its connection, and repeat.") from error

    def _transfer(self, verb: str, source: str, target: str, *, seconds: float) -> None:
        done = self._run(verb, source, target, seconds=seconds)
        if done.code != 0:
            raise self._failure(done, verb, source, target)

    def _failure(self, done: _Ended, verb: str, *names: str) -> AsrDeployError:
        """Tell a refusal from a device that is gone, of which adb says anything or nothing."""
        text = done.text
        reason = refusal(text)
        if reason is not None:
            return AsrDeployError(f"Cannot {verb} {names[0]} {'from' if verb == 'pull' else 'to'} {self.serial}: {reason}.")
        for name in names:  # they may hold the words that are looked for
            text = text.replace(name, "")
        return self._lost(text, f"in {verb}")

    def _lost(self, text: str, where: str) -> DeviceLost:
        return DeviceLost(f"{_what_to_do(self.serial, state_in(text))} ({where}).")


def checked_version(text: str, program: Path) -> str:
    """Return the version in what `adb version` printed.

    Raises:
        AsrDeployError: it is not Android's adb, or too old.
    """
    protocol = re.search(r"^Android Debug Bridge version (\d+)\.(\d+)\.(\d+)", text, re.MULTILINE)
    tools = re.search(r"^Version ((\d+)\S*)", text, re.MULTILINE)
    if protocol is None:
        raise AsrDeployError(f"{program} is not Android's adb: {HOW_TO_INSTALL}.")
    version = tools[1] if tools else ".".join(protocol.groups())
    if tuple(map(int, protocol.groups())) < OLDEST_PROTOCOL or (tools and int(tools[2]) < OLDEST_TOOLS):
        raise AsrDeployError(f"{program} is version {version}, too old (at least 1.0.41, platform-tools {OLDEST_TOOLS}): {HOW_TO_INSTALL}.")
    return version


def _what_to_do(serial: str, state: str) -> str:
    if "unauthorized" in state:
        return f"{serial} does not trust this computer: unlock it and allow USB debugging in the question that it shows"
    if state == "device":
        return f"{serial} is connected and does not answer: look at its network or cable, or restart it"
    if state in ("offline", "not found"):
        return f"{serial} is not there ({state}): look at its cable, its network and its USB debugging, and repeat"
    return f"The connection to {serial} ended{f' ({state})' if state else ''}: look at its cable or network, and repeat"


def _time_for(size: int) -> float:
    return 30.0 + size / SLOWEST_LINK
