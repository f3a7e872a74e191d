"""Probes of `asrdeploy doctor`: run programs with limits on time and output, query the adb server, read package metadata."""

import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from device_runner.errors import AsrDeployError
from device_runner.phone.adb import SERVER_VARIABLE
from device_runner.phone.adb_output import short
from device_runner.phone.arm_bundle import DEBIAN_PACKAGES, layers, own_source, pinned_versions, starters

LIMIT = 5.0  # seconds until a program must end or a server must answer
MOST = 1 << 16  # bytes of output to read at most
LIST = b"host:devices-l"  # sent after its length in four hexadecimal digits (adb's OVERVIEW.TXT and SERVICES.TXT)
DEFAULT_PORT = 5037

Address = tuple[str, int] | str

# Runs in a separate process, which a broken library may end. numpy comes first because every command requires it.
RUNTIMES = """
import json, os
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # since 1.29, its import otherwise writes files and reports to Microsoft
for name in ("numpy", "onnxruntime"):
    try:
        module = __import__(name)
        providers = module.get_available_providers() if name == "onnxruntime" else []
        print(json.dumps({name: {"version": module.__version__, "providers": providers}}), flush=True)
    except BaseException as error:
        print(json.dumps({name: {"error": f"{type(error).__name__}: {error}"}}), flush=True)
"""
# Queries the driver as torch does, honouring CUDA_VISIBLE_DEVICES, but without the seconds that importing torch takes.
CUDA = """
import ctypes, json
try:
    driver = ctypes.CDLL("libcuda.so.1")
except OSError:
    print(json.dumps({"why": "no NVIDIA driver"}))
    raise SystemExit
number, version, name, names = ctypes.c_int(0), ctypes.c_int(0), ctypes.create_string_buffer(256), []
driver.cuDriverGetVersion(ctypes.byref(version))
code = driver.cuInit(0)
if code == 0 and driver.cuDeviceGetCount(ctypes.byref(number)) == 0:
    for each in range(number.value):
        handle = ctypes.c_int()
        driver.cuDeviceGet(ctypes.byref(handle), each)
        driver.cuDeviceGetName(name, 256, handle)
        names.append(name.value.decode(errors="replace"))
why = "" if code in (0, 100) else f"the NVIDIA driver fails with error {code}"
print(json.dumps({"driver": version.value // 1000, "devices": names, "why": why}))
"""


@dataclass(frozen=True)
class Said:
    """Output of a program.

    Args:
        program: Path of the program.
        text: Standard output and standard error, mixed.
        problem: What went wrong, as a phrase to follow the program's name. Empty if it succeeded.
        silent: Whether it exceeded the time limit, which can also happen on a busy machine.
    """

    program: str
    text: str
    problem: str = ""
    silent: bool = False


def run_bounded(words: tuple[str, ...]) -> Said:
    """Run a program with its arguments until it ends, or stop it and its children after ``LIMIT`` seconds or ``MOST`` bytes."""
    surroundings = {key: value for key, value in os.environ.items() if key != "ADB_TRACE"}  # it adds lines to the output
    surroundings["MAVEN_OPTS"] = f"{os.environ.get('MAVEN_OPTS', '')} -XX:-UsePerfData"  # otherwise a JVM leaves a folder in /tmp
    try:
        # In a new session, so that its children can be stopped with it: a surviving child would keep the pipe open.
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True, env=surroundings
        )
    except OSError as error:
        return Said(words[0], "", f"cannot be run: {error.strerror or error}")
    code = None
    with process:
        try:
            text, code = _read(process, time.monotonic() + LIMIT)
        finally:
            if code is None:  # the id of an ended process may have been reused
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
    said = text.decode(errors="replace")
    if code is None:
        endless = len(text) >= MOST
        return Said(words[0], said, "prints endlessly" if endless else f"does not answer within {LIMIT:.3g} s", not endless)
    if code != 0:
        last = next((line for line in reversed(said.splitlines()) if line.strip()), "")
        how = f"failed with exit code {code}" if code > 0 else f"was killed by signal {-code}"
        return Said(words[0], said, f"{how}{f': {short(last)}' if last else ''}")
    return Said(words[0], said)


def _read(process: "subprocess.Popen[bytes]", end: float) -> tuple[bytes, int | None]:
    """Return the output and the exit code, which is None if a limit was exceeded."""
    assert process.stdout is not None
    text = b""
    while len(text) < MOST:
        if not select.select([process.stdout], [], [], max(0.0, end - time.monotonic()))[0]:
            return text, None
        part = os.read(process.stdout.fileno(), MOST)
        if not part:
            break
        text += part
    else:
        return text[:MOST], None
    try:
        return text, process.wait(max(0.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        return text, None


def json_lines(text: str) -> dict[str, Any]:
    """Merge the JSON objects among the lines of a text. Other lines, such as a library's messages, are ignored."""
    found: dict[str, Any] = {}
    for line in text.splitlines():
        with suppress(ValueError):
            each = json.loads(line)
            found |= each if isinstance(each, dict) else {}
    return found


def server_name(environment: Mapping[str, str]) -> str:
    """Return the address of the adb server that adb's client would use, in the form of its option -L."""
    host, port = environment.get("ANDROID_ADB_SERVER_ADDRESS"), environment.get("ANDROID_ADB_SERVER_PORT")
    usual = f"tcp:{host or 'localhost'}:{port or DEFAULT_PORT}"
    return environment.get(SERVER_VARIABLE) or environment.get("ADB_SERVER_SOCKET") or usual


def server_address(name: str) -> Address | None:
    """Return host and port, or the path of a socket. Return None if the server is on another machine or the form is unknown."""
    if name.startswith("localfilesystem:"):
        return name.partition(":")[2]
    found = re.fullmatch(r"tcp:(?:(.*):)?(\d{1,5})", name)
    hosts = {None: "127.0.0.1", "": "127.0.0.1", "localhost": "127.0.0.1", "127.0.0.1": "127.0.0.1", "::1": "::1", "[::1]": "::1"}
    if found is None or found[1] not in hosts or int(found[2]) > 0xFFFF:
        return None
    return hosts[found[1]], int(found[2])


def adb_devices(address: Address) -> str | None:
    """Ask the adb server for its devices, without adb's client, which would start a server or replace one of another version.

    Args:
        address: Host and port, or path of a socket.

    Returns:
        The output of ``adb devices -l``, or None if no server runs.

    Raises:
        AsrDeployError: If there is no answer, or a program other than an adb server answers.
    """
    end = time.monotonic() + LIMIT
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    answer = b""
    try:
        with socket.socket(family) as server:
            server.settimeout(LIMIT)
            server.connect(address)
            server.sendall(b"%04x%s" % (len(LIST), LIST))
            while len(answer) < MOST:
                server.settimeout(max(0.01, end - time.monotonic()))
                part = server.recv(MOST)
                if not part:
                    break
                answer += part
                if _whole(answer):
                    break
    except (ConnectionRefusedError, FileNotFoundError):
        return None
    except OSError as error:
        why = (
            f"does not answer within {LIMIT:.3g} s" if isinstance(error, TimeoutError) else f"cannot be reached: {error.strerror or error}"
        )
        raise AsrDeployError(f"The adb server {why}. Run `adb devices` to see why.") from error
    if not _whole(answer):
        raise AsrDeployError(
            f"Another program listens at the address of the adb server. Run `adb devices` to see why, or set {SERVER_VARIABLE}."
        )
    return f"List of devices attached\n{answer[8:].decode(errors='replace')}"


def _whole(answer: bytes) -> bool:
    """Tell whether an answer is complete: OKAY, a length in four hexadecimal digits, and that number of bytes."""
    found = re.match(rb"OKAY([0-9a-fA-F]{4})", answer)
    return found is not None and len(answer) >= 8 + int(found[1], 16)


def java_tool(name: str) -> str | None:
    """Return the path of a program of the JDK: from JAVA_HOME if it is set, otherwise from the PATH."""
    home = os.environ.get("JAVA_HOME")
    return shutil.which(Path(home) / "bin" / name) if home else shutil.which(name)


def pinned() -> dict[str, str]:
    """Return the packages that asrdeploy requires in exactly one version, or nothing if asrdeploy is not installed."""
    try:
        wanted = metadata.requires("asrdeploy") or []
    except metadata.PackageNotFoundError:
        return {}
    found = (re.match(r"([\w.-]+)==([\w.+]+)", each) for each in wanted)
    return {each[1]: each[2] for each in found if each}


def torch_build() -> dict[str, str]:
    """Return ``__version__`` and, if set, ``cuda`` and ``hip`` of the installed torch, without importing it."""
    try:
        text = Path(str(metadata.distribution("torch").locate_file("torch/version.py"))).read_text(errors="replace")
    except (OSError, metadata.PackageNotFoundError):
        return {}
    found = {name: re.search(rf"^{name}\b[^=\n]*= *'(\d[^']*)'", text, re.MULTILINE) for name in ("__version__", "cuda", "hip")}
    known = {name: match[1] for name, match in found.items() if match}
    return known if "__version__" in known else {}


def free_memory() -> tuple[int | None, int | None]:
    """Return the available memory and the container's limit in bytes, None where unknown (Linux: proc(5), cgroup v2)."""
    free = limit = None
    with suppress(OSError):
        found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
        free = int(found[1]) * 1024 if found else None
    with suppress(OSError, ValueError):  # the file contains `max` if there is no limit
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
    return free, limit


def built_bundle(folder: Path) -> Path | None:
    """Find the Arm bundle of this source and the installed versions.

    Args:
        folder: Cache folder.

    Returns:
        The folder of the bundle, or None if it must be built.

    Raises:
        AsrDeployError: If asrdeploy, or a package of the bundle, is not installed here.
    """
    pins, source = pinned_versions(), own_source()
    for starter in sorted(folder.glob("arm64-*/python")):
        # Compare file by file, because other bundles in the folder are of other versions.
        with suppress(OSError, LookupError, ValueError):
            runtime = layers(starter.parent)[0]
            packages = json.loads((runtime / "packages.json").read_text())
            wanted = {**source, **starters(runtime.name)}
            same = all((starter.parent / name).read_bytes() == content for name, content in wanted.items())
            if same and packages["wheels"] == pins and packages["debian"].keys() == set(DEBIAN_PACKAGES):
                return starter.parent
    return None


def debian_command(package: str) -> str | None:
    """Return the command that installs a Debian package, or None if this system has no apt-get."""
    if shutil.which("apt-get") is None:
        return None
    return f"{'' if os.geteuid() == 0 else 'sudo '}apt-get install {package}"
