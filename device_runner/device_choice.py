"""Opening and listing devices by name: `local`, `qemu-arm64`, or the serial number of an adb device."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from device_runner.contract import Kind
from device_runner.devices import LOCAL, QEMU, Device, ProcessDevice, local_device
from device_runner.errors import AsrDeployError
from device_runner.facts import device_facts
from device_runner.phone.adb import Adb, DeviceLost, Phone, find_adb, quoted
from device_runner.phone.arm_bundle import build_bundle, command, qemu_launcher
from device_runner.phone.device import AdbDevice, Patience
from device_runner.phone.runners import AppRunner, ShellRunner, installed_version
from device_runner.phone.state import ABI, kind_of, model_of, read_properties
from device_runner.phone.transfers import ROOT
from device_runner.suggestions import nearest

Via = Literal["app", "shell"]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Choice:
    """Device to use and how to reach it.

    Args:
        name: ``local``, ``qemu-arm64`` or a serial number.
        via: Runner on a phone; None for the app if it is installed or ``apk`` is given, otherwise the shell.
        adb: Path of the adb program; None for the one on the PATH or in the package adbutils.
        apk: APK to install if the app is missing or too old.
        patience: Times to wait for devices that are disconnected, silent or hot.
    """

    name: str = LOCAL
    via: Via | None = None
    adb: Path | None = None
    apk: Path | None = None
    patience: Patience = field(default_factory=Patience)


@dataclass(frozen=True)
class Row:
    """One row in the list of ``asrdeploy devices``."""

    name: str
    kind: Kind | None
    state: str
    model: str = ""
    abi: str = ""
    system: str = ""
    app: str = ""


def open_device(choice: Choice, say: Say = lambda sentence: None) -> Device:
    """Open a device for running jobs.

    Args:
        choice: Device to open.
        say: Callback that receives progress messages about building, sending and waiting.

    Raises:
        AsrDeployError: If there is no such device, it cannot be used, or something that it requires is missing.
    """
    if choice.name == LOCAL:
        return local_device()
    if choice.name == QEMU:
        return qemu_device(say)
    adb = find_adb(choice.adb)
    phone = adb.phone(choice.name)
    listed = {each.serial: each.state for each in adb.devices()}
    if choice.name not in listed and ":" not in choice.name:  # the first wait connects to an address
        raise nearest(choice.name, {LOCAL, QEMU, *listed}, "device")
    if listed.get(choice.name) != "device":
        phone.wait(choice.patience.connection)
    via = choice.via or ("app" if choice.apk is not None or _has_app(phone, choice.patience) else "shell")
    return AdbDevice(phone, AppRunner(choice.apk) if via == "app" else ShellRunner(say), choice.patience, say)


def _has_app(phone: Phone, patience: Patience) -> bool:
    try:
        return installed_version(phone) is not None
    except DeviceLost:
        phone.wait(patience.connection)
        return installed_version(phone) is not None


def qemu_device(say: Say = lambda sentence: None) -> ProcessDevice:
    """Return a device that runs the Arm bundle under qemu-user on this machine; its times are meaningless.

    Args:
        say: Callback that receives progress messages.

    Raises:
        AsrDeployError: If qemu is missing or the bundle cannot be built.
    """
    qemu_launcher()  # fail before building the bundle, which takes a minute
    return ProcessDevice(QEMU, "emulated", tuple(command(build_bundle(progress=say), emulated=True)))


def list_devices(adb: Adb | None) -> list[Row]:
    """List this machine, qemu and all devices that adb knows. The state of an unusable device says why.

    Args:
        adb: Connection to adb; None to leave out its devices.
    """
    here = device_facts()
    rows = [Row(LOCAL, "host", "ready", here.cpu, here.abi, here.system)]
    try:
        qemu_launcher()
        rows.append(Row(QEMU, "emulated", "ready", "Cortex-A76, function only", "aarch64"))
    except AsrDeployError as error:
        rows.append(Row(QEMU, "emulated", str(error)))
    for listed in adb.devices() if adb is not None else ():
        row = Row(listed.serial, None, listed.state, listed.details.get("model", ""))
        if listed.state == "device":
            row = _described(adb.phone(listed.serial), row) if adb is not None else row
        rows.append(row)
    return rows


def _described(phone: Phone, row: Row) -> Row:
    try:
        properties, version = read_properties(phone), installed_version(phone)
    except AsrDeployError as error:
        return replace(row, state=str(error))
    system = f"Android {properties.get('ro.build.version.release', '?')}, API {properties.get('ro.build.version.sdk', '?')}"
    app = "no" if version is None else f"version {version}"
    return replace(
        row, kind=kind_of(properties), state="ready", model=model_of(properties), abi=properties.get(ABI, "?"), system=system, app=app
    )


def clean(phone: Phone) -> None:
    """Remove all files, bundles and results of jobs from a device.

    Raises:
        AsrDeployError: If the device is not reachable.
    """
    phone.shell(quoted("rm", "-rf", ROOT), seconds=120)
