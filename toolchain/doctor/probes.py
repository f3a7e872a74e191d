"""How `asrdeploy doctor` asks: programs with limits of time and output, adb's server without a client, packages by their files."""

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

LIMIT = 5.0  # seconds for an answer
MOST = 1 << 16  # bytes of an answer that are read
LIST = b"host:devices-l"  # adb's OVERVIEW.TXT and SERVICES.TXT: a request's length in four hexadecimal digits, then itself
DEFAULT_PORT = 5037

Address = tuple[str, int] | str

# In a process of its own: a broken library may end it. numpy first, as every command needs it.
RUNTIMES = """
import json, os
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # else its import, since 1.29, makes files and tells Microsoft
for name in ("numpy", "onnxruntime"):
    try:
        module = __import__(name)
        providers = module.get_available_providers() if name == "onnxruntime" else []
        print(json.dumps({name: {"version": module.__version__, "providers": providers}}), flush=True)
    except BaseException as error:
        print(json.dumps({name: {"error": f"{type(error).__name__}: {error}"}}), flush=True)
"""
# The driver itself, as torch would ask it: without the seconds that torch's import takes, and with CUDA_VISIBLE_DEVICES in force.
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
    """What a program said.

    Args:
        program: its path.
        text: both outputs, mixed.
        problem: why nothing can be read into it, to be put behind the program's name; empty where it ended well.
        silent: it did not end in time, which a busy machine explains too.
    """

    program: str
    text: str
    problem: str = ""
    silent: bool = False


def run_bounded(words: tuple[str, ...]) -> Said:
    """Run a program (with its arguments) and all that it starts to its end, to ``LIMIT``, or to ``MOST`` bytes, whatever comes first."""
    surroundings = {key: value for key, value in os.environ.items() if key != "ADB_TRACE"}  # it would print among the output
    surroundings["MAVEN_OPTS"] = f"{os.environ.get('MAVEN_OPTS', '')} -XX:-UsePerfData"  # else a JVM leaves a folder in /tmp
    try:
        # A session of its own, so that a script's children end with it: one that lives on would keep the pipe.
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
            if code is None:  # an ended process's number may be another's by now
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
    said = text.decode(errors="replace")
    if code is None:
        endless = len(text) >= MOST
        return Said(words[0], said, "prints without an end" if endless else f"does not answer within {LIMIT:.3g} s", not endless)
    if code != 0:
        last = next((line for line in reversed(said.splitlines()) if line.strip()), "")
        how = f"ended with code {code}" if code > 0 else f"was ended by signal {-code}"
        return Said(words[0], said, f"{how}{f': {short(last)}' if last else ''}")
    return Said(words[0], said)


def _read(process: "subprocess.Popen[bytes]", end: float) -> tuple[bytes, int | None]:
    """Return the output and the exit code; None: a limit was reached."""
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
    """Return the objects among the lines of a text as one; a library's own words stand between them."""
    found: dict[str, Any] = {}
    for line in text.splitlines():
        with suppress(ValueError):
            each = json.loads(line)
            found |= each if isinstance(each, dict) else {}
    return found


def server_name(environment: Mapping[str, str]) -> str:
    """Return where adb's client would look for its server, as its option -L has it."""
    host, port = environment.get("ANDROID_ADB_SERVER_ADDRESS"), environment.get("ANDROID_ADB_SERVER_PORT")
    usual = f"tcp:{host or 'localhost'}:{port or DEFAULT_PORT}"
    return environment.get(SERVER_VARIABLE) or environment.get("ADB_SERVER_SOCKET") or usual


def server_address(name: str) -> Address | None:
    """Return host and port, or the file of a socket; None: it is not on this machine, or in no way that is known here."""
    if name.startswith("localfilesystem:"):
        return name.partition(":")[2]
    found = re.fullmatch(r"tcp:(?:(.*):)?(\d{1,5})", name)
    hosts = {None: "127.0.0.1", "": "127.0.0.1", "localhost": "127.0.0.1", "127.0.0.1": "127.0.0.1", "::1": "::1", "[::1]": "::1"}
    if found is None or found[1] not in hosts or int(found[2]) > 0xFFFF:
        return None
    return hosts[found[1]], int(found[2])


def adb_devices(address: Address) -> str | None:
    """Return what adb's server lists, as ``adb devices -l`` prints it; None: no server runs.

    The server is asked itself: adb's client would start one, or end one of another version.

    Raises:
        AsrDeployError: something else answers, or nothing.
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
        why = f"does not answer within {LIMIT:.3g} s" if isinstance(error, TimeoutError) else f"cannot be asked: {error.strerror or error}"
        raise AsrDeployError(f"adb's server {why}; look at what `adb devices` says.") from error
    if not _whole(answer):
        raise AsrDeployError(
            f"What listens in the place of adb's server is none; look at what `adb devices` says, or set {SERVER_VARIABLE}."
        )
    return f"List of devices attached\n{answer[8:].decode(errors='replace')}"


def _whole(answer: bytes) -> bool:
    """Tell whether an answer is there to its end: OKAY, a length in four hexadecimal digits, so many bytes."""
    found = re.match(rb"OKAY([0-9a-fA-F]{4})", answer)
    return found is not None and len(answer) >= 8 + int(found[1], 16)


def java_tool(name: str) -> str | None:
    """Return a program of the JDK: that of JAVA_HOME, where it is set, else the one on the PATH."""
    home = os.environ.get("JAVA_HOME")
    return shutil.which(Path(home) / "bin" / name) if home else shutil.which(name)


def pinned() -> dict[str, str]:
    """Return the packages that asrdeploy asks for in one version alone; none where it is not installed itself."""
    try:
        wanted = metadata.requires("asrdeploy") or []
    except metadata.PackageNotFoundError:
        return {}
    found = (re.match(r"([\w.-]+)==([\w.+]+)", each) for each in wanted)
    return {each[1]: each[2] for each in found if each}


def torch_build() -> dict[str, str]:
    """Return ``__version__`` and, as far as they are set, ``cuda`` and ``hip`` of the installed torch, without its import."""
    try:
        text = Path(str(metadata.distribution("torch").locate_file("torch/version.py"))).read_text(errors="replace")
    except (OSError, metadata.PackageNotFoundError):
        return {}
    found = {name: re.search(rf"^{name}\b[^=\n]*= *'(\d[^']*)'", text, re.MULTILINE) for name in ("__version__", "cuda", "hip")}
    known = {name: match[1] for name, match in found.items() if match}
    return known if "__version__" in known else {}


def free_memory() -> tuple[int | None, int | None]:
    """Return the bytes that are available now, and the container's limit; None: not known (Linux: proc(5), cgroup v2)."""
    free = limit = None
    with suppress(OSError):
        found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
        free = int(found[1]) * 1024 if found else None
    with suppress(OSError, ValueError):  # it says `max` where there is none
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
    return free, limit


def built_bundle(folder: Path) -> Path | None:
    """Return the Arm bundle of this source and of the installed versions in a cache folder; None: it is to be built.

    Raises:
        AsrDeployError: asrdeploy, or a package that it holds, is not installed here.
    """
    pins, source = pinned_versions(), own_source()
    for starter in sorted(folder.glob("arm64-*/python")):
        # What is there is compared, file by file: another bundle of the same folder is of another version.
        with suppress(OSError, LookupError, ValueError):
            runtime = layers(starter.parent)[0]
            packages = json.loads((runtime / "packages.json").read_text())
            wanted = {**source, **starters(runtime.name)}
            same = all((starter.parent / name).read_bytes() == content for name, content in wanted.items())
            if same and packages["wheels"] == pins and packages["debian"].keys() == set(DEBIAN_PACKAGES):
                return starter.parent
    return None


def debian_command(package: str) -> str | None:
    """Return the command that installs a Debian package; None: this system has no apt-get."""
    if shutil.which("apt-get") is None:
        return None
    return f"{'' if os.geteuid() == 0 else 'sudo '}apt-get install {package}"
