"""Apps on an emulated device: install them, and run their instrumentation as a process on this machine."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from tests.device_runner.phone.emulated_device.programs import unknown
from tests.device_runner.phone.emulated_device.state import change_state, free_bytes, read_state

ENTRY = "asrdeploy-version"  # entry of an app's file, whose content is VERSION [CODE [PACKAGE]]
RUNNING = "running"  # folder with one pid file per package


def pm(folder: Path, arguments: list[str]) -> int:
    verb, *rest = arguments or [""]
    packages = read_state(folder)["packages"]
    if verb == "path":
        if rest[-1] not in packages:
            return 1
        print(f"package:{packages[rest[-1]]['path']}")
    elif verb == "list" and rest[:1] == ["packages"]:
        print("".join(f"package:{name}\n" for name in sorted(packages) if not rest[1:] or rest[-1] in name), end="")
    elif verb == "uninstall":
        if rest[-1] not in packages:
            print("Failure [DELETE_FAILED_INTERNAL_ERROR]")
            return 1
        shutil.rmtree(folder / "data/app" / rest[-1], ignore_errors=True)
        change_state(folder, lambda state: state["packages"].pop(rest[-1]))
        print("Success")
    elif verb == "install":
        return _install(folder, rest)
    else:
        return unknown("pm", arguments)
    return 0


def _install(folder: Path, arguments: list[str]) -> int:
    """Run ``install -r FILE``, or ``install -r -S SIZE`` with the file on standard input."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".install.") as received:
        if "-S" in arguments:
            left = int(arguments[arguments.index("-S") + 1])
            while left and (data := sys.stdin.buffer.read(min(left, 1 << 20))):
                received.write(data)
                left -= len(data)
            received.flush()
            failure = "INSTALL_FAILED_INVALID_APK: unexpected end of the stream" if left else None
            path = Path(received.name)
        else:
            path = Path(arguments[-1])
            failure = None if path.is_file() else f"INSTALL_FAILED_INVALID_URI: {path.name}"
        free, state = free_bytes(folder), read_state(folder)
        if failure is None and free is not None and path.stat().st_size > free:
            failure = "INSTALL_FAILED_INSUFFICIENT_STORAGE: Failed to override installation location"
        version = None if failure else _version(path, state["app"])
        if failure is None and version is None:
            failure = "INSTALL_PARSE_FAILED_NOT_APK: Failed to parse the file"
        failure = failure or state["install_failure"]
        if failure or version is None:
            print(f"Failure [{failure}]")
            return 1
        package = version.pop("package")
        target = folder / "data/app" / package / "base.apk"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    record = version | {"path": f"/data/app/{package}/base.apk"}
    change_state(folder, lambda state: state["packages"].update({package: record}))
    print("Success")
    return 0


def _version(path: Path, default: dict[str, Any]) -> dict[str, Any] | None:
    """Return package and version of an app's file: a zip, or one line that starts with ``ENTRY``. Return None for other files."""
    try:
        with zipfile.ZipFile(path) as archive:
            said = archive.read(ENTRY).decode().split() if ENTRY in archive.namelist() else []
    except zipfile.BadZipFile:
        words = path.read_bytes()[:1000].decode(errors="replace").split()
        if words[:1] != [ENTRY]:
            return None
        said = words[1:]
    found = dict(default)
    for key, value in zip(("versionName", "versionCode", "package"), said, strict=False):
        found[key] = value
    return found


def am(folder: Path, arguments: list[str]) -> int:
    if arguments[:1] == ["instrument"]:
        return _instrument(folder, arguments[1:])
    if arguments[:1] == ["force-stop"]:
        kill(folder, arguments[-1])
        return 0
    return unknown("am", arguments)


def kill(folder: Path, package: str) -> bool:
    """Kill an app and the processes that it started, and return whether it was running."""
    try:
        pid = int((folder / RUNNING / package).read_text())
        os.killpg(pid, signal.SIGKILL)
    except (OSError, ValueError):
        return False
    return True


def _instrument(folder: Path, arguments: list[str]) -> int:
    """Run the command in the state with the values of ``-e job`` and ``-e result``, and report its end like Android."""
    component = arguments[-1]
    package = component.partition("/")[0]
    extras = {arguments[place + 1]: arguments[place + 2] for place, word in enumerate(arguments) if word == "-e"}
    state = read_state(folder)
    if package not in state["packages"]:
        print("INSTRUMENTATION_STATUS: id=ActivityManagerService")
        print(f"INSTRUMENTATION_STATUS: Error=Unable to find instrumentation info for: ComponentInfo{{{component}}}")
        print(f"INSTRUMENTATION_STATUS_CODE: -1\nandroid.util.AndroidException: INSTRUMENTATION_FAILED: {component}")
        return 1
    kill(folder, package)  # an instrumentation restarts its app
    pid_file = folder / RUNNING / package
    pid_file.parent.mkdir(exist_ok=True)
    log = folder / "instrument.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*state["instrument"], extras["job"], extras["result"]],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # the app outlives the program that starts it
        )
    pid_file.write_text(str(process.pid))
    code = process.wait()
    pid_file.unlink(missing_ok=True)
    if code == 0:
        print(f"INSTRUMENTATION_RESULT: result={extras['result']}\nINSTRUMENTATION_CODE: -1")
    elif code < 0:
        print("INSTRUMENTATION_RESULT: shortMsg=Process crashed.\nINSTRUMENTATION_CODE: 0")
    else:
        said = log.read_text(errors="replace").strip().splitlines()
        print(f"INSTRUMENTATION_RESULT: error={said[-1] if said else code}\nINSTRUMENTATION_CODE: 0")
    return 0
