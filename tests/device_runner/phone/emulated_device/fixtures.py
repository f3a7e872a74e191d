"""Fixtures: an adb server of the session, and a device that is connected to it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from device_runner.phone.adb import Adb, Phone
from tests.device_runner.phone.emulated_device.device import EmulatedDevice
from tests.device_runner.phone.emulated_device.server import AdbServer


@dataclass(frozen=True)
class Connected:
    """A device, and the phone that the client under test sees."""

    device: EmulatedDevice
    phone: Phone

    @property
    def serial(self) -> str:
        return self.device.serial

    @property
    def folder(self) -> Path:
        return self.device.folder


def connect(adb: Adb, device: EmulatedDevice, *, seconds: float = 20.0) -> Phone:
    """Connect a device and return it as a phone."""
    phone = adb.phone(device.serial)
    phone.wait(seconds)
    return phone


def disconnect(adb: Adb, device: EmulatedDevice) -> None:
    """Let the server forget a device, so that it does not try to reach it for ever."""
    adb.run("disconnect", device.serial, seconds=10)


@pytest.fixture(scope="session")
def adb_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdbServer]:
    """An adb server of the tests' own."""
    with AdbServer(tmp_path_factory.mktemp("adb")) as server:
        yield server


@pytest.fixture
def emulated(adb_server: AdbServer, tmp_path: Path) -> Iterator[Connected]:
    """A connected device: ``.device`` to tell it what goes wrong, ``.phone``, ``.serial``, ``.folder``."""
    adb = adb_server.adb()
    with EmulatedDevice(tmp_path / "device") as device:
        yield Connected(device, connect(adb, device))
        disconnect(adb, device)
