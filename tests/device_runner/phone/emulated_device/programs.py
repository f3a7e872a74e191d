"""Android's programs on an emulated device, which use the state in its folder: ``python programs.py NAME ARGUMENT…``."""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[4]))

from tests.device_runner.phone.emulated_device.state import change_state, free_bytes, read_state

FOLDER_VARIABLE = "EMULATED_DEVICE"


def getprop(folder: Path, arguments: list[str]) -> int:
    properties = read_state(folder)["properties"]
    if arguments:
        print(properties.get(arguments[0], ""))
    else:
        for name, value in sorted(properties.items()):
            print(f"[{name}]: [{value}]")
    return 0


def settings(folder: Path, arguments: list[str]) -> int:
    verb, space, key, *value = arguments
    if verb == "get":
        print(read_state(folder)["settings"].get(f"{space}/{key}", "null"))
    elif verb == "put":
        change_state(folder, lambda state: state["settings"].update({f"{space}/{key}": value[0]}))
    elif verb == "delete":
        change_state(folder, lambda state: state["settings"].pop(f"{space}/{key}", None))
    else:
        return unknown("settings", arguments)
    return 0


def input_program(folder: Path, arguments: list[str]) -> int:
    """Run ``input keyevent`` with the keys that wake a device or send it to sleep."""
    wakefulness = {"224": "Awake", "KEYCODE_WAKEUP": "Awake", "223": "Asleep", "KEYCODE_SLEEP": "Asleep"}.get(arguments[-1])
    if wakefulness:
        change_state(folder, lambda state: state.update(wakefulness=wakefulness))
    return 0


def dumpsys(folder: Path, arguments: list[str]) -> int:
    state = read_state(folder)
    service, *rest = arguments or [""]
    if service == "battery":
        print(_battery(state["battery"]))
    elif service == "thermalservice":
        print(_thermal(state["thermal"]))
    elif service == "power":
        print(
            f"POWER MANAGER (dumpsys power)\n\nPower Manager State:\n  mDirty=0x0\n  mWakefulness={state['wakefulness']}\n  mIsPowered=true"
        )
    elif service == "package" and rest:
        print(_package(state["packages"], rest[0]))
    else:
        print(f"Can't find service: {service}", file=sys.stderr)
    return 0


def _battery(battery: dict[str, Any]) -> str:
    lines = [
        "AC powered: false",
        f"USB powered: {str(battery['usb']).lower()}",
        "Wireless powered: false",
        "Max charging current: 500000",
        f"status: {battery['status']}",
        "health: 2",
        "present: true",
        f"level: {battery['level']}",
        "scale: 100",
        "voltage: 4200",
        f"temperature: {battery['temperature']}",
        "technology: Li-ion",
    ]
    return "\n".join(["Current Battery Service state:", *(f"  {each}" for each in lines)])


def _thermal(thermal: dict[str, Any]) -> str:
    rows = (("CPU0", 0, thermal["cpu"]), ("skin", 3, thermal["skin"]))
    temperatures = [
        f"\tTemperature{{mValue={value}, mType={kind}, mName={name}, mStatus={thermal['status']}}}" for name, kind, value in rows
    ]
    return "\n".join(
        [
            "IsStatusOverride: false",
            "ThermalEventListeners:\n\tcallbacks: 1\n\tkilled: false\n\tbroadcasts count: -1",
            f"Thermal Status: {thermal['status']}",
            "Cached temperatures:",
            *temperatures,
            "HAL Ready: true\nHAL connection:\n\tThermalHAL 2.0 connected: yes\nCurrent temperatures from HAL:",
            *temperatures,
            "Current cooling devices from HAL:",
        ]
    )


def _package(packages: dict[str, Any], name: str) -> str:
    known = packages.get(name)
    if known is None:
        return f"Dexopt state:\n  Unable to find package: {name}"
    return "\n".join(
        [
            "Packages:",
            f"  Package [{name}] (5f0e1d2):",
            "    userId=10234",
            f"    codePath={Path(known['path']).parent}",
            f"    versionCode={known['versionCode']} minSdk=26 targetSdk=35",
            f"    versionName={known['versionName']}",
        ]
    )


def pm(folder: Path, arguments: list[str]) -> int:
    from tests.device_runner.phone.emulated_device import apps  # imported here because it would slow down the other programs

    return apps.pm(folder, arguments)


def am(folder: Path, arguments: list[str]) -> int:
    from tests.device_runner.phone.emulated_device import apps

    return apps.am(folder, arguments)


def cmd(folder: Path, arguments: list[str]) -> int:
    return pm(folder, arguments[1:]) if arguments[:1] == ["package"] else unknown("cmd", arguments)


def df(folder: Path, arguments: list[str]) -> int:
    """Print Toybox's table if the disk has a limit, or else run the df of this machine."""
    free, size = free_bytes(folder), read_state(folder)["disk_bytes"]
    if free is None:
        own = str(Path(__file__).resolve())
        path = os.pathsep.join(each for each in os.environ["PATH"].split(os.pathsep) if not each.startswith(str(folder)))
        os.execv(shutil.which("df", path=path) or own, ["df", *arguments])
    missing = [each for each in arguments if not each.startswith("-") and not Path(each).exists()]
    if missing:
        print(f"df: {missing[0]}: No such file or directory", file=sys.stderr)
        return 1
    total, used = size // 1024, (size - free) // 1024
    print("Filesystem     1K-blocks      Used Available Use% Mounted on")
    print(f"/dev/block/dm-8 {total:>9} {used:>9} {free // 1024:>9} {100 * used // max(total, 1):>3}% /data/user/0")
    return 0


def unknown(name: str, arguments: list[str]) -> int:
    print(f"{name}: the emulated device does not support: {' '.join(arguments)}", file=sys.stderr)
    return 255


PROGRAMS = {each.__name__.removesuffix("_program"): each for each in (getprop, settings, input_program, dumpsys, pm, cmd, am, df)}


if __name__ == "__main__":
    sys.exit(PROGRAMS[sys.argv[1]](Path(os.environ[FOLDER_VARIABLE]), sys.argv[2:]))
