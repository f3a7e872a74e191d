"""Opening and listing devices by name: `local`, `qemu-arm64`, or the serial number of an adb device."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from device_runner.contract import Kind
from device_runner.devices import LOCAL, QEMU, Device, ProcessDevice, local_device
from device_runner.errors import AsrDeployError
from device_runner.facts import device_facts
from device_runner.phone.adb import ADDRESS, Adb, DeviceLost, Phone, find_adb, quoted
from device_runner.phone.arm_bundle import build_bundle, command, qemu_launcher
from device_runner.phone.device import AdbDevice, Patience
from device_runner.phone.remedies import AMBIGUOUS, READY, remedy
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
    """One row in the list of ``asrdeploy devices``.

    Args:
        name: Name of the device, as in ``--device``.
        kind: Kind of the device; None if it is not known, because the device cannot be used.
        state: ``ready``, or why the device cannot be used.
        model: Processor, or manufacturer and model.
        abi: Instruction set.
        system: Operating system.
        app: Version of the app.
        remedy: What is wrong and what to do, in two sentences; empty if the device is ready.
    """

    name: str
    kind: Kind | None
    state: str
    model: str = ""
    abi: str = ""
    system: str = ""
    app: str = ""
    remedy: str = ""


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
    phone = _reachable(find_adb(choice.adb), choice.name, choice.patience, say)
    via = choice.via or ("app" if choice.apk is not None or _has_app(phone, choice.patience, say) else "shell")
    return AdbDevice(phone, AppRunner(choice.apk) if via == "app" else ShellRunner(say), choice.patience, say)


def _reachable(adb: Adb, serial: str, patience: Patience, say: Say) -> Phone:
    """Return a device that answers. Only a state that passes is waited for; for the others, the error says what to do."""
    states = [each.state for each in adb.devices() if each.serial == serial]
    phone = adb.phone(serial)
    if not states and not ADDRESS.fullmatch(serial):  # the first wait connects to an address
        raise unknown_device(serial, adb)
    if len(states) > 1:
        raise DeviceLost(remedy(serial, AMBIGUOUS))
    if states != [READY]:
        phone.wait(patience.connection, say, give_up=True)
    return phone


def unknown_device(serial: str, adb: Adb) -> AsrDeployError:
    """Return the error for a serial number that adb does not list."""
    error = nearest(serial, {LOCAL, QEMU, *(each.serial for each in adb.devices())}, "device")
    return AsrDeployError(f"{error} A phone that is not listed is not connected, or its USB debugging is off.")


def _has_app(phone: Phone, patience: Patience, say: Say) -> bool:
    try:
        return installed_version(phone) is not None
    except DeviceLost as error:
        say(f"{error} Waiting for the device to return.")
        phone.wait(patience.connection, say, give_up=True)
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
        row = Row(listed.serial, None, listed.state, listed.details.get("model", ""), remedy=remedy(listed.serial, listed.state))
        rows.append(_described(adb.phone(listed.serial), row) if adb is not None and listed.state == READY else row)
    twice = {row.name for row in rows if [each.name for each in rows].count(row.name) > 1}
    return [replace(row, state=AMBIGUOUS, remedy=remedy(row.name, AMBIGUOUS)) if row.name in twice else row for row in rows]


def _described(phone: Phone, row: Row) -> Row:
    try:
        properties, version = read_properties(phone), installed_version(phone)
    except AsrDeployError as error:
        return replace(row, state="does not answer", remedy=str(error))
    system = f"Android {properties.get('ro.build.version.release', '?')}, API {properties.get('ro.build.version.sdk', '?')}"
    app = "no" if version is None else f"version {version}"
    return replace(
        row,
        kind=kind_of(properties),
        state="ready",
        model=model_of(properties),
        abi=properties.get(ABI, "?"),
        system=system,
        app=app,
        remedy="",
    )


def clean(adb: Adb, serial: str) -> None:
    """Remove all files, bundles and results of jobs from a device.

    Raises:
        AsrDeployError: If there is no such device, or it is not reachable.
    """
    if not ADDRESS.fullmatch(serial) and serial not in {each.serial for each in adb.devices()}:
        raise unknown_device(serial, adb)
    adb.phone(serial).shell(quoted("rm", "-rf", ROOT), seconds=120)
