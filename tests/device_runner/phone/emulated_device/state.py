"""State of an emulated device: one JSON file in its folder, shared by the device and the processes of its programs."""

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

NAME = "state.json"
DEFAULTS: dict[str, Any] = {
    "properties": {
        "ro.product.manufacturer": "Folder",
        "ro.product.brand": "folder",
        "ro.product.model": "Emulated One",
        "ro.product.name": "emulated",
        "ro.product.device": "folder1",
        "ro.product.cpu.abi": "arm64-v8a",
        "ro.product.cpu.abilist": "arm64-v8a",
        "ro.soc.manufacturer": "Folder",
        "ro.soc.model": "F1",
        "ro.build.version.release": "15",
        "ro.build.version.sdk": "35",
        "ro.build.fingerprint": "folder/emulated/folder1:15/AE3A.000000/1:userdebug/test-keys",
    },
    "battery": {"temperature": 290, "level": 80, "status": 2, "usb": True},  # temperature: tenths of a degree C
    "thermal": {"status": 0, "skin": 31.0, "cpu": 40.0},  # degrees C
    "wakefulness": "Awake",
    "settings": {},
    "packages": {},  # name: {"versionName", "versionCode", "path"}
    "app": {"package": "org.asrdeploy.bench", "versionName": "0.1.0", "versionCode": 1},  # for an APK without a version
    "install_failure": None,  # such as "INSTALL_FAILED_VERSION_DOWNGRADE: …"
    "instrument": [],  # the command that replaces an app's instrumentation
    "environment": {},  # environment variables of every command
    "disk_bytes": None,  # size of the disk; None for no limit
}


def read_state(folder: Path) -> dict[str, Any]:
    """Return the state, which is never incomplete because its file is replaced as a whole."""
    state: dict[str, Any] = json.loads((folder / NAME).read_text(encoding="utf-8"))
    return state


def change_state(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Apply ``change`` to the state, one process at a time."""
    with (folder / f".{NAME}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        state = read_state(folder)
        change(state)
        write_state(folder, state)


def write_state(folder: Path, state: dict[str, Any]) -> None:
    temporary = folder / f".{NAME}.{os.getpid()}"
    temporary.write_text(json.dumps(state, indent=1), encoding="utf-8")
    temporary.replace(folder / NAME)


def used_bytes(folder: Path) -> int:
    """Return the size of the files on the device's disk, in bytes."""
    used = 0
    for name in ("data", "sdcard"):
        for path in (folder / name).rglob("*"):
            try:
                used += path.lstat().st_size if not path.is_dir() else 0
            except OSError:  # removed meanwhile
                continue
    return used


def free_bytes(folder: Path) -> int | None:
    """Return the free space in bytes, or None if the disk has no limit."""
    size = read_state(folder)["disk_bytes"]
    return None if size is None else max(0, size - used_bytes(folder))
